//! Attributes of punching (docs/punch.md).

use super::TransactionId;
use super::attribute::{AttributeType, Value, fill};
use super::values::{fixed, texts};
use crate::nat::Behaviour;

/// Bytes of a channel's id at most.
pub const MAX_CHANNEL: usize = 64;
/// Characters of a ticket at most (docs/ticket.md).
pub const MAX_TICKET: usize = 806;

texts! {
    /// A channel.
    ChannelId = CHANNEL, 1..=MAX_CHANNEL;
    /// What opens it, as a text.
    Ticket = TICKET, 1..=MAX_TICKET;
}

/// Who sends: the peer id that the tracker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerId(pub [u8; 20]);

/// The other peer's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target(pub [u8; 20]);

/// A NAT as the peer behind it found it (RFC 5780 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat {
    /// How it maps, if that is known.
    pub mapping: Option<Behaviour>,
    /// What it lets in, if that is known.
    pub filtering: Option<Behaviour>,
    /// From the outside port of one mapping to that of the next; 0: it cannot be predicted.
    pub step: i16,
    /// The outside port of the newest mapping, where there is a step.
    pub newest: u16,
}

impl Nat {
    /// Whether ports of new mappings can be told beforehand.
    #[must_use]
    pub const fn has_step(&self) -> bool {
        self.step != 0
    }
}

/// A secret between a peer and the node that it is registered on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Registration(pub [u8; 16]);

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registration")
    }
}

/// Which of two peers decides on the address pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Who was asked for.
    Controlled,
    /// Who asked.
    Controlling,
}

/// How and when two peers begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Punch {
    /// What their checks are signed with.
    pub key: [u8; 16],
    /// Milliseconds from now to the first check.
    pub start_ms: u16,
    /// The receiver's.
    pub role: Role,
}

impl std::fmt::Debug for Punch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start_ms, role, .. } = self;
        f.debug_struct("Punch").field("start_ms", start_ms).field("role", role).finish_non_exhaustive()
    }
}

/// The numbers of RFC 4787's behaviours in a NAT attribute.
const fn read_behaviour(number: u8) -> Option<Option<Behaviour>> {
    match number {
        0 => Some(None),
        1 => Some(Some(Behaviour::EndpointIndependent)),
        2 => Some(Some(Behaviour::AddressDependent)),
        3 => Some(Some(Behaviour::AddressAndPortDependent)),
        _ => None,
    }
}

const fn behaviour_number(behaviour: Option<Behaviour>) -> u8 {
    match behaviour {
        None => 0,
        Some(Behaviour::EndpointIndependent) => 1,
        Some(Behaviour::AddressDependent) => 2,
        Some(Behaviour::AddressAndPortDependent) => 3,
    }
}

