//! Requests: Register and Introduce.

use std::net::SocketAddr;

use super::registrations::Registration as Registered;
use super::slots::Id;
use super::{Admission, Dropped, Gate, LIFETIME_MS, Now, Outcome, Refusal, Server, Standing, can_connect};
use crate::credentials::NONCE;
use crate::message::{
    AttributeType, Builder, ChannelId, Class, ErrorCode, HEADER, Lifetime, Malformed, Message, Method, Nat, Nonce,
    PeerId, Punch, Registration, Target, Ticket, UnknownAttributes, XorMappedAddress, XorPeerAddress,
};

/// Bytes of a request at least: as many as a challenge needs, and any other answer. Shorter ones are filled up with PADDING.
pub const MIN_REQUEST: usize = HEADER + 8 + (4 + NONCE) + FINGERPRINT;
/// Bytes of a reply at most: a challenge with its reason phrase, an error with the gate's.
pub const MAX_REPLY: usize = 192;

const FINGERPRINT: usize = 8;
/// XOR-MAPPED-ADDRESS, LIFETIME, REGISTRATION; and XOR-PEER-ADDRESS, NAT, PUNCH, for PEER-ID, REGISTRATION, TARGET.
const REGISTER_SUCCESS: usize = HEADER + 24 + 8 + 20 + FINGERPRINT;
const INTRODUCE_SUCCESS: usize = HEADER + 24 + 12 + 24 + FINGERPRINT;
const INTRODUCE_REQUEST: usize = HEADER + 24 + 20 + 24 + FINGERPRINT;
const _: () = assert!(REGISTER_SUCCESS <= MIN_REQUEST && INTRODUCE_SUCCESS <= INTRODUCE_REQUEST);
const _: () = assert!(MIN_REQUEST == 80 && NONCE.is_multiple_of(4), "docs/punch.md says it");

/// Unknown types that are listed at most.
const MAX_UNKNOWN: usize = 16;

/// What a request may hold that must be understood.
const KNOWN: &[AttributeType] = &[
    AttributeType::PEER_ID,
    AttributeType::TARGET,
    AttributeType::CHANNEL,
    AttributeType::TICKET,
    AttributeType::NAT,
    AttributeType::REGISTRATION,
    AttributeType::LIFETIME,
    AttributeType::NONCE,
    AttributeType::PADDING,
];

/// What was granted, as the response tells it.
enum Granted {
    Registered { registration: Registration, lifetime_s: u32 },
    Ended,
    Introduced { peer: SocketAddr, nat: Nat, punch: Punch },
}

/// Why not; with a phrase of its own, where the gate has said it.
struct Denied {
    refusal: Refusal,
    phrase: &'static str,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, phrase: refusal.error().reason }
    }
}

/// The attributes of a request.
struct Asked<'m> {
    client: SocketAddr,
    server: SocketAddr,
    peer: [u8; 20],
    target: Option<Target>,
    channel: Option<&'m str>,
    ticket: Option<&'m str>,
    nat: Option<Nat>,
    registration: Option<Registration>,
    ends: bool,
    nonce: Option<&'m str>,
}

impl<'m> Asked<'m> {
    fn read(request: &Message<'m>, client: SocketAddr, server: SocketAddr) -> Result<Self, Refusal> {
        let malformed = |_: Malformed| Refusal::Malformed;
        Ok(Self {
            client,
            server,
            peer: request.read::<PeerId>().map_err(malformed)?.ok_or(Refusal::Malformed)?.0,
            target: request.read().map_err(malformed)?,
            channel: request.read::<ChannelId<'m>>().map_err(malformed)?.map(|channel| channel.0),
            ticket: request.read::<Ticket<'m>>().map_err(malformed)?.map(|ticket| ticket.0),
            nat: request.read().map_err(malformed)?,
            registration: request.read().map_err(malformed)?,
            ends: request.read().map_err(malformed)? == Some(Lifetime(0)),
            nonce: request.read::<Nonce<'m>>().map_err(malformed)?.map(|nonce| nonce.0),
        })
    }
}

