//! Why the database could not do it, and what the operator can do.

use std::io;

/// A failure of the database itself, never of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the database {path}: {message}; {}", .kind.remedy())]
pub struct StoreError {
    /// What sort of failure, and so what to do.
    pub kind: StoreErrorKind,
    /// File or folder, or a server's URL without the password.
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
    /// The server does not answer, or went away.
    Unreachable,
    /// The server does not let us in, or not do this.
    Login,
    /// What is configured cannot be.
    Settings,
    /// The server would not do it.
    Server,
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
            Self::Unreachable => "see that the server runs and can be reached, or correct store.url",
            Self::Login => {
                "check user, password and database of store.url, what they are granted, and the server's pg_hba.conf"
            }
            Self::Settings => "correct the section [store]",
            Self::Server => {
                "see the server's log; if its schema was not changed by hand, this is a defect of this release"
            }
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
            Self::Unreachable => "unreachable",
            Self::Login => "login",
            Self::Settings => "settings",
            Self::Server => "server",
        }
    }

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Full,
        Self::Permission,
        Self::Busy,
        Self::Corrupt,
        Self::Newer,
        Self::Io,
        Self::Unreachable,
        Self::Login,
        Self::Settings,
        Self::Server,
    ];
}

impl StoreError {
    pub(super) fn io(name: &str, source: &io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists => StoreErrorKind::Permission,
            _ => StoreErrorKind::Io,
        };
        Self { kind, path: name.to_owned(), message: source.to_string() }
    }

    pub(super) fn corrupt(name: &str, message: String) -> Self {
        Self { kind: StoreErrorKind::Corrupt, path: name.to_owned(), message }
    }
}
