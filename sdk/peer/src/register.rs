//! Keeps a peer registered on a node (docs/punch.md, "Registering").

use std::net::SocketAddr;

use shoal_stun::message::{
    AttributeType, Builder, Class, ErrorCode, Lifetime, Message, Nonce, Value, XorMappedAddress, XorRelayedAddress,
};

use crate::nat::Nat;
use crate::random::Random;
use crate::request::{Exchange, Next};
use crate::wire::{self, Channel, PeerId, REGISTER, Registration, Ticket};

/// Times in a row that the node may want a new nonce.
const CHALLENGES: u32 = 3;
/// Milliseconds to wait where there were too many requests.
pub(crate) const WAIT_MS: u64 = 1_000;
/// Times in a row that this is done.
const WAITS: u32 = 10;
/// Milliseconds after which a node that was silent is tried again.
const SILENCE_MS: u64 = 1_000;

/// What the node's answers may have in them.
const KNOWN: &[AttributeType] = &[
    XorMappedAddress::TYPE,
    Lifetime::TYPE,
    Registration::TYPE,
    ErrorCode::TYPE,
    Nonce::TYPE,
    AttributeType::REALM,
    AttributeType::UNKNOWN_ATTRIBUTES,
];

/// Who registers, and where.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node, as the tracker names it.
    pub node: SocketAddr,
    /// Who.
    pub peer: PeerId,
    /// The channel's id.
    pub channel: String,
    /// The viewer's ticket, where the channel asks for one.
    pub ticket: Option<String>,
}

/// What came of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is good, until it has to be renewed, which happens by itself.
    Registered {
        /// This peer as the node sees it, and others are to see it.
        mapped: SocketAddr,
    },
    /// The node refuses it.
    Refused(Refusal),
    /// The node is silent. It is asked again after a while.
    Silent,
}

/// What a node said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's code.
    pub code: u16,
    /// Its reason phrase.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn of(error: &ErrorCode<'_>) -> Self {
        Self { code: error.code, reason: error.reason.to_owned() }
    }
}

/// The state of one registration.
#[derive(Debug)]
pub struct Registrar {
    identity: Identity,
    nat: Nat,
    relayed: Option<SocketAddr>,
    /// What the node knows, of `nat` and `relayed`.
    told: Option<(Nat, Option<SocketAddr>)>,
    /// The last one, and whether it is still good.
    proof: Option<Registration>,
    known: bool,
    /// Whether there is a ticket that the node has not seen.
    newer_ticket: bool,
    nonce: Option<String>,
    open: Option<Open>,
    /// When to register next.
    due: Option<u64>,
    challenges: u32,
    waits: u32,
    leaving: bool,
}

#[derive(Debug)]
struct Open {
    exchange: Exchange,
    /// What it tells.
    nat: Nat,
    relayed: Option<SocketAddr>,
    ticket: bool,
}

impl Registrar {
    /// Registers at once.
    #[must_use]
    pub const fn new(identity: Identity, nat: Nat, relayed: Option<SocketAddr>, now: u64) -> Self {
        Self {
            identity,
            nat,
            relayed,
            told: None,
            proof: None,
            known: false,
            newer_ticket: false,
            nonce: None,
            open: None,
            due: Some(now),
            challenges: 0,
            waits: 0,
            leaving: false,
        }
    }

    /// The proof for other requests, while there is one.
    #[must_use]
    pub fn proof(&self) -> Option<Registration> {
        self.proof.filter(|_| self.known)
    }

