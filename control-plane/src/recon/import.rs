//! A log becomes sums by hour. Nothing is stored until its last byte has come; then all of it is, in one transaction.
//!
//! What was counted before is not counted again: neither a file with the same bytes, nor lines that another file of the same CDN
//! had. Lines are told apart by a hash of their bytes; a line that is in one file twice counts twice, for that many such requests
//! there were.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shoal_http::query;
use shoal_report::Cmcd;
use shoal_report::logs::{Entry, Format, Measure, Reader, Zone, hour};
use twox_hash::XxHash3_64;

use super::Provider;
use super::map::Map;
use crate::store::{Store, StoreError};

/// Imports at once: each may take some hundred MiB of memory.
pub const AT_ONCE: usize = 1;
/// Most bytes of a log in one import.
pub const MAX_BYTES: u64 = 4 << 30;
/// Most lines of it.
pub const MAX_LINES: u64 = 1 << 22;
/// Most hours that it may touch: 40 days.
pub const MAX_HOURS: usize = 960;
/// Sessions of a channel and hour that are kept apart: those with the most bytes.
pub const MAX_SESSIONS: usize = 1_000;
/// Lines that other imports counted in its hours, at most.
const MAX_BEFORE: usize = 1 << 23;
/// Sums in memory beyond which sessions are no longer kept apart.
const MAX_SUMS: usize = 1 << 20;
/// Longest session id.
const MAX_SESSION: usize = 64;

/// Why a log is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Too long.
    #[error("the log has more than {what}; split it, and import the parts")]
    TooLong {
        /// Than what.
        what: String,
    },
    /// Nothing in it was understood.
    #[error("not one of its {bad} lines is of the format; the first, line {line}: {reason}: {text}")]
    Foreign {
        /// Lines.
        bad: u64,
        /// Number of the first.
        line: u64,
        /// What is wrong with it.
        reason: &'static str,
        /// How it begins.
        text: String,
    },
    /// Its sender went away before its end.
    #[error("the log broke off; nothing of it is counted")]
    BrokenOff,
    /// Another import came in between.
    #[error("another import of this CDN ended meanwhile, and has counted lines of the same hours; import it again")]
    Raced,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a log is to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Its format.
    pub format: Format,
    /// Host of lines that name none.
    pub host: Option<String>,
    /// Zone of times that name none.
    pub zone: Option<Zone>,
    /// What its bytes are of, if not what the format says.
    pub measure: Option<Measure>,
}

/// A line that was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadLine {
    /// Its number.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
    /// How it begins.
    pub text: String,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportReport {
    /// The CDN.
    pub provider: String,
    /// SHA-256 of the log, hexadecimal: what names the import.
    pub digest: String,
    /// Unix milliseconds of the import.
    pub imported_ms: u64,
    /// Whether these bytes had been imported before, so that nothing was done now.
    pub repeated: bool,
    /// Lines.
    pub lines: u64,
    /// Those counted.
    pub counted: u64,
    /// Those that another import of this CDN has counted.
    pub counted_before: u64,
    /// Those of no channel.
    pub unmapped: u64,
    /// Those that are not of the format.
    pub bad: u64,
    /// The first of those.
    pub first_bad: Vec<BadLine>,
    /// Bytes counted.
    pub bytes: u64,
    /// Unix seconds of the first request counted; 0 without any.
    pub first: u64,
    /// Unix seconds of the last one.
    pub last: u64,
}

/// A row of sums.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Unix hour.
    pub hour: u64,
    /// Tenant id.
    pub tenant: String,
    /// Channel id.
    pub channel: String,
    /// Whether one of our nodes asked.
    pub edge: bool,
    /// Session id; may be empty.
    pub session: String,
}

/// What a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
    /// Requests answered from the CDN's cache.
    pub hits: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.hits = self.hits.saturating_add(other.hits);
    }
}

/// What is to be stored.
#[derive(Debug)]
pub struct Imported {
    /// The answer.
    pub report: ImportReport,
    /// Of what the bytes are.
    pub measure: Measure,
    /// The sums.
    pub rows: BTreeMap<Key, Sums>,
    /// Hashes of the lines counted, by hour.
    pub seen: BTreeMap<u64, Vec<u64>>,
    /// How many imports had lines of each hour when it was read.
    pub before: BTreeMap<u64, u64>,
}

/// An import under way.
pub struct Importer<'a> {
    reader: Reader,
    digest: Sha256,
    bytes: u64,
    state: State<'a>,
}

