//! What a TURN server is, said as simply as possible: maps, and the rules of RFC 8656 one after the other. It knows nothing of
//! bytes, sockets or speed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::world::{CHANNEL_LIMIT, FLOWS, NODE_PORTS, PERMISSION_LIMIT, PORTS, RELAY_V4, RELAY_V6, USERS};

/// What a client asks for or sends. Numbers are indices into the [world](super::world)'s constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Allocate.
    Allocate {
        /// Repeats tell a retransmission from a new request.
        transaction: u64,
        /// Seconds.
        lifetime: Option<u32>,
        /// IPv6?
        family: Option<bool>,
        /// ADDITIONAL-ADDRESS-FAMILY: IPv6?
        additional: Option<bool>,
        /// EVEN-PORT: with the next one?
        even: Option<bool>,
        /// RESERVATION-TOKEN.
        token: Option<[u8; 8]>,
        /// REQUESTED-TRANSPORT.
        transport: Option<u8>,
    },
    /// Refresh.
    Refresh {
        /// Seconds.
        lifetime: Option<u32>,
        /// IPv6?
        family: Option<bool>,
    },
    /// CreatePermission.
    Permit(Vec<SocketAddr>),
    /// ChannelBind.
    Bind(u16, SocketAddr),
    /// A Send indication with so many bytes.
    Send(SocketAddr, usize),
    /// ChannelData with so many bytes.
    ChannelData(u16, usize),
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A success response to Allocate.
    Allocated {
        /// Of it, IPv4 and IPv6: whether it is there, or must be made now.
        families: [bool; 2],
        /// LIFETIME.
        lifetime: u32,
        /// As it was answered before.
        again: bool,
    },
    /// A success response with LIFETIME.
    Refreshed(u32),
    /// A success response.
    Done,
    /// An error response.
    Error(u16),
    /// To this peer from the relay of this family (IPv6?).
    Forward(SocketAddr, bool),
    /// Nothing.
    Nothing,
}

/// What the server chose when it made an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// Relay ports, IPv4 and IPv6.
    pub ports: [Option<u16>; 2],
    /// RESERVATION-TOKEN.
    pub token: Option<[u8; 8]>,
    /// Seconds.
    pub lifetime: u32,
}

/// An allocation.
#[derive(Debug, Clone, Default)]
pub struct Allocation {
    /// Index of the user.
    pub user: usize,
    /// Of the request that made it.
    pub transaction: u64,
    /// When each of its families is over, IPv4 and IPv6.
    pub expires: [u64; 2],
    /// As granted first.
    pub lifetime: u32,
    /// Relay ports, IPv4 and IPv6.
    pub ports: [Option<u16>; 2],
    /// The token that was given with it.
    pub token: Option<[u8; 8]>,
    /// Peers, and when they are shut out.
    pub permissions: BTreeMap<IpAddr, u64>,
    /// Channels, and when they are over.
    pub channels: BTreeMap<u16, (SocketAddr, u64)>,
}

/// Everything there is.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Of each flow.
    pub allocations: BTreeMap<usize, Allocation>,
    /// Tokens: family (IPv6?), port, and when they are over.
    pub reservations: BTreeMap<[u8; 8], (bool, u16, u64)>,
}

fn family(ip: IpAddr) -> bool {
    ip.is_ipv6()
}

/// Limits of the world.
pub const QUOTA_TENANT: usize = 3;
/// Of one user.
pub const QUOTA_USER: usize = 2;
/// Of one address.
pub const QUOTA_ADDRESS: usize = 2;
/// Of the server.
pub const ALLOCATIONS: usize = 4;
/// Of the server.
pub const RESERVATIONS: usize = 2;

