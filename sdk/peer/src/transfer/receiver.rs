//! The side that wants the bytes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{ACKNOWLEDGEMENT, CHUNK, DATA, MAX_BYTES, Packet, Verdict, WINDOW, chunks};
use crate::wire::PunchKey;

/// Receives one transfer, and checks it.
#[derive(Debug)]
pub struct Receiver {
    key: PunchKey,
    /// As announced.
    bytes: Option<u64>,
    received: u64,
    hash: Sha256,
    /// The first chunk that is missing.
    missing: u32,
    /// Chunks behind it.
    early: BTreeMap<u32, Vec<u8>>,
    verdict: Option<Verdict>,
    acknowledge: bool,
}

impl Receiver {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(key: PunchKey) -> Self {
        Self {
            key,
            bytes: None,
            received: 0,
            hash: Sha256::new(),
            missing: 0,
            early: BTreeMap::new(),
            verdict: None,
            acknowledge: false,
        }
    }

    /// Whether it was right, once everything has come.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Bytes that have come.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Takes a datagram; true when it was the sender's.
    pub fn handle(&mut self, datagram: &[u8]) -> bool {
        let Some(packet) = Packet::open(&self.key, datagram) else { return false };
        if packet.kind != DATA {
            return false;
        }
        self.acknowledge = true;
        let ahead = packet.number.checked_sub(self.missing);
        if self.verdict.is_none() && ahead.is_some_and(|ahead| ahead <= WINDOW) && packet.body.len() <= CHUNK {
            self.early.entry(packet.number).or_insert_with(|| packet.body.to_vec());
            while let Some(body) = self.early.remove(&self.missing) {
                self.take(&body);
                self.missing += 1;
            }
        }
        true
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has something.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.acknowledge
    }

    /// Writes an acknowledgement to `out`, if one is due, and gives its length.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        if !std::mem::take(&mut self.acknowledge) {
            return None;
        }
        let bits = self.early.keys().filter_map(|number| 1_u64.checked_shl(number - self.missing - 1));
        let map = bits.fold(0, |map, bit| map | bit);
        let verdict = match self.verdict {
            None => 0,
            Some(Verdict::Right) => 1,
            Some(Verdict::Wrong) => 2,
        };
        let mut body = [verdict; 9];
        body.iter_mut().zip(map.to_be_bytes()).for_each(|(place, byte)| *place = byte);
        Packet { kind: ACKNOWLEDGEMENT, number: self.missing, body: &body }.seal(&self.key, out)
    }

    /// The next chunk in order.
    fn take(&mut self, body: &[u8]) {
        if self.verdict.is_some() {
            return;
        }
        let Some(bytes) = self.bytes else {
            let announced = <[u8; 8]>::try_from(body).map(u64::from_be_bytes).ok();
            self.bytes = announced.filter(|bytes| *bytes <= MAX_BYTES);
            if self.bytes.is_none() {
                self.verdict = Some(Verdict::Wrong);
            }
            return;
        };
        if self.missing <= chunks(bytes) {
            self.received += body.len() as u64;
            self.hash.update(body);
            return;
        }
        let right = self.received == bytes && *self.hash.clone().finalize() == *body;
        self.verdict = Some(if right { Verdict::Right } else { Verdict::Wrong });
    }
}
