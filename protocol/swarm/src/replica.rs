//! What instances tell each other of their peers, so that each has all swarms in its own memory.
//!
//! ```text
//! batch     1 byte version (1), then changes
//! change    2 bytes length of what follows (big-endian), 1 byte kind, then by kind:
//!   1 is    tenant, channel (each 1 byte length, then its bytes), info hash, peer id (20 each), session 8, flags 1
//!           (1: IPv6, 2: complete, 4: relay only, 8: WebRTC, 16: shoal-udp, 32: TCP), address 4 or 16, port 2, connection 8,
//!           NAT 1, upload 4, newest 8, count 2, node (1 byte length, then its bytes), then peer ids that failed it
//!   2 left  tenant, channel, info hash, peer id, connection 8 (0: it said so itself)
//! ```
//!
//! Kinds that an instance does not know it passes over, so instances of two releases can work side by side.

use std::net::IpAddr;

use crate::form::MAX_FAILED;
use crate::ids::{ID_BYTES, InfoHash, PeerId};
use crate::nat::Nat;
use crate::swarms::{Key, Record, Supply};
use crate::transport::{Transport, Transports};

/// Longest change: names of 255 bytes, and as many failed peers as an announce may have.
pub const MAX_CHANGE: usize =
    2 + 1 + 3 * 256 + 2 * ID_BYTES + 8 + 1 + 16 + 2 + 8 + 1 + 4 + 8 + 2 + MAX_FAILED * ID_BYTES;

const VERSION: u8 = 1;
const IS: u8 = 1;
const LEFT: u8 = 2;

const V6: u8 = 1;
const COMPLETE: u8 = 1 << 1;
const RELAY_ONLY: u8 = 1 << 2;
const TRANSPORTS: [(Transport, u8); 3] =
    [(Transport::Webrtc, 1 << 3), (Transport::ShoalUdp, 1 << 4), (Transport::Tcp, 1 << 5)];

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A peer is in a swarm.
    Is {
        /// What is known of it.
        record: Record<'a>,
        /// The node that introduces it; empty: none.
        node: &'a str,
        /// Peers that it has just reported.
        failed: Vec<PeerId>,
    },
    /// A peer is gone.
    Left {
        /// Which swarm.
        key: Key<'a>,
        /// Who.
        peer_id: PeerId,
        /// The connection that ended; 0: the peer said so itself.
        connection: u64,
    },
}

/// A batch is none, or is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no batch of a tracker's changes; all instances must be of releases that understand each other")]
pub struct NoBatch;

/// Begins a batch.
pub fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
}

/// Appends that a peer is in a swarm.
pub fn is(record: &Record<'_>, node: &str, failed: &[PeerId], out: &mut Vec<u8>) {
    change(IS, out, |out| {
        name(record.key, record.peer_id, out);
        out.extend_from_slice(&record.session.to_be_bytes());
        let mut flags = if record.complete { COMPLETE } else { 0 } | if record.relay_only { RELAY_ONLY } else { 0 };
        for (transport, flag) in TRANSPORTS {
            flags |= if record.transports.has(transport) { flag } else { 0 };
        }
        match record.address {
            IpAddr::V4(v4) => {
                out.push(flags);
                out.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                out.push(flags | V6);
                out.extend_from_slice(&v6.octets());
            }
        }
        out.extend_from_slice(&record.port.to_be_bytes());
        out.extend_from_slice(&record.connection.to_be_bytes());
        out.push(record.nat.pack());
        out.extend_from_slice(&record.supply.upload_kbps.to_be_bytes());
        out.extend_from_slice(&record.supply.newest.to_be_bytes());
        out.extend_from_slice(&record.supply.count.to_be_bytes());
        text(node, out);
        for id in failed.iter().take(MAX_FAILED) {
            out.extend_from_slice(&id.0);
        }
    });
}

/// Appends that a peer is gone.
pub fn left(key: Key<'_>, peer_id: PeerId, connection: u64, out: &mut Vec<u8>) {
    change(LEFT, out, |out| {
        name(key, peer_id, out);
        out.extend_from_slice(&connection.to_be_bytes());
    });
}

/// Reads a batch, change by change; the first one that is wrong ends it.
pub fn read(batch: &[u8]) -> impl Iterator<Item = Result<Change<'_>, NoBatch>> {
    let mut rest = batch.split_first().filter(|(version, _)| **version == VERSION).map(|(_, rest)| rest);
    std::iter::from_fn(move || {
        loop {
            let mut reader = Reader(rest.take()?);
            if reader.0.is_empty() {
                return None;
            }
            let length = reader.array().map(u16::from_be_bytes);
            let Some(change) = length.and_then(|length| reader.take(length.into())) else { return Some(Err(NoBatch)) };
            rest = Some(reader.0);
            let mut reader = Reader(change);
            let found = match reader.byte() {
                Some(IS) => read_is(&mut reader),
                Some(LEFT) => read_left(&mut reader),
                // Of a later release.
                Some(_) => continue,
                None => None,
            };
            if found.is_none() {
                rest = None;
            }
            return Some(found.ok_or(NoBatch));
        }
    })
}

