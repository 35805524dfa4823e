//! What the fuzz targets and the replay of their corpus call.

use crate::batch::{Batch, MAX_BYTES, MAX_REPORTS, MAX_UNKNOWN};
use crate::cmcd::{Cmcd, MAX_EVENTS, events};
use crate::logs::{self, Format, LogFormat, MAX_BAD, MAX_LINE, Reader};

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

/// A log: the first byte says its format, and in which pieces it is read. True: it has a request.
///
/// # Panics
/// When a request is beyond its bounds, or pieces change what is read.
pub fn cdn_log(bytes: &[u8]) -> bool {
    let Some((kind, log)) = bytes.split_first() else { return false };
    let custom = "$remote_addr [$time_iso8601] $host \"$request\" $status $bytes_sent $upstream_cache_status";
    let format = match kind & 7 {
        0 => Format::W3c,
        1 => Format::Tencent,
        2 => Format::Aliyun,
        3 => Format::Nginx(LogFormat::default()),
        4 => Format::Nginx(LogFormat::compile(custom).expect("it is one")),
        // The first line is a format of its own.
        _ => {
            let end = log.iter().position(|byte| *byte == b'\n').unwrap_or(log.len());
            let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
            match LogFormat::compile(&text) {
                Ok(format) => Format::Nginx(format),
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return false;
                }
            }
        }
    };
    let read = |size: usize| {
        let mut reader = Reader::new(format.clone(), None);
        let mut found = Vec::new();
        let mut each = |line: &[u8], entry: logs::Entry<'_>| {
            assert!(line.len() <= MAX_LINE && entry.path.starts_with('/') && entry.status < 1000);
            assert!(entry.time < 7_300_000_000 && entry.bytes < 1_000_000_000_000_000);
            found.push((logs::hour(entry.time), entry.path.to_owned(), entry.bytes));
        };
        for piece in log.chunks(size) {
            reader.read(piece, &mut each);
        }
        let totals = reader.finish(&mut each);
        assert_eq!(totals.lines, totals.entries + totals.bad);
        assert!(totals.first_bad.len() <= MAX_BAD && found.len() as u64 == totals.entries);
        (found, totals)
    };
    let whole = read(log.len().max(1));
    assert_eq!(read(1 + usize::from(kind >> 3)), whole, "pieces change nothing");
    whole.1.entries > 0
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
