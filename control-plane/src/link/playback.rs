//! What nodes tell of playback (CMCD on slices), on its way to whoever sums it up. It is for statistics: with nobody to take it, or too
//! much of it, it is dropped and counted, and no node ever waits.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_link::playback::{CMCD_ID_MAX, Playback};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::validate::MAX_ID;

/// Messages that wait to be summed up.
const QUEUE: usize = 256;
/// Most viewers in one message; a node sends fewer.
const MAX_VIEWERS: usize = 4096;
/// Longest session id.
const MAX_SESSION: usize = 256;
/// Largest number of a sum over seconds: sums of it stay exact in JSON and SQL.
const MAX_SUM: u64 = 1 << 50;

/// What a node told in one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The node.
    pub node: String,
    /// A sum for each viewer.
    pub viewers: Vec<Playback>,
}

/// The way from the links to who sums it up.
pub struct PlaybackFeed {
    sender: mpsc::Sender<Told>,
    receiver: Mutex<Option<mpsc::Receiver<Told>>>,
    metrics: Arc<Metrics>,
}

impl PlaybackFeed {
    /// Nobody listens yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)), metrics }
    }

    /// What is told from now on, and as much as the queue holds of what was told before; once.
    pub fn listen(&self) -> Option<mpsc::Receiver<Told>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes a message of a node in.
    pub(super) fn take_in(&self, node: &str, mut viewers: Vec<Playback>) {
        let told = viewers.len();
        viewers.truncate(MAX_VIEWERS);
        viewers.retain(is_sound);
        let (sound, refused) = (viewers.len(), told - viewers.len());
        let sent = self.sender.try_send(Told { node: node.to_owned(), viewers }).is_ok();
        let (taken, dropped) = if sent { (sound, 0) } else { (0, sound) };
        self.metrics.playback(taken, dropped, refused);
    }
}

fn is_sound(one: &Playback) -> bool {
    let texts = [
        (Some(&*one.tenant), MAX_ID),
        (Some(&*one.channel), MAX_ID),
        (Some(&*one.session), MAX_SESSION),
        (Some(&*one.sid), CMCD_ID_MAX),
        (one.cid.as_deref(), CMCD_ID_MAX),
        (one.sf.as_deref(), CMCD_ID_MAX),
        (one.st.as_deref(), CMCD_ID_MAX),
    ];
    let sums = [
        Some(one.start_ms),
        Some(one.end_ms),
        Some(one.requests),
        Some(one.bytes),
        Some(one.starved),
        Some(one.startup),
        one.buffer_min_ms,
        Some(one.bitrate_sum_kbps),
        Some(one.bitrate_count),
        Some(one.bitrate_max_kbps),
        one.throughput_kbps,
    ];
    let short = texts.iter().all(|(text, most)| text.is_none_or(|text| text.len() <= *most));
    short && one.start_ms <= one.end_ms && sums.iter().flatten().all(|sum| *sum <= MAX_SUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer() -> Playback {
        Playback {
            tenant: "t".into(),
            channel: "c".into(),
            session: "".into(),
            sid: "s".into(),
            cid: None,
            sf: Some("h".into()),
            st: None,
            start_ms: 1,
            end_ms: 2,
            requests: 1,
            bytes: 5,
            starved: 0,
            startup: 0,
            buffer_min_ms: Some(7),
            bitrate_sum_kbps: 0,
            bitrate_count: 0,
            bitrate_max_kbps: 0,
            throughput_kbps: None,
        }
    }

    #[test]
    fn what_is_told_is_taken_once_and_never_waited_for() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let feed = PlaybackFeed::new(Arc::clone(&metrics));
        let mut receiver = feed.listen().unwrap();
        assert!(feed.listen().is_none());
        let turned = Playback { start_ms: 3, ..viewer() };
        let huge = Playback { bytes: u64::MAX, ..viewer() };
        let long = Playback { sid: "x".repeat(65).into(), ..viewer() };
        feed.take_in("edge", vec![viewer(), turned, huge, long]);
        assert_eq!(receiver.try_recv().unwrap(), Told { node: "edge".to_owned(), viewers: vec![viewer()] });
        for _ in 0..QUEUE + 3 {
            feed.take_in("edge", vec![viewer()]);
        }
        let text = String::from_utf8(metrics.export().unwrap()).unwrap();
        for (result, count) in [("taken", QUEUE + 1), ("dropped", 3), ("refused", 3)] {
            let line = format!("shoal_control_playback_sums_total{{result=\"{result}\"}} {count}");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
