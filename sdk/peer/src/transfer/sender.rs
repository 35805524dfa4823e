//! The side that has the bytes.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use shoal_packet::hash_words;

use super::{ACKNOWLEDGEMENT, CHUNK, DATA, MAX_BYTES, Packet, Verdict, WINDOW, chunks};
use crate::wire::PunchKey;

/// Milliseconds without progress after which it is given up.
const STUCK_MS: u64 = 10_000;
/// Chunks at once in the beginning, and at least.
const FEW: u32 = 4;
/// Milliseconds until a chunk is sent again, before anything is known of the way.
const FIRST_RTO_MS: u64 = 250;
/// And in between these from then on.
const RTO_MS: std::ops::RangeInclusive<u64> = 30..=1_000;
/// Chunks received behind one that is missing that show that it is lost, and not late.
const REORDERED: u32 = 3;

/// Sends bytes that it makes up.
#[derive(Debug)]
pub struct Sender {
    key: PunchKey,
    bytes: u64,
    seed: u64,
    /// Of the chunks that were made so far, which is in order.
    hash: Sha256,
    checksum: Option<[u8; 32]>,
    /// Chunks that are not acknowledged, from the first that is missing on.
    flight: VecDeque<Chunk>,
    first: u32,
    /// Chunks at once, in 1/256.
    window: u32,
    /// Smoothed, once measured.
    round_trip: Option<u64>,
    /// The window is halved once for each round trip.
    halved: u64,
    progress: u64,
    verdict: Option<Verdict>,
    stuck: bool,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    sent: u64,
    times: u32,
    received: bool,
    lost: bool,
}

impl Sender {
    /// Begins now. `bytes` of at most [`MAX_BYTES`], made from `seed`.
    #[must_use]
    pub fn new(key: PunchKey, bytes: u64, seed: u64, now: u64) -> Self {
        Self {
            key,
            bytes: bytes.min(MAX_BYTES),
            seed,
            hash: Sha256::new(),
            checksum: None,
            flight: VecDeque::new(),
            first: 0,
            window: FEW << 8,
            round_trip: None,
            halved: now,
            progress: now,
            verdict: None,
            stuck: false,
        }
    }

