//! What two single-homed nodes tell each other, so that each can send for the other (big-endian, over UDP):
//!
//! ```text
//! magic      4 bytes   "shp1"
//! kind       1 byte    1: heartbeat, 2: send
//! key        1 byte    which key signed it
//! boot       8 bytes   the sender's, larger with each of its starts
//! echo       8 bytes   the receiver's boot as the sender heard it, or 0
//! sequence   8 bytes   one more with each message of a boot
//! heartbeat: seen      8 bytes   sequence of the receiver's last heartbeat that the sender heard
//!            ports     2 × 2 bytes
//!            address   1 byte family, 4 or 16 bytes; once or twice
//! send:      from      2 bytes   one of the receiver's ports
//!            to        1 byte family, 2 bytes port, 4 or 16 bytes
//!            payload   up to the MAC: a STUN message
//! mac        16 bytes  the left half of HMAC-SHA-256(key, "shoal-partner" 0x00 all of the above)
//! ```
//!
//! Nothing counts that does not echo the receiver's present boot, so nothing recorded before its start can be played to it
//! again; a window over sequences does the same since. A partner is alive while it echoes a heartbeat that was sent to it
//! lately by the receiver's own clock: holding messages back makes no dead partner look alive.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::message::{Class, Family, Message, Method};

/// Milliseconds between heartbeats.
pub const HEARTBEAT_MS: u64 = 500;
/// Milliseconds for which an echoed heartbeat proves that the partner is alive.
pub const FRESH_MS: u64 = 2_500;
/// Bytes of a message that the partner is asked to send, at most.
pub const MAX_ASKED: usize = 256;
/// Bytes of a message of the link at most.
pub const MAX_LINK_MESSAGE: usize = HEAD + 2 + 1 + 2 + 16 + MAX_ASKED + MAC;

const MAGIC: [u8; 4] = *b"shp1";
const DOMAIN: &[u8] = b"shoal-partner\0";
const HEARTBEAT: u8 = 1;
const SEND: u8 = 2;
const HEAD: usize = 4 + 1 + 1 + 8 + 8 + 8;
const MAC: usize = 16;
/// Heartbeats whose time of sending is remembered: more than are sent while one can count.
const REMEMBERED: usize = 8;
const _: () = assert!(REMEMBERED as u64 * HEARTBEAT_MS > FRESH_MS);

/// A key that both nodes have.
#[derive(Clone)]
pub struct PartnerKey {
    /// Tells it from others while they are rotated.
    pub id: u8,
    /// At least 32 bytes of randomness.
    pub secret: [u8; 32],
}

impl fmt::Debug for PartnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartnerKey({})", self.id)
    }
}

/// Why a message of the link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkRefusal {
    /// Not of the form.
    #[error("malformed")]
    Malformed,
    /// An unknown key or a wrong MAC.
    #[error("wrong signature")]
    Signature,
    /// Of another boot than the present ones, or our own come back.
    #[error("of another session")]
    Session,
    /// Seen before, or too old to tell.
    #[error("replayed")]
    Replay,
}

impl LinkRefusal {
    /// All, for metrics.
    pub const ALL: [Self; 4] = [Self::Malformed, Self::Signature, Self::Session, Self::Replay];

    /// A label for metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Session => "session",
            Self::Replay => "replay",
        }
    }
}

/// What the partner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'a> {
    /// It is there, as far as it says.
    Heartbeat,
    /// Send `payload`, a Binding success response, from this node's address and the port `from` to `to`.
    Send {
        /// One of this node's two ports.
        from: u16,
        /// Of a client that asked the partner.
        to: SocketAddr,
        /// At most [`MAX_ASKED`] bytes.
        payload: &'a [u8],
    },
}

/// This node's end of the link.
#[derive(Debug)]
pub struct PartnerLink {
    keys: Vec<PartnerKey>,
    boot: u64,
    ports: [u16; 2],
    own: [Option<IpAddr>; 2],
    sequence: u64,
    next_heartbeat: u64,
    /// Sequence and time of the last heartbeats.
    sent: [(u64, u64); REMEMBERED],
    /// The newest boot that the partner signed anything in.
    heard: u64,
    /// The boot in which it has echoed ours.
    peer: u64,
    window: Window,
    seen: u64,
    /// When the newest heartbeat was sent that the partner has echoed.
    echoed_at: Option<u64>,
    addresses: [Option<IpAddr>; 2],
}

