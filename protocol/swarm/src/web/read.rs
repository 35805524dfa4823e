//! From JSON to messages, borrowing what is only passed on.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::ids::{ID_BYTES, InfoHash, PeerId};
use crate::query::{Event, MAX_SCRAPE};

/// Most offers of an announce that are looked at; there are fewer peers to give them to than that.
pub const MAX_OFFERS: usize = 64;
/// Most bytes of an offer's id, as JSON.
pub const MAX_OFFER_ID: usize = 128;

/// What a message wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To be in a swarm, to make offers, or to answer one.
    Announce,
    /// To know how many are in swarms.
    Scrape,
}

/// The swarms of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hashes {
    /// None named: for a scrape, all.
    #[default]
    None,
    /// One.
    One(InfoHash),
    /// Several; the first [`MAX_SCRAPE`] count.
    Many(Vec<InfoHash>),
}

/// An offer to be given to one other peer.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Its id, as JSON.
    pub id: &'a RawValue,
    /// Type and SDP, as JSON.
    pub offer: &'a RawValue,
}

/// A message from a peer.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// What it wants.
    pub action: Action,
    /// Which swarms.
    pub hashes: Hashes,
    /// Who.
    pub peer_id: Option<PeerId>,
    /// Bytes that it lacks, if it says so.
    pub left: Option<u64>,
    /// What happens.
    pub event: Event,
    /// How many offers it would like to have given away.
    pub numwant: Option<u64>,
    /// Offers.
    pub offers: Vec<Offer<'a>>,
    /// An answer, its offer's id, and whom it is for.
    pub answer: Option<(PeerId, &'a RawValue, &'a RawValue)>,
}

/// Why a message is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or of another shape.
    #[error("the message is none of the protocol: {0}")]
    Malformed(String),
    /// Another action.
    #[error("unknown action; send announce or scrape")]
    Action,
    /// Something is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    action: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "hashes")]
    info_hash: Hashes,
    peer_id: Option<Latin1>,
    to_peer_id: Option<Latin1>,
    #[serde(default)]
    left: Amount,
    #[serde(default)]
    numwant: Amount,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "offers")]
    offers: Vec<Offer<'a>>,
}

/// Reads a message. What it does not know it passes over; clients add fields of their own.
pub fn read(text: &str) -> Result<Message<'_>, MessageError> {
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| MessageError::Malformed(error.to_string()))?;
    let action = match raw.action.as_deref() {
        Some("announce") => Action::Announce,
        Some("scrape") => Action::Scrape,
        Some(_) => return Err(MessageError::Action),
        None => return Err(MessageError::Missing("action")),
    };
    let answer = match (raw.answer, raw.to_peer_id, raw.offer_id) {
        (None, _, _) => None,
        (Some(answer), Some(to), Some(id)) if id.get().len() <= MAX_OFFER_ID => Some((PeerId(to.0), id, answer)),
        (Some(_), None, _) => return Err(MessageError::Missing("to_peer_id")),
        (Some(_), Some(_), _) => return Err(MessageError::Missing("offer_id")),
    };
    if action == Action::Announce && raw.peer_id.is_none() {
        return Err(MessageError::Missing("peer_id"));
    }
    if action == Action::Announce && !matches!(raw.info_hash, Hashes::One(_)) {
        return Err(MessageError::Missing("info_hash"));
    }
    Ok(Message {
        action,
        hashes: raw.info_hash,
        peer_id: raw.peer_id.map(|id| PeerId(id.0)),
        left: raw.left.0,
        event: raw.event.map_or(Event::Update, |event| Event::from_name(event.as_bytes())),
        numwant: raw.numwant.0,
        offers: raw.offers,
        answer,
    })
}

/// 20 characters that are bytes.
struct Latin1([u8; ID_BYTES]);

impl<'de> Deserialize<'de> for Latin1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Latin1Visitor).map(Self)
    }
}

struct Latin1Visitor;

impl Visitor<'_> for Latin1Visitor {
    type Value = [u8; ID_BYTES];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of 20 characters, each of them one byte")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let mut id = [0; ID_BYTES];
        let mut chars = text.chars();
        for place in &mut id {
            let char = chars.next().ok_or_else(|| E::invalid_length(text.chars().count(), &self))?;
            *place = u8::try_from(u32::from(char)).map_err(|_| E::custom("a character is no byte"))?;
        }
        if chars.next().is_some() { Err(E::invalid_length(text.chars().count(), &self)) } else { Ok(id) }
    }
}

/// A number that clients write in many ways: null stands for infinity, and there are fractions and negative ones.
#[derive(Default)]
struct Amount(Option<u64>);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;
        impl Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or null")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Amount, E> {
                Ok(Amount(Some(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Amount, E> {
                Ok(Amount(u64::try_from(value).ok()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Amount, E> {
                Ok(Amount((value >= 0.0).then_some(value as u64)))
            }

            fn visit_unit<E>(self) -> Result<Amount, E> {
                Ok(Amount(None))
            }
        }
        deserializer.deserialize_any(AmountVisitor)
    }
}

fn hashes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hashes, D::Error> {
    struct HashesVisitor;
    impl<'de> Visitor<'de> for HashesVisitor {
        type Value = Hashes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an info hash or a list of them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Hashes, E> {
            Latin1Visitor.visit_str(text).map(|id| Hashes::One(InfoHash(id)))
        }

        fn visit_unit<E>(self) -> Result<Hashes, E> {
            Ok(Hashes::None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Hashes, A::Error> {
            let mut hashes = Vec::new();
            while let Some(Latin1(id)) = list.next_element()? {
                if hashes.len() < MAX_SCRAPE {
                    hashes.push(InfoHash(id));
                }
            }
            Ok(Hashes::Many(hashes))
        }
    }
    deserializer.deserialize_any(HashesVisitor)
}

fn offers<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Offer<'a>>, D::Error> {
    #[derive(Deserialize)]
    struct RawOffer<'a> {
        #[serde(borrow)]
        offer_id: &'a RawValue,
        #[serde(borrow)]
        offer: &'a RawValue,
    }
    struct OffersVisitor;
    impl<'de> Visitor<'de> for OffersVisitor {
        type Value = Vec<Offer<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of offers")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut offers = Vec::new();
            while let Some(RawOffer { offer_id, offer }) = list.next_element::<RawOffer<'de>>()? {
                if offers.len() < MAX_OFFERS && offer_id.get().len() <= MAX_OFFER_ID {
                    offers.push(Offer { id: offer_id, offer });
                }
            }
            Ok(offers)
        }
    }
    deserializer.deserialize_any(OffersVisitor)
}
