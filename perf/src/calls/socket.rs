//! The WebTorrent tracker protocol over WebSockets.

use std::collections::VecDeque;

use super::announce::switched;
use super::frame::{Frame, frame, pong, text};
use super::{Came, Script, id, mixed};

/// A peer on each connection, in some swarms.
#[derive(Debug)]
pub struct Sockets {
    /// Host header.
    pub host: String,
    /// Path to connect to.
    pub path: String,
    /// Swarms in all.
    pub swarms: u64,
    /// Of them, those that a peer is in.
    pub each: u64,
    /// Offers in an announce.
    pub offers: u32,
    /// Answers sent to offers that came.
    pub answered: u64,
    /// Whether the server also says how the swarm is when it was sent the answer to an offer; some do.
    pub told: bool,
    /// Which connections speak WebSocket by now.
    open: Vec<bool>,
    /// What is still to be heard on each: of calls, or of answers to offers.
    awaited: Vec<VecDeque<Awaited>>,
    made: u64,
    sdp: String,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Call,
    Answer,
}

/// Length of an SDP with a data channel and some candidates.
const SDP_BYTES: usize = 700;
/// Where ids begin.
const SWARM: u64 = 3 << 61;
const PEER: u64 = 5 << 61;

impl Sockets {
    /// Not connected yet.
    pub fn new(
        host: String,
        path: String,
        connections: usize,
        [swarms, each]: [u64; 2],
        offers: u32,
        told: bool,
    ) -> Self {
        let sdp = "v=0\\r\\no=- 1 1 IN IP4 127.0.0.1\\r\\n".to_owned() + &"a".repeat(SDP_BYTES);
        let (open, awaited) = (vec![false; connections], vec![VecDeque::new(); connections]);
        Self {
            host,
            path,
            swarms,
            each,
            offers,
            answered: 0,
            told,
            open,
            awaited,
            made: 0,
            sdp,
            message: String::new(),
        }
    }
}

