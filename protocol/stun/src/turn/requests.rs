//! Requests: Allocate, Refresh, CreatePermission, ChannelBind.

use std::net::{IpAddr, SocketAddr};

use super::allocation::{Allocation, CannotBind};
use super::peers::{Verdict, is_tunnelled};
use super::ports::Want;
use super::{
    Dropped, FiveTuple, FromClient, Holder, Now, OpenError, Quota, RESERVATION_MS, RelayId, Relays, Reservation,
    Server, Transport,
};
use crate::credentials::{Authenticated, Credential, MAX_REALM, NONCE, REFUSAL_ATTRIBUTES, Tenant};
use crate::message::{
    AdditionalAddressFamily, AddressErrorCode, AttributeType, Builder, CHANNELS, ChannelNumber, Class, ErrorCode,
    EvenPort, Family, Fingerprint, HEADER, Lifetime, Message, Method, RequestedAddressFamily, RequestedTransport,
    ReservationToken, UnknownAttributes, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};

/// Bytes of a reply to a request that is nobody's, at most: it may go to whoever did not ask. That is what RFC 8489 puts
/// into a 401: ERROR-CODE, REALM, NONCE, PASSWORD-ALGORITHMS, and FINGERPRINT where the request had it.
pub const MAX_UNAUTHENTICATED_REPLY: usize = HEADER + 4 + 4 + 12 + REFUSAL_ATTRIBUTES + 8;
/// Bytes of a reply at most.
pub const MAX_REPLY: usize = 320;
const _: () = assert!(MAX_UNAUTHENTICATED_REPLY <= MAX_REPLY && MAX_REALM + NONCE < MAX_REPLY);

/// UDP, the only protocol that is relayed.
const UDP: u8 = 17;
/// Ports that are tried for an allocation when others hold them.
const MAX_TRIES: usize = 16;
/// Unknown types that are listed at most.
const MAX_UNKNOWN: usize = 16;

/// What a request or Send indication may hold that must be understood.
pub(super) const KNOWN: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::RESERVATION_TOKEN,
    // Of no meaning in a request, so passed over (RFC 8489 section 6.3).
    AttributeType::MAPPED_ADDRESS,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
];

/// The shard whose port an Allocate request wants by its RESERVATION-TOKEN: hand the datagram, and all others of its
/// five-tuple if it is granted, to that shard.
#[must_use]
pub fn reservation_shard(datagram: &[u8]) -> Option<u16> {
    let message = Message::parse(datagram).ok()?;
    let allocates = message.method() == Method::ALLOCATE && message.class() == Class::Request;
    let ReservationToken([a, b, ..]) = message.read().ok().flatten().filter(|_| allocates)?;
    Some(u16::from_be_bytes([a, b]))
}

/// What was granted, as the response tells it.
enum Granted {
    Allocated(u32),
    Refreshed(u32),
    Done,
}

type Outcome = Result<Granted, ErrorCode<'static>>;

fn bad<E>(_: E) -> ErrorCode<'static> {
    ErrorCode::BAD_REQUEST
}