fixed! {
    PeerId = PEER_ID, 20:
        |id| Some(Self(id)),
        |Self(id)| id;
    Target = TARGET, 20:
        |id| Some(Self(id)),
        |Self(id)| id;
    Nat = NAT, 8:
        |[mapping, filtering, s0, s1, n0, n1, _, _]| Some(Self {
            mapping: read_behaviour(mapping)?,
            filtering: read_behaviour(filtering)?,
            step: i16::from_be_bytes([s0, s1]),
            newest: u16::from_be_bytes([n0, n1]),
        }),
        |Self { mapping, filtering, step, newest }| {
            let ([s0, s1], [n0, n1]) = (step.to_be_bytes(), newest.to_be_bytes());
            [behaviour_number(mapping), behaviour_number(filtering), s0, s1, n0, n1, 0, 0]
        };
    Registration = REGISTRATION, 16:
        |secret| Some(Self(secret)),
        |Self(secret)| secret;
    Punch = PUNCH, 20:
        |[key @ .., s0, s1, role, _]| Some(Self {
            key,
            start_ms: u16::from_be_bytes([s0, s1]),
            role: match role {
                0 => Role::Controlled,
                1 => Role::Controlling,
                _ => return None,
            },
        }),
        |Self { key, start_ms, role }| {
            let mut bytes = [0; 20];
            fill(&mut bytes, &[&key, &start_ms.to_be_bytes(), &[role as u8]]);
            bytes
        };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Builder, Class, Fingerprint, Malformed, Message, Method};

    #[test]
    fn numbers_are_those_of_the_documentation() {
        let page = include_str!("../../../../docs/punch.md");
        for kind in [
            AttributeType::PEER_ID,
            AttributeType::TARGET,
            AttributeType::CHANNEL,
            AttributeType::TICKET,
            AttributeType::NAT,
            AttributeType::REGISTRATION,
            AttributeType::PUNCH,
        ] {
            assert!(page.contains(&format!("| {kind:?} | 0x{:04X} |", kind.0)), "{kind:?}");
            assert!(kind.is_comprehension_required());
        }
        for method in [Method::REGISTER, Method::INTRODUCE, Method::INTRODUCED] {
            assert!(page.contains(&format!("| {method:?} | 0x{:03X} |", method.number())), "{method:?}");
        }
    }

    #[test]
    fn they_are_written_as_the_documentation_draws_them() {
        let nat = Nat {
            mapping: Some(Behaviour::AddressAndPortDependent),
            filtering: Some(Behaviour::AddressDependent),
            step: -2,
            newest: 0x1234,
        };
        let punch = Punch { key: [7; 16], start_ms: 0x0102, role: Role::Controlling };
        let mut out = [0; 256];
        let mut message = Builder::new(&mut out, Method::INTRODUCED, Class::Request, TransactionId::new([1; 12]));
        message.add(&nat).add(&punch).add(&PeerId([2; 20])).add(&Target([3; 20])).add(&Registration([4; 16]));
        message.add(&ChannelId("demo")).add(&Ticket("AQ"));
        let length = message.fingerprint().finish().unwrap();
        let message = Message::parse(&out[..length]).unwrap();
        assert_eq!(message.fingerprint(), Fingerprint::Right);
        let values: Vec<&[u8]> = message.attributes().map(|attribute| attribute.value).collect();
        assert_eq!(values[0], [3, 2, 0xff, 0xfe, 0x12, 0x34, 0, 0]);
        assert_eq!(values[1], [&[7; 16][..], &[1, 2, 1, 0]].concat());
        assert_eq!((message.read(), message.read()), (Ok(Some(nat)), Ok(Some(punch))));
        assert_eq!((message.read(), message.read()), (Ok(Some(PeerId([2; 20]))), Ok(Some(Target([3; 20])))));
        assert_eq!(message.read(), Ok(Some(Registration([4; 16]))));
        assert_eq!((message.read(), message.read()), (Ok(Some(ChannelId("demo"))), Ok(Some(Ticket("AQ")))));
        assert_eq!(
            format!("{:?} {punch:?}", Registration([4; 16])),
            "Registration Punch { start_ms: 258, role: Controlling, .. }"
        );
    }

    #[test]
    fn what_breaks_its_format_is_malformed() {
        let read = |kind: AttributeType, value: &[u8]| {
            let mut bytes = vec![0x02, 0xc1, 0, (4 + value.len().next_multiple_of(4)) as u8, 0x21, 0x12, 0xa4, 0x42];
            bytes.extend([0; 12]);
            bytes.extend(kind.0.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
            bytes.resize(20 + 4 + value.len().next_multiple_of(4), 0);
            let message = Message::parse(&bytes).unwrap();
            let nat = message.read::<Nat>().map(drop).and(message.read::<Punch>().map(drop));
            nat.and(message.read::<PeerId>().map(drop)).and(message.read::<ChannelId<'_>>().map(drop))
        };
        let bad = |kind| Err(Malformed(kind));
        assert_eq!(read(AttributeType::NAT, &[3, 3, 0, 1, 0, 1, 9, 9]), Ok(()), "what is reserved is not looked at");
        assert_eq!(read(AttributeType::NAT, &[4, 0, 0, 0, 0, 0, 0, 0]), bad(AttributeType::NAT));
        assert_eq!(read(AttributeType::NAT, &[0, 4, 0, 0, 0, 0, 0, 0]), bad(AttributeType::NAT));
        assert_eq!(read(AttributeType::NAT, &[0; 7]), bad(AttributeType::NAT));
        assert_eq!(read(AttributeType::PUNCH, &[1; 20]), Ok(()));
        assert_eq!(read(AttributeType::PUNCH, &[2; 20]), bad(AttributeType::PUNCH), "there are two roles");
        assert_eq!(read(AttributeType::PEER_ID, &[0; 19]), bad(AttributeType::PEER_ID));
        assert_eq!(read(AttributeType::CHANNEL, b""), bad(AttributeType::CHANNEL));
        assert_eq!(read(AttributeType::CHANNEL, &[b'c'; 65]), bad(AttributeType::CHANNEL));
        assert_eq!(read(AttributeType::CHANNEL, &[0xff]), bad(AttributeType::CHANNEL), "UTF-8");
    }
}
