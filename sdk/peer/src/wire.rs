//! What docs/punch.md adds to STUN: methods and attributes.

use std::fmt;
use std::str::FromStr;

use shoal_stun::message::{AttributeType, Builder, Fingerprint, Message, Method, Padding, TransactionId, Value};
use shoal_stun::nat::Behaviour;
use thiserror::Error;

use crate::nat::Nat;

/// Keeps a peer known.
pub const REGISTER: Method = Method::new(0x0e1);
/// Asks for a peer.
pub const INTRODUCE: Method = Method::new(0x0e2);
/// Tells the other peer.
pub const INTRODUCED: Method = Method::new(0x0e3);

/// Bytes of a channel's id at most.
pub const MAX_CHANNEL: usize = 64;
/// Bytes of a ticket at most.
pub const MAX_TICKET: usize = 806;
/// Bytes that a message of ours needs at most: a Register with all there is.
pub const MAX_MESSAGE: usize = 1_200;

/// Bytes that a request to a node has at least.
pub const MIN_REQUEST: usize = 80;
/// And an Introduce, whose answer may have two addresses of IPv6.
pub const MIN_INTRODUCE: usize = 112;
/// Of those, the last: FINGERPRINT.
const FINGERPRINT: usize = 8;
/// The head of an attribute.
const HEAD: usize = 4;

/// Bytes of a peer id, as in the tracker.
const PEER_ID: usize = 20;

/// Who a peer is; as an attribute, PEER-ID: who sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; PEER_ID]);

/// TARGET: the peer that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target(pub PeerId);

/// CHANNEL: the channel's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel<'a>(pub &'a str);

/// TICKET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket<'a>(pub &'a str);

/// REGISTRATION: the node's proof that somebody is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration(pub [u8; 16]);

/// Who decides between several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who asked.
    Controlling,
    /// Who was asked for.
    Controlled,
}

/// The key of an introduction: whoever has it is the introduced peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PunchKey(pub [u8; 16]);

/// PUNCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punch {
    /// Random, for this introduction.
    pub key: PunchKey,
    /// Milliseconds from the receipt to the first check.
    pub start_ms: u16,
    /// Of the receiver.
    pub role: Role,
}

/// USE-CANDIDATE (RFC 8445 section 16.1): this way is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCandidate;

/// A peer id that is not written as 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not 40 hexadecimal digits")]
pub struct NotHex;

impl FromStr for PeerId {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; PEER_ID];
        if pairs.len() != id.len() || !rest.is_empty() {
            return Err(NotHex);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NotHex);
        for (place, &[high, low]) in id.iter_mut().zip(pairs) {
            *place = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PunchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PunchKey(…)")
    }
}

/// Attributes of a fixed length, in terms of an array.
macro_rules! fixed {
    ($($name:ident = $number:literal, $length:expr, |$bytes:pat_param| $read:expr, |$value:pat_param| $write:expr;)*) => {$(
        impl Value<'_> for $name {
            const TYPE: AttributeType = AttributeType($number);

            fn read(bytes: &[u8], _: &TransactionId) -> Option<Self> {
                let $bytes = <[u8; $length]>::try_from(bytes).ok()?;
                $read
            }

            fn len(&self) -> usize {
                $length
            }

            fn write(&self, out: &mut [u8], _: &TransactionId) {
                let $value = *self;
                let bytes: [u8; $length] = $write;
                out.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
            }
        }
    )*};
}

