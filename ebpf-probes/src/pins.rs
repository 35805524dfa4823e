//! Where maps, programs and links outlive the process: a folder of a bpf file system.
//!
//! ```text
//! /sys/fs/bpf/shoal/1/maps/CONFIG …          1: the layout of the maps
//!                     programs/shoal …
//!                     programs/shoal_steer    for the sockets of a data plane without capabilities, on the same maps
//!                     links/eth0 …            as long as it is there, the program is on the interface
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};
use thiserror::Error;

use crate::maps::LAYOUT;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;

/// Folders of a layout; links first, since nothing may be attached that cannot be found.
const LINKS: &str = "links";
const PROGRAMS: &str = "programs";
const MAPS: &str = "maps";
const FOLDERS: [&str; 3] = [LINKS, PROGRAMS, MAPS];

/// A node's pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

/// Why pins cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// There is no such file system.
    #[error(
        "{} lies in no bpf file system: `mount -t bpf bpf /sys/fs/bpf` makes one, another xdp.pins names another place, and an empty one none", .0.display()
    )]
    NoFileSystem(PathBuf),
    /// Nothing of this layout.
    #[error("there are no pins of layout {LAYOUT} in {}: `shoal-xdp load` makes them", .0.display())]
    Missing(PathBuf),
    /// Somebody else's, or only a part of it.
    #[error(
        "{} is damaged or not of shoal ({why}): remove it (`shoal-xdp unload`, or rm), or give another xdp.pins", path.display()
    )]
    Foreign {
        /// What.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another user's.
    #[error("this user may not use {}: `shoal-xdp load --user USER` gives it to one", .0.display())]
    Denied(PathBuf),
    /// Another node uses them.
    #[error("another shoal-dataplane feeds what is pinned in {}: stop it, or give each node an xdp.pins of its own", .0.display())]
    Held(PathBuf),
    /// Anything else.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        error: io::Error,
    },
}

impl PinError {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Denied(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), error },
        }
    }

    pub(crate) fn foreign(path: &Path, why: impl ToString) -> Self {
        Self::Foreign { path: path.to_owned(), why: why.to_string() }
    }
}

impl Pins {
    /// In this folder, which need not be there yet, of a file system that must be.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is a file system to pin in.
    ///
    /// # Errors
    /// [`PinError::NoFileSystem`], or the folder cannot be looked at.
    pub fn check(&self) -> Result<(), PinError> {
        for above in self.root.ancestors() {
            match statfs(above) {
                Ok(found) if u64::from(found.f_type as u32) == BPF_FS => return Ok(()),
                Ok(_) => break,
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(PinError::io(above, error.into())),
            }
        }
        Err(PinError::NoFileSystem(self.root.clone()))
    }

    /// Keeps others from feeding the same maps, as long as the file returned is open.
    ///
    /// # Errors
    /// [`PinError::Held`], or the folder cannot be opened.
    pub fn hold(&self) -> Result<File, PinError> {
        let file = File::open(&self.root).map_err(|error| match error.kind() {
            ErrorKind::NotFound => PinError::Missing(self.root.clone()),
            _ => PinError::io(&self.root, error),
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Held(self.root.clone())),
            Err(error) => Err(PinError::io(&self.root, error.into())),
        }
    }

