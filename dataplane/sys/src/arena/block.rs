//! One extent: a unique writer that appends, and readers of what it has appended.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize};

use super::PAGE;
use super::buddy::Class;
use super::map::{Freed, Mapping};

/// The use counter stops here: S3-FIFO tells no more apart.
pub const MAX_USES: u8 = 3;

const FILLING: u8 = 0;
const COMPLETE: u8 = 1;
const FAILED: u8 = 2;

/// What has become of a block's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes may come.
    Filling,
    /// All bytes are there.
    Complete,
    /// No more bytes will come, and some are missing.
    Failed,
}

/// The one appender of a block. Dropped without [`BlockWriter::finish`], the block has failed.
#[derive(Debug)]
pub struct BlockWriter {
    extent: Arc<Extent>,
    /// The writer's own copy of `extent.filled`; nobody else changes that.
    filled: usize,
    capacity: usize,
}

/// A block that one may read as far as it is filled. Cheap to clone; the last one to go frees the memory.
#[derive(Debug, Clone)]
pub struct BlockRef {
    extent: Arc<Extent>,
}

/// Pages `first..first + pages` of the mapping, until the last reference is gone.
///
/// Who may touch which byte: those below `filled` are never written again, so anyone may read them; those from `filled`
/// up to the capacity belong to the one `BlockWriter`. `filled` only grows, and only the writer stores it, with Release
/// after the bytes are in place; a reader that loads it with Acquire therefore sees them.
#[derive(Debug)]
struct Extent {
    mapping: Arc<Mapping>,
    base: NonNull<u8>,
    first: u32,
    /// Shrinks once, when the writer gives back what it did not need.
    pages: AtomicU32,
    /// Whether its memory is such that sendfile may have it.
    sendable: bool,
    filled: AtomicUsize,
    progress: AtomicU8,
    /// Sendfile may have the pages.
    shared: AtomicBool,
    retired: AtomicBool,
    /// What `mapping.pinned` was raised by.
    pinned: AtomicUsize,
    uses: AtomicU8,
}

// SAFETY: `base` points into `mapping`, which is Send and Sync and which the extent keeps mapped; access to the bytes
// follows the protocol described at the type. The rest are atomics.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

impl BlockWriter {
    /// Takes over pages which the buddy allocator has just given to nobody else.
    pub(super) fn new(mapping: Arc<Mapping>, first: u32, pages: u32, class: Class) -> Self {
        let capacity = pages as usize * PAGE;
        debug_assert!(first as usize * PAGE + capacity <= mapping.len());
        mapping.used.fetch_add(capacity, Relaxed);
        // SAFETY: the buddy allocator covers exactly the pages of a mapping, so the first page lies in it.
        let base = unsafe { mapping.base(class).add(first as usize * PAGE) };
        let extent = Extent {
            mapping,
            base,
            first,
            pages: AtomicU32::new(pages),
            sendable: class == Class::Plain,
            filled: AtomicUsize::new(0),
            progress: AtomicU8::new(FILLING),
            shared: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            pinned: AtomicUsize::new(0),
            uses: AtomicU8::new(0),
        };
        Self { extent: Arc::new(extent), filled: 0, capacity }
    }

    /// Copies as much of `bytes` as there is room for behind what is there; returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let (spare, room) = self.spare();
        let n = bytes.len().min(room);
        // SAFETY: the spare part is ours alone to write and has room for `n`; `bytes` cannot lie in it, for no slice of
        // an arena reaches beyond `filled`. After the copy `n` more bytes are in place.
        unsafe {
            spare.copy_from_nonoverlapping(bytes.as_ptr(), n);
            self.advance(n);
        }
        n
    }

    /// Bytes appended so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that can be appended in all; at least what was asked for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A reader of what is there and what will come.
    pub fn share(&self) -> BlockRef {
        BlockRef { extent: Arc::clone(&self.extent) }
    }

    /// All bytes are there: gives back the pages not needed and marks the block complete.
    pub fn finish(self) -> BlockRef {
        let keep = self.filled.div_ceil(PAGE) as u32;
        let pages = self.extent.pages.load(Relaxed);
        if keep < pages {
            self.extent.pages.store(keep, Relaxed);
            // Nobody but the writer ever saw these pages.
            self.extent.give_back(self.extent.first + keep, pages - keep, false);
        }
        self.extent.progress.store(COMPLETE, Release);
        self.share()
    }

    /// The rest will not come.
    pub fn fail(self) {
        drop(self);
    }

    /// Where the kernel may put the next bytes, and how many. The memory stays ours for as long as the writer lives, so
    /// a pending operation must hold the writer, not just the pointer.
    pub(crate) fn spare(&mut self) -> (*mut u8, usize) {
        // SAFETY: `filled` is at most the extent's length, so the result is in it or one past its end.
        let spare = unsafe { self.extent.base.add(self.filled) };
        (spare.as_ptr(), self.capacity - self.filled)
    }

    /// The first `n` bytes at [`BlockWriter::spare`], for the writer alone.
    ///
    /// [`BlockWriter::advance`] asks the same of its caller: that they have been written.
    pub(crate) fn landed(&self, n: usize) -> &[u8] {
        debug_assert!(n <= self.capacity - self.filled);
        // SAFETY: `filled + n` is within the extent. Memory of a mapping is zero or what was written before, so always
        // initialised. Only this writer may change it, by a method that needs it by value or mutably.
        unsafe { slice::from_raw_parts(self.extent.base.as_ptr().add(self.filled), n) }
    }

    /// Makes `n` more bytes readable.
    ///
    /// # Safety
    /// The first `n` bytes at [`BlockWriter::spare`] have been written, `n` is at most its length, and nobody (the
    /// kernel included) will write them again.
    pub(crate) unsafe fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.capacity - self.filled);
        self.filled += n;
        self.extent.filled.store(self.filled, Release);
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if self.extent.progress.load(Relaxed) == FILLING {
            self.extent.progress.store(FAILED, Release);
        }
    }
}

