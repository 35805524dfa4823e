//! What the XDP programs and their loader share: keys, values and verdicts.
//!
//! All have a fixed layout without padding that is not named, since the kernel compares keys byte by byte.

#![no_std]

/// A record for each packet and each map that counts by verdict has so many places.
pub const VERDICTS: usize = Verdict::ALL.len();

/// Places of the rates by source address, and of what is known of sources: a power of two. Those that share a place share its rate.
pub const SOURCES: u32 = 1 << 18;

/// Places of the rates by network (an IPv4 /24, an IPv6 /48).
pub const NETWORKS: u32 = 1 << 16;

/// Addresses and networks that may be blocked, of each family.
pub const BLOCKED: u32 = 1 << 16;

/// Endpoints: own addresses, and the ports that clients send to.
pub const ENDPOINTS: u32 = 256;

/// Bytes of the ring of sampled drops.
pub const DROPS_BYTES: u32 = 256 << 10;

/// First bytes of a datagram that a sampled drop has.
pub const SAMPLE: usize = 16;

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
}

impl Verdict {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Untouched,
        Self::Headers,
        Self::Passed,
        Self::Fragment,
        Self::Answered,
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
        }
    }

    /// Whether the packet is gone.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::Blocked as u32
    }
}

/// An address of either family, in words that lie in memory as on the wire; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The IPv4 address in a word as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), word])
    }
}

/// Key of [`Endpoint`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Own.
    pub address: Address,
    /// As a number; 0: the address itself, whatever the port.
    pub port: u32,
}

/// Where clients send to. Only its presence counts for an address itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// The second address that clients are told, if `other_port` is not 0.
    pub other: Address,
    /// With the second port.
    pub other_port: u32,
    /// Of [`endpoint`].
    pub flags: u32,
}

/// Flags of an [`Endpoint`].
pub mod endpoint {
    /// Plain Binding requests are answered.
    pub const ANSWER: u32 = 1;
}

/// What a destination port is, if the address is own; by number in an array of 65,536.
pub mod port {
    /// Nobody's of us.
    pub const NONE: u8 = 0;
    /// Clients send there: see [`Endpoint`](super::Endpoint).
    pub const CLIENTS: u8 = 1;
    /// A relay's, or may become one: peers send there what they like.
    pub const RELAY: u8 = 2;
}

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

#[cfg(feature = "user")]
mod user {
    use super::{Address, Config, Drop, Endpoint, EndpointKey, Meter, Queue};

    // SAFETY: plain numbers and arrays of them in C's layout; every bit pattern is valid, and no byte is padding.
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EndpointKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Meter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Drop {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Queue {}

    const _: () = {
        assert!(size_of::<EndpointKey>() == 20 && size_of::<Endpoint>() == 24 && size_of::<Config>() == 56);
        assert!(size_of::<Meter>() == 32 && size_of::<Drop>() == 72 && size_of::<Queue>() == 8);
    };
}
