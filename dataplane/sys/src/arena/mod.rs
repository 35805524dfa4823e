//! Memory of the RAM tier: a mapped memfd and anonymous huge pages per shard, handed out in extents of whole pages.
//!
//! One thread owns an [`Arena`] and allocates from it. A [`BlockWriter`] appends to an extent while any number of
//! [`BlockRef`]s, on any thread, read what is already there. The last of them to go returns the extent over a queue
//! which the owner drains; nobody takes a lock.
//!
//! # Huge pages and sendfile exclude each other
//!
//! `sendfile` queues the pages themselves, so an extent that went to it must give its pages up before the memory is
//! used again: they are punched out of the memfd and live on in the socket alone. The kernel does that only to whole
//! folios. Of a huge page it *zeroes* the part that is punched when it cannot split it, and it cannot while a socket
//! holds it (`truncate_inode_partial_folio`), so a slow reader would be sent zeros. Therefore each 2 MiB chunk of the
//! arena is either huge, for extents small enough that a copying send is the better one anyhow and for what devices write
//! to, or plain, for those that sendfile may have; a chunk changes sides only while it is wholly free.
//!
//! What is huge is anonymous memory and not of the memfd: the policy that most systems come with gives huge pages to
//! anonymous memory that asks for them, and none to shared memory.

mod block;
mod buddy;
mod map;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use self::buddy::{Buddy, Class};
use self::map::{Freed, Mapping};

pub use self::block::{BlockRef, BlockWriter, MAX_USES, Progress};
pub use self::map::HugePages;

/// Bytes of the unit of allocation.
pub const PAGE: usize = 4096;

/// Pages of a chunk: the span that is either huge or plain, and the longest extent there can be.
const CHUNK_ORDER: u8 = 9;

/// Bytes of a chunk, and of a huge page.
pub const CHUNK: usize = PAGE << CHUNK_ORDER;

/// A shard's block memory. Belongs to one thread at a time; its blocks go anywhere.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    buddy: RefCell<Buddy>,
    /// Extents whose pages could not be punched out yet.
    unpunched: RefCell<Vec<Freed>>,
    huge_max: usize,
}

/// An arena's figures, for any thread.
#[derive(Debug, Clone)]
pub struct ArenaGauge(Arc<Mapping>);

impl Arena {
    /// Maps `bytes`, rounded down to whole pages. Extents of at most `huge_max` bytes get huge pages where the host allows
    /// them, and so cannot go to sendfile. 0 keeps all memory plain; [`CHUNK`] makes all of it huge.
    ///
    /// # Errors
    /// Whatever the kernel says to the mapping, or why this host cannot hold an arena.
    pub fn with_huge_max(bytes: usize, huge_max: usize) -> io::Result<Self> {
        let pages = u32::try_from(bytes / PAGE).ok().filter(|&pages| pages > 0 && pages <= buddy::MAX_PAGES);
        let Some(pages) = pages else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "an arena of {bytes} bytes cannot be: between {PAGE} and {} are possible",
                    buddy::MAX_PAGES as usize * PAGE
                ),
            ));
        };
        let mapping = Arc::new(Mapping::new(pages as usize * PAGE)?);
        let huge_max = if mapping.huge_pages() == HugePages::Advised { huge_max } else { 0 };
        Ok(Self {
            mapping,
            buddy: RefCell::new(Buddy::new(pages, CHUNK_ORDER)),
            unpunched: RefCell::new(Vec::new()),
            huge_max,
        })
    }

    /// A contiguous extent with room for `len` bytes. `None` when there is none: give some blocks up and try again. An
    /// extent longer than [`CHUNK`] there never is.
    pub fn alloc(&self, len: usize) -> Option<BlockWriter> {
        self.alloc_in(len, if len <= self.huge_max { Class::Huge } else { Class::Plain }, false)
    }

    /// The same from huge pages only, whatever the length, where the host has them: for what a device writes to memory. Plain
    /// memory that sendfile had is new memory each time, and a device asks for it page by page.
    pub fn alloc_huge(&self, len: usize) -> Option<BlockWriter> {
        self.alloc_in(len, if self.huge_max > 0 { Class::Huge } else { Class::Plain }, self.huge_max > 0)
    }

    fn alloc_in(&self, len: usize, class: Class, exactly: bool) -> Option<BlockWriter> {
        self.reclaim();
        let pages = u32::try_from(len.div_ceil(PAGE).max(1)).ok()?;
        let two_classes = self.huge_max > 0;
        let (first, class) = self.buddy.borrow_mut().alloc(pages, class, exactly, |chunk, class| {
            two_classes && self.mapping.convert(chunk * CHUNK, CHUNK, class).is_ok()
        })?;
        Some(BlockWriter::new(Arc::clone(&self.mapping), first, pages, class))
    }

    /// Takes back what was freed since the last call, on whatever thread. [`Arena::alloc`] does it by itself; an idle
    /// shard calls it so that pages which sendfile had are released soon.
    pub fn reclaim(&self) {
        let mut unpunched = self.unpunched.borrow_mut();
        if self.mapping.freed.is_empty() && unpunched.is_empty() {
            return;
        }
        let mut buddy = self.buddy.borrow_mut();
        let mut take = |freed: Freed| {
            let clean = !freed.shared || self.mapping.punch(freed.first as usize * PAGE, freed.pages as usize * PAGE);
            if clean {
                buddy.free(freed.first, freed.pages);
            }
            clean
        };
        unpunched.retain(|&freed| !take(freed));
        while let Some(freed) = self.mapping.freed.pop() {
            if !take(freed) {
                unpunched.push(freed);
            }
        }
    }

    /// Bytes of the whole arena.
    pub fn capacity(&self) -> usize {
        self.mapping.len()
    }

    /// Bytes of all live extents, in whole pages.
    pub fn in_use(&self) -> usize {
        self.mapping.used.load(Relaxed)
    }

    /// Bytes of live extents that are retired: nobody looks them up any more, somebody still sends them.
    pub fn pinned(&self) -> usize {
        self.mapping.pinned.load(Relaxed)
    }

    /// Asks holders of blocks, on whatever thread, to give so many bytes back: those who take fewer than `below` bytes per
    /// second from theirs. Holds until the next call; see [`BlockRef::asked_below`].
    pub fn ask_back(&self, bytes: usize, below: u64) {
        self.mapping.asked_below.store(below, Relaxed);
        self.mapping.asked_back.store(bytes, Relaxed);
    }

    /// Whether the host lets the arena have huge pages.
    pub fn huge_pages(&self) -> HugePages {
        self.mapping.huge_pages()
    }

    /// The figures, for a thread that does not own the arena.
    pub fn gauge(&self) -> ArenaGauge {
        ArenaGauge(Arc::clone(&self.mapping))
    }
}

impl ArenaGauge {
    /// As [`Arena::capacity`].
    pub fn capacity(&self) -> usize {
        self.0.len()
    }

    /// As [`Arena::in_use`].
    pub fn in_use(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// As [`Arena::pinned`].
    pub fn pinned(&self) -> usize {
        self.0.pinned.load(Relaxed)
    }
}