impl Server {
    pub(super) fn handle_request(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        request: &Message<'_>,
        gate: &impl Gate,
        out: &mut [u8],
    ) -> Result<Outcome, Dropped> {
        let result = if request.as_bytes().len() < MIN_REQUEST {
            Err(Refusal::TooShort.into())
        } else if request.unknown_required(KNOWN).next().is_some() {
            Err(Refusal::UnknownAttribute.into())
        } else {
            match Asked::read(request, client, server) {
                Err(refusal) => Err(refusal.into()),
                Ok(asked) if request.method() == Method::REGISTER => self.register(now, &asked, gate),
                Ok(asked) => self.introduce(now, &asked, gate),
            }
        };
        match result {
            Ok(granted) => grant(request, &granted, client, out),
            Err(denied) => self.deny(now, request, &denied, client, out),
        }
    }

    fn register(&mut self, now: Now, asked: &Asked<'_>, gate: &impl Gate) -> Result<Granted, Denied> {
        if let Some(id) = self.find_own(asked) {
            if asked.ends {
                self.end(id);
                return Ok(Granted::Ended);
            }
            let admission = match asked.ticket {
                Some(_) => Some(self.admit(now, id, asked, gate)?),
                None => None,
            };
            self.check_standing(id, gate)?;
            return self.renew(now, id, asked, admission);
        }
        match asked.nonce {
            None => return Err(Refusal::Unproven.into()),
            Some(nonce) if !self.nonces.check(nonce, asked.client, now.unix) => return Err(Refusal::StaleNonce.into()),
            // What is to end has ended.
            Some(_) if asked.ends => return Err(Refusal::Unregistered.into()),
            Some(_) => {}
        }
        let missing = if asked.registration.is_some() { Refusal::Unregistered } else { Refusal::Malformed };
        let channel = asked.channel.ok_or(missing)?;
        let admission = self.ask(now, channel, asked, gate)?;
        let Some(id) = self.registrations.find(channel, &asked.peer) else {
            return self.begin(now, channel, asked, admission, false);
        };
        let known = self.registrations.get(id).ok_or(Refusal::Taken)?;
        if known.client == asked.client {
            return self.renew(now, id, asked, Some(admission));
        }
        let same_session = admission.session.is_some() && admission.session == known.session;
        let proven = asked.registration.and_then(|registration| self.registrations.find_secret(registration));
        if !same_session && proven != Some(id) {
            return Err(Refusal::Taken.into());
        }
        if !self.address_has_room(asked.client, Some(known.client)) {
            return Err(Refusal::AddressFull.into());
        }
        // It is the same peer, so nobody is told that it went.
        let ever_told = self.registrations.remove(id).is_some_and(|old| old.ever_told);
        self.begin(now, channel, asked, admission, ever_told)
    }

    /// The registration that is proven to be of this peer, at this address.
    fn find_own(&self, asked: &Asked<'_>) -> Option<Id> {
        let id = self.registrations.find_secret(asked.registration?)?;
        let known = self.registrations.get(id)?;
        let same = known.peer == asked.peer && known.client == asked.client;
        (same && asked.channel.is_none_or(|channel| *channel == *known.channel)).then_some(id)
    }

    /// Asks the gate about a ticket for a registration that is there.
    fn admit(&mut self, now: Now, id: Id, asked: &Asked<'_>, gate: &impl Gate) -> Result<Admission, Denied> {
        let channel = self.registrations.get(id).map(|known| known.channel.clone()).ok_or(Refusal::Unregistered)?;
        self.ask(now, &channel, asked, gate)
    }

    fn ask(&mut self, now: Now, channel: &str, asked: &Asked<'_>, gate: &impl Gate) -> Result<Admission, Denied> {
        if !self.admissions.admit(asked.client.ip(), now.ms) {
            return Err(Refusal::RegistrationRate.into());
        }
        let admission = gate.admit(channel, asked.ticket, asked.client.ip(), now.unix);
        let admission = admission.map_err(|refused| Denied { refusal: Refusal::Gate, phrase: refused.0 })?;
        if admission.expires_unix.is_some_and(|expires| expires < now.unix) {
            return Err(Denied { refusal: Refusal::Gate, phrase: "expired" });
        }
        Ok(admission)
    }

    /// Ends a registration whose channel is gone; says whether addresses may be told.
    fn check_standing(&mut self, id: Id, gate: &impl Gate) -> Result<Standing, Refusal> {
        let channel = &self.registrations.get(id).ok_or(Refusal::Unregistered)?.channel;
        let standing = gate.standing(channel);
        if standing == Standing::Gone {
            self.end(id);
            return Err(Refusal::Channel);
        }
        Ok(standing)
    }