impl<Q: Quota> Server<Q> {
    pub(super) fn handle_request<'d>(
        &mut self,
        now: Now,
        flow: &FiveTuple,
        request: &Message<'_>,
        relays: &mut impl Relays,
        out: &mut [u8],
    ) -> Result<FromClient<'d>, Dropped> {
        let (method, id) = (request.method(), *request.transaction_id());
        if !matches!(method, Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND) {
            return Err(Dropped::Unexpected);
        }
        let found = self.table.find(flow);
        let known = found.and_then(|slot| self.table.get(slot)).map(|allocation| &allocation.credential);
        let who = match self.authenticator.authenticate(request, flow.client, now.unix, &self.tenants, known) {
            Ok(who) => who,
            Err(refusal) => {
                self.counters.refuse(refusal);
                self.counters.error(refusal.error());
                let mut response = Builder::new(out, method, Class::Error, id);
                self.authenticator.refuse(&mut response, refusal, flow.client, now.unix);
                return finish(request, &mut response, false);
            }
        };
        let mut types = [0; 2 * MAX_UNKNOWN];
        let mut unknown = 0;
        let refused = asks_for_unseen_df(flow, request).then_some(AttributeType::DONT_FRAGMENT);
        let refused = request.unknown_required(KNOWN).chain(refused);
        for (place, kind) in types.as_chunks_mut().0.iter_mut().zip(refused) {
            *place = kind.0.to_be_bytes();
            unknown += 2;
        }
        let outcome = if unknown > 0 {
            Err(ErrorCode::UNKNOWN_ATTRIBUTE)
        } else if method == Method::ALLOCATE {
            self.allocate(now, flow, request, &who, relays)
        } else {
            self.about_allocation(now, found, request, &who, relays)
        };
        let class = if outcome.is_ok() { Class::Success } else { Class::Error };
        let mut response = Builder::new(out, method, class, id);
        match outcome {
            Ok(granted) => {
                self.counters.granted += 1;
                self.describe(&granted, &mut response);
            }
            Err(error) => {
                self.counters.error(error);
                response.add(&error);
                if unknown > 0 {
                    response.add(&UnknownAttributes(types.get(..unknown).unwrap_or_default()));
                }
            }
        }
        response.integrity(who.integrity, who.key.as_bytes());
        finish(request, &mut response, true)
    }

    /// RFC 8656 section 7.2, in its order.
    fn allocate(
        &mut self,
        now: Now,
        flow: &FiveTuple,
        request: &Message<'_>,
        who: &Authenticated<'_>,
        relays: &mut impl Relays,
    ) -> Outcome {
        if let Some(slot) = self.table.find(flow) {
            let same = self.table.get(slot).is_some_and(|allocation| {
                allocation.transaction == *request.transaction_id() && *allocation.credential.username == *who.username
            });
            return if same { Ok(Granted::Allocated(slot)) } else { Err(ErrorCode::ALLOCATION_MISMATCH) };
        }
        if is_tunnelled(flow.client.ip()) {
            return Err(ErrorCode::FORBIDDEN);
        }
        let transport = request.read::<RequestedTransport>().map_err(bad)?.ok_or(ErrorCode::BAD_REQUEST)?;
        if transport.0 != UDP {
            return Err(ErrorCode::UNSUPPORTED_TRANSPORT);
        }
        let token = request.read::<ReservationToken>().map_err(bad)?;
        let even = request.read::<EvenPort>().map_err(bad)?;
        let family = request.read::<RequestedAddressFamily>().map_err(|_| ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)?;
        let additional = request.read::<AdditionalAddressFamily>().map_err(bad)?;
        let lifetime = self.lifetime(request.read::<Lifetime>().map_err(bad)?);
        let reserves = even.is_some_and(|even| even.reserve_next);
        let contradicts = token.is_some() && (even.is_some() || family.is_some() || additional.is_some())
            || additional.is_some() && (family.is_some() || reserves)
            || additional.is_some_and(|additional| additional.0 == Family::Ipv4);
        if contradicts {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let tenant = self.tenants.get(who.name.tenant).map(|tenant| tenant.id).ok_or(ErrorCode::WRONG_CREDENTIALS)?;
        let holder = Holder { tenant, user: who.name.user, client: flow.client.ip() };
        if !self.quota.acquire(&holder) {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        let credential = Credential { username: who.username.into(), key: who.key.clone() };
        let mut allocation = Allocation::new(*flow, credential, tenant, *request.transaction_id());
        let opened = match self.table.vacant() {
            None => Err(ErrorCode::INSUFFICIENT_CAPACITY),
            Some(slot) => match token {
                Some(token) => self.open_reserved(slot, &mut allocation, token, relays),
                None => {
                    let want = match even {
                        None => Want::Any,
                        Some(EvenPort { reserve_next: false }) => Want::Even,
                        Some(EvenPort { reserve_next: true }) => Want::Pair,
                    };
                    let family = family.map_or(Family::Ipv4, |family| family.0);
                    self.open_families(slot, &mut allocation, now, family, additional.is_some(), want, relays)
                }
            }
            .map(|()| slot),
        };
        let slot = opened.inspect_err(|_| self.quota.release(&holder))?;
        allocation.granted_s = lifetime;
        allocation.last_until(now.ms + u64::from(lifetime) * 1_000, None);
        self.table.insert(slot, allocation);
        self.set_deadline(slot);
        self.counters.allocations += 1;
        Ok(Granted::Allocated(slot))
    }

    /// Opens a relay in one family, or in both: then one is enough, and the other is said to be missing.
    #[expect(clippy::too_many_arguments, reason = "all of one request, and nobody else calls it")]
    fn open_families(
        &mut self,
        slot: u32,
        allocation: &mut Allocation,
        now: Now,
        family: Family,
        both: bool,
        want: Want,
        relays: &mut impl Relays,
    ) -> Result<(), ErrorCode<'static>> {
        if want == Want::Pair && self.reservations.len() >= self.config.limits.reservations {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let first = self.open_family(slot, allocation, family, want, relays);
        if !both {
            let port = first?;
            if want == Want::Pair {
                let [_, _, a, b, c, d, e, f] = self.random.bits().to_be_bytes();
                let [s0, s1] = self.config.shard.to_be_bytes();
                let token = [s0, s1, a, b, c, d, e, f];
                let expires = now.ms + RESERVATION_MS;
                self.reservations.push_back(Reservation { token, family, port: port + 1, expires });
                allocation.token = Some(token);
            }
            return Ok(());
        }
        let want = if want == Want::Even { Want::Even } else { Want::Any };
        match (first, self.open_family(slot, allocation, Family::Ipv6, want, relays)) {
            (Err(error), Err(_)) => return Err(error),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => allocation.missing = Some(why_missing(error)),
            (Ok(_), Ok(_)) => {}
        }
        Ok(())
    }

    /// Opens a relay on a port of the shard.
    fn open_family(
        &mut self,
        slot: u32,
        allocation: &mut Allocation,
        family: Family,
        want: Want,
        relays: &mut impl Relays,
    ) -> Result<u16, ErrorCode<'static>> {
        let (bind, _) = self.address(family).ok_or(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)?;
        let relay = self.table.relay(slot, family).ok_or(ErrorCode::SERVER_ERROR)?;
        let [v4, v6] = &mut self.ports;
        let ports = if family == Family::Ipv4 { v4 } else { v6 };
        // Ports that others hold stay taken until another is found, so that none is tried twice.
        let (mut tried, mut count) = ([0; MAX_TRIES], 0);
        let mut opened = Err(ErrorCode::INSUFFICIENT_CAPACITY);
        for place in &mut tried {
            let Some(port) = ports.take(want, &mut self.random) else { break };
            match relays.open(relay, SocketAddr::new(bind, port)) {
                Ok(()) => {
                    opened = Ok(port);
                    break;
                }
                Err(error) => {
                    *place = port;
                    count += 1;
                    if error == OpenError::Failed {
                        break;
                    }
                }
            }
        }
        for port in tried.into_iter().take(count) {
            ports.free(port);
            if want == Want::Pair {
                ports.free(port + 1);
            }
        }
        if let Ok(port) = opened {
            allocation.set_port(family, port);
        }
        opened
    }

    /// Opens a relay on a port that was kept for the token.
    fn open_reserved(
        &mut self,
        slot: u32,
        allocation: &mut Allocation,
        token: ReservationToken,
        relays: &mut impl Relays,
    ) -> Result<(), ErrorCode<'static>> {
        let none = ErrorCode::INSUFFICIENT_CAPACITY;
        let at = self.reservations.iter().position(|reservation| reservation.token == token.0).ok_or(none)?;
        let Reservation { family, port, .. } = self.reservations.remove(at).ok_or(none)?;
        let relay = self.table.relay(slot, family).ok_or(none)?;
        let (bind, _) = self.address(family).ok_or(none)?;
        if relays.open(relay, SocketAddr::new(bind, port)).is_err() {
            self.ports_of(family).free(port);
            return Err(none);
        }
        allocation.set_port(family, port);
        Ok(())
    }

    /// Requests about an allocation that must be there, and be the asker's.
    fn about_allocation(
        &mut self,
        now: Now,
        found: Option<u32>,
        request: &Message<'_>,
        who: &Authenticated<'_>,
        relays: &mut impl Relays,
    ) -> Outcome {
        let slot = found.ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let allocation = self.table.get_mut(slot).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        if *allocation.credential.username != *who.username {
            return Err(ErrorCode::WRONG_CREDENTIALS);
        }
        match request.method() {
            Method::REFRESH => self.refresh(now, slot, request, relays),
            Method::CREATE_PERMISSION => self.create_permission(now, slot, request, who),
            _ => self.channel_bind(now, slot, request, who, relays),
        }
    }

    /// RFC 8656 section 8.2.
    fn refresh(&mut self, now: Now, slot: u32, request: &Message<'_>, relays: &mut impl Relays) -> Outcome {
        let wanted = request.read::<Lifetime>().map_err(bad)?;
        // One that is unknown is not the allocation's.
        let mismatch = ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH;
        let family = request.read::<RequestedAddressFamily>().map_err(|_| mismatch)?.map(|family| family.0);
        let granted = self.lifetime(wanted);
        let allocation = self.table.get_mut(slot).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        if family.is_some_and(|family| allocation.port(family).is_none()) {
            return Err(mismatch);
        }
        if wanted != Some(Lifetime(0)) {
            allocation.last_until(now.ms + u64::from(granted) * 1_000, family);
            self.set_deadline(slot);
            self.tell_bound(slot, None, now.ms, relays);
            return Ok(Granted::Refreshed(granted));
        }
        let all = allocation.ports.iter().all(|port| *port != 0);
        match family {
            Some(family) if all => {
                self.close_relay(slot, family, relays);
                self.set_deadline(slot);
            }
            _ => self.end(slot, relays),
        }
        Ok(Granted::Refreshed(0))
    }

    /// RFC 8656 section 10.2: all of the peers, or none.
    fn create_permission(&mut self, now: Now, slot: u32, request: &Message<'_>, who: &Authenticated<'_>) -> Outcome {
        let tenant = self.tenants.get(who.name.tenant).ok_or(ErrorCode::WRONG_CREDENTIALS)?;
        let allocation = self.table.get_mut(slot).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let mut any = false;
        for peer in request.read_all::<XorPeerAddress>() {
            let ip = peer.map_err(bad)?.0.ip();
            allocation.port(Family::of(&ip)).ok_or(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH)?;
            if self.own.judge(ip, &tenant.peers) == Verdict::Forbidden {
                return Err(ErrorCode::FORBIDDEN);
            }
            any = true;
        }
        if !any {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let peers = request.read_all::<XorPeerAddress>().flatten().map(|peer| peer.0.ip());
        let fits = allocation.permit(peers, self.config.limits.permissions, now.ms);
        if fits { Ok(Granted::Done) } else { Err(ErrorCode::INSUFFICIENT_CAPACITY) }
    }

    /// RFC 8656 section 12.2.
    fn channel_bind(
        &mut self,
        now: Now,
        slot: u32,
        request: &Message<'_>,
        who: &Authenticated<'_>,
        relays: &mut impl Relays,
    ) -> Outcome {
        let tenant = self.tenants.get(who.name.tenant).ok_or(ErrorCode::WRONG_CREDENTIALS)?;
        let number = request.read::<ChannelNumber>().map_err(bad)?.ok_or(ErrorCode::BAD_REQUEST)?.0;
        let peer = request.read::<XorPeerAddress>().map_err(bad)?.ok_or(ErrorCode::BAD_REQUEST)?.0;
        if !CHANNELS.contains(&number) || peer.port() == 0 {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let limits = self.config.limits;
        let allocation = self.table.get_mut(slot).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let bindable = allocation.can_bind(number, peer, limits.channels, now.ms);
        if bindable == Err(CannotBind::Conflict) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        allocation.port(Family::of(&peer.ip())).ok_or(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH)?;
        if !may_bind(&self.own, peer, tenant) {
            return Err(ErrorCode::FORBIDDEN);
        }
        if bindable.is_err() || !allocation.permit(std::iter::once(peer.ip()), limits.permissions, now.ms) {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        allocation.bind(number, peer, now.ms);
        self.tell_bound(slot, Some(number), now.ms, relays);
        Ok(Granted::Done)
    }

    /// Adds what the response to a granted request says.
    fn describe(&self, granted: &Granted, response: &mut Builder<'_>) {
        let slot = match granted {
            Granted::Allocated(slot) => *slot,
            Granted::Refreshed(seconds) => {
                response.add(&Lifetime(*seconds));
                return;
            }
            Granted::Done => return,
        };
        let Some(allocation) = self.table.get(slot) else { return };
        for family in [Family::Ipv4, Family::Ipv6] {
            if let (Some(port), Some((_, public))) = (allocation.port(family), self.address(family)) {
                response.add(&XorRelayedAddress(SocketAddr::new(public, port)));
            }
        }
        response.add(&Lifetime(allocation.granted_s)).add(&XorMappedAddress(allocation.flow.client));
        if let Some(token) = allocation.token {
            response.add(&ReservationToken(token));
        }
        if let Some(error) = allocation.missing {
            let family = if allocation.port(Family::Ipv4).is_none() { Family::Ipv4 } else { Family::Ipv6 };
            response.add(&AddressErrorCode { family, error: *error });
        }
    }

    /// Seconds that are granted for those asked for (RFC 8656 section 7.2).
    fn lifetime(&self, wanted: Option<Lifetime>) -> u32 {
        let limits = &self.config.limits;
        wanted.map_or(0, |wanted| wanted.0).min(limits.max_lifetime_s).max(limits.default_lifetime_s)
    }

    /// Where a family is relayed from: bound, and public.
    pub(super) fn address(&self, family: Family) -> Option<(IpAddr, IpAddr)> {
        match family {
            Family::Ipv4 => self.config.ipv4.map(|ip| (ip.bind.into(), ip.public.into())),
            Family::Ipv6 => self.config.ipv6.map(|ip| (ip.bind.into(), ip.public.into())),
        }
    }
}

/// What of it an ADDRESS-ERROR-CODE may say (RFC 8656 section 18.12).
const fn why_missing(error: ErrorCode<'_>) -> &'static ErrorCode<'static> {
    if error.code == ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED.code {
        &ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED
    } else {
        &ErrorCode::INSUFFICIENT_CAPACITY
    }
}

/// Whether an Allocate request wants the DF bit where it would have to be that of the client's own packets, from IPv4 to IPv6:
/// they come without it (RFC 8656 section 3.7).
fn asks_for_unseen_df(flow: &FiveTuple, request: &Message<'_>) -> bool {
    let ipv6 = |request: &Message<'_>| {
        request.has(AttributeType::ADDITIONAL_ADDRESS_FAMILY)
            || request.read() == Ok(Some(RequestedAddressFamily(Family::Ipv6)))
    };
    request.method() == Method::ALLOCATE
        && flow.transport == Transport::Udp
        && flow.client.ip().to_canonical().is_ipv4()
        && request.has(AttributeType::DONT_FRAGMENT)
        && ipv6(request)
}

fn may_bind(own: &super::OwnAddresses, peer: SocketAddr, tenant: &Tenant) -> bool {
    match own.judge(peer.ip(), &tenant.peers) {
        Verdict::Allowed => true,
        Verdict::Relay => own.ports.contains(&peer.port()),
        Verdict::Forbidden => false,
    }
}

fn finish<'d>(
    request: &Message<'_>,
    response: &mut Builder<'_>,
    authenticated: bool,
) -> Result<FromClient<'d>, Dropped> {
    if request.fingerprint() == Fingerprint::Right {
        response.fingerprint();
    }
    let length = response.finish().map_err(|_| Dropped::NoRoom)?;
    Ok(FromClient::Reply { length, authenticated })
}

/// Relays are told apart by a bit, so there may be half as many slots as numbers.
const _: () = assert!(RelayId::MAX_SLOTS <= 1 << 31);