impl Script for Sockets {
    fn greeting(&mut self, _: usize, out: &mut Vec<u8>) {
        let text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.path, self.host
        );
        out.extend_from_slice(text.as_bytes());
    }

    fn call(&mut self, connection: usize, out: &mut Vec<u8>) -> bool {
        let nth = self.made / self.open.len().max(1) as u64 % self.each;
        let swarm = mixed(connection as u64 * self.each + nth) % self.swarms;
        self.made += 1;
        self.message.clear();
        self.message.push_str(r#"{"action":"announce","info_hash":""#);
        latin(&id(SWARM, swarm), &mut self.message);
        self.message.push_str(r#"","peer_id":""#);
        latin(&id(PEER, connection as u64), &mut self.message);
        let numwant = self.offers;
        self.message.push_str(&format!(r#"","numwant":{numwant},"uploaded":0,"downloaded":0,"left":1"#));
        if self.offers > 0 {
            self.message.push_str(r#","offers":["#);
            for offer in 0..self.offers {
                self.message.push_str(if offer == 0 { r#"{"offer_id":""# } else { r#",{"offer_id":""# });
                latin(&id(self.made, u64::from(offer)), &mut self.message);
                self.message.push_str(r#"","offer":{"type":"offer","sdp":""#);
                self.message.push_str(&self.sdp);
                self.message.push_str(r#""}}"#);
            }
            self.message.push(']');
        }
        self.message.push('}');
        text(self.message.as_bytes(), out);
        self.awaited[connection].push_back(Awaited::Call);
        true
    }

    fn came(&mut self, connection: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<Came, String> {
        let open = &mut self.open[connection];
        if !*open {
            return Ok(switched(bytes)?.map_or(Came::Part, |head| {
                *open = true;
                Came::Other(head)
            }));
        }
        let Some(Frame { opcode, payload, whole }) = frame(bytes) else { return Ok(Came::Part) };
        match opcode {
            1 | 2 => {}
            9 => {
                pong(payload, out);
                return Ok(Came::Other(whole));
            }
            10 => return Ok(Came::Other(whole)),
            _ => return Err(format!("the server sent a frame of kind {opcode}")),
        }
        let has = |word: &[u8]| payload.windows(word.len()).any(|window| window == word);
        if has(br#""interval""#) {
            return match self.awaited[connection].pop_front() {
                Some(Awaited::Call) => Ok(Came::Answer(whole)),
                Some(Awaited::Answer) => Ok(Came::Other(whole)),
                None => Err("the server says how a swarm is, and nobody asked".to_owned()),
            };
        }
        if has(br#""offer":"#) {
            let part = |name: &str| quoted(payload, name).ok_or("an offer without its fields");
            let (swarm, peer, offer) = (part("info_hash")?, part("peer_id")?, part("offer_id")?);
            self.message.clear();
            self.message.push_str(r#"{"action":"announce","info_hash":""#);
            self.message.push_str(swarm);
            self.message.push_str(r#"","peer_id":""#);
            latin(&id(PEER, connection as u64), &mut self.message);
            self.message.push_str(r#"","to_peer_id":""#);
            self.message.push_str(peer);
            self.message.push_str(r#"","offer_id":""#);
            self.message.push_str(offer);
            self.message.push_str(r#"","answer":{"type":"answer","sdp":""#);
            self.message.push_str(&self.sdp);
            self.message.push_str(r#""}}"#);
            text(self.message.as_bytes(), out);
            self.answered += 1;
            if self.told {
                self.awaited[connection].push_back(Awaited::Answer);
            }
            return Ok(Came::Other(whole));
        }
        if has(br#""answer":"#) {
            return Ok(Came::Other(whole));
        }
        Err(format!("the server said {}", String::from_utf8_lossy(payload)))
    }
}

/// Bytes as the protocol has them in JSON: each a character of the same number.
fn latin(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            control @ 0..=31 => out.push_str(&format!("\\u{control:04x}")),
            byte => out.push(char::from(*byte)),
        }
    }
}

/// What stands in quotes behind a name, escapes left as they are.
fn quoted<'a>(json: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(json).ok()?;
    let (_, behind) = text.split_once(&format!("\"{name}\":"))?;
    let value = behind.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = value.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    value.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_are_json_whatever_bytes_ids_have() {
        let mut script = Sockets::new("h".to_owned(), "/".to_owned(), 300, [1000, 3], 2, false);
        for connection in 0..300 {
            let mut out = Vec::new();
            script.call(connection, &mut out);
            let value: serde_json::Value = serde_json::from_slice(&out[8..]).unwrap();
            assert_eq!(value["peer_id"].as_str().unwrap().chars().count(), 20);
            assert_eq!(value["offers"].as_array().unwrap().len(), 2);
        }
    }

    #[test]
    fn an_offer_is_answered_to_who_made_it() {
        let mut script = Sockets::new("h".to_owned(), "/".to_owned(), 1, [1, 1], 0, true);
        script.open[0] = true;
        let offer = br#"{"action":"announce","info_hash":"a\"b","peer_id":"\\","offer_id":"o","offer":{"sdp":""}}"#;
        let mut frame = vec![0x81, 126];
        frame.extend_from_slice(&(offer.len() as u16).to_be_bytes());
        frame.extend_from_slice(offer);
        let mut out = Vec::new();
        assert_eq!(script.came(0, &frame, &mut out), Ok(Came::Other(frame.len())));
        let answer: serde_json::Value = serde_json::from_slice(&out[8..]).unwrap();
        assert_eq!((&answer["info_hash"], &answer["to_peer_id"]), (&"a\"b".into(), &"\\".into()));
        assert_eq!(script.answered, 1);
    }

    #[test]
    fn answers_errors_and_pings_are_told_apart() {
        let mut script = Sockets::new("h".to_owned(), "/".to_owned(), 1, [1, 1], 0, true);
        let mut out = Vec::new();
        assert_eq!(script.came(0, b"HTTP/1.1 101 S\r\n\r\n", &mut out), Ok(Came::Other(18)));
        assert!(script.came(0, b"\x81\x0f{\"interval\":16}", &mut out).is_err());
        script.awaited[0].extend([Awaited::Call, Awaited::Answer]);
        assert_eq!(script.came(0, b"\x81\x0f{\"interval\":16}", &mut out), Ok(Came::Answer(17)));
        assert_eq!(script.came(0, b"\x81\x0f{\"interval\":16}", &mut out), Ok(Came::Other(17)));
        assert_eq!(script.came(0, b"\x89\x01x", &mut out), Ok(Came::Other(3)));
        assert_eq!(out, [0x8a, 0x81, 0, 0, 0, 0, b'x']);
        assert!(script.came(0, b"\x81\x02no", &mut out).is_err());
        assert!(script.came(0, b"\x88\x00", &mut out).is_err());
    }
}