impl BlockRef {
    /// Bytes that can be read. Once [`BlockRef::progress`] was seen to be other than `Filling` it changes no more, so
    /// ask for the progress first.
    pub fn filled(&self) -> usize {
        self.extent.filled.load(Acquire)
    }

    /// The bytes that can be read now.
    pub fn bytes(&self) -> &[u8] {
        let filled = self.filled();
        // SAFETY: the extent stays mapped and allocated while `self` lives. Its bytes below `filled` were written
        // before the Release store that the Acquire load above has read, are never written again before the extent is
        // freed, and the fd that could change them is only lent for reading.
        unsafe { slice::from_raw_parts(self.extent.base.as_ptr(), filled) }
    }

    /// What has become of the writer.
    pub fn progress(&self) -> Progress {
        match self.extent.progress.load(Acquire) {
            FILLING => Progress::Filling,
            COMPLETE => Progress::Complete,
            _ => Progress::Failed,
        }
    }

    /// The file, open for reading, and the offset in it of the block's first byte. `None` when the memory is such that
    /// sendfile must not have it: send [`BlockRef::bytes`]. Marks the block as by [`BlockRef::mark_shared_pages`].
    pub fn slice_for_sendfile(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.extent.sendable.then(|| {
            self.mark_shared_pages();
            (self.extent.mapping.read_only(), self.extent.first as u64 * PAGE as u64)
        })
    }

    /// Whether [`BlockRef::slice_for_sendfile`] gives it out; asking marks nothing.
    pub fn is_sendable(&self) -> bool {
        self.extent.sendable
    }

    /// A socket may keep the pages themselves beyond the life of the block: they are not to be written again, but to be
    /// punched out when the block is freed.
    pub fn mark_shared_pages(&self) {
        if !self.extent.shared.load(Relaxed) {
            self.extent.shared.store(true, Relaxed);
        }
    }

    /// Tells every holder that the block is not to be found any more: its object was purged, replaced or evicted.
    pub fn retire(&self) {
        if !self.extent.retired.swap(true, AcqRel) {
            let bytes = self.extent.bytes();
            self.extent.pinned.store(bytes, Relaxed);
            self.extent.mapping.pinned.fetch_add(bytes, Relaxed);
        }
    }

    /// Whether someone has retired it.
    pub fn is_retired(&self) -> bool {
        self.extent.retired.load(Acquire)
    }

    /// Counts one use, up to [`MAX_USES`]. Two at the same time may count as one.
    pub fn touch(&self) {
        let uses = self.extent.uses.load(Relaxed);
        if uses < MAX_USES {
            self.extent.uses.store(uses + 1, Relaxed);
        }
    }

    /// The uses since they were taken.
    pub fn uses(&self) -> u8 {
        self.extent.uses.load(Relaxed)
    }

    /// The uses since the last call.
    pub fn take_uses(&self) -> u8 {
        self.extent.uses.swap(0, Relaxed)
    }

    /// Bytes per second below which holders are asked to give their blocks back; none while the owner has memory enough.
    pub fn asked_below(&self) -> Option<u64> {
        let mapping = &self.extent.mapping;
        (mapping.asked_back.load(Relaxed) > 0).then(|| mapping.asked_below.load(Relaxed))
    }

    /// Settles its bytes of what the owner asks back; false when others have settled all of it. The caller is to let go then.
    pub fn settle_asked(&self) -> bool {
        let left = |asked: usize| asked.checked_sub(self.extent.bytes().clamp(1, asked.max(1)));
        self.extent.mapping.asked_back.fetch_update(Relaxed, Relaxed, left).is_ok()
    }

    /// Bytes of memory it takes, in whole pages.
    pub fn footprint(&self) -> usize {
        self.extent.bytes()
    }
}

impl Extent {
    fn bytes(&self) -> usize {
        self.pages.load(Relaxed) as usize * PAGE
    }

    fn give_back(&self, first: u32, pages: u32, shared: bool) {
        self.mapping.used.fetch_sub(pages as usize * PAGE, Relaxed);
        self.mapping.freed.push(Freed { first, pages, shared });
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        // The Arc's count has ordered all that other holders did before this.
        self.mapping.pinned.fetch_sub(*self.pinned.get_mut(), Relaxed);
        let (pages, shared) = (*self.pages.get_mut(), *self.shared.get_mut());
        if pages > 0 {
            self.give_back(self.first, pages, shared);
        }
    }
}
