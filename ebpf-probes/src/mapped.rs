//! What channels have relayed, counted by the program in memory that this process has mapped: reading it takes no system call.
#![expect(unsafe_code, reason = "memory that the kernel shares")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::maps::RelayUsage;

/// An array of [`RelayUsage`].
pub(crate) struct Mapped {
    first: NonNull<[AtomicU64; 4]>,
    count: usize,
}

// SAFETY: all there is are atomic words, in memory that is unmapped only when nobody has this any more.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

const _: () = assert!(size_of::<RelayUsage>() == size_of::<[AtomicU64; 4]>());

impl Mapped {
    /// Maps an array of `count` places that was made to be mapped.
    pub(crate) fn new(map: impl AsFd, count: usize) -> io::Result<Self> {
        let length = count * size_of::<RelayUsage>();
        // SAFETY: a new mapping, at no address that anybody has.
        let first =
            unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0) }?;
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { first, count })
    }

    fn place(&self, place: usize) -> Option<&[AtomicU64; 4]> {
        // SAFETY: within the mapping, which is aligned to a page and lives as long as `self`; every bit pattern is a number, and whoever
        // writes there writes whole aligned words.
        (place < self.count).then(|| unsafe { self.first.add(place).as_ref() })
    }

    /// What a place has; nothing, if there is no such place.
    pub(crate) fn get(&self, place: usize) -> RelayUsage {
        let Some([a, b, c, d]) = self.place(place) else { return RelayUsage::default() };
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        // Datagrams are counted before their bytes: read the other way round, no bytes are without a datagram.
        let bytes = [word(c), word(d)];
        RelayUsage { datagrams: [word(a), word(b)], bytes }
    }

    /// Writes a place.
    pub(crate) fn set(&self, place: usize, usage: &RelayUsage) {
        let Some(words) = self.place(place) else { return };
        let [a, b] = usage.datagrams;
        let [c, d] = usage.bytes;
        for (word, value) in words.iter().zip([a, b, c, d]) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let length = self.count * size_of::<RelayUsage>();
        // SAFETY: the mapping that `new` made, to which nothing refers any more. It cannot fail for one.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), length) };
    }
}
