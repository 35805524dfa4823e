//! Asking for a peer, and being told of one (docs/punch.md, "Being introduced").

use std::net::SocketAddr;

use shoal_stun::message::{
    AttributeType, Builder, Class, ErrorCode, Fingerprint, Message, Nonce, UnknownAttributes, Value, XorPeerAddress,
    XorRelayedAddress,
};

use crate::nat::Nat;
use crate::random::Random;
use crate::register::Refusal;
use crate::request::{Exchange, Next};
use crate::wire::{self, INTRODUCE, INTRODUCED, PeerId, Punch, PunchKey, Registration, Role, Target};

/// What the node says of another peer.
const KNOWN: &[AttributeType] = &[
    Registration::TYPE,
    Target::TYPE,
    XorPeerAddress::TYPE,
    XorRelayedAddress::TYPE,
    Nat::TYPE,
    Punch::TYPE,
    ErrorCode::TYPE,
    Nonce::TYPE,
    AttributeType::REALM,
    AttributeType::UNKNOWN_ATTRIBUTES,
];

/// Two peers that are to connect, as one of them is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The other.
    pub peer: PeerId,
    /// Where the node sees it; nothing in a channel that is relay only.
    pub address: Option<SocketAddr>,
    /// Where it can be reached through a relay of its own.
    pub relayed: Option<SocketAddr>,
    /// What is in front of it.
    pub nat: Nat,
    /// Proof of being the one.
    pub key: PunchKey,
    /// When the first check is due, by the caller's clock.
    pub start: u64,
    /// Of the one who is told.
    pub role: Role,
}

impl Introduction {
    /// What a message says of `peer`; nothing if it lacks something.
    fn read(message: &Message<'_>, peer: PeerId, now: u64) -> Option<Self> {
        let address = message.read::<XorPeerAddress>().ok()?.map(|address| address.0);
        let relayed = message.read::<XorRelayedAddress>().ok()?.map(|address| address.0);
        let nat = message.read::<Nat>().ok()??;
        let Punch { key, start_ms, role } = message.read().ok()??;
        address.or(relayed)?;
        Some(Self { peer, address, relayed, nat, key, start: now + u64::from(start_ms), role })
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Both know.
    Introduced(Introduction),
    /// The node refuses.
    Refused(Refusal),
    /// The node is silent.
    Silent,
}

/// One question for a peer.
#[derive(Debug)]
pub struct Asking {
    own: PeerId,
    proof: Registration,
    target: PeerId,
    exchange: Exchange,
}

impl Asking {
    /// Asks at once.
    pub fn new(own: PeerId, proof: Registration, target: PeerId, now: u64, random: &mut Random) -> Self {
        Self { own, proof, target, exchange: Exchange::new(random.transaction(), now) }
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub const fn next_deadline(&self) -> u64 {
        self.exchange.due()
    }

    /// Writes the request to `out` if it is due, and gives its length; or that it will not be answered.
    pub fn poll_transmit(&mut self, now: u64, out: &mut [u8]) -> Option<Result<usize, Answer>> {
        match self.exchange.poll(now) {
            Next::Wait => None,
            Next::GiveUp => Some(Err(Answer::Silent)),
            Next::Send => {
                let mut builder = Builder::new(out, INTRODUCE, Class::Request, *self.exchange.id());
                builder.add(&self.own).add(&self.proof).add(&Target(self.target));
                wire::finish_request(&mut builder, wire::MIN_INTRODUCE).map(Ok)
            }
        }
    }

    /// Takes a message of the node; `None` when it is no answer to this.
    #[must_use]
    pub fn handle(&self, now: u64, message: &Message<'_>) -> Option<Answer> {
        let ours = message.method() == INTRODUCE && message.transaction_id() == self.exchange.id();
        if !ours || !wire::is_sound(message, KNOWN) {
            return None;
        }
        match message.class() {
            Class::Request | Class::Indication => None,
            Class::Success => Introduction::read(message, self.target, now).map(Answer::Introduced),
            Class::Error => {
                message.read::<ErrorCode<'_>>().ok().flatten().map(|error| Answer::Refused(Refusal::of(&error)))
            }
        }
    }
}

/// Reads an Introduced request, and writes the answer to `out`: gives its length, and the introduction unless it cannot be
/// acted on. It may have come before: the key tells. `None`: it is not the node's, for it does not know the own `proof`.
pub fn handle_introduced(
    now: u64,
    proof: Registration,
    message: &Message<'_>,
    out: &mut [u8],
) -> Option<(usize, Option<Introduction>)> {
    let ours = message.method() == INTRODUCED && message.class() == Class::Request;
    let proven = message.read::<Registration>().ok().flatten() == Some(proof);
    if !ours || !proven || message.fingerprint() != Fingerprint::Right {
        return None;
    }
    let mut unknown: Vec<u8> = Vec::new();
    for kind in message.unknown_required(KNOWN) {
        unknown.extend(kind.0.to_be_bytes());
    }
    let introduction = match message.read::<Target>() {
        Ok(Some(Target(peer))) if unknown.is_empty() => Introduction::read(message, peer, now),
        _ => None,
    };
    let class = if introduction.is_some() { Class::Success } else { Class::Error };
    let mut builder = Builder::new(out, INTRODUCED, class, *message.transaction_id());
    if !unknown.is_empty() {
        builder.add(&ErrorCode::UNKNOWN_ATTRIBUTE).add(&UnknownAttributes(&unknown));
    } else if introduction.is_none() {
        builder.add(&ErrorCode::BAD_REQUEST);
    }
    Some((wire::finish(&mut builder)?, introduction))
}

#[cfg(test)]
mod tests {
    use shoal_stun::message::TransactionId;