impl PartnerLink {
    /// `keys`: the one to sign with, then others that are honoured. `boot` must be larger with each start of this node:
    /// Unix milliseconds will do. `own`: the addresses that this node can send from, one of a family.
    #[must_use]
    pub fn new(keys: Vec<PartnerKey>, boot: u64, own: &[IpAddr], ports: [u16; 2]) -> Self {
        let of = |family| own.iter().copied().find(|ip| Family::of(ip) == family);
        Self {
            keys,
            boot,
            ports,
            own: [of(Family::Ipv4), of(Family::Ipv6)],
            sequence: 0,
            next_heartbeat: 0,
            sent: [(0, 0); REMEMBERED],
            heard: 0,
            peer: 0,
            window: Window::default(),
            seen: 0,
            echoed_at: None,
            addresses: [None; 2],
        }
    }

    /// Whether the partner is known to be alive at `now_ms`, a clock that never goes back.
    #[must_use]
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        self.echoed_at.is_some_and(|at| now_ms.saturating_sub(at) <= FRESH_MS)
    }

    /// Where the partner can send from, as it said last.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let [v4, v6] = self.addresses;
        match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        }
    }

    /// When [`poll_heartbeat`](Self::poll_heartbeat) has something to send.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.next_heartbeat
    }

    /// Writes a heartbeat to `out`, of [`MAX_LINK_MESSAGE`] bytes, if it is time; gives its length.
    pub fn poll_heartbeat(&mut self, now_ms: u64, out: &mut [u8]) -> Option<usize> {
        if now_ms < self.next_heartbeat {
            return None;
        }
        self.next_heartbeat = now_ms + HEARTBEAT_MS;
        let sequence = self.sequence + 1;
        let place = self.sent.get_mut((sequence % REMEMBERED as u64) as usize)?;
        *place = (sequence, now_ms);
        let [first, second] = self.ports;
        let mut body = Body::default();
        body.push(&self.seen.to_be_bytes());
        body.push(&first.to_be_bytes());
        body.push(&second.to_be_bytes());
        for address in self.own.into_iter().flatten() {
            body.push(&[Family::of(&address).number()]);
            body.push_ip(address);
        }
        self.sign(HEARTBEAT, &body, out)
    }

    /// Writes to `out`, of [`MAX_LINK_MESSAGE`] bytes, that the partner shall send `payload` from its port `from` to `to`;
    /// gives the length. `None` when the payload is longer than [`MAX_ASKED`].
    pub fn ask(&mut self, from: u16, to: SocketAddr, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        if payload.len() > MAX_ASKED {
            return None;
        }
        let mut body = Body::default();
        body.push(&from.to_be_bytes());
        body.push(&[Family::of(&to.ip()).number()]);
        body.push(&to.port().to_be_bytes());
        body.push_ip(to.ip());
        body.push(payload);
        self.sign(SEND, &body, out)
    }

    /// Takes a message from the partner.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn handle<'a>(&mut self, message: &'a [u8]) -> Result<Received<'a>, LinkRefusal> {
        let (signed, mac) = message
            .len()
            .checked_sub(MAC)
            .filter(|_| message.len() <= MAX_LINK_MESSAGE)
            .and_then(|at| message.split_at_checked(at))
            .ok_or(LinkRefusal::Malformed)?;
        let mut rest = signed;
        if take(&mut rest) != Some(MAGIC) {
            return Err(LinkRefusal::Malformed);
        }
        let [kind, key] = take(&mut rest).ok_or(LinkRefusal::Malformed)?;
        let mut number = || take(&mut rest).map(u64::from_be_bytes).ok_or(LinkRefusal::Malformed);
        let (boot, echo, sequence) = (number()?, number()?, number()?);
        let key = self.keys.iter().find(|known| known.id == key).ok_or(LinkRefusal::Signature)?;
        if !bool::from(tag(key, signed).ct_eq(mac)) {
            return Err(LinkRefusal::Signature);
        }
        if boot == self.boot || boot < self.peer.max(self.heard) {
            return Err(LinkRefusal::Session);
        }
        self.heard = boot;
        if echo != self.boot {
            // It does not know us yet. All that this may do is to have us echo it.
            return if kind == HEARTBEAT { Ok(Received::Heartbeat) } else { Err(LinkRefusal::Session) };
        }
        if boot > self.peer {
            self.peer = boot;
            self.window = Window::default();
            self.seen = 0;
            self.addresses = [None; 2];
        }
        if !self.window.take(sequence) {
            return Err(LinkRefusal::Replay);
        }
        match kind {
            HEARTBEAT => self.handle_heartbeat(sequence, rest),
            SEND => self.handle_send(rest),
            _ => Err(LinkRefusal::Malformed),
        }
    }

    fn handle_heartbeat<'a>(&mut self, sequence: u64, mut rest: &[u8]) -> Result<Received<'a>, LinkRefusal> {
        let seen = take(&mut rest).map(u64::from_be_bytes).ok_or(LinkRefusal::Malformed)?;
        let first = take(&mut rest).map(u16::from_be_bytes).ok_or(LinkRefusal::Malformed)?;
        let second = take(&mut rest).map(u16::from_be_bytes).ok_or(LinkRefusal::Malformed)?;
        let mut addresses = [None; 2];
        while !rest.is_empty() {
            let ip = take_ip(&mut rest).ok_or(LinkRefusal::Malformed)?;
            let [v4, v6] = &mut addresses;
            *(if ip.is_ipv4() { v4 } else { v6 }) = Some(ip);
        }
        self.seen = self.seen.max(sequence);
        let sent = self.sent.iter().find(|(sequence, _)| *sequence == seen && seen != 0);
        // A partner with other ports could not take the other end of a test.
        let usable = [first, second] == self.ports;
        if let Some((_, at)) = sent.filter(|_| usable) {
            self.echoed_at = self.echoed_at.max(Some(*at));
            self.addresses = addresses;
        }
        Ok(Received::Heartbeat)
    }

    fn handle_send<'a>(&self, mut rest: &'a [u8]) -> Result<Received<'a>, LinkRefusal> {
        let from = take(&mut rest).map(u16::from_be_bytes).ok_or(LinkRefusal::Malformed)?;
        let [family, p0, p1] = take(&mut rest).ok_or(LinkRefusal::Malformed)?;
        let ip = take_ip_of(family, &mut rest).ok_or(LinkRefusal::Malformed)?;
        let binding = Message::parse(rest)
            .is_ok_and(|message| message.method() == Method::BINDING && message.class() == Class::Success);
        if !binding || !self.ports.contains(&from) {
            return Err(LinkRefusal::Malformed);
        }
        Ok(Received::Send { from, to: SocketAddr::new(ip, u16::from_be_bytes([p0, p1])), payload: rest })
    }

    fn sign(&mut self, kind: u8, body: &Body, out: &mut [u8]) -> Option<usize> {
        let key = self.keys.first()?;
        self.sequence += 1;
        let mut message = Body::default();
        message.push(&MAGIC);
        message.push(&[kind, key.id]);
        for number in [self.boot, self.peer.max(self.heard), self.sequence] {
            message.push(&number.to_be_bytes());
        }
        message.push(body.bytes());
        let mac = tag(key, message.bytes());
        message.push(&mac);
        out.get_mut(..message.length)?.copy_from_slice(message.bytes());
        Some(message.length)
    }
}