/// Whether these bytes begin as a batch does.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.first() == Some(&VERSION)
}

fn change(kind: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, kind]);
    write(out);
    let length = (out.len() - start - 2) as u16;
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

fn name(key: Key<'_>, peer_id: PeerId, out: &mut Vec<u8>) {
    text(key.tenant, out);
    text(key.channel, out);
    out.extend_from_slice(&key.info_hash.0);
    out.extend_from_slice(&peer_id.0);
}

/// Ids have at most 64 bytes; what is longer is none.
fn text(text: &str, out: &mut Vec<u8>) {
    let text = if text.len() <= u8::MAX as usize { text } else { "" };
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    fn name(&mut self) -> Option<(Key<'a>, PeerId)> {
        let (tenant, channel) = (self.text()?, self.text()?);
        Some((Key { tenant, channel, info_hash: InfoHash(self.array()?) }, PeerId(self.array()?)))
    }
}

fn read_is<'a>(reader: &mut Reader<'a>) -> Option<Change<'a>> {
    let (key, peer_id) = reader.name()?;
    let session = u64::from_be_bytes(reader.array()?);
    let flags = reader.byte()?;
    let address: IpAddr = if flags & V6 != 0 { reader.array::<16>()?.into() } else { reader.array::<4>()?.into() };
    let given = TRANSPORTS.into_iter().filter(|(_, flag)| flags & flag != 0);
    let record = Record {
        key,
        peer_id,
        session,
        address,
        port: u16::from_be_bytes(reader.array()?),
        transports: given.map(|(transport, _)| transport).collect::<Transports>(),
        connection: u64::from_be_bytes(reader.array()?),
        nat: Nat::unpack(reader.byte()?),
        node: 0,
        supply: Supply {
            upload_kbps: u32::from_be_bytes(reader.array()?),
            newest: u64::from_be_bytes(reader.array()?),
            count: u16::from_be_bytes(reader.array()?),
        },
        complete: flags & COMPLETE != 0,
        relay_only: flags & RELAY_ONLY != 0,
    };
    let node = reader.text()?;
    let (failed, rest) = reader.0.as_chunks::<ID_BYTES>();
    let whole = rest.is_empty() && failed.len() <= MAX_FAILED;
    whole.then(|| Change::Is { record, node, failed: failed.iter().map(|id| PeerId(*id)).collect() })
}

fn read_left<'a>(reader: &mut Reader<'a>) -> Option<Change<'a>> {
    let (key, peer_id) = reader.name()?;
    let connection = u64::from_be_bytes(reader.array()?);
    reader.0.is_empty().then_some(Change::Left { key, peer_id, connection })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Behaviour;

    fn batch() -> (Vec<u8>, Vec<Change<'static>>) {
        let key = Key { tenant: "acme", channel: "room1", info_hash: InfoHash([7; 20]) };
        let record = Record {
            key,
            peer_id: PeerId([1; 20]),
            session: u64::MAX - 1,
            address: "192.0.2.1".parse().unwrap(),
            port: 5000,
            transports: Transports::NONE.with(Transport::Webrtc).with(Transport::Tcp),
            connection: 1 << 60,
            nat: Nat {
                mapping: Behaviour::EndpointIndependent,
                filtering: Behaviour::AddressDependent,
                predictable: true,
            },
            node: 0,
            supply: Supply { upload_kbps: 1, newest: u64::MAX, count: 3 },
            complete: true,
            relay_only: false,
        };
        let six =
            Record { address: "2001:db8::1".parse().unwrap(), complete: false, relay_only: true, ..record.clone() };
        let mut out = Vec::new();
        begin(&mut out);
        is(&record, "edge1", &[PeerId([3; 20]), PeerId([4; 20])], &mut out);
        left(key, PeerId([1; 20]), 9, &mut out);
        is(&six, "", &[], &mut out);
        let expected = vec![
            Change::Is { record, node: "edge1", failed: vec![PeerId([3; 20]), PeerId([4; 20])] },
            Change::Left { key, peer_id: PeerId([1; 20]), connection: 9 },
            Change::Is { record: six, node: "", failed: vec![] },
        ];
        (out, expected)
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let (out, expected) = batch();
        assert_eq!(read(&out).collect::<Result<Vec<_>, _>>().unwrap(), expected);
        assert!(is_batch(&out));
        // A kind of a later release between them.
        let mut later = vec![VERSION, 0, 3, 99, 1, 2];
        later.extend(&out[1..]);
        assert_eq!(read(&later).collect::<Result<Vec<_>, _>>().unwrap(), expected);
    }

    #[test]
    fn what_is_cut_or_changed_never_panics_and_ends() {
        let (out, _) = batch();
        for at in 0..out.len() {
            assert!(read(&out[..at]).count() <= 3);
            for bit in 0..8 {
                let mut changed = out.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed).count() <= out.len());
            }
        }
    }
}