struct State<'a> {
    store: &'a Store,
    provider: &'a Provider,
    host: Option<String>,
    map: Map<'a>,
    /// How often each line came in this file.
    times: HashMap<u64, u32>,
    /// What other imports counted, by hour.
    before: HashMap<u64, HashSet<u64>>,
    /// All of them.
    hashes_before: usize,
    imported: Imported,
    measure: Measure,
    lines: u64,
    failure: Option<ImportError>,
}

impl<'a> Importer<'a> {
    /// Begins one.
    pub fn new(store: &'a Store, provider: &'a Provider, reading: Reading) -> Result<Self, StoreError> {
        let channels = store.snapshot()?.channels;
        let measure = reading.measure.unwrap_or_else(|| reading.format.measure());
        let report = ImportReport {
            provider: provider.id.clone(),
            digest: String::new(),
            imported_ms: 0,
            repeated: false,
            lines: 0,
            counted: 0,
            counted_before: 0,
            unmapped: 0,
            bad: 0,
            first_bad: Vec::new(),
            bytes: 0,
            first: 0,
            last: 0,
        };
        let state = State {
            store,
            provider,
            host: reading.host,
            map: Map::new(store, &channels, &provider.origins),
            times: HashMap::new(),
            before: HashMap::new(),
            hashes_before: 0,
            imported: Imported {
                report,
                measure,
                rows: BTreeMap::new(),
                seen: BTreeMap::new(),
                before: BTreeMap::new(),
            },
            measure,
            lines: 0,
            failure: None,
        };
        Ok(Self { reader: Reader::new(reading.format, reading.zone), digest: Sha256::new(), bytes: 0, state })
    }

    /// Takes the next bytes.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > MAX_BYTES {
            return Err(too_long(format!("{MAX_BYTES} bytes")));
        }
        self.digest.update(bytes);
        let state = &mut self.state;
        self.reader.read(bytes, &mut |line, entry| state.take(line, &entry));
        self.state.failure.take().map_or(Ok(()), Err)
    }

    /// Ends it, `now_ms` in Unix milliseconds.
    pub fn finish(self, now_ms: u64) -> Result<Imported, ImportError> {
        let Self { reader, digest, mut state, .. } = self;
        let totals = reader.finish(&mut |line, entry| state.take(line, &entry));
        if let Some(failure) = state.failure {
            return Err(failure);
        }
        if let (0, Some(first)) = (totals.entries, totals.first_bad.first()) {
            let (line, reason, text) = (first.line, first.reason, first.text.clone());
            return Err(ImportError::Foreign { bad: totals.bad, line, reason, text });
        }
        let mut imported = state.imported;
        imported.measure = state.measure;
        imported.rows = fold(imported.rows);
        imported.seen.values_mut().for_each(|hashes| hashes.sort_unstable());
        let report = &mut imported.report;
        report.digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        report.imported_ms = now_ms;
        (report.lines, report.bad) = (totals.lines, totals.bad);
        let bad = |bad: shoal_report::logs::BadLine| BadLine {
            line: bad.line,
            reason: bad.reason.to_owned(),
            text: bad.text,
        };
        report.first_bad = totals.first_bad.into_iter().map(bad).collect();
        Ok(imported)
    }
}

impl State<'_> {
    fn take(&mut self, line: &[u8], entry: &Entry<'_>) {
        if self.failure.is_none()
            && let Err(failure) = self.count(line, entry)
        {
            self.failure = Some(failure);
        }
    }

    fn count(&mut self, line: &[u8], entry: &Entry<'_>) -> Result<(), ImportError> {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(too_long(format!("{MAX_LINES} lines")));
        }
        let host = entry.host.or(self.host.as_deref());
        let Some((tenant, channel)) = self.map.find(host, entry.path)? else {
            self.imported.report.unmapped += 1;
            return Ok(());
        };
        let hour = hour(entry.time);
        let before = match self.before.entry(hour) {
            std::collections::hash_map::Entry::Occupied(before) => before.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                if self.imported.before.len() >= MAX_HOURS {
                    return Err(too_long(format!("{MAX_HOURS} hours")));
                }
                let seen = self.store.recon_seen(&self.provider.id, hour)?;
                self.hashes_before += seen.hashes.len();
                if self.hashes_before > MAX_BEFORE {
                    return Err(too_long(format!("hours of which {MAX_BEFORE} lines were imported before")));
                }
                self.imported.before.insert(hour, seen.parts);
                new.insert(seen.hashes)
            }
        };
        // The same line again is another one.
        let times = self.times.entry(XxHash3_64::oneshot(line)).or_default();
        let hash = XxHash3_64::oneshot_with_seed(u64::from(*times) + 1, line);
        *times += 1;
        if before.contains(&hash) {
            self.imported.report.counted_before += 1;
            return Ok(());
        }
        self.imported.seen.entry(hour).or_default().push(hash);
        let report = &mut self.imported.report;
        report.counted += 1;
        report.bytes = report.bytes.saturating_add(entry.bytes);
        report.first = if report.first == 0 { entry.time } else { report.first.min(entry.time) };
        report.last = report.last.max(entry.time);
        let edge = self.provider.is_edge(entry.client);
        let full = self.imported.rows.len() >= MAX_SUMS;
        // What a node of ours asks is for many viewers.
        let session = if edge || full { String::new() } else { session(entry.query, &self.provider.session_parameter) };
        let sums = Sums { requests: 1, bytes: entry.bytes, hits: u64::from(entry.hit == Some(true)) };
        self.imported.rows.entry(Key { hour, tenant, channel, edge, session }).or_default().add(sums);
        Ok(())
    }
}