fixed! {
    PeerId = 0x7a01, PEER_ID, |id| Some(Self(id)), |Self(id)| id;
    Target = 0x7a02, PEER_ID, |id| Some(Self(PeerId(id))), |Self(PeerId(id))| id;
    Nat = 0x7a05, 8,
        |[mapping, filtering, s0, s1, n0, n1, _, _]| Some(Self {
            mapping: behaviour(mapping),
            filtering: behaviour(filtering),
            step: i16::from_be_bytes([s0, s1]),
            newest: u16::from_be_bytes([n0, n1]),
        }),
        |Self { mapping, filtering, step, newest }| {
            let ([s0, s1], [n0, n1]) = (step.to_be_bytes(), newest.to_be_bytes());
            [number(mapping), number(filtering), s0, s1, n0, n1, 0, 0]
        };
    Registration = 0x7a06, 16, |proof| Some(Self(proof)), |Self(proof)| proof;
    Punch = 0x7a07, 20,
        |[key @ .., s0, s1, role, _]| Some(Self {
            key: PunchKey(key),
            start_ms: u16::from_be_bytes([s0, s1]),
            role: match role {
                0 => Role::Controlled,
                1 => Role::Controlling,
                _ => return None,
            },
        }),
        |Self { key: PunchKey(key), start_ms, role }| {
            let mut bytes = [0; 20];
            let [s0, s1] = start_ms.to_be_bytes();
            let rest = [s0, s1, u8::from(role == Role::Controlling)];
            bytes.iter_mut().zip(key.into_iter().chain(rest)).for_each(|(place, byte)| *place = byte);
            bytes
        };
    UseCandidate = 0x0025, 0, |[]| Some(Self), |Self| [];
}

/// Texts of at least one byte.
macro_rules! texts {
    ($($name:ident = $number:literal, $max:expr;)*) => {$(
        impl<'a> Value<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType($number);

            fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
                (1..=$max).contains(&bytes.len()).then_some(Self(std::str::from_utf8(bytes).ok()?))
            }

            fn len(&self) -> usize {
                self.0.len()
            }

            fn write(&self, out: &mut [u8], _: &TransactionId) {
                out.iter_mut().zip(self.0.bytes()).for_each(|(place, byte)| *place = byte);
            }
        }
    )*};
}

texts! {
    Channel = 0x7a03, MAX_CHANNEL;
    Ticket = 0x7a04, MAX_TICKET;
}

/// A number that has no meaning yet is as good as unknown.
const fn behaviour(number: u8) -> Option<Behaviour> {
    match number {
        1 => Some(Behaviour::EndpointIndependent),
        2 => Some(Behaviour::AddressDependent),
        3 => Some(Behaviour::AddressAndPortDependent),
        _ => None,
    }
}

const fn number(behaviour: Option<Behaviour>) -> u8 {
    match behaviour {
        None => 0,
        Some(Behaviour::EndpointIndependent) => 1,
        Some(Behaviour::AddressDependent) => 2,
        Some(Behaviour::AddressAndPortDependent) => 3,
    }
}

/// Ends a message as every one of them is ended; nothing if the buffer is too short.
pub(crate) fn finish(builder: &mut Builder<'_>) -> Option<usize> {
    builder.fingerprint().finish().ok()
}

/// [`finish`] for a request to a node, which is filled up to `least` bytes: no answer may be longer.
pub(crate) fn finish_request(builder: &mut Builder<'_>, least: usize) -> Option<usize> {
    let missing = (least - FINGERPRINT).saturating_sub(builder.len());
    if missing > 0 {
        let zeros = [0; MIN_INTRODUCE];
        builder.add(&Padding(zeros.get(..missing.saturating_sub(HEAD))?));
    }
    finish(builder)
}

/// Whether a message is one that may be acted on: with a right FINGERPRINT, and nothing in it that must be known and is
/// not.
pub(crate) fn is_sound(message: &Message<'_>, known: &[AttributeType]) -> bool {
    message.fingerprint() == Fingerprint::Right && message.unknown_required(known).next().is_none()
}

#[cfg(test)]
mod tests {
    use shoal_stun::message::Class;

    use super::*;

    const ID: TransactionId = TransactionId::new([7; 12]);

