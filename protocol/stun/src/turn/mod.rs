//! The TURN server (RFC 8656), one [`Server`] for each shard: allocations, permissions, channels, and what is relayed
//! through them.
//!
//! **In.** The caller receives, and hands over what came: [`handle_client`](Server::handle_client) for a datagram (or a
//! [frame](crate::message::next_frame) of a stream) from a client, [`handle_peer`](Server::handle_peer) for one that came to
//! a relay socket, [`handle_icmp`](Server::handle_icmp) for an ICMP error that a relay socket reported,
//! [`handle_closed`](Server::handle_closed) when a client's stream is gone, [`advance`](Server::advance) at
//! [`next_deadline`](Server::next_deadline). Time comes with each of them ([`Now`]).
//!
//! **Out.** What is to be sent is the returned value: a reply in the caller's buffer, or where to forward the payload, which
//! is borrowed from what came in and never copied. Sockets are opened and closed through [`Relays`] while a request is
//! handled; each has a [`RelayId`], by which what comes to it finds its allocation without a look-up.
//!
//! **Trains.** GRO hands over many datagrams of one flow at once. [`handle_client_train`](Server::handle_client_train)
//! resolves the longest run from the front that goes to one peer, and [`handle_peer`](Server::handle_peer) takes any number
//! of datagrams of one peer, each with one look-up; the headers to put in front come from [`ToClient::head`].
//!
//! **Who may do what.** Every request is authenticated ([`crate::credentials`]); allocations are counted by a [`Quota`];
//! peers must be on the public Internet unless the tenant's rules say otherwise. A bound channel is permission enough for its
//! own peer while it lasts, as with other servers: clients refresh a channel before its 10 minutes are over and need not
//! think of the 5 minutes of the permission that came with it.
//!
//! **Bounds.** Allocations by [`Limits`] and by the ports of the shard, permissions and channels by [`Limits`]; nonces need
//! no memory, keys are kept in allocations, what is counted for ended allocations is merged by user, then by tenant.
//! Over every limit there is the error code that the RFC has for it.
//!
//! Not there: TCP to peers (RFC 6062), mobility (RFC 8016; the ticket is passed over, as the RFC allows).
//!
//! **Unlike the RFCs, on purpose.** A nonce is checked before name and HMAC (RFC 8489 section 9.2.4 has it last): who has none
//! for their address costs nothing more. Responses have no SOFTWARE and list 16 unknown attributes at most. A request for both
//! families is met in part by a server without IPv4, too (RFC 8656 section 7.2, step 9; step 7 would refuse it). Data
//! indications have transaction ids that count up: they answer nothing, so nobody gains by guessing them. A datagram with
//! more behind its ChannelData than padding is dropped. Names and realms are compared byte by byte, not by OpaqueString.

mod allocation;
mod drops;
mod forward;
mod peers;
mod ports;
mod quota;
mod requests;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use allocation::{Allocation, Channel};
pub use allocation::{CHANNEL_MS, PERMISSION_MS};
pub use drops::{Counters, Dropped};
pub use forward::{Head, MAX_HEAD, ToClient, ToPeer, TrainToPeer};
use peers::OwnAddresses;
pub use peers::is_public;
use ports::Ports;
pub use quota::{Holder, LocalQuota, Quota, QuotaLimits, address_key};
pub use requests::{MAX_REPLY, MAX_UNAUTHENTICATED_REPLY, reservation_shard};
use table::Table;

use crate::credentials::{Authenticator, TenantId, Tenants, TimedName};
use crate::deadlines::Deadlines;
use crate::message::{Class, Family, Fingerprint, Kind, Message, Method};
use crate::random::Random;

/// Milliseconds that a reserved port is kept (RFC 8656 section 7.2).
const RESERVATION_MS: u64 = 30_000;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from any beginning: lifetimes.
    pub ms: u64,
    /// Unix seconds: nonces and time-limited names, which outlive a process.
    pub unix: u64,
}

/// What a client and the server talk over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, with TLS or without.
    Tcp,
}

