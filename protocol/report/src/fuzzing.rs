//! What the fuzz targets and the replay of their corpus call.

use crate::batch::{Batch, MAX_BYTES, MAX_REPORTS, MAX_UNKNOWN};
use crate::cmcd::{Cmcd, MAX_EVENTS, events};

/// A body as an SDK posts it. True: it was a batch.
///
/// # Panics
/// When a batch is beyond its bounds, or an error names nothing.
pub fn report_batch(body: &[u8]) -> bool {
    match Batch::parse(body) {
        Err(refused) => {
            assert!(!refused.message.is_empty() && !refused.reason.is_empty());
            false
        }
        Ok(batch) => {
            assert!((1..=MAX_REPORTS).contains(&batch.reports.len()));
            for report in &batch.reports {
                let by_provider: u64 = report.direct.iter().map(|provider| provider.bytes).sum();
                assert!(report.seq > 0 && report.edge_bytes <= MAX_BYTES);
                assert!(by_provider <= report.direct_bytes && report.direct_bytes <= MAX_BYTES);
                assert!(report.unknown.len() <= MAX_UNKNOWN);
                if !report.unknown.is_empty() {
                    let kept: serde_json::Value = serde_json::from_str(&report.unknown).expect("what is kept is JSON");
                    assert!(kept.is_object());
                }
            }
            true
        }
    }
}

/// A text as a query, a header's value and a dictionary. True: it was a dictionary.
///
/// # Panics
/// When a dictionary that is written is not read as the same.
pub fn cmcd(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    // Neither may panic; what they give is what the dictionary's text gives.
    let (_, _) = (Cmcd::from_query(text), Cmcd::from_headers([text, text]));
    let Ok(cmcd) = text.parse::<Cmcd>() else { return false };
    let written = cmcd.to_string();
    let again: Cmcd = written.parse().expect("what was written is read");
    assert_eq!(again.to_string(), written, "once written it stays the same");
    assert_eq!(cmcd.iter().count(), again.iter().count());
    let json = cmcd.to_json();
    let from_json = Cmcd::from_json(&json).expect("what became JSON is read");
    assert_eq!(from_json.iter().count(), cmcd.iter().count());
    let _ = cmcd.odd().count();
    true
}

/// A body of events: the first byte says whether as JSON. True: they were events.
///
/// # Panics
/// When an event is beyond its bounds.
pub fn cmcd_events(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else { return false };
    let Ok(events) = events(body, kind & 1 == 1) else { return false };
    assert!((1..=MAX_EVENTS).contains(&events.len()));
    for event in &events {
        assert!(event.report.seq <= crate::batch::MAX_SEQ && !event.report.unknown.is_empty());
        let kept: serde_json::Value = serde_json::from_str(&event.report.unknown).expect("what is kept is JSON");
        assert!(kept.is_object());
    }
    true
}