fn too_long(what: String) -> ImportError {
    ImportError::TooLong { what }
}

/// The session that a query names: in its ticket, in the parameter that the provider has for it, or in CMCD. It is the viewer's word.
fn session(query: Option<&str>, parameter: &str) -> String {
    let Some(query) = query else { return String::new() };
    let ticket = query::value(query, shoal_ticket::PARAMETER).and_then(shoal_ticket::session_of);
    if let Some(session) = ticket {
        return session.as_str().to_owned();
    }
    let named = (!parameter.is_empty()).then(|| query::value(query, parameter)).flatten();
    let found = match named.filter(|value| !value.is_empty()) {
        Some(value) => Some(value.to_owned()),
        None => Cmcd::from_query(query).and_then(Result::ok).and_then(|cmcd| cmcd.text("sid").map(str::to_owned)),
    };
    found.filter(|session| session.len() <= MAX_SESSION).unwrap_or_default()
}

/// Keeps the sessions with the most bytes of each channel and hour, and adds up the others as one without a name.
fn fold(rows: BTreeMap<Key, Sums>) -> BTreeMap<Key, Sums> {
    let mut groups: BTreeMap<Key, Vec<(String, Sums)>> = BTreeMap::new();
    for (mut key, sums) in rows {
        let session = std::mem::take(&mut key.session);
        groups.entry(key).or_default().push((session, sums));
    }
    let mut folded: BTreeMap<Key, Sums> = BTreeMap::new();
    for (key, mut sessions) in groups {
        sessions.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then_with(|| a.0.cmp(&b.0)));
        for (at, (session, sums)) in sessions.into_iter().enumerate() {
            let session = if at < MAX_SESSIONS { session } else { String::new() };
            folded.entry(Key { session, ..key.clone() }).or_default().add(sums);
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_from_ticket_parameter_or_cmcd() {
        let key = shoal_ticket::Key { id: "k".to_owned(), secret: "a secret of sixteen".to_owned() };
        let claims =
            shoal_ticket::Claims { channel: "c", path_prefix: "/", expires: 1, session: "viewer-7", network: None };
        let ticket = shoal_ticket::mint(&key, &claims).unwrap();
        assert_eq!(session(Some(&format!("a=1&ticket={ticket}&s=x")), "s"), "viewer-7");
        assert_eq!(session(Some("ticket=none&s=x"), "s"), "x");
        assert_eq!(session(Some("s=x"), ""), "");
        assert_eq!(session(Some("CMCD=sid%3D%22abc%22%2Cbr%3D1&s="), "s"), "abc");
        assert_eq!(session(Some(&format!("s={}", "x".repeat(65))), "s"), "");
        assert_eq!(session(None, "s"), "");
    }

    #[test]
    fn sessions_beyond_the_limit_are_one() {
        let key = |session: String| Key { hour: 1, tenant: "t".into(), channel: "c".into(), edge: false, session };
        let rows: BTreeMap<Key, Sums> = (0..MAX_SESSIONS as u64 + 10)
            .map(|n| (key(format!("s{n}")), Sums { requests: 1, bytes: n, hits: 0 }))
            .collect();
        let total: u64 = rows.values().map(|sums| sums.bytes).sum();
        let folded = fold(rows);
        assert_eq!(folded.len(), MAX_SESSIONS + 1);
        assert_eq!(folded.values().map(|sums| sums.bytes).sum::<u64>(), total);
        assert_eq!(folded[&key(String::new())], Sums { requests: 10, bytes: 45, hits: 0 });
    }
}