impl Transport {
    const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What an allocation is known by to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FiveTuple {
    /// The client, as the server sees it.
    pub client: SocketAddr,
    /// Where the client sent to.
    pub server: SocketAddr,
    /// How.
    pub transport: Transport,
}

/// A relay socket: allocation and family. Never used again for another one, but for a wrap of 2^32 in one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(u64);

impl RelayId {
    const MAX_SLOTS: usize = 1 << 24;

    const fn new(slot: u32, family: Family, generation: u32) -> Self {
        let family = matches!(family, Family::Ipv6) as u64;
        Self((generation as u64) << 32 | (slot as u64) << 1 | family)
    }

    const fn slot(self) -> u32 {
        self.0 as u32 >> 1
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As a number, such as the user data of a ring's operation.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Inverse of [`to_bits`](Self::to_bits). A number that was never one names no relay, or another one.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A small number below twice [`Limits::allocations`], unique among open relays: an index into the caller's sockets.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// The family that it relays in.
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// Why a relay socket could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// Something else has the port: another one is tried.
    InUse,
    /// Anything else.
    Failed,
}

/// The caller's relay sockets.
pub trait Relays {
    /// Opens a UDP socket bound to `address`, for itself alone.
    ///
    /// # Errors
    /// Why not.
    fn open(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError>;

    /// Closes a socket that was opened.
    fn close(&mut self, relay: RelayId);

    /// Says that a channel of a client over UDP is bound, or until when it is from now on: who can forward what it carries without
    /// asking may. What it forwards is told by [`Server::add_usage`].
    fn bind(&mut self, _channel: &BoundChannel<'_>) {}

    /// Says that a channel is bound no longer, before its time.
    fn unbind(&mut self, _relay: RelayId, _number: u16) {}
}

/// A bound channel, with all that it takes to forward what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundChannel<'a> {
    /// Whose it is.
    pub relay: RelayId,
    /// Its number.
    pub number: u16,
    /// The client, as the server sees it.
    pub client: SocketAddr,
    /// Where the client sends to.
    pub server: SocketAddr,
    /// Where the relay is bound.
    pub relayed: SocketAddr,
    /// The peer.
    pub peer: SocketAddr,
    /// Milliseconds of [`Now`] at which it ends, or its allocation does.
    pub expires: u64,
    /// Who pays.
    pub tenant: TenantId,
    /// The user of the name.
    pub user: &'a str,
}

/// Where relay sockets are bound, and what clients are told: they differ behind a one-to-one NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress<A> {
    /// Local.
    pub bind: A,
    /// As peers see it.
    pub public: A,
}

/// Bounds of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Allocations at once; at most 2^24.
    pub allocations: usize,
    /// Peer addresses that an allocation may have permissions for; beyond is 508.
    pub permissions: usize,
    /// Channels that an allocation may have bound; beyond is 508.
    pub channels: usize,
    /// Reserved ports at once; beyond is 508.
    pub reservations: usize,
    /// Seconds that an allocation lasts if the client asks for no more.
    pub default_lifetime_s: u32,
    /// Seconds that a client gets at most.
    pub max_lifetime_s: u32,
}

impl Default for Limits {
    /// With these, an allocation with all of its permissions and channels takes less than 2 KiB.
    fn default() -> Self {
        Self {
            allocations: 16_384,
            permissions: 32,
            channels: 16,
            reservations: 1_024,
            default_lifetime_s: 600,
            max_lifetime_s: 3_600,
        }
    }
}

/// What a [`Server`] is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// This shard's number: reservation tokens carry it.
    pub shard: u16,
    /// Where IPv4 is relayed from, if it is.
    pub ipv4: Option<RelayAddress<Ipv4Addr>>,
    /// Where IPv6 is relayed from, if it is.
    pub ipv6: Option<RelayAddress<Ipv6Addr>>,
    /// Relay ports of this shard.
    pub ports: RangeInclusive<u16>,
    /// Relay ports of all shards of the node.
    pub node_ports: RangeInclusive<u16>,
    /// All addresses of the node; relay addresses need not be among them.
    pub own_addresses: Vec<IpAddr>,
    /// Bounds.
    pub limits: Limits,
    /// 32 random bytes, of this shard and process alone: ports, tokens and the table's hash are made from them.
    pub seed: [u8; 32],
}