    fn address_has_room(&self, client: SocketAddr, leaves: Option<SocketAddr>) -> bool {
        let left =
            leaves.is_some_and(|left| crate::turn::address_key(left.ip()) == crate::turn::address_key(client.ip()));
        self.registrations.of_address(client.ip()) - u32::from(left) < self.limits.registrations_per_address
    }

    fn begin(
        &mut self,
        now: Now,
        channel: &str,
        asked: &Asked<'_>,
        admission: Admission,
        ever_told: bool,
    ) -> Result<Granted, Denied> {
        if self.registrations.is_full() {
            return Err(Refusal::Full.into());
        }
        if !self.address_has_room(asked.client, None) {
            return Err(Refusal::AddressFull.into());
        }
        let ticket_ends = ticket_ends(now, admission.expires_unix);
        let expires = ticket_ends.min(now.ms + LIFETIME_MS);
        let [_, _, _, _, _, _, secret @ ..] = self.random.key();
        let registration = Registered {
            channel: channel.into(),
            peer: asked.peer,
            client: asked.client,
            server: asked.server,
            nat: asked.nat.unwrap_or_default(),
            tenant: admission.tenant,
            session: admission.session.filter(|session| !session.is_empty()),
            secret,
            expires,
            ticket_ends,
            asked_us: 0,
            introduced_us: 0,
            told: false,
            ever_told,
        };
        let id = self.registrations.insert(registration).ok_or(Refusal::Full)?;
        self.observations.change(id.slot);
        if ever_told {
            self.counters.renewed += 1;
        } else {
            self.counters.registered += 1;
        }
        self.registered(now, id, expires)
    }

    fn renew(&mut self, now: Now, id: Id, asked: &Asked<'_>, admission: Option<Admission>) -> Result<Granted, Denied> {
        let known = self.registrations.get_mut(id).ok_or(Refusal::Unregistered)?;
        known.server = asked.server;
        if let Some(Admission { tenant, session, expires_unix }) = admission {
            known.tenant = tenant;
            known.session = session.filter(|session| !session.is_empty());
            known.ticket_ends = ticket_ends(now, expires_unix);
        }
        let changed = asked.nat.is_some_and(|nat| nat != known.nat);
        known.nat = asked.nat.unwrap_or(known.nat);
        let expires = known.ticket_ends.min(now.ms + LIFETIME_MS);
        if changed {
            self.observe(id);
        }
        self.registrations.prolong(id, expires);
        self.counters.renewed += 1;
        self.registered(now, id, expires)
    }

    fn registered(&self, now: Now, id: Id, expires: u64) -> Result<Granted, Denied> {
        let registration = self.registrations.secret(id).ok_or(Refusal::Unregistered)?;
        Ok(Granted::Registered { registration, lifetime_s: (expires - now.ms).div_ceil(1_000) as u32 })
    }

    fn introduce(&mut self, now: Now, asked: &Asked<'_>, gate: &impl Gate) -> Result<Granted, Denied> {
        let target = asked.target.filter(|target| target.0 != asked.peer).ok_or(Refusal::Malformed)?;
        let id = self.find_own(asked).ok_or(Refusal::Unregistered)?;
        let standing = self.check_standing(id, gate)?;
        let own = self.registrations.get(id).ok_or(Refusal::Unregistered)?;
        let found = self.registrations.find(&own.channel, &target.0);
        if standing == Standing::Open
            && let Some(other) = found
            && let Some(introduction) = self.introductions.find(now.ms, id, other)
        {
            let punch = introduction.punch(now.ms, id);
            return self.introduced(other, punch);
        }
        let (per_peer, per_target) = (self.limits.introductions_per_peer, self.limits.introductions_per_target);
        if !per_peer.allows(own.asked_us, now.ms) {
            return Err(Refusal::PeerRate.into());
        }
        if !self.asks.admit(asked.client.ip(), now.ms) {
            return Err(Refusal::AddressRate.into());
        }
        let nat = own.nat;
        if let Some(own) = self.registrations.get_mut(id) {
            per_peer.take(&mut own.asked_us, now.ms);
        }
        if standing == Standing::RelayOnly {
            return Err(Refusal::RelayOnly.into());
        }
        let other = found.ok_or(Refusal::NotFound)?;
        let registered = self.registrations.get_mut(other).ok_or(Refusal::NotFound)?;
        if registered.client.is_ipv4() != asked.client.is_ipv4() {
            return Err(Refusal::Family.into());
        }
        if !can_connect(&nat, &registered.nat) {
            return Err(Refusal::CannotConnect.into());
        }
        if !per_target.allows(registered.introduced_us, now.ms) {
            return Err(Refusal::TargetRate.into());
        }
        if self.introductions.is_full() {
            return Err(Refusal::IntroductionsFull.into());
        }
        per_target.take(&mut registered.introduced_us, now.ms);
        let made = self.introductions.insert(now.ms, id, other, &mut self.random);
        let introduction = made.and_then(|made| self.introductions.get(made)).ok_or(Refusal::IntroductionsFull)?;
        let punch = introduction.punch(now.ms, id);
        self.counters.introductions += 1;
        self.introduced(other, punch)
    }