    use super::*;
    use crate::wire::MAX_MESSAGE;

    const PUNCH: Punch = Punch { key: PunchKey([3; 16]), start_ms: 150, role: Role::Controlling };

    const PROOF: Registration = Registration([9; 16]);

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn message(
        method: shoal_stun::message::Method,
        class: Class,
        id: TransactionId,
        add: impl FnOnce(&mut Builder<'_>),
    ) -> Vec<u8> {
        let mut out = vec![0; MAX_MESSAGE];
        let mut builder = Builder::new(&mut out, method, class, id);
        add(&mut builder);
        let length = wire::finish(&mut builder).unwrap();
        out.truncate(length);
        out
    }

    fn asking() -> (Asking, Vec<u8>) {
        let mut asking = Asking::new(PeerId([1; 20]), PROOF, PeerId([2; 20]), 0, &mut Random::new([1, 2]));
        let mut out = vec![0; MAX_MESSAGE];
        let length = asking.poll_transmit(0, &mut out).unwrap().unwrap();
        out.truncate(length);
        (asking, out)
    }

    #[test]
    fn a_peer_is_asked_for_and_told() {
        let (asking, request) = asking();
        let request = Message::parse(&request).unwrap();
        assert_eq!(request.read().unwrap(), Some(PeerId([1; 20])));
        assert_eq!(request.read().unwrap(), Some(PROOF));
        assert_eq!(request.read().unwrap(), Some(Target(PeerId([2; 20]))));
        let told = message(INTRODUCE, Class::Success, *request.transaction_id(), |builder| {
            builder.add(&XorPeerAddress(socket("198.51.100.2:2"))).add(&Nat::default()).add(&PUNCH);
            builder.add(&XorRelayedAddress(socket("192.0.2.1:50000")));
        });
        let expected = Introduction {
            peer: PeerId([2; 20]),
            address: Some(socket("198.51.100.2:2")),
            relayed: Some(socket("192.0.2.1:50000")),
            nat: Nat::default(),
            key: PUNCH.key,
            start: 1_150,
            role: Role::Controlling,
        };
        assert_eq!(asking.handle(1_000, &Message::parse(&told).unwrap()), Some(Answer::Introduced(expected)));
    }

    #[test]
    fn refusals_are_told_and_answers_to_others_or_without_an_address_are_not_taken() {
        let (asking, request) = asking();
        let id = *Message::parse(&request).unwrap().transaction_id();
        let refusal = |builder: &mut Builder<'_>| _ = builder.add(&ErrorCode { code: 404, reason: "not here" });
        let refused = message(INTRODUCE, Class::Error, id, refusal);
        let expected = Answer::Refused(Refusal { code: 404, reason: "not here".to_owned() });
        assert_eq!(asking.handle(0, &Message::parse(&refused).unwrap()), Some(expected));
        let other = message(INTRODUCE, Class::Error, TransactionId::new([0; 12]), refusal);
        assert_eq!(asking.handle(0, &Message::parse(&other).unwrap()), None);
        let nowhere = message(INTRODUCE, Class::Success, id, |builder| _ = builder.add(&Nat::default()).add(&PUNCH));
        assert_eq!(asking.handle(0, &Message::parse(&nowhere).unwrap()), None);
    }

    #[test]
    fn who_is_told_answers_and_knows_what_to_do() {
        let id = TransactionId::new([4; 12]);
        let punch = Punch { role: Role::Controlled, ..PUNCH };
        let told = message(INTRODUCED, Class::Request, id, |builder| {
            builder.add(&PROOF).add(&Target(PeerId([1; 20]))).add(&XorPeerAddress(socket("198.51.100.1:1")));
            builder.add(&Nat::default()).add(&punch);
        });
        let mut out = [0; MAX_MESSAGE];
        let (length, introduction) = handle_introduced(500, PROOF, &Message::parse(&told).unwrap(), &mut out).unwrap();
        let answer = Message::parse(&out[..length]).unwrap();
        assert_eq!((answer.class(), answer.transaction_id()), (Class::Success, &id));
        assert_eq!(answer.attributes().count(), 0);
        let introduction = introduction.unwrap();
        assert_eq!((introduction.peer, introduction.start), (PeerId([1; 20]), 650));
        assert_eq!((introduction.role, introduction.relayed), (Role::Controlled, None));
    }

    #[test]
    fn what_cannot_be_acted_on_is_said_so() {
        let id = TransactionId::new([4; 12]);
        let mut out = [0; MAX_MESSAGE];
        let lacking = message(INTRODUCED, Class::Request, id, |builder| _ = builder.add(&PROOF));
        let strange = message(INTRODUCED, Class::Request, id, |builder| _ = builder.add(&PROOF).add(&PeerId([0; 20])));
        for (bytes, code) in [(lacking, 400), (strange, 420)] {
            let (length, introduction) =
                handle_introduced(0, PROOF, &Message::parse(&bytes).unwrap(), &mut out).unwrap();
            assert_eq!(introduction, None);
            let answer = Message::parse(&out[..length]).unwrap();
            assert_eq!(answer.read::<ErrorCode<'_>>().unwrap().unwrap().code, code);
        }
        let forged = message(INTRODUCED, Class::Request, id, |builder| _ = builder.add(&Registration([8; 16])));
        assert!(handle_introduced(0, PROOF, &Message::parse(&forged).unwrap(), &mut out).is_none());
        let answer = message(INTRODUCED, Class::Success, id, |builder| _ = builder.add(&PROOF));
        assert!(handle_introduced(0, PROOF, &Message::parse(&answer).unwrap(), &mut out).is_none());
    }
}