    /// The value's bytes.
    fn bytes<'a>(value: &impl Value<'a>) -> Vec<u8> {
        let mut out = vec![0xaa; value.len()];
        value.write(&mut out, &ID);
        out
    }

    #[test]
    fn numbers_are_those_of_the_page() {
        assert_eq!([REGISTER, INTRODUCE, INTRODUCED].map(Method::number), [0xe1, 0xe2, 0xe3]);
        let types =
            [PeerId::TYPE, Target::TYPE, Channel::TYPE, Ticket::TYPE, Nat::TYPE, Registration::TYPE, Punch::TYPE];
        assert!(types.into_iter().eq((0x7a01..=0x7a07).map(AttributeType)));
        assert!(types.iter().all(|kind| kind.is_comprehension_required()));
    }

    #[test]
    fn nat_and_punch_are_laid_out_as_the_page_says() {
        let nat = Nat {
            mapping: Some(Behaviour::AddressAndPortDependent),
            filtering: Some(Behaviour::AddressDependent),
            step: -3,
            newest: 0x1234,
        };
        assert_eq!(bytes(&nat), [3, 2, 0xff, 0xfd, 0x12, 0x34, 0, 0]);
        assert_eq!(
            Nat::read(&[3, 2, 0xff, 0xfd, 0x12, 0x34, 9, 9], &ID),
            Some(nat),
            "reserved bytes are not looked at"
        );
        assert_eq!(Nat::read(&[9, 0, 0, 0, 0, 0, 0, 0], &ID), Some(Nat::default()), "unknown is not wrong");
        assert_eq!(Nat::read(&[0; 7], &ID), None);

        let punch = Punch { key: PunchKey([5; 16]), start_ms: 0x0102, role: Role::Controlling };
        let expected: Vec<u8> = [5; 16].into_iter().chain([1, 2, 1, 0]).collect();
        assert_eq!(bytes(&punch), expected);
        assert_eq!(Punch::read(&expected, &ID), Some(punch));
        assert_eq!(Punch::read(&[2; 20], &ID), None, "a role that there is not");
    }

    #[test]
    fn texts_have_bounds() {
        assert_eq!(Channel::read(b"films", &ID), Some(Channel("films")));
        for wrong in [&b""[..], &[b'a'; MAX_CHANNEL + 1], b"\xff"] {
            assert_eq!(Channel::read(wrong, &ID), None);
        }
        assert_eq!(bytes(&Ticket("abc")), b"abc");
    }

    #[test]
    fn peer_ids_are_written_in_hex() {
        let text = "00ff0102030405060708090a0b0c0d0e0f101112";
        assert_eq!(text.parse::<PeerId>().unwrap().to_string(), text);
        for wrong in [
            "",
            "00",
            &text[1..],
            &text.replace('f', "g"),
            &format!("{text}0"),
            "+0ff0102030405060708090a0b0c0d0e0f101112",
        ] {
            assert_eq!(wrong.parse::<PeerId>(), Err(NotHex), "{wrong}");
        }
    }

    #[test]
    fn requests_are_filled_up_and_no_further() {
        for (peers, length) in [(0, 80), (1, 80), (2, 80), (3, 100)] {
            let mut out = [0; 200];
            let mut builder = Builder::new(&mut out, REGISTER, Class::Request, ID);
            (0..peers).for_each(|_| _ = builder.add(&PeerId([1; 20])));
            let got = finish_request(&mut builder, MIN_REQUEST).unwrap();
            assert_eq!(got, length, "{peers}");
            assert!(is_sound(&Message::parse(&out[..got]).unwrap(), &[PeerId::TYPE, Padding::TYPE]));
        }
    }

    #[test]
    fn what_is_unknown_or_damaged_is_not_acted_on() {
        let mut out = [0; 100];
        let mut builder = Builder::new(&mut out, REGISTER, Class::Success, ID);
        builder.add(&PeerId([1; 20]));
        let length = finish(&mut builder).unwrap();
        let message = Message::parse(&out[..length]).unwrap();
        assert!(is_sound(&message, &[PeerId::TYPE]));
        assert!(!is_sound(&message, &[]), "PEER-ID must be known");
        out[length - 1] ^= 1;
        assert!(!is_sound(&Message::parse(&out[..length]).unwrap(), &[PeerId::TYPE]));
    }
}