    fn introduced(&self, other: Id, punch: Punch) -> Result<Granted, Denied> {
        let other = self.registrations.get(other).ok_or(Refusal::NotFound)?;
        Ok(Granted::Introduced { peer: other.client, nat: other.nat, punch })
    }

    /// Writes an error that is no longer than its request: if need be, without the phrase.
    fn deny(
        &mut self,
        now: Now,
        request: &Message<'_>,
        denied: &Denied,
        client: SocketAddr,
        out: &mut [u8],
    ) -> Result<Outcome, Dropped> {
        let Denied { refusal, phrase } = *denied;
        self.counters.refuse(refusal);
        if refusal == Refusal::Gate {
            self.counters.gate(phrase);
        }
        let code = refusal.error().code;
        let mut types = [0; 2 * MAX_UNKNOWN];
        let mut unknown = 0;
        for (place, kind) in types.as_chunks_mut().0.iter_mut().zip(request.unknown_required(KNOWN)) {
            *place = kind.0.to_be_bytes();
            unknown += 2;
        }
        for reason in [phrase, ""] {
            let mut response = Builder::new(out, request.method(), Class::Error, *request.transaction_id());
            response.add(&ErrorCode { code, reason });
            match refusal {
                Refusal::Unproven | Refusal::StaleNonce | Refusal::Unregistered => {
                    let nonce = self.nonces.issue(client, now.unix);
                    response.add(&Nonce(std::str::from_utf8(&nonce).unwrap_or_default()));
                }
                Refusal::UnknownAttribute => {
                    response.add(&UnknownAttributes(types.get(..unknown).unwrap_or_default()));
                }
                _ => {}
            }
            let reply = finish(request, &mut response, refusal.is_of_proven());
            if !reason.is_empty() && reply.is_err() {
                continue;
            }
            return reply;
        }
        Err(Dropped::TooShort)
    }
}

fn grant(request: &Message<'_>, granted: &Granted, client: SocketAddr, out: &mut [u8]) -> Result<Outcome, Dropped> {
    let mut response = Builder::new(out, request.method(), Class::Success, *request.transaction_id());
    match granted {
        Granted::Registered { registration, lifetime_s } => {
            response.add(&XorMappedAddress(client)).add(&Lifetime(*lifetime_s)).add(registration);
        }
        Granted::Ended => {
            response.add(&Lifetime(0));
        }
        Granted::Introduced { peer, nat, punch } => {
            response.add(&XorPeerAddress(*peer)).add(nat).add(punch);
        }
    }
    finish(request, &mut response, true)
}

fn finish(request: &Message<'_>, response: &mut Builder<'_>, proven: bool) -> Result<Outcome, Dropped> {
    let length = response.fingerprint().finish().map_err(|_| Dropped::NoRoom)?;
    if length > request.as_bytes().len() {
        return Err(Dropped::TooShort);
    }
    Ok(Outcome::Reply { length, proven })
}

/// A ticket is good up to and including its last second.
fn ticket_ends(now: Now, expires_unix: Option<u64>) -> u64 {
    let left = expires_unix.map(|expires| expires.saturating_add(1).saturating_sub(now.unix));
    left.map_or(u64::MAX, |seconds| now.ms.saturating_add(seconds.saturating_mul(1_000)))
}