impl Model {
    /// Time passes.
    pub fn expire(&mut self, now: u64) {
        for allocation in self.allocations.values_mut() {
            for v6 in [false, true] {
                if allocation.expires[usize::from(v6)] <= now {
                    allocation.end(v6);
                }
            }
        }
        self.allocations.retain(|_, allocation| allocation.ports.iter().any(Option::is_some));
        self.reservations.retain(|_, reservation| reservation.2 > now);
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, expires| *expires > now);
            allocation.channels.retain(|_, channel| channel.1 > now);
        }
    }

    /// Ports of a family that cannot be taken.
    #[must_use]
    pub fn taken(&self, v6: bool) -> BTreeSet<u16> {
        let relays = self.allocations.values().filter_map(|allocation| allocation.ports[usize::from(v6)]);
        let kept =
            self.reservations.values().filter(|reservation| reservation.0 == v6).map(|reservation| reservation.1);
        relays.chain(kept).collect()
    }

    fn has_port(&self, v6: bool, even: Option<bool>) -> bool {
        let taken = self.taken(v6);
        let free = |port: u16| PORTS.contains(&port) && !taken.contains(&port);
        PORTS.clone().any(|port| {
            free(port)
                && match even {
                    None => true,
                    Some(reserve) => port.is_multiple_of(2) && (!reserve || free(port + 1)),
                }
        })
    }

    /// What an operation of a user on a flow must come to. Changes everything but what the server chooses: ports and
    /// tokens, which [`allocated`](Self::allocated) is then told.
    pub fn apply(&mut self, now: u64, flow: usize, user: usize, operation: &Operation) -> Expected {
        self.expire(now);
        match operation {
            Operation::Send(peer, _) => return self.send(flow, *peer),
            Operation::ChannelData(number, _) => {
                let Some(allocation) = self.allocations.get(&flow) else { return Expected::Nothing };
                let Some((peer, _)) = allocation.channels.get(number) else { return Expected::Nothing };
                return Expected::Forward(*peer, family(peer.ip()));
            }
            Operation::Allocate { .. } => return self.allocate(flow, user, operation),
            _ => {}
        }
        let Some(allocation) = self.allocations.get_mut(&flow) else { return Expected::Error(437) };
        if allocation.user != user {
            return Expected::Error(441);
        }
        match operation {
            Operation::Refresh { lifetime, family } => {
                if family.is_some_and(|v6| allocation.ports[usize::from(v6)].is_none()) {
                    return Expected::Error(443);
                }
                let seconds = if *lifetime == Some(0) { 0 } else { granted(*lifetime) };
                for v6 in [false, true] {
                    if family.is_none_or(|family| family == v6) {
                        allocation.expires[usize::from(v6)] = now + u64::from(seconds) * 1000;
                    }
                }
                self.expire(now);
                Expected::Refreshed(seconds)
            }
            Operation::Permit(peers) => {
                if peers.is_empty() {
                    return Expected::Error(400);
                }
                for peer in peers {
                    if allocation.ports[usize::from(family(peer.ip()))].is_none() {
                        return Expected::Error(443);
                    }
                    if !allowed(peer.ip(), user) {
                        return Expected::Error(403);
                    }
                }
                let mut all = allocation.permissions.clone();
                all.extend(peers.iter().map(|peer| (peer.ip(), now + 300_000)));
                if all.len() > PERMISSION_LIMIT {
                    return Expected::Error(508);
                }
                allocation.permissions = all;
                Expected::Done
            }
            Operation::Bind(number, peer) => bind(allocation, now, user, *number, *peer),
            _ => Expected::Nothing,
        }
    }

    fn allocate(&self, flow: usize, user: usize, operation: &Operation) -> Expected {
        let Operation::Allocate { transaction, lifetime, family, additional, even, token, transport } = operation
        else {
            return Expected::Nothing;
        };
        if let Some(there) = self.allocations.get(&flow) {
            if there.transaction != *transaction || there.user != user {
                return Expected::Error(437);
            }
            let families = there.ports.map(|port| port.is_some());
            return Expected::Allocated { families, lifetime: there.lifetime, again: true };
        }
        match transport {
            None => return Expected::Error(400),
            Some(17) => {}
            Some(_) => return Expected::Error(442),
        }
        if token.is_some() && (even.is_some() || family.is_some() || additional.is_some())
            || additional.is_some() && (family.is_some() || *even == Some(true))
            || *additional == Some(false)
        {
            return Expected::Error(400);
        }
        let alike = |same: &dyn Fn(usize, usize) -> bool| {
            self.allocations.iter().filter(|(flow, allocation)| same(**flow, allocation.user)).count()
        };
        let tenant = |user: usize| USERS[user].1;
        if alike(&|_, other| tenant(other) == tenant(user)) >= QUOTA_TENANT
            || alike(&|_, other| other == user) >= QUOTA_USER
            || alike(&|other, _| address(other) == address(flow)) >= QUOTA_ADDRESS
        {
            return Expected::Error(486);
        }
        if self.allocations.len() >= ALLOCATIONS {
            return Expected::Error(508);
        }
        let lifetime = granted(*lifetime);
        if let Some(token) = token {
            let Some((v6, _, _)) = self.reservations.get(token) else { return Expected::Error(508) };
            return Expected::Allocated { families: [!v6, *v6], lifetime, again: false };
        }
        if *even == Some(true) && self.reservations.len() >= RESERVATIONS {
            return Expected::Error(508);
        }
        let families = match (family, additional) {
            (_, Some(_)) => {
                let v6 = if even.is_some() { Some(false) } else { None };
                [self.has_port(false, *even), self.has_port(true, v6)]
            }
            (v6, None) => {
                let v6 = v6.unwrap_or(false);
                let has = self.has_port(v6, *even);
                [!v6 && has, v6 && has]
            }
        };
        if families == [false; 2] {
            return Expected::Error(508);
        }
        Expected::Allocated { families, lifetime, again: false }
    }

    /// The server has chosen.
    pub fn allocated(&mut self, now: u64, flow: usize, user: usize, operation: &Operation, chosen: &Chosen) {
        let Chosen { ports, token: reserved, lifetime } = *chosen;
        let Operation::Allocate { transaction, token, even, .. } = operation else { return };
        for (v6, port) in [false, true].into_iter().zip(ports) {
            let Some(port) = port else { continue };
            assert!(NODE_PORTS.contains(&port) && PORTS.contains(&port), "port {port}");
            match token {
                Some(token) => {
                    let kept = self.reservations.remove(token);
                    assert_eq!(kept.map(|kept| (kept.0, kept.1)), Some((v6, port)), "the port that was kept");
                }
                None => assert!(!self.taken(v6).contains(&port), "port {port} is taken"),
            }
            assert!(even.is_none() || port.is_multiple_of(2), "port {port} is odd");
            if *even == Some(true) {
                let token = reserved.expect("a token comes with a reserved port");
                assert!(!self.taken(v6).contains(&(port + 1)));
                self.reservations.insert(token, (v6, port + 1, now + 30_000));
            }
        }
        assert_eq!(reserved.is_some(), *even == Some(true));
        let expires = [now + u64::from(lifetime) * 1000; 2];
        let transaction = *transaction;
        let allocation =
            Allocation { user, transaction, expires, lifetime, ports, token: reserved, ..Default::default() };
        self.allocations.insert(flow, allocation);
    }

    /// The stream of a flow is closed.
    pub fn closed(&mut self, now: u64, flow: usize) {
        self.expire(now);
        self.allocations.remove(&flow);
    }

    fn send(&self, flow: usize, peer: SocketAddr) -> Expected {
        let Some(allocation) = self.allocations.get(&flow) else { return Expected::Nothing };
        let v6 = family(peer.ip());
        if allocation.lets_in(peer) && allocation.ports[usize::from(v6)].is_some() {
            Expected::Forward(peer, v6)
        } else {
            Expected::Nothing
        }
    }
}

