//! What the origin has, and what goes wrong with it.

use std::time::Duration;

use super::{Entry, http_date};
use crate::content::Content;
use crate::rng::mix;

/// One object at the origin, well-behaved unless told otherwise.
#[derive(Debug, Clone)]
pub struct Object {
    /// Path with its leading slash; with a query when that matters.
    pub path: String,
    /// Bytes of version 0.
    pub size: u64,
    /// Bytes that each version has more than the one before.
    pub growth: u64,
    /// These bytes instead of computed ones, for playlists.
    pub literal: Option<Vec<u8>>,
    /// Version to start with.
    pub first_version: u32,
    /// Entity tag.
    pub etag: Etag,
    /// Whether Last-Modified is sent.
    pub last_modified: bool,
    /// How a body is delimited.
    pub framing: Framing,
    /// Whether Range is honoured.
    pub ranges: bool,
    /// Whether If-None-Match and If-Modified-Since may get a 304.
    pub conditional: bool,
    /// Status of a good answer.
    pub status: u16,
    /// More fields, such as Cache-Control and Content-Type.
    pub headers: Vec<(String, String)>,
    /// Bytes and pause between them; none: as fast as possible.
    pub pace: Option<(usize, Duration)>,
    /// When it changes by itself.
    pub change: Change,
    /// What goes wrong, and when.
    pub faults: Vec<(When, Fault)>,
}

/// Which entity tag an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Etag {
    /// One that changes with every version.
    Strong,
    /// The same, marked weak.
    Weak,
    /// None.
    None,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By Content-Length.
    Length,
    /// By chunks of some 8 KiB.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// When an object changes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only when bumped.
    Never,
    /// After so many requests for it.
    EveryRequests(u64),
    /// After so much time.
    Every(Duration),
}

/// Which requests of an object meet a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The first so many.
    First(u64),
    /// About one in so many, the same ones in each run.
    OneIn(u64),
}

/// What goes wrong with an answer. Byte counts are of the body of that answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after so many bytes.
    Truncate(u64),
    /// The connection is reset after so many bytes.
    Reset(u64),
    /// Nothing comes for a while after so many bytes.
    Stall(u64, Duration),
    /// The head comes late.
    SlowHead(Duration),
    /// This status, with a short text instead of the object.
    Status(u16),
    /// The connection is closed without an answer.
    NoAnswer,
    /// What comes is not HTTP.
    Garbage,
    /// Content-Length says so many bytes more than come.
    LongLength(u64),
    /// Content-Length says so many bytes less than come.
    ShortLength(u64),
    /// Content-Range names a place so many bytes behind the one asked for.
    WrongRange(u64),
    /// The whole origin dies after so many bytes.
    Die(u64),
}

/// Unix time of version 0; each version is a minute newer.
const EPOCH: u64 = 1_700_000_000;

impl Object {
    /// An object with a strong validator that honours Range and may be kept for an hour.
    pub fn new(path: &str, size: u64) -> Self {
        Self {
            path: path.to_owned(),
            size,
            growth: 0,
            literal: None,
            first_version: 0,
            etag: Etag::Strong,
            last_modified: true,
            framing: Framing::Length,
            ranges: true,
            conditional: true,
            status: 200,
            headers: Vec::new(),
            pace: None,
            change: Change::Never,
            faults: Vec::new(),
        }
        .header("Cache-Control", "max-age=3600")
    }

    /// An object of these very bytes.
    pub fn literal(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { literal: Some(bytes.clone()), ..Self::new(path, bytes.len() as u64) }
    }

    /// Sets a field, or replaces it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a field away.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Adds a fault.
    pub fn fault(mut self, when: When, fault: Fault) -> Self {
        self.faults.push((when, fault));
        self
    }

    /// Sends it slowly.
    pub fn paced(mut self, bytes: usize, pause: Duration) -> Self {
        self.pace = Some((bytes, pause));
        self
    }

    /// Bytes of a version.
    pub fn size_of(&self, version: u32) -> u64 {
        self.size + self.growth * u64::from(version - self.first_version.min(version))
    }

    /// Whether somebody who believes the origin may take `total` for the length of a version.
    pub fn may_claim(&self, version: u32, total: u64) -> bool {
        let size = self.size_of(version);
        let lie = |fault: &Fault| match fault {
            Fault::LongLength(more) => total == size + more,
            Fault::ShortLength(less) => total + less == size,
            _ => false,
        };
        total == size || self.faults.iter().any(|(_, fault)| lie(fault))
    }

    /// The bytes of a version from `offset` on.
    pub fn fill(&self, version: u32, offset: u64, out: &mut [u8]) {
        match &self.literal {
            Some(bytes) => out.copy_from_slice(&bytes[offset as usize..offset as usize + out.len()]),
            None => Content::new(&self.path, version).fill(offset, out),
        }
    }

    /// Whether `bytes` are those of `version` at `offset`.
    pub fn is_right(&self, version: u32, offset: u64, bytes: &[u8]) -> bool {
        match &self.literal {
            Some(truth) => truth.get(offset as usize..offset as usize + bytes.len()) == Some(bytes),
            None => Content::new(&self.path, version).first_difference(offset, bytes).is_none(),
        }
    }

    /// The whole of a version.
    pub fn bytes(&self, version: u32) -> Vec<u8> {
        let mut out = vec![0; self.size_of(version) as usize];
        self.fill(version, 0, &mut out);
        out
    }

    /// The entity tag of a version.
    pub fn etag_of(&self, version: u32) -> Option<String> {
        match self.etag {
            Etag::Strong => Some(format!("\"v{version}\"")),
            Etag::Weak => Some(format!("W/\"v{version}\"")),
            Etag::None => None,
        }
    }

    /// The Last-Modified of a version.
    pub fn last_modified_of(&self, version: u32) -> Option<String> {
        self.last_modified.then(|| http_date(EPOCH + 60 * u64::from(version)))
    }
}

impl When {
    fn applies(self, request: u64) -> bool {
        match self {
            Self::Always => true,
            Self::First(n) => request < n,
            Self::OneIn(n) => mix(request.wrapping_add(77)).is_multiple_of(n),
        }
    }
}

impl Entry {
    pub(super) fn version(&self) -> u32 {
        let by_itself = match self.object.change {
            Change::Never => 0,
            Change::EveryRequests(n) => (self.requests / n) as u32,
            Change::Every(time) => (self.since.elapsed().as_millis() / time.as_millis().max(1)) as u32,
        };
        self.object.first_version + self.bumps + by_itself
    }

    /// The faults that the request with this number meets.
    pub(super) fn faults(&self, request: u64) -> Vec<Fault> {
        self.object.faults.iter().filter(|(when, _)| when.applies(request)).map(|(_, fault)| *fault).collect()
    }
}
