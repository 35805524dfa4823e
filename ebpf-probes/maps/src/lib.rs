//! What the XDP programs and their loader share: keys, values and verdicts.
//!
//! All have a fixed layout without padding that is not named, since the kernel compares keys byte by byte.

#![no_std]

pub mod steer;

/// A record for each packet and each map that counts by verdict has so many places.
pub const VERDICTS: usize = Verdict::ALL.len();

/// Places of the rates by source address, and of what is known of sources: a power of two. Those that share a place share its rate.
pub const SOURCES: u32 = 1 << 18;

/// Places of the rates by network (an IPv4 /24, an IPv6 /48).
pub const NETWORKS: u32 = 1 << 16;

/// Addresses and networks that may be blocked, of each family.
pub const BLOCKED: u32 = 1 << 16;

/// Own addresses of a port that are told apart at most.
pub const OWN_PER_PORT: u32 = 16;

/// Places of own addresses: twice as many as are in use at once, for they are written beside those in force.
pub const OWN_PLACES: u32 = 256;

/// Channels that are relayed from here, each in both directions, where nothing else is said when the maps are made.
pub const CHANNELS: u32 = 1 << 14;

/// Places of next hops, on each CPU: a power of two.
pub const NEXT_HOPS: u32 = 1 << 10;

/// Interfaces that packets may leave by.
pub const INTERFACES: u32 = 64;

/// Bytes of the ring of sampled drops.
pub const DROPS_BYTES: u32 = 256 << 10;

/// First bytes of a datagram that a sampled drop has.
pub const SAMPLE: usize = 16;

/// Number of the layout of all maps: pins of another one are not used. To be raised whenever a map, or what its bytes mean, changes
/// between releases; a test of `shoal-probes` compares the maps with [`LAYOUT_SUM`].
pub const LAYOUT: u32 = 1;

/// The maps of the object (names, types, sizes) in one number, as they were when [`LAYOUT`] was raised last.
pub const LAYOUT_SUM: u32 = 0xe438_e75d;

/// What was done with a packet.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not for us, or nothing that is understood: the host's own.
    Untouched = 0,
    /// More headers before UDP than are followed. The host's own.
    Headers,
    /// For us, and to user space.
    Passed,
    /// The first fragment of a datagram for us: to the host, which puts it together.
    Fragment,
    /// Answered from here.
    Answered,
    /// Of a bound channel: out to its other end, by the interface that it came in by.
    Relayed,
    /// Of a bound channel: out to its other end by another interface.
    Redirected,
    /// Would have been relayed, but has options, VLAN tags, padding, a checksum that is not complete, or no hop to go: to user space.
    NotRelayed,
    /// Would have been relayed, but the host's routes have no next hop that is known and may be used from here: to user space, which
    /// finds it.
    NoNextHop,
    /// Would have been relayed, but the host does not forward what comes by this interface (sysctl `forwarding`), and tells no next
    /// hop then: to user space.
    NoForwarding,
    /// Would have been relayed, but is longer than its way takes: to user space, which sends fragments.
    TooLong,
    /// Would have been answered, but its checksum is not (or not yet) right: to the host, which knows.
    Checksum,
    /// Would have been answered, but it carries options, or comes from nobody who can be, or there is no room in front of it.
    NotAnswered,
    /// Dropped: its source is on the block list.
    Blocked,
    /// Dropped: too many of its source address.
    SourceRate,
    /// Dropped: too many of its source network.
    NetworkRate,
    /// Dropped: too many of a source that nobody knows, while too much comes of such.
    NewSourceRate,
    /// Dropped: Binding requests beyond the rate of an address.
    BindingRate,
    /// Dropped: no STUN message and no ChannelData.
    Shape,
    /// Dropped: lengths that contradict each other.
    Length,
    /// Dropped: a wrong checksum of the IPv4 header.
    HeaderChecksum,
    /// Dropped: the first fragment of a datagram for us, where they are not wanted. The others are of no use then.
    FragmentDropped,
    /// Dropped: of a bound channel, and its way out went away while it was written.
    Lost,
}

impl Verdict {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::Untouched,
        Self::Headers,
        Self::Passed,
        Self::Fragment,
        Self::Answered,
        Self::Relayed,
        Self::Redirected,
        Self::NotRelayed,
        Self::NoNextHop,
        Self::NoForwarding,
        Self::TooLong,
        Self::Checksum,
        Self::NotAnswered,
        Self::Blocked,
        Self::SourceRate,
        Self::NetworkRate,
        Self::NewSourceRate,
        Self::BindingRate,
        Self::Shape,
        Self::Length,
        Self::HeaderChecksum,
        Self::FragmentDropped,
        Self::Lost,
    ];

    /// A label for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Headers => "headers",
            Self::Passed => "passed",
            Self::Fragment => "fragment",
            Self::Answered => "answered",
            Self::Relayed => "relayed",
            Self::Redirected => "redirected",
            Self::NotRelayed => "not_relayed",
            Self::NoNextHop => "no_next_hop",
            Self::NoForwarding => "no_forwarding",
            Self::TooLong => "too_long",
            Self::Checksum => "checksum",
            Self::NotAnswered => "not_answered",
            Self::Blocked => "blocked",
            Self::SourceRate => "source_rate",
            Self::NetworkRate => "network_rate",
            Self::NewSourceRate => "new_source_rate",
            Self::BindingRate => "binding_rate",
            Self::Shape => "shape",
            Self::Length => "length",
            Self::HeaderChecksum => "header_checksum",
            Self::FragmentDropped => "fragment_dropped",
            Self::Lost => "lost",
        }
    }

    /// Whether the packet is gone.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::Blocked as u32
    }
}

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address of either family, lying in memory as on the wire; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2). In two words of
/// 64 bits, as a program's stack takes them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u64; 2]);

