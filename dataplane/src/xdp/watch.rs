//! What operators see of it: where it is, what it does, and which packets it drops.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use shoal_link::xdp::{Drop, Interface, Packets, Status};
use shoal_probes::maps::{self, LAYOUT, SAMPLE, VERDICTS, Verdict};
use shoal_probes::{Attached, Mode, Probes, ip};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::settings::XdpSettings;

/// Readers of drops at once.
const READERS_MAX: usize = 16;

/// Lines that wait for a reader; what comes when there are so many is lost for it.
const LINES_MAX: usize = 1_024;

/// For the admin pages; written by housekeeping.
#[derive(Debug, Default)]
pub struct Watch {
    status: Mutex<Status>,
    readers: Mutex<Vec<Sender<Bytes>>>,
}

impl Watch {
    /// How things are.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    /// Drops from now on, each a line of JSON; `None` when too many read already.
    pub fn read(&self) -> Option<Receiver<Bytes>> {
        let mut readers = lock(&self.readers);
        readers.retain(|reader| !reader.is_closed());
        if readers.len() >= READERS_MAX {
            return None;
        }
        let (sender, receiver) = channel(LINES_MAX);
        readers.push(sender);
        Some(receiver)
    }

    pub(super) fn note_absence(&self, why: String) {
        lock(&self.status).absent = Some(why);
    }

    pub(super) fn begin(&self, own: &XdpSettings, probes: &Probes) {
        *lock(&self.status) = Status {
            pins: probes.pins().map(|pins| pins.root().display().to_string()),
            layout: LAYOUT,
            keep: own.keep,
            loaded_here: probes.is_loader(),
            sample_every: own.limits.sample_every,
            ..Status::default()
        };
    }

    pub(super) fn see(&self, attached: Vec<Attached>, tag: impl Fn(u32) -> Option<u64>) {
        let interface = |at: Attached| Interface {
            mode: at.mode.map_or("none", Mode::name).to_owned(),
            tag: tag(at.program).map(|tag| format!("{tag:016x}")),
            since: at.since.and_then(|since| Some(since.duration_since(UNIX_EPOCH).ok()?.as_secs())),
            interface: at.interface,
            link: at.link,
            program: at.program,
        };
        let interfaces = attached.into_iter().map(interface).collect();
        lock(&self.status).interfaces = interfaces;
    }

    pub(super) fn count(&self, packets: &[u64; VERDICTS]) {
        let packets = Verdict::ALL.iter().zip(packets);
        lock(&self.status).packets = packets
            .map(|(verdict, packets)| Packets { verdict: verdict.name().to_owned(), packets: *packets })
            .collect();
    }

    /// Tells all readers of a drop; `now` is the kernel's monotonic clock.
    pub(super) fn tell(&self, drop: &maps::Drop, now: Duration) {
        let mut readers = lock(&self.readers);
        readers.retain(|reader| !reader.is_closed());
        if readers.is_empty() {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(&told(drop, now)) else { return };
        line.push(b'\n');
        let line = Bytes::from(line);
        for reader in readers.iter() {
            // Full: this reader is too slow for it.
            let _ = reader.try_send(line.clone());
        }
    }
}

fn told(drop: &maps::Drop, now: Duration) -> Drop {
    let ago = now.saturating_sub(Duration::from_nanos(drop.at_ns));
    let at = SystemTime::now().checked_sub(ago).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let verdict = Verdict::ALL.iter().find(|verdict| **verdict as u32 == drop.verdict);
    let sampled = (drop.sampled as usize).min(SAMPLE);
    Drop {
        at_ms: at.map_or(0, |at| at.as_millis() as u64),
        source: ip(drop.source),
        source_port: drop.source_port,
        destination: ip(drop.destination),
        destination_port: drop.destination_port,
        verdict: verdict.map_or("unknown", |verdict| verdict.name()).to_owned(),
        length: drop.length,
        first: drop.sample[..sampled].iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_of(port: u16) -> maps::Drop {
        maps::Drop {
            at_ns: 1_000_000_000,
            source: maps::Address::v4(u32::from_ne_bytes([192, 0, 2, 7])),
            destination: maps::Address::v4(u32::from_ne_bytes([192, 0, 2, 1])),
            source_port: port,
            destination_port: 3478,
            verdict: Verdict::Blocked as u32,
            length: 64,
            sampled: 16,
            sample: [0xab; SAMPLE],
        }
    }

    #[test]
    fn a_slow_reader_loses_the_newest_and_the_others_nothing() {
        let watch = Watch::default();
        let (mut slow, mut quick) = (watch.read().unwrap(), watch.read().unwrap());
        for port in 0..LINES_MAX as u16 + 10 {
            watch.tell(&drop_of(port), Duration::from_secs(2));
            let line = quick.try_recv().unwrap();
            let drop: Drop = serde_json::from_slice(&line).unwrap();
            assert_eq!((drop.source_port, drop.verdict.as_str(), drop.first.len()), (port, "blocked", 32));
        }
        let first: Drop = serde_json::from_slice(&slow.try_recv().unwrap()).unwrap();
        let rest = std::iter::from_fn(|| slow.try_recv().ok()).count();
        assert_eq!((first.source_port, 1 + rest), (0, LINES_MAX));
    }

    #[test]
    fn readers_are_bounded_and_make_room_when_they_leave() {
        let watch = Watch::default();
        let mut readers: Vec<_> = std::iter::from_fn(|| watch.read()).collect();
        assert_eq!(readers.len(), READERS_MAX);
        readers.pop();
        assert!(watch.read().is_some());
    }
}