fn tag(key: &PartnerKey, signed: &[u8]) -> [u8; MAC] {
    let mut out = [0; MAC];
    if let Ok(mac) = Hmac::<Sha256>::new_from_slice(&key.secret) {
        let full = mac.chain_update(DOMAIN).chain_update(signed).finalize().into_bytes();
        for (place, byte) in out.iter_mut().zip(full) {
            *place = byte;
        }
    }
    out
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn take_ip(rest: &mut &[u8]) -> Option<IpAddr> {
    let [family] = take(rest)?;
    take_ip_of(family, rest)
}

fn take_ip_of(family: u8, rest: &mut &[u8]) -> Option<IpAddr> {
    Some(match Family::from_number(family)? {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(take::<4>(rest)?)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(take::<16>(rest)?)),
    })
}

/// A message while it is written; it has room for the longest.
struct Body {
    bytes: [u8; MAX_LINK_MESSAGE],
    length: usize,
}

impl Default for Body {
    fn default() -> Self {
        Self { bytes: [0; MAX_LINK_MESSAGE], length: 0 }
    }
}

impl Body {
    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        }
    }

    fn push_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Which of the last 64 sequences have been taken.
#[derive(Debug, Default)]
struct Window {
    newest: u64,
    /// Bit n: `newest - n`.
    taken: u64,
}

impl Window {
    /// Takes a sequence, once.
    fn take(&mut self, sequence: u64) -> bool {
        if sequence == 0 {
            return false;
        }
        if sequence > self.newest {
            let step = sequence - self.newest;
            self.taken = if step < 64 { self.taken << step } else { 0 } | 1;
            self.newest = sequence;
            return true;
        }
        let age = self.newest - sequence;
        let bit = if age < 64 { 1 << age } else { return false };
        let fresh = self.taken & bit == 0;
        self.taken |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_each_sequence_once() {
        let mut window = Window::default();
        assert!(!window.take(0));
        for (sequence, taken) in [
            (5, true),
            (5, false),
            (3, true),
            (3, false),
            (68, true),
            (5, false),
            (4, false),
            (6, true),
            (300, true),
            (236, false),
            (237, true),
            (300, false),
        ] {
            assert_eq!(window.take(sequence), taken, "{sequence}");
        }
    }
}