    /// Where this peer can be reached through a relay, as others are to be told.
    #[must_use]
    pub const fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// Whether the node knows everything that it was to be told.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.known && self.told == Some((self.nat, self.relayed))
    }

    /// Another NAT, or the same with other ports: the node is told if it is not so already.
    pub fn set_nat(&mut self, nat: Nat, now: u64) {
        self.nat = nat;
        self.hurry(now);
    }

    /// Where this peer can be reached through a relay, from now on.
    pub fn set_relayed(&mut self, relayed: Option<SocketAddr>, now: u64) {
        self.relayed = relayed;
        self.hurry(now);
    }

    /// A newer ticket: a registration ends with the one that it has.
    pub fn set_ticket(&mut self, ticket: String, now: u64) {
        self.identity.ticket = Some(ticket);
        self.newer_ticket = true;
        if self.known && !self.leaving {
            self.due = Some(now);
        }
    }

    /// The node does not know this registration any more: from the beginning.
    pub fn restart(&mut self, now: u64) {
        self.known = false;
        self.due = Some(now);
    }

    /// Ends the registration.
    pub fn leave(&mut self, now: u64) {
        self.leaving = true;
        self.open = None;
        self.due = self.known.then_some(now);
    }

    /// Whether nothing is registered any more, or will be.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.leaving && self.open.is_none() && self.due.is_none()
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.exchange.due()).or(self.due)
    }

    /// Writes a request to `out` if one is due, and gives its length; or what came of one that was not answered.
    pub fn poll_transmit(&mut self, now: u64, random: &mut Random, out: &mut [u8]) -> Option<Result<usize, Outcome>> {
        if self.open.is_none() && self.due.is_some_and(|due| due <= now) {
            self.due = None;
            let exchange = Exchange::new(random.transaction(), now);
            let ticket = std::mem::take(&mut self.newer_ticket) || !self.known;
            self.open = Some(Open { exchange, nat: self.nat, relayed: self.relayed, ticket });
        }
        match self.open.as_mut()?.exchange.poll(now) {
            Next::Wait => None,
            Next::Send => self.write(out).map(Ok),
            Next::GiveUp => {
                self.open = None;
                if self.leaving {
                    return None;
                }
                self.restart(now + SILENCE_MS);
                Some(Err(Outcome::Silent))
            }
        }
    }

    /// Takes a message of the node; `None` when it is no answer to a Register, or nothing has come of it yet.
    pub fn handle(&mut self, now: u64, message: &Message<'_>) -> Option<Outcome> {
        let open = self.open.as_ref().filter(|open| open.exchange.id() == message.transaction_id())?;
        if message.method() != REGISTER || !wire::is_sound(message, KNOWN) {
            return None;
        }
        match message.class() {
            Class::Request | Class::Indication => None,
            Class::Success if self.leaving => {
                self.open = None;
                None
            }
            Class::Success => {
                let mapped = message.read::<XorMappedAddress>().ok().flatten()?.0;
                let proof = message.read::<Registration>().ok().flatten()?;
                let Lifetime(seconds) = message.read::<Lifetime>().ok().flatten()?;
                self.told = Some((open.nat, open.relayed));
                self.proof = Some(proof);
                self.known = true;
                (self.challenges, self.waits) = (0, 0);
                self.open = None;
                // Half of it; and what has changed meanwhile, at once.
                self.due = Some(if self.newer_ticket { now } else { now + u64::from(seconds) * 500 });
                self.hurry(now);
                Some(Outcome::Registered { mapped })
            }
            Class::Error => {
                let error = message.read::<ErrorCode<'_>>().ok().flatten()?;
                let nonce = message.read::<Nonce<'_>>().ok().flatten();
                self.open = None;
                if self.leaving {
                    return None;
                }
                match (error.code, nonce) {
                    (401 | 438, Some(Nonce(nonce))) if self.challenges < CHALLENGES => {
                        self.challenges += 1;
                        self.nonce = Some(nonce.to_owned());
                        self.restart(now);
                        None
                    }
                    (429, _) if self.waits < WAITS => {
                        self.waits += 1;
                        self.due = Some(now + WAIT_MS);
                        None
                    }
                    _ => Some(Outcome::Refused(Refusal::of(&error))),
                }
            }
        }
    }

    /// Has the node told what it does not know, if it knows us.
    fn hurry(&mut self, now: u64) {
        if self.told.is_some() && !self.is_settled() && !self.leaving {
            self.due = Some(now);
        }
    }

    /// To a node that knows us only what has changed; else everything, for it may have forgotten all of it.
    fn write(&self, out: &mut [u8]) -> Option<usize> {
        let open = self.open.as_ref()?;
        let mut builder = Builder::new(out, REGISTER, Class::Request, *open.exchange.id());
        builder.add(&self.identity.peer);
        // Also where it is no good any more: it proves that the registration may move.
        if let Some(proof) = &self.proof {
            builder.add(proof);
        }
        if self.known {
            if self.leaving {
                builder.add(&Lifetime(0));
                return wire::finish_request(&mut builder, wire::MIN_REQUEST);
            }
            if self.told.is_none_or(|(nat, _)| nat != open.nat) {
                builder.add(&open.nat);
            }
        } else {
            builder.add(&Channel(&self.identity.channel)).add(&open.nat);
            if let Some(nonce) = &self.nonce {
                builder.add(&Nonce(nonce));
            }
        }
        if let Some(ticket) = self.identity.ticket.as_ref().filter(|_| open.ticket) {
            builder.add(&Ticket(ticket));
        }
        if let Some(relayed) = open.relayed {
            builder.add(&XorRelayedAddress(relayed));
        }
        wire::finish_request(&mut builder, wire::MIN_REQUEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MAX_MESSAGE;

    const NODE: &str = "192.0.2.1:3478";
    const MAPPED: &str = "198.51.100.1:4000";
    const RELAYED: &str = "192.0.2.1:50000";

    fn registrar() -> (Registrar, Random) {
        let identity = Identity {
            node: NODE.parse().unwrap(),
            peer: PeerId([1; 20]),
            channel: "films".to_owned(),
            ticket: Some("a-ticket".to_owned()),
        };
        (Registrar::new(identity, Nat::default(), None, 0), Random::new([1, 2]))
    }

    /// The request that is due now.
    fn sent(registrar: &mut Registrar, now: u64, random: &mut Random) -> Vec<u8> {
        let mut out = vec![0; MAX_MESSAGE];
        let length = registrar.poll_transmit(now, random, &mut out).expect("one is due").unwrap();
        out.truncate(length);
        assert_eq!(Message::parse(&out).unwrap().method(), REGISTER);
        out
    }

    /// The node's answer to a request.
    fn answer(request: &[u8], class: Class, add: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let mut out = vec![0; MAX_MESSAGE];
        let id = *Message::parse(request).unwrap().transaction_id();
        let mut builder = Builder::new(&mut out, REGISTER, class, id);
        add(&mut builder);
        let length = wire::finish(&mut builder).unwrap();
        out.truncate(length);
        out
    }

    fn granted(request: &[u8]) -> Vec<u8> {
        answer(request, Class::Success, |builder| {
            builder.add(&XorMappedAddress(MAPPED.parse().unwrap())).add(&Lifetime(30)).add(&Registration([9; 16]));
        })
    }

    fn refused(request: &[u8], code: u16, nonce: Option<&str>) -> Vec<u8> {
        answer(request, Class::Error, |builder| {
            builder.add(&ErrorCode { code, reason: "no" });
            if let Some(nonce) = nonce {
                builder.add(&Nonce(nonce));
            }
        })
    }

    fn handle(registrar: &mut Registrar, now: u64, bytes: &[u8]) -> Option<Outcome> {
        registrar.handle(now, &Message::parse(bytes).unwrap())
    }

    fn registered() -> (Registrar, Random) {
        let (mut registrar, mut random) = registrar();
        let request = sent(&mut registrar, 0, &mut random);
        assert_eq!(handle(&mut registrar, 10, &refused(&request, 401, Some("n1"))), None);
        let request = sent(&mut registrar, 10, &mut random);
        let read = Message::parse(&request).unwrap();
        assert_eq!(read.read().unwrap(), Some(Nonce("n1")));
        assert_eq!(read.read().unwrap(), Some(Channel("films")));
        assert_eq!(read.read().unwrap(), Some(Ticket("a-ticket")));
        assert_eq!(read.read().unwrap(), Some(Nat::default()));
        let outcome = handle(&mut registrar, 20, &granted(&request));
        assert_eq!(outcome, Some(Outcome::Registered { mapped: MAPPED.parse().unwrap() }));
        assert!(registrar.is_settled());
        (registrar, random)
    }

    #[test]
    fn the_address_is_proven_and_the_registration_kept() {
        let (mut registrar, mut random) = registered();
        assert_eq!(registrar.next_deadline(), Some(15_020), "half of 30 seconds");
        assert!(registrar.poll_transmit(15_019, &mut random, &mut [0; MAX_MESSAGE]).is_none());
        let request = sent(&mut registrar, 15_020, &mut random);
        let read = Message::parse(&request).unwrap();
        assert_eq!(read.read().unwrap(), Some(Registration([9; 16])));
        assert_eq!(read.attributes().count(), 3, "PEER-ID and REGISTRATION are enough, filled up: {read:?}");
        assert_eq!(request.len(), wire::MIN_REQUEST);
    }

    #[test]
    fn a_node_that_forgot_us_is_told_everything_again() {
        let (mut registrar, mut random) = registered();
        let request = sent(&mut registrar, 15_020, &mut random);
        assert_eq!(handle(&mut registrar, 15_030, &refused(&request, 401, Some("n2"))), None);
        let request = sent(&mut registrar, 15_030, &mut random);
        let read = Message::parse(&request).unwrap();
        assert_eq!((read.read().unwrap(), read.read().unwrap()), (Some(Nonce("n2")), Some(Channel("films"))));
        assert_eq!(read.read().unwrap(), Some(Registration([9; 16])), "it may have to be moved");
        assert_eq!(registrar.proof(), None, "and is good for nothing else");
    }

    #[test]
    fn too_many_requests_are_waited_out_but_not_for_ever() {
        let (mut registrar, mut random) = registrar();
        let mut now = 0;
        for _ in 0..WAITS {
            let request = sent(&mut registrar, now, &mut random);
            assert_eq!(handle(&mut registrar, now, &refused(&request, 429, None)), None);
            assert_eq!(registrar.next_deadline(), Some(now + WAIT_MS));
            now += WAIT_MS;
        }
        let request = sent(&mut registrar, now, &mut random);
        assert!(handle(&mut registrar, now, &refused(&request, 429, None)).is_some());
    }

    #[test]
    fn what_changes_is_told_at_once_and_a_relayed_address_each_time() {
        let (mut registrar, mut random) = registered();
        let nat = Nat { step: 1, newest: 7, ..Nat::default() };
        registrar.set_nat(nat, 100);
        registrar.set_relayed(Some(RELAYED.parse().unwrap()), 100);
        assert!(!registrar.is_settled());
        let request = sent(&mut registrar, 100, &mut random);
        let read = Message::parse(&request).unwrap();
        let relayed = Some(XorRelayedAddress(RELAYED.parse().unwrap()));
        assert_eq!((read.read().unwrap(), read.read().unwrap()), (Some(nat), relayed));
        registrar.set_nat(Nat::default(), 105);
        assert!(handle(&mut registrar, 110, &granted(&request)).is_some());
        assert!(!registrar.is_settled(), "it has changed meanwhile");
        let request = sent(&mut registrar, 110, &mut random);
        assert!(handle(&mut registrar, 120, &granted(&request)).is_some());
        assert!(registrar.is_settled());
        let request = sent(&mut registrar, 15_120, &mut random);
        let read = Message::parse(&request).unwrap();
        assert_eq!((read.read::<Nat>().unwrap(), read.read().unwrap()), (None, relayed));
    }

    #[test]
    fn a_newer_ticket_is_presented_once() {
        let (mut registrar, mut random) = registered();
        registrar.set_ticket("a-newer-one".to_owned(), 100);
        let request = sent(&mut registrar, 100, &mut random);
        assert_eq!(Message::parse(&request).unwrap().read().unwrap(), Some(Ticket("a-newer-one")));
        handle(&mut registrar, 110, &granted(&request));
        let request = sent(&mut registrar, 15_110, &mut random);
        assert!(!Message::parse(&request).unwrap().has(Ticket::TYPE));
    }

    #[test]
    fn refusals_end_it_and_challenges_do_not_go_on_for_ever() {
        let (mut registrar, mut random) = registrar();
        let request = sent(&mut registrar, 0, &mut random);
        let refusal = |code| Some(Outcome::Refused(Refusal { code, reason: "no".to_owned() }));
        assert_eq!(handle(&mut registrar, 1, &refused(&request, 403, None)), refusal(403));

        let (mut registrar, mut random) = self::registrar();
        for _ in 0..CHALLENGES {
            let request = sent(&mut registrar, 0, &mut random);
            assert_eq!(handle(&mut registrar, 0, &refused(&request, 438, Some("n"))), None);
        }
        let request = sent(&mut registrar, 0, &mut random);
        assert_eq!(handle(&mut registrar, 0, &refused(&request, 438, Some("n"))), refusal(438));
    }

    #[test]
    fn who_is_silent_is_asked_again_and_who_answers_something_else_is_not_heard() {
        let (mut registrar, mut random) = registrar();
        let first = sent(&mut registrar, 0, &mut random);
        assert_eq!(sent(&mut registrar, 500, &mut random), first, "the same request");
        let mut other = granted(&first);
        other[9] ^= 1;
        assert_eq!(handle(&mut registrar, 501, &other), None, "another transaction");
        let lacking = answer(&first, Class::Success, |builder| _ = builder.add(&Lifetime(30)));
        assert_eq!(handle(&mut registrar, 501, &lacking), None, "no address in it");
        let mut out = [0; MAX_MESSAGE];
        let mut now = 501;
        let silent = loop {
            now = registrar.next_deadline().unwrap().max(now);
            if let Some(Err(outcome)) = registrar.poll_transmit(now, &mut random, &mut out) {
                break outcome;
            }
        };
        assert_eq!((silent, registrar.next_deadline()), (Outcome::Silent, Some(now + SILENCE_MS)));
        assert_ne!(sent(&mut registrar, now + SILENCE_MS, &mut random), first);
    }

    #[test]
    fn leaving_is_said_once_it_is_answered() {
        let (mut registrar, mut random) = registered();
        registrar.leave(50);
        let request = sent(&mut registrar, 50, &mut random);
        assert_eq!(Message::parse(&request).unwrap().read().unwrap(), Some(Lifetime(0)));
        assert!(!registrar.has_left());
        assert_eq!(handle(&mut registrar, 60, &granted(&request)), None);
        assert!(registrar.has_left());
        let (mut fresh, _) = self::registrar();
        fresh.leave(0);
        assert!(fresh.has_left(), "there was nothing to end");
    }
}
