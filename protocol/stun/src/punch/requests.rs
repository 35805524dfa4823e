//! Requests: Register and Introduce.

use std::net::SocketAddr;

use super::connect::has_way;
use super::introductions::Terms;
use super::registrations::Registration as Registered;
use super::slots::Id;
use super::{Admission, Dropped, Gate, LIFETIME_MS, Now, Outcome, Refusal, Server, Standing, canonical, tell};
use crate::credentials::NONCE;
use crate::message::{
    AttributeType, Builder, ChannelId, Class, ErrorCode, HEADER, Lifetime, Malformed, Message, Method, Nat, Nonce,
    PeerId, Punch, Registration, Target, Ticket, UnknownAttributes, XorMappedAddress, XorRelayedAddress,
};

/// Bytes of a request at least: as many as a challenge needs, and any answer to Register. Shorter ones are filled up with
/// PADDING.
pub const MIN_REQUEST: usize = HEADER + 8 + (4 + NONCE) + FINGERPRINT;
/// The same of Introduce: XOR-PEER-ADDRESS, XOR-RELAYED-ADDRESS, NAT and PUNCH come back.
pub const MIN_INTRODUCE: usize = HEADER + 24 + 24 + 12 + 24 + FINGERPRINT;
/// Bytes of a reply at most: a challenge with its reason phrase, an error with the gate's.
pub const MAX_REPLY: usize = 192;

const FINGERPRINT: usize = 8;
/// XOR-MAPPED-ADDRESS, LIFETIME, REGISTRATION.
const REGISTER_SUCCESS: usize = HEADER + 24 + 8 + 20 + FINGERPRINT;
const _: () = assert!(REGISTER_SUCCESS <= MIN_REQUEST && MIN_REQUEST <= MIN_INTRODUCE);
const _: () = assert!(MIN_REQUEST == 80 && MIN_INTRODUCE == 112 && NONCE.is_multiple_of(4), "docs/punch.md says it");

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
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::LIFETIME,
    AttributeType::NONCE,
    AttributeType::PADDING,
];

/// What was granted, as the response tells it.
enum Granted {
    Registered { registration: Registration, lifetime_s: u32 },
    Ended,
    Introduced { other: Id, relayed_only: bool, punch: Punch },
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
    relayed: Option<SocketAddr>,
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
            relayed: request.read::<XorRelayedAddress>().map_err(malformed)?.map(|relayed| canonical(relayed.0)),
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
        let least = if request.method() == Method::INTRODUCE { MIN_INTRODUCE } else { MIN_REQUEST };
        let result = if request.as_bytes().len() < least {
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
            Ok(granted) => self.grant(request, &granted, client, out),
            Err(denied) => self.deny(now, request, &denied, client, out),
        }
    }

    fn register(&mut self, now: Now, asked: &Asked<'_>, gate: &impl Gate) -> Result<Granted, Denied> {
        if let Some(id) = self.find_own(asked) {
            if asked.ends {
                self.end(id);
                return Ok(Granted::Ended);
            }
            check_relay(asked, gate)?;
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
        check_relay(asked, gate)?;
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
            relayed: asked.relayed,
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
        known.relayed = asked.relayed;
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
        let relayed_only = standing == Standing::RelayOnly;
        let own = self.registrations.get(id).ok_or(Refusal::Unregistered)?;
        let found = self.registrations.find(&own.channel, &target.0);
        let old = found.and_then(|other| self.introductions.find(now.ms, id, other));
        let terms = found.and_then(|other| self.terms(id, other, relayed_only));
        if let Some(introduction) = old.and_then(|old| self.introductions.get(old))
            && let Some(other) = found
            && Some(introduction.terms) == terms
        {
            return Ok(Granted::Introduced { other, relayed_only, punch: introduction.punch(now.ms, id) });
        }
        self.count_ask(now, id, asked.client)?;
        let (other, terms) = found.zip(terms).ok_or(Refusal::NotFound)?;
        self.check_way(id, other, relayed_only)?;
        let punch = self.begin_introduction(now, id, other, terms, old)?;
        Ok(Granted::Introduced { other, relayed_only, punch })
    }

    /// Whoever asks is counted, whatever comes of it.
    fn count_ask(&mut self, now: Now, id: Id, client: SocketAddr) -> Result<(), Refusal> {
        let rate = self.limits.introductions_per_peer;
        let own = self.registrations.get_mut(id).ok_or(Refusal::Unregistered)?;
        if !rate.allows(own.asked_us, now.ms) {
            return Err(Refusal::PeerRate);
        }
        if !self.asks.admit(client.ip(), now.ms) {
            return Err(Refusal::AddressRate);
        }
        rate.take(&mut own.asked_us, now.ms);
        Ok(())
    }

    fn check_way(&self, id: Id, other: Id, relayed_only: bool) -> Result<(), Refusal> {
        let own = self.registrations.get(id).ok_or(Refusal::Unregistered)?.reach();
        let other = self.registrations.get(other).ok_or(Refusal::NotFound)?.reach();
        if has_way(&own, &other, relayed_only) {
            return Ok(());
        }
        Err(match (relayed_only, own.address.is_ipv4() == other.address.is_ipv4()) {
            (true, _) => Refusal::RelayOnly,
            (false, false) => Refusal::Family,
            (false, true) => Refusal::CannotConnect,
        })
    }

    /// Begins an introduction, in the place of an old one of the same two.
    fn begin_introduction(
        &mut self,
        now: Now,
        id: Id,
        other: Id,
        terms: Terms,
        old: Option<Id>,
    ) -> Result<Punch, Refusal> {
        let rate = self.limits.introductions_per_target;
        let target = self.registrations.get_mut(other).ok_or(Refusal::NotFound)?;
        if !rate.allows(target.introduced_us, now.ms) {
            return Err(Refusal::TargetRate);
        }
        if old.is_none() && self.introductions.is_full() {
            return Err(Refusal::IntroductionsFull);
        }
        rate.take(&mut target.introduced_us, now.ms);
        if let Some(old) = old {
            self.introductions.remove(old);
        }
        let made = self.introductions.insert(now.ms, id, other, terms, &mut self.random);
        let introduction = made.and_then(|made| self.introductions.get(made)).ok_or(Refusal::IntroductionsFull)?;
        self.counters.introductions += 1;
        Ok(introduction.punch(now.ms, id))
    }

    fn grant(
        &self,
        request: &Message<'_>,
        granted: &Granted,
        client: SocketAddr,
        out: &mut [u8],
    ) -> Result<Outcome, Dropped> {
        let mut response = Builder::new(out, request.method(), Class::Success, *request.transaction_id());
        match granted {
            Granted::Registered { registration, lifetime_s } => {
                response.add(&XorMappedAddress(client)).add(&Lifetime(*lifetime_s)).add(registration);
            }
            Granted::Ended => {
                response.add(&Lifetime(0));
            }
            Granted::Introduced { other, relayed_only, punch } => {
                if let Some(other) = self.registrations.get(*other) {
                    tell(&mut response, other, *relayed_only, punch);
                }
            }
        }
        finish(request, &mut response, true)
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

fn check_relay(asked: &Asked<'_>, gate: &impl Gate) -> Result<(), Refusal> {
    let known = asked.relayed.is_none_or(|relayed| gate.is_relay(relayed));
    if known { Ok(()) } else { Err(Refusal::Relay) }
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