impl Address {
    /// The IPv4 address in a word as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, joined(MAPPED, word)])
    }

    /// The address in such words.
    #[must_use]
    #[inline(always)]
    pub const fn from_words([a, b, c, d]: [u32; 4]) -> Self {
        Self([joined(a, b), joined(c, d)])
    }

    /// In words of 32 bits that lie in memory like it.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        let [[a, b], [c, d]] = [halves(self.0[0]), halves(self.0[1])];
        [a, b, c, d]
    }

    /// The last word of them: of an IPv4 address, all there is.
    #[must_use]
    #[inline(always)]
    pub const fn last(&self) -> u32 {
        halves(self.0[1])[1]
    }

    /// Whether it is an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && halves(self.0[1])[0] == MAPPED
    }
}

/// Two words as one that lies in memory like them.
#[inline(always)]
const fn joined(first: u32, second: u32) -> u64 {
    let (first, second) = (first as u64, second as u64);
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

/// Inverse of [`joined`].
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

/// An own address on a port, or one that is relayed from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Own {
    /// The address itself.
    pub address: Address,
    /// The second address that clients are told, if `other_port` is not 0.
    pub other: Address,
    /// With the second port.
    pub other_port: u32,
    /// Of [`own`].
    pub flags: u32,
    /// Its number in [`RelayKey`].
    pub number: u32,
    /// Nothing.
    pub reserved: u32,
}

/// Flags of an [`Own`].
pub mod own {
    /// Plain Binding requests are answered.
    pub const ANSWER: u32 = 1;
}

/// What a destination port is, if the address is own; by number in an array of 65,536.
pub mod port {
    /// Nobody's of us.
    pub const NONE: u32 = 0;
    /// Clients send there.
    pub const CLIENTS: u32 = 1;
    /// A relay's, or may become one: peers send there what they like.
    pub const RELAY: u32 = 2;

    /// The value: what it is, and where its [`Own`](super::Own) addresses lie.
    #[must_use]
    pub const fn value(kind: u32, first: u32, count: u32) -> u32 {
        kind | count << 8 | first << 16
    }

    /// Inverse of [`value`].
    #[must_use]
    #[inline(always)]
    pub const fn parts(value: u32) -> (u32, u32, u32) {
        (value & 0xff, value >> 16, value >> 8 & 0xff)
    }
}

/// Who sends what a [`RelayPath`] is for: a client by a channel, or a peer to a relay.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayKey {
    /// The sender's.
    pub address: Address,
    /// The sender's, as a number.
    pub port: u16,
    /// Of a client: the channel; of a peer: the relay's port.
    pub number: u16,
    /// The number of the [`Own`] address that it came to, on a port of clients or as a relay's.
    pub own: u32,
}

/// Where the payload of a bound channel goes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayPath {
    /// The own address that it leaves from.
    pub source: Address,
    /// The other end: of the same family.
    pub destination: Address,
    /// Until when, by the kernel's monotonic clock: the end of channel or allocation, whatever comes first.
    pub expires_ns: u64,
    /// User space's number of the allocation, unique in the life of its process.
    pub allocation: u64,
    /// As on the wire, in memory.
    pub source_port: u16,
    /// The same.
    pub destination_port: u16,
    /// To a client: the channel, as on the wire. To a peer: 0.
    pub channel: u16,
    /// What changes in the sum of UDP's checksum with any packet, but for the length of its payload.
    pub sum: u16,
    /// Where it is counted, and whose it is ([`RelayOwner`]): below the number of channels.
    pub place: u32,
    /// Only good while [`Config`] has the same.
    pub generation: u32,
}

/// What a channel has relayed on one CPU: to the peer, and to the client. The arrays of it are mapped by user space.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayUsage {
    /// Datagrams.
    pub datagrams: [u64; 2],
    /// Bytes of their payloads.
    pub bytes: [u64; 2],
}

/// Whose a channel is: for the usage, should it outlive the process that made it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayOwner {
    /// As in [`RelayPath`].
    pub allocation: u64,
    /// The same.
    pub generation: u32,
    /// Bytes of `tenant`; 0 is nobody.
    pub tenant_length: u16,
    /// Bytes of `user`.
    pub user_length: u16,
    /// The ledger's name of the tenant.
    pub tenant: [u8; TENANT_MAX],
    /// The ledger's name of the session.
    pub user: [u8; USER_MAX],
}