impl Allocation {
    /// A family is relayed no longer; its peers are forgotten.
    fn end(&mut self, v6: bool) {
        self.ports[usize::from(v6)] = None;
        self.permissions.retain(|ip, _| ip.is_ipv6() != v6);
        self.channels.retain(|_, (peer, _)| peer.is_ipv6() != v6);
    }

    /// Whether a peer may be sent to and heard.
    #[must_use]
    pub fn lets_in(&self, peer: SocketAddr) -> bool {
        let permitted =
            self.permissions.contains_key(&peer.ip()) || self.channels.values().any(|(bound, _)| *bound == peer);
        permitted && peer.port() != 0 && (!is_relay(peer.ip()) || NODE_PORTS.contains(&peer.port()))
    }

    /// The channel of a peer.
    #[must_use]
    pub fn channel_of(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(number, _)| *number)
    }
}

fn bind(allocation: &mut Allocation, now: u64, user: usize, number: u16, peer: SocketAddr) -> Expected {
    if !(0x4000..=0x7ffe).contains(&number) || peer.port() == 0 {
        return Expected::Error(400);
    }
    let known = allocation.channels.get(&number).map(|(peer, _)| *peer);
    let conflict =
        known.is_some_and(|bound| bound != peer) || allocation.channel_of(peer).is_some_and(|other| other != number);
    if conflict {
        return Expected::Error(400);
    }
    if allocation.ports[usize::from(family(peer.ip()))].is_none() {
        return Expected::Error(443);
    }
    if !allowed(peer.ip(), user) || is_relay(peer.ip()) && !NODE_PORTS.contains(&peer.port()) {
        return Expected::Error(403);
    }
    let full = known.is_none() && allocation.channels.len() >= CHANNEL_LIMIT;
    let mut permissions = allocation.permissions.clone();
    permissions.insert(peer.ip(), now + 300_000);
    if full || permissions.len() > PERMISSION_LIMIT {
        return Expected::Error(508);
    }
    allocation.permissions = permissions;
    allocation.channels.insert(number, (peer, now + 600_000));
    Expected::Done
}

fn granted(wanted: Option<u32>) -> u32 {
    wanted.unwrap_or(600).clamp(600, 3600)
}

fn is_relay(ip: IpAddr) -> bool {
    ip == RELAY_V4.parse::<IpAddr>().expect("an address") || ip == RELAY_V6.parse::<IpAddr>().expect("an address")
}

/// The world's few peers, judged by hand.
fn allowed(ip: IpAddr, user: usize) -> bool {
    let text = ip.to_string();
    match text.as_str() {
        "8.8.8.8" | "9.9.9.9" | "2600::8" | RELAY_V4 | RELAY_V6 => true,
        // The second tenant may reach its private network.
        "10.1.1.1" => USERS[user].1 == "acme",
        _ => false,
    }
}

fn address(flow: usize) -> IpAddr {
    FLOWS[flow].0.parse::<SocketAddr>().expect("an address").ip()
}