    /// What the receiver says, once it has everything.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Whether nothing goes on any more.
    #[must_use]
    pub const fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Bytes in all.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.verdict.is_some() || self.stuck {
            return None;
        }
        if self.next_new().is_some() || self.flight.iter().any(|chunk| chunk.lost && !chunk.received) {
            return Some(0);
        }
        let missing = self.flight.iter().filter(|chunk| !chunk.received);
        let again = missing.map(|chunk| chunk.sent + self.rto(chunk.times)).min();
        again.into_iter().chain([self.progress + STUCK_MS]).min()
    }

    /// Writes a packet to `out`, if one is due, and gives its length. Call it until it gives nothing.
    pub fn poll_transmit(&mut self, now: u64, out: &mut [u8]) -> Option<usize> {
        if self.verdict.is_some() {
            return None;
        }
        self.stuck |= now >= self.progress + STUCK_MS;
        if self.stuck {
            return None;
        }
        let overdue = |chunk: &Chunk, rto: u64| !chunk.received && (chunk.lost || now >= chunk.sent + rto);
        let rtos: Vec<u64> = self.flight.iter().map(|chunk| self.rto(chunk.times)).collect();
        let again = self.flight.iter().zip(rtos).position(|(chunk, rto)| overdue(chunk, rto));
        let number = if let Some(nth) = again {
            self.slow_down(now);
            let chunk = self.flight.get_mut(nth)?;
            *chunk = Chunk { sent: now, times: chunk.times + 1, lost: false, ..*chunk };
            self.first + nth as u32
        } else {
            let number = self.next_new()?;
            self.flight.push_back(Chunk { sent: now, times: 1, received: false, lost: false });
            number
        };
        let body = self.body(number, again.is_none());
        Packet { kind: DATA, number, body: &body }.seal(&self.key, out)
    }

    /// Takes a datagram; true when it was the receiver's.
    pub fn handle(&mut self, now: u64, datagram: &[u8]) -> bool {
        let Some(packet) = Packet::open(&self.key, datagram) else { return false };
        let Ok([map @ .., verdict]) = <[u8; 9]>::try_from(packet.body) else { return false };
        if packet.kind != ACKNOWLEDGEMENT {
            return false;
        }
        self.verdict = self.verdict.or(match verdict {
            1 => Some(Verdict::Right),
            2 => Some(Verdict::Wrong),
            _ => None,
        });
        let map = u64::from_be_bytes(map);
        let mut news = 0;
        for (nth, chunk) in self.flight.iter_mut().enumerate() {
            let number = self.first + nth as u32;
            let behind = number.checked_sub(packet.number);
            // Bit 0 is the chunk behind the missing one.
            let received = match behind {
                None => true,
                Some(behind) => behind.checked_sub(1).is_some_and(|bit| map.checked_shr(bit).unwrap_or(0) & 1 == 1),
            };
            if received && !chunk.received {
                chunk.received = true;
                news += 1;
                if chunk.times == 1 {
                    let took = now - chunk.sent;
                    self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
                }
            }
        }
        while self.flight.pop_front_if(|chunk| chunk.received).is_some() {
            self.first += 1;
        }
        if news > 0 {
            self.progress = now;
            // One more in each round trip.
            let grown = self.window + news * (256 << 8) / self.window.max(1);
            self.window = grown.min(WINDOW << 8);
        }
        self.notice_losses(now);
        true
    }

    /// Those are lost that others have overtaken by far, and that were sent longer ago than a round trip.
    fn notice_losses(&mut self, now: u64) {
        let round_trip = self.round_trip.unwrap_or(FIRST_RTO_MS);
        let mut overtaken = 0;
        for chunk in self.flight.iter_mut().rev() {
            if chunk.received {
                overtaken += 1;
            } else if overtaken >= REORDERED && now >= chunk.sent + round_trip {
                chunk.lost = true;
            }
        }
    }

    fn slow_down(&mut self, now: u64) {
        if now >= self.halved + self.rto(1) {
            self.halved = now;
            self.window = (self.window / 2).max(FEW << 8);
        }
    }

    /// The number of the chunk that may be sent for the first time.
    fn next_new(&self) -> Option<u32> {
        let flying = self.flight.len() as u32;
        let number = self.first + flying;
        let room = flying < self.window >> 8 && flying < WINDOW;
        (room && number <= chunks(self.bytes) + 1).then_some(number)
    }

    fn rto(&self, times: u32) -> u64 {
        let once = self.round_trip.map_or(FIRST_RTO_MS, |round_trip| round_trip * 2 + 10);
        (once << times.saturating_sub(1).min(6)).clamp(*RTO_MS.start(), *RTO_MS.end())
    }

    /// A chunk's bytes; of those that are made for the first time the checksum is made, too.
    fn body(&mut self, number: u32, first: bool) -> Vec<u8> {
        let last = chunks(self.bytes);
        if number == 0 {
            return self.bytes.to_be_bytes().to_vec();
        }
        if number > last {
            let hash = &self.hash;
            return self.checksum.get_or_insert_with(|| hash.clone().finalize().into()).to_vec();
        }
        let before = u64::from(number - 1) * CHUNK as u64;
        let length = (self.bytes - before).min(CHUNK as u64) as usize;
        let words =
            (0..length.div_ceil(8) as u64).map(|nth| hash_words(self.seed, &[number.into(), nth]).to_be_bytes());
        let mut bytes: Vec<u8> = words.flatten().collect();
        bytes.truncate(length);
        if first {
            self.hash.update(&bytes);
        }
        bytes
    }
}