/// Datagrams and bytes of payload that were forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Datagrams from the client.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams to the client.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Bytes of headers around those payloads between client and server, without padding.
    pub framing_bytes: u64,
}

/// Which way a payload went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to a peer.
    ToPeer,
    /// From a peer to the client.
    ToClient,
}

impl Usage {
    /// Adds what was forwarded besides.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.framing_bytes += other.framing_bytes;
    }
}

/// What became of a client's datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromClient<'d> {
    /// Send the data from a relay to a peer.
    Forward(ToPeer<'d>),
    /// Send the first `length` bytes of the buffer back to the client.
    Reply {
        /// At most [`MAX_REPLY`], and [`MAX_UNAUTHENTICATED_REPLY`] if not authenticated.
        length: usize,
        /// Whether the request was somebody's. If not, its source may be forged: replies to it need a limit by address.
        authenticated: bool,
    },
    /// A Binding request or indication: [`crate::discovery`] answers it.
    Binding,
    /// Nothing, and why.
    Dropped(Dropped),
}

/// A port that is kept for the client that has its token.
#[derive(Debug)]
struct Reservation {
    token: [u8; 8],
    family: Family,
    port: u16,
    expires: u64,
}

/// One shard's TURN server.
#[derive(Debug)]
pub struct Server<Q> {
    config: Config,
    authenticator: Authenticator,
    tenants: Arc<Tenants>,
    quota: Q,
    own: OwnAddresses,
    table: Table,
    deadlines: Deadlines,
    ports: [Ports; 2],
    /// In the order in which they expire: all last equally long.
    reservations: VecDeque<Reservation>,
    random: Random,
    /// Transaction ids of Data indications count up from a random number.
    indications: u64,
    /// What ended allocations had forwarded since it was taken.
    ended: BTreeMap<(TenantId, Box<str>), Usage>,
    counters: Counters,
}

