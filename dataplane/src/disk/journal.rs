//! The journal of a volume: on the disk of the node's state, so that a device that takes no more writes cannot bring back
//! what was purged.
//!
//! One task carries out the changes in their order. When it cannot, it removes the journal: a volume without one is not
//! believed at the next start.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use shoal_disk::Tombstones;

use super::off_shard;
use crate::slices::notify::Notify;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;

/// Bytes appended before the journal is written anew, without what need not be remembered any more.
const APPENDED_MAX: usize = 256 << 10;

/// A journal larger than this is not one of ours.
const JOURNAL_MAX: u64 = 64 << 20;

/// One volume's journal.
pub(super) struct Journal {
    path: PathBuf,
    changes: RefCell<Vec<Change>>,
    asked: Cell<u64>,
    done: Cell<u64>,
    appended: Cell<usize>,
    lost: Cell<bool>,
    wake: Notify,
    saved: Notify,
    stats: Arc<ShardStats>,
}

/// What is to be done to the file.
#[derive(Debug)]
pub(super) enum Change {
    /// Add a record.
    Append(Vec<u8>),
    /// Write it anew.
    Replace(Vec<u8>),
    /// The volume is not to be believed any more.
    Remove,
}

impl Journal {
    /// The journal at `path`, and the task that keeps it.
    pub(super) fn new(path: PathBuf, stats: &Arc<ShardStats>) -> Rc<Journal> {
        let journal = Rc::new(Journal {
            path,
            changes: RefCell::default(),
            asked: Cell::new(0),
            done: Cell::new(0),
            appended: Cell::new(0),
            lost: Cell::new(false),
            wake: Notify::default(),
            saved: Notify::default(),
            stats: Arc::clone(stats),
        });
        glommio::spawn_local(Rc::clone(&journal).keep()).detach();
        journal
    }

    /// What it says; `None` when it is missing or says nothing that can be believed.
    pub(super) async fn read(&self) -> Option<(u64, Tombstones)> {
        let path = self.path.clone();
        let read = off_shard(move || match std::fs::metadata(&path)?.len() {
            0..JOURNAL_MAX => std::fs::read(&path),
            _ => Err(io::ErrorKind::InvalidData.into()),
        });
        Tombstones::read(&read.await.ok()?)
    }

    /// Has the change carried out. Returns what to give to [`Journal::saved`].
    pub(super) fn change(&self, change: Change) -> u64 {
        self.appended.set(match &change {
            Change::Append(record) => self.appended.get() + record.len(),
            Change::Replace(_) | Change::Remove => 0,
        });
        self.changes.borrow_mut().push(change);
        self.asked.set(self.asked.get() + 1);
        self.wake.notify();
        self.asked()
    }

    /// The last change.
    pub(super) fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// Waits until the change is on disk.
    pub(super) async fn saved(&self, change: u64) {
        loop {
            let mark = self.saved.mark();
            if self.done.get() >= change {
                return;
            }
            self.saved.changed(mark).await;
        }
    }

    /// Whether it should be written anew: it has grown, or was lost.
    pub(super) fn wants_rewrite(&self) -> bool {
        self.lost.get() || self.appended.get() > APPENDED_MAX
    }

    async fn keep(self: Rc<Self>) {
        loop {
            let mark = self.wake.mark();
            let changes = std::mem::take(&mut *self.changes.borrow_mut());
            if changes.is_empty() {
                self.wake.changed(mark).await;
                continue;
            }
            let count = changes.len() as u64;
            let path = self.path.clone();
            match off_shard(move || carry_out(&path, changes)).await {
                Ok(()) => self.lost.set(false),
                Err(error) => {
                    self.stats.add(Counter::DiskJournalErrors, 1);
                    let path = self.path.clone();
                    let removed = off_shard(move || remove(&path)).await;
                    if !self.lost.replace(true) {
                        tracing::error!(
                            journal = %self.path.display(), %error, removed = removed.is_ok(),
                            "cannot remember what was purged; the disk tier will start empty, and if the journal cannot even \
                             be removed, purged objects may come back then: make room in node.state_dir, or remove it by hand",
                        );
                    }
                }
            }
            self.done.set(self.done.get() + count);
            self.saved.notify();
        }
    }
}

fn carry_out(path: &Path, changes: Vec<Change>) -> io::Result<()> {
    // What came before the last of these has no effect.
    let from = changes.iter().rposition(|change| !matches!(change, Change::Append(_))).unwrap_or(0);
    let mut appended = Vec::new();
    for change in changes.into_iter().skip(from) {
        match change {
            Change::Append(record) => appended.extend(record),
            Change::Replace(all) => replace(path, &all)?,
            Change::Remove => return remove(path),
        }
    }
    if appended.is_empty() {
        return Ok(());
    }
    // Not made when it is missing: it would not say whose it is.
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(&appended)?;
    file.sync_data()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
