//! The classic announce and scrape, as they come in a query (BEP 3, 7, 23, 48).
//!
//! What is repeated counts as it came last, what is unknown is passed over, and so is `ip`: an address is where a request
//! comes from.

use crate::ids::{ID_BYTES, InfoHash, PeerId};

/// Most info hashes of a scrape that are answered.
pub const MAX_SCRAPE: usize = 64;

/// What happens to the announcing peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Event {
    /// It is here, still or for the first time.
    #[default]
    Update,
    /// It has all there is now.
    Completed,
    /// It leaves.
    Stopped,
}

impl Event {
    /// From its name; `started`, an empty one and those that others made up are updates.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Self {
        match name {
            b"stopped" => Self::Stopped,
            b"completed" => Self::Completed,
            _ => Self::Update,
        }
    }
}

/// An announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// Which swarm.
    pub info_hash: InfoHash,
    /// Who.
    pub peer_id: PeerId,
    /// Where it listens; 0: it cannot be reached.
    pub port: u16,
    /// Bytes that it lacks, if it says so; 0: none.
    pub left: Option<u64>,
    /// Bytes that it has given to others.
    pub uploaded: u64,
    /// Bytes that it has got from others.
    pub downloaded: u64,
    /// What happens.
    pub event: Event,
    /// Whether peers are to be written in 6 or 18 bytes each (BEP 23, BEP 7).
    pub compact: bool,
    /// Whether the others' ids may be left out of a list that is not compact.
    pub no_peer_id: bool,
    /// How many peers it would like.
    pub numwant: Option<u32>,
    /// What tells it from others with its id; 0 without.
    pub key: u64,
}

/// What is wrong with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Something is not there.
    #[error("{0} is missing; an announce needs info_hash, peer_id and port, a scrape info_hash")]
    Missing(&'static str),
    /// An id is none.
    #[error("{0} must be 20 bytes, percent-encoded")]
    Id(&'static str),
    /// A number is none.
    #[error("{0} must be a decimal number within its range")]
    Number(&'static str),
}

/// Reads an announce.
pub fn announce(query: &str) -> Result<Announce, QueryError> {
    let (mut info_hash, mut peer_id, mut port) = (None, None, None);
    let mut numwant = None;
    let mut left = None;
    let (mut uploaded, mut downloaded, mut key) = (0, 0, 0);
    let (mut event, mut compact, mut no_peer_id) = (Event::Update, true, false);
    for (name, value) in pairs(query) {
        match name {
            "info_hash" => info_hash = Some(InfoHash(id(value, "info_hash")?)),
            "peer_id" => peer_id = Some(PeerId(id(value, "peer_id")?)),
            "port" => {
                port = Some(number(value).and_then(|port| u16::try_from(port).ok()).ok_or(QueryError::Number("port"))?);
            }
            "left" => left = Some(number(value).ok_or(QueryError::Number("left"))?),
            "uploaded" => uploaded = number(value).ok_or(QueryError::Number("uploaded"))?,
            "downloaded" => downloaded = number(value).ok_or(QueryError::Number("downloaded"))?,
            "event" => event = Event::from_name(value.as_bytes()),
            "compact" => compact = value != "0",
            "no_peer_id" => no_peer_id = value == "1",
            "key" => key = key_of(value),
            // Clients say -1 for as many as there are.
            "numwant" => numwant = number(value).map(|wanted| u32::try_from(wanted).unwrap_or(u32::MAX)),
            _ => {}
        }
    }
    Ok(Announce {
        info_hash: info_hash.ok_or(QueryError::Missing("info_hash"))?,
        peer_id: peer_id.ok_or(QueryError::Missing("peer_id"))?,
        port: port.ok_or(QueryError::Missing("port"))?,
        left,
        uploaded,
        downloaded,
        event,
        compact,
        no_peer_id,
        numwant,
        key,
    })
}

/// Reads a scrape; of more than [`MAX_SCRAPE`] info hashes the first ones count.
pub fn scrape(query: &str) -> Result<Vec<InfoHash>, QueryError> {
    let mut hashes = Vec::new();
    for (_, value) in pairs(query).filter(|(name, _)| *name == "info_hash").take(MAX_SCRAPE) {
        hashes.push(InfoHash(id(value, "info_hash")?));
    }
    if hashes.is_empty() { Err(QueryError::Missing("info_hash")) } else { Ok(hashes) }
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// 20 bytes, each as it is or percent-encoded. A plus sign is one: no form wrote this.
fn id(text: &str, name: &'static str) -> Result<[u8; ID_BYTES], QueryError> {
    let error = QueryError::Id(name);
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(error);
    let mut id = [0; ID_BYTES];
    let mut bytes = text.bytes();
    for place in &mut id {
        *place = match bytes.next().ok_or(error)? {
            b'%' => (digit(bytes.next())? << 4 | digit(bytes.next())?) as u8,
            byte => byte,
        };
    }
    if bytes.next().is_some() { Err(error) } else { Ok(id) }
}

/// FNV-1a: keys are compared with each other and with nothing else.
fn key_of(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "%12%34%56%78%9a%bc%de%f1%23%45%67%89%ab%cd%ef%124Vx%9a";
    const BYTES: [u8; 20] = [
        0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x12, b'4', b'V',
        b'x', 0x9a,
    ];

    #[test]
    fn an_announce_as_clients_write_it() {
        let text = format!(
            "info_hash={HASH}&peer_id=-TR3000-abcdef+hijkl&port=51413&uploaded=1&downloaded=2&left=0&numwant=80&key=5f\
             &compact=1&supportcrypto=1&ip=192.0.2.66&event=started"
        );
        let found = announce(&text).unwrap();
        let expected = Announce {
            info_hash: InfoHash(BYTES),
            peer_id: PeerId(*b"-TR3000-abcdef+hijkl"),
            port: 51413,
            left: Some(0),
            uploaded: 1,
            downloaded: 2,
            event: Event::Update,
            compact: true,
            no_peer_id: false,
            numwant: Some(80),
            key: found.key,
        };
        assert_eq!(found, expected);
        assert_ne!(found.key, 0);
        let other = announce(&format!("{text}&event=stopped&compact=0&no_peer_id=1&numwant=-1")).unwrap();
        assert_eq!((other.event, other.compact, other.no_peer_id, other.numwant), (Event::Stopped, false, true, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = format!("info_hash={HASH}&peer_id={HASH}&port=1");
        assert!(announce(&good).is_ok());
        assert_eq!(announce(""), Err(QueryError::Missing("info_hash")));
        assert_eq!(announce(&format!("info_hash={HASH}&port=1")), Err(QueryError::Missing("peer_id")));
        for (more, name) in [("info_hash=%1", "info_hash"), ("peer_id=abc", "peer_id"), ("info_hash=%zz", "info_hash")]
        {
            assert_eq!(announce(&format!("{good}&{more}")), Err(QueryError::Id(name)));
        }
        for (more, name) in
            [("port=65536", "port"), ("left=-1", "left"), ("uploaded=1e3", "uploaded"), ("port=", "port")]
        {
            assert_eq!(announce(&format!("{good}&{more}")), Err(QueryError::Number(name)));
        }
        assert_eq!(scrape("x=1"), Err(QueryError::Missing("info_hash")));
        assert_eq!(scrape(&format!("info_hash={HASH}&info_hash={HASH}")).unwrap(), vec![InfoHash(BYTES); 2]);
        assert_eq!(scrape(&vec![format!("info_hash={HASH}"); 99].join("&")).unwrap().len(), MAX_SCRAPE);
    }
}