impl<Q: Quota> Server<Q> {
    /// A server without allocations.
    #[must_use]
    pub fn new(config: Config, authenticator: Authenticator, tenants: Arc<Tenants>, quota: Q) -> Self {
        let mut random = Random::new(config.seed);
        let relays: Vec<IpAddr> = config
            .ipv4
            .iter()
            .map(|ip| ip.public.into())
            .chain(config.ipv6.iter().map(|ip| ip.public.into()))
            .collect();
        let bound = config.ipv4.iter().map(|ip| ip.bind.into()).chain(config.ipv6.iter().map(|ip| ip.bind.into()));
        let all = config.own_addresses.iter().copied().chain(bound).collect();
        let own = OwnAddresses { all, relays, ports: config.node_ports.clone() };
        let table = Table::new(config.limits.allocations, random.bits());
        let ports = [Ports::new(&config.ports), Ports::new(&config.ports)];
        let indications = random.bits();
        Self {
            config,
            authenticator,
            tenants,
            quota,
            own,
            table,
            deadlines: Deadlines::default(),
            ports,
            reservations: VecDeque::new(),
            random,
            indications,
            ended: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Takes other tenants, from the next request on. Allocations of one that is gone last until they expire.
    pub fn set_tenants(&mut self, tenants: Arc<Tenants>) {
        self.tenants = tenants;
    }

    /// What counts allocations, to change its limits.
    pub fn quota_mut(&mut self) -> &mut Q {
        &mut self.quota
    }

    /// Takes other nonce keys, from the next request on.
    pub fn set_authenticator(&mut self, authenticator: Authenticator) {
        self.authenticator = authenticator;
    }

    /// Allocations at present.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.table.len()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When [`advance`](Self::advance) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let allocation = self.deadlines.first().map(|(at, _)| at);
        let reservation = self.reservations.front().map(|reservation| reservation.expires);
        allocation.into_iter().chain(reservation).min()
    }

    /// Ends what has expired. What has is without effect before that too.
    pub fn advance(&mut self, now_ms: u64, relays: &mut impl Relays) {
        while let Some((at, slot)) = self.deadlines.first()
            && at <= now_ms
        {
            self.end_expired(slot, now_ms, relays);
        }
        while let Some(reservation) = self.reservations.pop_front_if(|reservation| reservation.expires <= now_ms) {
            self.ports_of(reservation.family).free(reservation.port);
        }
    }

    /// Handles a datagram from a client, or a frame of its stream. A reply is written to `out`, of [`MAX_REPLY`] bytes.
    pub fn handle_client<'d>(
        &mut self,
        now: Now,
        flow: &FiveTuple,
        datagram: &'d [u8],
        relays: &mut impl Relays,
        out: &mut [u8],
    ) -> FromClient<'d> {
        let result = match Kind::of(datagram) {
            Kind::ChannelData => self.forward_channel_data(now.ms, flow, datagram).map(FromClient::Forward),
            Kind::Stun => self.handle_message(now, flow, datagram, relays, out),
            Kind::Other => Err(Dropped::NotTurn),
        };
        result.unwrap_or_else(|dropped| FromClient::Dropped(self.counters.drop_one(dropped)))
    }

    /// The client's stream is closed, and with it the way back to it: ends what it has allocated.
    pub fn handle_closed(&mut self, flow: &FiveTuple, relays: &mut impl Relays) {
        if let Some(slot) = self.table.find(flow) {
            self.end(slot, relays);
        }
    }

    /// Whether the client has an allocation.
    #[must_use]
    pub fn has_allocation(&self, now_ms: u64, flow: &FiveTuple) -> bool {
        let allocation = self.table.find(flow).and_then(|slot| self.table.get(slot));
        allocation.is_some_and(|allocation| allocation.is_live(now_ms))
    }

    /// Hands out what was forwarded since the last time: tenant, the user of the name, how much. Allocations that have
    /// ended are among them; of those some may be given by tenant alone, with an empty user, if there were very many.
    pub fn take_usage(&mut self, mut each: impl FnMut(TenantId, &str, &Usage)) {
        for ((tenant, user), usage) in std::mem::take(&mut self.ended) {
            each(tenant, &user, &usage);
        }
        for allocation in self.table.iter_mut() {
            let usage = std::mem::take(&mut allocation.usage);
            if usage != Usage::default() {
                each(allocation.tenant, user(&allocation.credential.username), &usage);
            }
        }
    }

    /// Counts what somebody else has forwarded of a channel that was [bound](Relays::bind), also when its allocation has ended since.
    pub fn add_usage(&mut self, relay: RelayId, tenant: TenantId, user: &str, usage: &Usage) {
        match self.table.find_relay(relay).and_then(|slot| self.table.get_mut(slot)) {
            Some(allocation) => allocation.usage.add(usage),
            None => self.add_ended(tenant, user, usage),
        }
    }

    fn add_ended(&mut self, tenant: TenantId, user: &str, usage: &Usage) {
        let known = self.ended.contains_key(&(tenant, Box::from(user)));
        let user = if known || self.ended.len() < self.config.limits.allocations { user } else { "" };
        self.ended.entry((tenant, user.into())).or_default().add(usage);
    }

    /// Counts as not forwarded what was to be sent and was not, because there was no room for it: datagrams, the bytes of their
    /// payloads, and those of headers that were to go with them.
    pub fn take_back(&mut self, relay: RelayId, way: Way, datagrams: u64, bytes: u64, heads: u64) {
        let Some(allocation) = self.table.find_relay(relay).and_then(|slot| self.table.get_mut(slot)) else { return };
        let usage = &mut allocation.usage;
        let (count, sum) = match way {
            Way::ToPeer => (&mut usage.sent, &mut usage.sent_bytes),
            Way::ToClient => (&mut usage.received, &mut usage.received_bytes),
        };
        *count = count.saturating_sub(datagrams);
        *sum = sum.saturating_sub(bytes);
        usage.framing_bytes = usage.framing_bytes.saturating_sub(heads);
    }

    fn handle_message<'d>(
        &mut self,
        now: Now,
        flow: &FiveTuple,
        datagram: &'d [u8],
        relays: &mut impl Relays,
        out: &mut [u8],
    ) -> Result<FromClient<'d>, Dropped> {
        let message = Message::parse(datagram).map_err(|_| Dropped::Malformed)?;
        if message.method() == Method::BINDING {
            return Ok(FromClient::Binding);
        }
        // Nothing of TURN is spoken in the classic dialect.
        if message.transaction_id().is_classic() {
            return Err(Dropped::NotTurn);
        }
        if message.fingerprint() == Fingerprint::Wrong {
            return Err(Dropped::Fingerprint);
        }
        match (message.class(), message.method()) {
            (Class::Indication, Method::SEND) => self.forward_send(now.ms, flow, &message).map(FromClient::Forward),
            (Class::Request, _) => {
                self.advance(now.ms, relays);
                self.handle_request(now, flow, &message, relays, out)
            }
            _ => Err(Dropped::Unexpected),
        }
    }

    /// Ends what has expired of an allocation.
    fn end_expired(&mut self, slot: u32, now_ms: u64, relays: &mut impl Relays) {
        if !self.table.get(slot).is_some_and(|allocation| allocation.is_live(now_ms)) {
            self.end(slot, relays);
            return;
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            if self.table.get(slot).is_some_and(|allocation| allocation.expires(family) <= now_ms) {
                self.close_relay(slot, family, relays);
            }
        }
        self.set_deadline(slot);
    }

    /// Watches for the first of an allocation's families to end.
    fn set_deadline(&mut self, slot: u32) {
        if let Some(allocation) = self.table.get(slot) {
            self.deadlines.set(slot, allocation.deadline());
        }
    }

    /// Ends an allocation: its relays are closed, its ports and its place in the quota free.
    fn end(&mut self, slot: u32, relays: &mut impl Relays) {
        self.deadlines.remove(slot);
        for family in [Family::Ipv4, Family::Ipv6] {
            self.close_relay(slot, family, relays);
        }
        let Some(Allocation { flow, credential, tenant, usage, .. }) = self.table.remove(slot) else { return };
        let user = user(&credential.username);
        self.quota.release(&Holder { tenant, user, client: flow.client.ip() });
        if usage != Usage::default() {
            self.add_ended(tenant, user, &usage);
        }
    }

    /// Tells until when channels of a slot's allocation are bound: one, or all.
    fn tell_bound(&self, slot: u32, number: Option<u16>, now_ms: u64, relays: &mut impl Relays) {
        let Some(allocation) = self.table.get(slot).filter(|allocation| allocation.flow.transport == Transport::Udp)
        else {
            return;
        };
        for family in [Family::Ipv4, Family::Ipv6] {
            let (Some(relay), Some((bind, _)), Some(port)) =
                (self.table.relay(slot, family), self.address(family), allocation.port(family))
            else {
                continue;
            };
            let asked = |channel: &&Channel| number.is_none_or(|number| number == channel.number);
            for channel in allocation.channels(family).filter(asked).filter(|channel| channel.expires > now_ms) {
                relays.bind(&BoundChannel {
                    relay,
                    number: channel.number,
                    client: allocation.flow.client,
                    server: allocation.flow.server,
                    relayed: SocketAddr::new(bind, port),
                    peer: channel.peer(),
                    expires: channel.expires.min(allocation.expires(family)),
                    tenant: allocation.tenant,
                    user: user(&allocation.credential.username),
                });
            }
        }
    }

    /// Closes the relay of a family, if there is one, and forgets its peers.
    fn close_relay(&mut self, slot: u32, family: Family, relays: &mut impl Relays) {
        let relay = self.table.relay(slot, family);
        let Some(allocation) = self.table.get_mut(slot) else { return };
        if let (Some(port), Some(relay)) = (allocation.port(family), relay) {
            allocation.channels(family).for_each(|channel| relays.unbind(relay, channel.number));
            allocation.forget(family);
            relays.close(relay);
            self.ports_of(family).free(port);
        }
    }

    const fn ports_of(&mut self, family: Family) -> &mut Ports {
        let [v4, v6] = &mut self.ports;
        match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        }
    }
}

/// The user in a time-limited name that was accepted.
fn user(username: &str) -> &str {
    TimedName::parse(username).map_or("", |name| name.user)
}
