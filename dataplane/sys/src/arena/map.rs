//! The two mappings, and what any thread may do to them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crossbeam::queue::SegQueue;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::buddy::Class;
use super::{CHUNK, PAGE};

/// Whether the host lets an arena have huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// They are asked for; the kernel gives them when it has any.
    Advised,
    /// The kernel's policy is `never`, or it has no huge pages of 2 MiB, or it refuses to reserve the addresses.
    Unavailable,
}

/// A run of pages on its way back to the owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freed {
    pub(super) first: u32,
    pub(super) pages: u32,
    /// Sendfile may have the pages: punch them out before they are used again.
    pub(super) shared: bool,
}

/// The same pages twice: as a mapped memfd, and as anonymous memory for huge pages. A chunk has memory in one of them, never in
/// both. Lives until the arena and the last block are gone.
#[derive(Debug)]
pub(super) struct Mapping {
    plain: Span,
    /// Where the host allows huge pages.
    huge: Option<Span>,
    memfd: OwnedFd,
    /// The same file opened for reading: what is lent out, so that nobody writes under a reader by way of the fd.
    read_only: OwnedFd,
    pub(super) freed: SegQueue<Freed>,
    pub(super) used: AtomicUsize,
    pub(super) pinned: AtomicUsize,
    /// What the owner asks back, in bytes, and of whom: of those who take fewer bytes per second.
    pub(super) asked_back: AtomicUsize,
    pub(super) asked_below: AtomicU64,
}

/// Mapped addresses.
#[derive(Debug)]
struct Span {
    /// Aligned to [`CHUNK`].
    base: NonNull<u8>,
    len: usize,
    /// What was reserved in order to be able to align.
    reserved: NonNull<u8>,
    reserved_len: usize,
}

// SAFETY: the spans point to memory that stays mapped for the life of the value and belongs to no thread; who may touch
// which bytes of it is settled by `BlockWriter` and `BlockRef`. All other fields are Send.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods taking `&self` hand out the address or do system calls that are safe from any thread.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` is a multiple of [`PAGE`].
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        if page != PAGE {
            let message = format!("this kernel's pages are {page} bytes; the RAM tier needs a kernel with {PAGE}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let memfd = rustix::fs::memfd_create("shoal-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, len as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let read_only = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot open the RAM tier's memfd at {path}: {error}; is /proc mounted?"),
            )
        })?;

        let plain = Span::reserve(len)?;
        // SAFETY: these addresses were reserved by the line above, and nobody else knows of them.
        unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap(plain.base.as_ptr().cast(), len, ProtFlags::READ | ProtFlags::WRITE, flags, &memfd, 0)
        }?;
        // Whatever the policy for shared memory says; a kernel without huge pages refuses the advice and does not need it.
        let _ = plain.advise(0, len, Advice::LinuxNoHugepage);
        let mapping = Self {
            plain,
            huge: if anonymous_huge_pages_allowed() { Span::huge(len).ok() } else { None },
            memfd,
            read_only,
            freed: SegQueue::new(),
            used: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            asked_back: AtomicUsize::new(0),
            asked_below: AtomicU64::new(0),
        };
        // Finds out now, not at the first eviction, that something forbids it.
        mapping.try_punch(0, len)?;
        Ok(mapping)
    }

    /// Where the pages of a class are.
    pub(super) fn base(&self, class: Class) -> NonNull<u8> {
        match (&self.huge, class) {
            (Some(huge), Class::Huge) => huge.base,
            _ => self.plain.base,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.plain.len
    }

    pub(super) fn huge_pages(&self) -> HugePages {
        if self.huge.is_some() { HugePages::Advised } else { HugePages::Unavailable }
    }

    /// The file, for reading: offset 0 is the base of what is plain.
    pub(super) fn read_only(&self) -> BorrowedFd<'_> {
        self.read_only.as_fd()
    }

    /// Gives the pages of a range that nobody uses back to the kernel; whoever else has references to them keeps their
    /// content. False when the kernel would not.
    pub(super) fn punch(&self, offset: usize, len: usize) -> bool {
        self.try_punch(offset, len).is_ok()
    }

    /// A wholly free chunk becomes one of this class: its memory of the other one is given back. On an error it is still what it
    /// was.
    pub(super) fn convert(&self, offset: usize, len: usize, class: Class) -> io::Result<()> {
        match (&self.huge, class) {
            (Some(_), Class::Huge) => self.try_punch(offset, len),
            (Some(huge), Class::Plain) => huge.discard(offset, len),
            (None, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn try_punch(&self, offset: usize, len: usize) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.memfd, flags, offset as u64, len as u64) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Span {
    /// Addresses that nobody can use yet.
    fn reserve(len: usize) -> io::Result<Self> {
        let reserved_len = len + CHUNK;
        // SAFETY: a new mapping where the kernel likes; it touches no memory that is in use.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        let base = reserved.wrapping_byte_add(reserved.addr().wrapping_neg() % CHUNK);
        let (Some(base), Some(reserved)) = (NonNull::new(base.cast()), NonNull::new(reserved.cast())) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        Ok(Self { base, len, reserved, reserved_len })
    }

    /// Anonymous memory that the kernel is asked to make of huge pages, once it is touched.
    fn huge(len: usize) -> io::Result<Self> {
        let span = Self::reserve(len)?;
        // SAFETY: these addresses were reserved by the line above, and nobody else knows of them.
        unsafe {
            // Not counted as used before it is: the memfd's pages and these are never there at the same time.
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(span.base.as_ptr().cast(), len, ProtFlags::READ | ProtFlags::WRITE, flags)
        }?;
        span.advise(0, len, Advice::LinuxHugepage)?;
        Ok(span)
    }

    fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        debug_assert!(offset + len <= self.len);
        // SAFETY: the range is part of our mapping, and the advice given says only what size of pages to use: it
        // changes no content.
        unsafe { rustix::mm::madvise(self.base.as_ptr().add(offset).cast(), len, advice) }?;
        Ok(())
    }

    /// Gives the memory of a range that nobody uses back to the kernel.
    fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        debug_assert!(offset + len <= self.len);
        // SAFETY: the range is part of our mapping, and the allocator says that no extent lies in it.
        unsafe { rustix::mm::madvise(self.base.as_ptr().add(offset).cast(), len, Advice::LinuxDontNeed) }?;
        Ok(())
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours from `reserve` on, and every extent in it held an Arc of the mapping, so none is
        // left and no slice of it can be. An error means that nothing was unmapped: then the address space is lost.
        let _ = unsafe { rustix::mm::munmap(self.reserved.as_ptr().cast(), self.reserved_len) };
    }
}

