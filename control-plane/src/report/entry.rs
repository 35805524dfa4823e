//! What one request brought: a record of the spool.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_report::Report;

/// Version of the record's form; its first byte.
const FORM: u8 = 1;

/// Where reports come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Source {
    /// An SDK, in our own schema.
    #[default]
    Sdk,
    /// A player's CMCD events.
    Cmcd,
    /// CMCD that nodes saw on requests for slices.
    Observed,
}

impl Source {
    /// Its name in metrics and raw records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Cmcd => "cmcd",
            Self::Observed => "observed",
        }
    }
}

/// Reports of one session that came together. Who it is comes from its pass, where from its address, when from our clock.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Unix milliseconds at which they came.
    pub received_ms: u64,
    /// From whom.
    pub source: Source,
    /// Tenant id.
    pub tenant: Arc<str>,
    /// App id; may be empty.
    pub app: Arc<str>,
    /// Channel id.
    pub channel: Arc<str>,
    /// Session id.
    pub session: Arc<str>,
    /// Within which sequence numbers count: an SDK's run, or CMCD's session id. May be empty.
    pub stream: String,
    /// Region code; empty when unknown.
    pub region: Arc<str>,
    /// Provider; empty when unknown.
    pub isp: Arc<str>,
    /// Of the reports that name none.
    pub platform: String,
    /// Of the reports that name none.
    pub sdk: String,
    /// Of the reports that name none.
    pub asset: String,
    /// Fields around the reports that are not in the schema: the text of a JSON object, or empty.
    pub unknown: String,
    /// The reports.
    pub reports: Vec<Report>,
}

impl Entry {
    /// As a record of the spool.
    pub fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_extend(self, vec![FORM]).ok()
    }

    /// A record of the spool; none where it is of another form.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let (&FORM, bytes) = record.split_first()? else { return None };
        postcard::from_bytes(bytes).ok()
    }

    /// The report's own word, or the entry's.
    pub(super) fn own<'a>(own: &'a str, shared: &'a str) -> &'a str {
        if own.is_empty() { shared } else { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_what_is_none_is_none() {
        let report = Report { seq: 7, first_frame_ms: Some(820), unknown: "{\"a\":1}".into(), ..Report::default() };
        let entry = Entry {
            received_ms: 1_700_000_000_000,
            source: Source::Cmcd,
            tenant: "acme".into(),
            stream: "run".into(),
            reports: vec![report; 3],
            ..Entry::default()
        };
        let record = entry.encode().unwrap();
        assert_eq!(Entry::decode(&record), Some(entry));
        for at in 0..record.len() {
            assert_eq!(Entry::decode(&record[..at]), None, "cut at {at}");
        }
        assert_eq!(Entry::decode(&[&[2], &record[1..]].concat()), None);
    }
}
