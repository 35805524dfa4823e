//! The last good snapshot, on disk, so that the node starts without the control plane.

use std::io;
use std::path::{Path, PathBuf};

use shoal_link::Snapshot;

use super::durable;

const FILE: &str = "snapshot";

/// Why there is no snapshot, or none was saved.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is there and cannot be read.
    #[error("cannot read the last snapshot {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its checksum is wrong: cut short, or changed.
    #[error("the last snapshot {path} is damaged and is not used; the control plane will send it again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is whole, and not what this release writes.
    #[error("the last snapshot {path} was written by another release and is not used: {source}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is different.
        source: serde_json::Error,
    },
    /// It could not be written; the one before is still there.
    #[error("cannot save the snapshot to {path}: {source}; after a restart this node would serve the one before", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// One file in the state folder.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    folder: PathBuf,
    path: PathBuf,
}

impl SnapshotStore {
    /// In this folder, which exists.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join(FILE) }
    }

    /// The last snapshot saved; `None` when there never was one.
    ///
    /// # Errors
    /// A file that cannot be used; see [`StoreError`].
    pub fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let path = || self.path.clone();
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path: path(), source }),
        };
        match durable::decode_line(&bytes) {
            Some((payload, used)) if used == bytes.len() => {
                serde_json::from_slice(payload).map(Some).map_err(|source| StoreError::Foreign { path: path(), source })
            }
            _ => Err(StoreError::Damaged { path: path() }),
        }
    }

    /// Saves it in place of the one before, which survives an error or a kill.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let write = || {
            let mut line = Vec::new();
            durable::encode_line(&serde_json::to_vec(snapshot)?, &mut line);
            durable::replace(&self.path, &line)?;
            durable::sync_folder(&self.folder)
        };
        write().map_err(|source| StoreError::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(version: u64) -> Snapshot {
        Snapshot { version, ..Snapshot::default() }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = crate::testing::folder();
        let store = SnapshotStore::new(folder.path());
        assert_eq!(store.load().unwrap(), None);
        store.save(&snapshot(3)).unwrap();
        store.save(&snapshot(4)).unwrap();
        assert_eq!(store.load().unwrap(), Some(snapshot(4)));
    }

    #[test]
    fn no_half_file_is_ever_loaded() {
        let folder = crate::testing::folder();
        let store = SnapshotStore::new(folder.path());
        store.save(&snapshot(3)).unwrap();
        let whole = std::fs::read(&store.path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&store.path, &whole[..cut]).unwrap();
            assert!(matches!(store.load(), Err(StoreError::Damaged { .. })), "cut at {cut}");
        }
        std::fs::write(&store.path, [&whole[..], b"x"].concat()).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn another_release_is_named_as_the_reason() {
        let folder = crate::testing::folder();
        let store = SnapshotStore::new(folder.path());
        let mut line = Vec::new();
        durable::encode_line(br#"{"version":1,"channels":[],"news":1}"#, &mut line);
        std::fs::write(&store.path, line).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Foreign { .. })));
    }

    #[test]
    fn a_failed_save_keeps_the_one_before() {
        let folder = crate::testing::folder();
        let store = SnapshotStore::new(folder.path());
        store.save(&snapshot(3)).unwrap();
        // A folder in the way of the temporary file: the same as no space, also for root.
        std::fs::create_dir(folder.path().join("snapshot.tmp")).unwrap();
        assert!(matches!(store.save(&snapshot(4)), Err(StoreError::Write { .. })));
        assert_eq!(store.load().unwrap(), Some(snapshot(3)));
    }
}