/// Whether the kernel's policy gives advised anonymous memory huge pages of the size of a chunk.
fn anonymous_huge_pages_allowed() -> bool {
    let read = |name: &str| fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
    let (Ok(size), Ok(global)) = (read("hpage_pmd_size"), read("enabled")) else { return false };
    // Kernels since 6.8 have a policy per size beside the global one.
    let sized = read(&format!("hugepages-{}kB/enabled", CHUNK >> 10));
    size.trim().parse() == Ok(CHUNK) && policy_allows(&global, sized.as_deref().unwrap_or("[inherit]"))
}

fn policy_allows(global: &str, sized: &str) -> bool {
    let chosen = |text: &str, names: &[&str]| names.iter().any(|name| text.contains(&format!("[{name}]")));
    let yes = ["always", "madvise"];
    chosen(sized, &yes) || (chosen(sized, &["inherit"]) && chosen(global, &yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_per_size_comes_before_the_global_one() {
        let global = |name: &str| "always madvise never".replace(name, &format!("[{name}]"));
        let sized = |name: &str| "always inherit madvise never".replace(name, &format!("[{name}]"));
        assert!(policy_allows(&global("madvise"), &sized("inherit")));
        assert!(policy_allows(&global("never"), &sized("madvise")));
        assert!(!policy_allows(&global("never"), &sized("inherit")));
        assert!(!policy_allows(&global("always"), &sized("never")));
    }

    #[test]
    fn the_mapping_is_aligned_for_huge_pages_and_read_only_for_those_who_borrow_it() {
        let mapping = Mapping::new(3 * PAGE).unwrap();
        for class in [Class::Plain, Class::Huge] {
            assert_eq!(mapping.base(class).as_ptr().addr() % CHUNK, 0);
        }
        assert!(rustix::io::pwrite(mapping.read_only(), b"x", 0).is_err());
    }

    #[test]
    fn a_chunk_has_memory_in_one_of_the_two_mappings_only() {
        let mapping = Mapping::new(2 * CHUNK).unwrap();
        let touch = |class, value: Option<u8>| {
            // SAFETY: the second chunk is mapped in both, and nobody else knows of it.
            unsafe {
                let place = mapping.base(class).add(CHUNK).as_ptr();
                value.inspect(|&value| place.write(value));
                place.read()
            }
        };
        let file_bytes = || rustix::fs::fstat(&mapping.memfd).unwrap().st_blocks * 512;
        touch(Class::Plain, Some(7));
        assert_eq!(file_bytes(), PAGE as i64);
        if mapping.huge_pages() == HugePages::Unavailable {
            assert!(mapping.convert(CHUNK, CHUNK, Class::Huge).is_err());
            return;
        }
        mapping.convert(CHUNK, CHUNK, Class::Huge).unwrap();
        assert_eq!(file_bytes(), 0);
        touch(Class::Huge, Some(8));
        mapping.convert(CHUNK, CHUNK, Class::Plain).unwrap();
        assert_eq!((touch(Class::Huge, None), touch(Class::Plain, None)), (0, 0));
    }
}