    /// Makes the folders of this layout, where they are not there.
    ///
    /// # Errors
    /// There is no file system for them, or no permission.
    pub fn prepare(&self) -> Result<(), PinError> {
        self.check()?;
        for folder in FOLDERS {
            let folder = self.layout().join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| PinError::io(&folder, error))?;
        }
        Ok(())
    }

    /// Gives everything to a user, and group where that is not to stay.
    ///
    /// # Errors
    /// Only root may give things away.
    pub fn give(&self, user: u32, group: Option<u32>) -> Result<(), PinError> {
        let give = |path: &Path| {
            let found = fs::symlink_metadata(path).map_err(|error| PinError::io(path, error))?;
            if found.uid() == user && group.is_none_or(|group| found.gid() == group) {
                return Ok(());
            }
            lchown(path, Some(user), group).map_err(|error| PinError::io(path, error))
        };
        give(&self.root)?;
        give(&self.layout())?;
        for folder in FOLDERS.map(|folder| self.layout().join(folder)) {
            give(&folder)?;
            entries(&folder)?.iter().try_for_each(|path| give(path))?;
        }
        Ok(())
    }

    /// Gives everything to whose the folder itself is.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub fn give_to_owner(&self) -> Result<(), PinError> {
        let found = fs::metadata(&self.root).map_err(|error| PinError::io(&self.root, error))?;
        self.give(found.uid(), Some(found.gid()))
    }

    /// The first folder above the pins that a user cannot enter, if there is one.
    #[must_use]
    pub fn closed_to(&self, user: u32, group: Option<u32>) -> Option<PathBuf> {
        let is_closed = |path: &&Path| {
            let Ok(found) = fs::metadata(path) else { return false };
            let bit = match (found.uid() == user, group == Some(found.gid())) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            user != 0 && found.mode() & bit == 0
        };
        self.root.ancestors().skip(1).filter(is_closed).last().map(Path::to_owned)
    }

    /// Whether there is anything of this layout.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.layout().is_dir()
    }

    /// Detaches and unpins everything, of all layouts.
    ///
    /// # Errors
    /// What is there is not ours.
    pub fn remove(&self) -> Result<(), PinError> {
        for layout in self.layouts()? {
            remove_layout(&layout)?;
        }
        // It may be another's, who made it for us.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// The same with all layouts but this one.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_others(&self) -> Result<(), PinError> {
        let own = self.layout();
        self.layouts()?.iter().filter(|layout| **layout != own).try_for_each(|layout| remove_layout(layout))
    }

    /// Takes the program off an interface; false when it was not on it.
    ///
    /// # Errors
    /// What is there is not ours.
    pub fn detach(&self, interface: &str) -> Result<bool, PinError> {
        let mut found = false;
        for link in self.layouts()?.iter().map(|layout| layout.join(LINKS).join(encode(interface))) {
            match fs::remove_file(&link) {
                Ok(()) => found = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(PinError::io(&link, error)),
            }
        }
        Ok(found)
    }

    /// Takes it off all interfaces but these; gives those that it was on.
    ///
    /// # Errors
    /// What is there is not ours.
    pub fn detach_others(&self, interfaces: &[String]) -> Result<Vec<String>, PinError> {
        let mut others = self.interfaces()?;
        others.retain(|name| !interfaces.contains(name));
        for name in &others {
            self.detach(name)?;
        }
        Ok(others)
    }

    /// Interfaces that have a link of any layout.
    pub(crate) fn interfaces(&self) -> Result<Vec<String>, PinError> {
        let mut names = Vec::new();
        for layout in self.layouts()? {
            let links = entries(&layout.join(LINKS))?;
            names.extend(links.iter().filter_map(|path| Some(decode(path.file_name()?.to_str()?))));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The link of an interface, of this layout.
    pub(crate) fn link(&self, interface: &str) -> PathBuf {
        self.layout().join(LINKS).join(encode(interface))
    }

    /// Links of an interface that are there: of this layout first.
    pub(crate) fn links(&self, interface: &str) -> Result<Vec<PathBuf>, PinError> {
        let own = self.link(interface);
        let all = self.layouts()?.into_iter().map(|layout| layout.join(LINKS).join(encode(interface)));
        let mut found: Vec<PathBuf> = all.filter(|path| path.exists()).collect();
        found.sort_by_key(|path| *path != own);
        Ok(found)
    }

    /// Where a program is pinned.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.layout().join(PROGRAMS).join(name)
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.layout().join(MAPS).join(name)
    }

    fn layout(&self) -> PathBuf {
        self.root.join(LAYOUT.to_string())
    }

    fn layouts(&self) -> Result<Vec<PathBuf>, PinError> {
        let is_layout = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
        };
        Ok(entries(&self.root)?.into_iter().filter(is_layout).collect())
    }
}

/// A file's or folder's entries; none where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| PinError::io(folder, error))).collect()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(PinError::foreign(folder, "it is no folder")),
        Err(error) => Err(PinError::io(folder, error)),
    }
}

fn remove_layout(layout: &Path) -> Result<(), PinError> {
    for folder in FOLDERS.map(|folder| layout.join(folder)) {
        for path in entries(&folder)? {
            fs::remove_file(&path).map_err(|error| PinError::io(&path, error))?;
        }
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(PinError::io(&folder, error)),
            _ => {}
        }
    }
    fs::remove_dir(layout).map_err(|error| match error.kind() {
        ErrorKind::DirectoryNotEmpty => PinError::foreign(layout, "there is more in it"),
        _ => PinError::io(layout, error),
    })
}

/// A bpf file system takes no dots, which VLANs have in their names.
fn encode(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2E")
}

fn decode(name: &str) -> String {
    name.replace("%2E", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vlans_can_be_pinned() {
        for name in ["eth0", "eth0.100", "a%2E", "%25", "."] {
            assert!(!encode(name).contains('.'));
            assert_eq!(decode(&encode(name)), name);
        }
    }

    #[test]
    fn what_is_no_bpf_file_system_is_named() {
        let pins = Pins::new("/proc/self/nowhere");
        let said = pins.check().unwrap_err().to_string();
        assert!(
            said.contains("/proc/self/nowhere lies in no bpf file system") && said.contains("mount -t bpf"),
            "{said}"
        );
    }
}
