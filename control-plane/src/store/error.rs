//! Why the database could not do it, and what the operator can do.

use std::io;
use std::path::Path;

use rusqlite::{Error, ErrorCode};

/// A failure of the database itself, never of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the database {path}: {message}; {}", .kind.remedy())]
pub struct StoreError {
    /// What sort of failure, and so what to do.
    pub kind: StoreErrorKind,
    /// File or folder.
    pub path: String,
    /// The engine's own words.
    pub message: String,
}

/// Sorts of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No room.
    Full,
    /// Not allowed to write or to open.
    Permission,
    /// Another process holds it.
    Busy,
    /// Not a database, or a broken one.
    Corrupt,
    /// Written by a later release.
    Newer,
    /// Input or output failed, or anything else.
    Io,
}

impl StoreErrorKind {
    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Full => "free some space on its file system",
            Self::Permission => {
                "give this user the right to read and write the file and its folder, or set another state_dir"
            }
            Self::Busy => "another process holds it: stop that one, or try again",
            Self::Corrupt => "restore the file from a backup, or move it away to begin with an empty one",
            Self::Newer => "run the release that wrote it, or a later one",
            Self::Io => "check the disk and the system log",
        }
    }

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Permission => "permission",
            Self::Busy => "busy",
            Self::Corrupt => "corrupt",
            Self::Newer => "newer",
            Self::Io => "io",
        }
    }
}

impl StoreError {
    pub(super) fn sqlite(path: &Path, source: &Error) -> Self {
        let kind = match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                StoreErrorKind::Permission
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Io,
        };
        Self { kind, path: path.display().to_string(), message: source.to_string() }
    }

    pub(super) fn io(path: &Path, source: &io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists => StoreErrorKind::Permission,
            _ => StoreErrorKind::Io,
        };
        Self { kind, path: path.display().to_string(), message: source.to_string() }
    }

    pub(super) fn corrupt(path: &Path, message: String) -> Self {
        Self { kind: StoreErrorKind::Corrupt, path: path.display().to_string(), message }
    }
}