/// Bytes of a tenant's name in [`RelayOwner`].
pub const TENANT_MAX: usize = 64;
/// Bytes of a user's name in [`RelayOwner`].
pub const USER_MAX: usize = 128;

/// A next hop as the host's routes and neighbours had it a moment ago.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct NextHop {
    /// Of the packet.
    pub source: Address,
    /// The same.
    pub destination: Address,
    /// Until when that is believed.
    pub until_ns: u64,
    /// The interface.
    pub interface: u32,
    /// What it takes, of IP.
    pub mtu: u32,
    /// Ethernet's addresses, destination and source, as on the wire.
    pub macs: [u32; 3],
    /// Nothing.
    pub reserved: u32,
}

/// For so long a [`NextHop`] is believed.
pub const NEXT_HOP_NS: u64 = 200_000_000;

/// What holds for all packets. Rates as nanoseconds of one packet; 0: no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// Of hashes, random.
    pub seed: u64,
    /// Packets of a source address (an IPv6 /64).
    pub source_ns: u64,
    /// Packets of a source network.
    pub network_ns: u64,
    /// Packets of a source address that is not known, while too much comes of such.
    pub new_source_ns: u64,
    /// Too much are so many packets of unknown sources in [`WINDOW_NS`], on one CPU. 0: there is no such limit.
    pub attack_packets: u64,
    /// Binding requests of a source address.
    pub binding_ns: u64,
    /// Of the drops of a CPU every so-many-th is sampled; 0: none.
    pub sample_every: u32,
    /// Of [`config`].
    pub flags: u32,
    /// Of the relay's paths that are in force.
    pub generation: u32,
    /// Places of [`RelayUsage`] that a CPU has.
    pub channels: u32,
}

/// Flags of [`Config`].
pub mod config {
    /// The IPv6 block list has networks that are shorter than a /32, so that its gate says nothing.
    pub const BLOCK_V6_SHORT: u32 = 1;
    /// Fragments for us are dropped.
    pub const DROP_FRAGMENTS: u32 = 2;
    /// Frames go to AF_XDP sockets where there are some.
    pub const FRAMES: u32 = 4;
}

/// AF_XDP sockets of a node: one for each queue of each interface.
pub const XSKS: u32 = 512;

/// Bytes of a frame that such a socket takes: its buffers have 2048, of which the kernel keeps 256 in front.
pub const XSK_FRAME_MAX: usize = 2048 - 256;

/// Addresses with ports whose frames go there: all that clients send to, and the relays that are open.
pub const XSK_ENDPOINTS: u32 = 1 << 17;

/// A queue of an interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Queue {
    /// By its index.
    pub interface: u32,
    /// From 0.
    pub queue: u32,
}

/// What comes of unknown sources is counted over such times; a second after the last time that was too much, all is well.
pub const WINDOW_NS: u64 = 100_000_000;

/// A CPU's count of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    /// When the window began.
    pub begun_ns: u64,
    /// Packets in it.
    pub packets: u64,
    /// Until when there is an attack.
    pub attack_until_ns: u64,
    /// Drops, for the sampling of them.
    pub drops: u64,
}

/// A sampled drop.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drop {
    /// Of the kernel's monotonic clock.
    pub at_ns: u64,
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// 0 where they are not known.
    pub source_port: u16,
    /// The same.
    pub destination_port: u16,
    /// A [`Verdict`].
    pub verdict: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// How many of `sample` there are.
    pub sampled: u32,
    /// First bytes of the datagram.
    pub sample: [u8; SAMPLE],
}

/// Words of a frame's head that a sender of frames writes: all that is written over by who answers or relays it.
pub const FEED_WORDS: usize = 12;

/// The head of frames that are sent again and again, for measurements.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Feed {
    /// What comes first: so long that addresses lie each in one of the words. A processor waits when it reads what it has just
    /// written in two pieces, and no packet from a network is like that.
    pub lead: [u16; 4],
    /// What comes then.
    pub head: [u64; FEED_WORDS],
    /// And then.
    pub tail: [u16; 4],
    /// How many of the first there are: 1 or 3.
    pub leads: u32,
    /// How many of the second.
    pub words: u32,
    /// How many of the third.
    pub halves: u32,
    /// Not 0: the second half of an IPv4 source is random.
    pub random: u32,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Nothing.
    pub reserved: u32,
}

#[cfg(feature = "user")]
mod user {
    use super::{Address, Config, Drop, Feed, Meter, NextHop, Own, Queue, RelayKey, RelayOwner, RelayPath, RelayUsage};

    macro_rules! plain {
        ($($name:ident $bytes:literal,)*) => {
            $(
                // SAFETY: plain numbers and arrays of them in C's layout; every bit pattern is valid, and no byte is padding.
                unsafe impl aya::Pod for $name {}
                const _: () = assert!(size_of::<$name>() == $bytes);
            )*
        };
    }

    plain! {
        Address 16,
        Own 48,
        RelayKey 24,
        RelayPath 64,
        RelayUsage 32,
        RelayOwner 208,
        NextHop 64,
        Config 64,
        Queue 8,
        Meter 32,
        Drop 72,
        Feed 136,
    }
}
