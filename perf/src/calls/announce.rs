//! The classic HTTP announce (BEP 3, BEP 23).

use super::{Came, Script, id, mixed};
use crate::response::{Parser, parse};

/// Announces of many peers in many swarms.
#[derive(Debug)]
pub struct Announces {
    /// Host header.
    pub host: String,
    /// Path that announces go to.
    pub path: String,
    /// Swarms.
    pub swarms: u64,
    /// Peers in all; each is in one swarm.
    pub peers: u64,
    /// Peers asked for.
    pub numwant: u32,
    /// Announce each peer once, in turn, and end; otherwise at random for ever.
    pub once: bool,
    /// Calls made so far.
    made: u64,
    parser: Parser,
}

/// Where ids of swarms and peers begin.
const SWARM: u64 = 1 << 62;
const PEER: u64 = 2 << 62;

impl Announces {
    /// Nothing announced yet.
    pub fn new(host: String, path: String, [swarms, peers]: [u64; 2], numwant: u32, once: bool) -> Self {
        Self { host, path, swarms, peers, numwant, once, made: 0, parser: Parser::default() }
    }
}

/// Info hash of a swarm that [`Announces`] announces in, for trackers that have to be told.
pub fn info_hash(swarm: u64) -> [u8; 20] {
    id(SWARM, swarm)
}

impl Script for Announces {
    fn greeting(&mut self, _: usize, _: &mut Vec<u8>) {}

    fn call(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        if self.once && self.made == self.peers {
            return false;
        }
        let peer = if self.once { self.made } else { mixed(self.made) % self.peers };
        self.made += 1;
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.path.as_bytes());
        out.extend_from_slice(b"?info_hash=");
        escaped(&info_hash(peer % self.swarms), out);
        out.extend_from_slice(b"&peer_id=");
        escaped(&id(PEER, peer), out);
        let rest = format!(
            "&port={}&uploaded=0&downloaded=0&left=1&compact=1&numwant={} HTTP/1.1\r\nHost: {}\r\n\r\n",
            1024 + mixed(peer) % 64_000,
            self.numwant,
            self.host
        );
        out.extend_from_slice(rest.as_bytes());
        true
    }

    fn came(&mut self, _: usize, bytes: &[u8], _: &mut Vec<u8>) -> Result<Came, String> {
        answer(&mut self.parser, bytes, |body| {
            // A dictionary with an interval; a failure has none.
            let fine = body.starts_with(b"d") && body.windows(10).any(|word| word == b"8:interval");
            fine.then_some(()).ok_or_else(|| format!("not an announce's answer: {}", String::from_utf8_lossy(body)))
        })
    }
}

/// A whole answer with status 200, and whether its body is right.
pub(super) fn answer(
    parser: &mut Parser,
    bytes: &[u8],
    check: impl FnOnce(&[u8]) -> Result<(), String>,
) -> Result<Came, String> {
    let Some(head) = parser.parse(bytes).map_err(|error| error.to_string())? else { return Ok(Came::Part) };
    let whole = head.head_len + head.body_len as usize;
    let Some(body) = bytes.get(head.head_len..whole) else { return Ok(Came::Part) };
    if !matches!(head.status, 200 | 202) {
        return Err(format!("status {}: {}", head.status, String::from_utf8_lossy(body)));
    }
    check(body)?;
    Ok(Came::Answer(whole))
}

/// Percent-encodes what is not a letter or digit.
fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() {
            out.push(*byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// The length of a head's answer, of a status that switches protocols.
pub(super) fn switched(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    if bytes.starts_with(b"HTTP/1.1 101") {
        return Ok(Some(end + 4));
    }
    let said = parse(bytes).ok().flatten().map_or(0, |head| head.status);
    Err(format!("no WebSocket: status {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_the_same_at_each_run_and_once_each_where_asked() {
        let calls = |once| {
            let mut script = Announces::new("h".to_owned(), "/announce".to_owned(), [2, 3], 50, once);
            let mut calls = Vec::new();
            for _ in 0..5 {
                let mut out = Vec::new();
                if script.call(0, &mut out) {
                    calls.push(String::from_utf8(out).unwrap());
                }
            }
            calls
        };
        assert_eq!(calls(true).len(), 3);
        assert_eq!(calls(false), calls(false));
        assert!(calls(true)[0].starts_with("GET /announce?info_hash=") && calls(true)[0].contains("&compact=1"));
        assert_ne!(calls(true)[0], calls(true)[2]);
    }

    #[test]
    fn an_answer_is_whole_right_and_keeps_the_connection() {
        let mut script = Announces::new(String::new(), String::new(), [1, 1], 1, false);
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nd8:intervali16eeHTTP";
        assert_eq!(script.came(0, &good[..50], &mut Vec::new()), Ok(Came::Part));
        assert_eq!(script.came(0, good, &mut Vec::new()), Ok(Came::Answer(55)));
        let failed = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\nd14:failure reason1:xe";
        assert!(script.came(0, failed, &mut Vec::new()).is_err());
        assert!(script.came(0, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", &mut Vec::new()).is_err());
    }

    #[test]
    fn protocols_are_switched_or_not() {
        assert_eq!(switched(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\nx"), Ok(Some(42)));
        assert_eq!(switched(b"HTTP/1.1 101 Switch"), Ok(None));
        assert!(switched(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
