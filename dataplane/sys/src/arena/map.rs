//! The memfd, its mapping, and what any thread may do to them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicUsize;

use crossbeam::queue::SegQueue;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::{CHUNK, PAGE};

/// Whether the host lets an arena have huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// They are asked for; the kernel gives them when it has any.
    Advised,
    /// The kernel's policy for shared memory is `never` or `deny`, or it has no huge pages of 2 MiB.
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

/// The mapped memfd. Lives until the arena and the last block are gone.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// The address space reserved around the file's pages, to align them for huge ones.
    reserved: NonNull<u8>,
    reserved_len: usize,
    memfd: OwnedFd,
    /// The same file opened for reading: what is lent out, so that nobody writes under a reader by way of the fd.
    read_only: OwnedFd,
    huge_pages: HugePages,
    pub(super) freed: SegQueue<Freed>,
    pub(super) used: AtomicUsize,
    pub(super) pinned: AtomicUsize,
}

// SAFETY: `base` and `reserved` point to memory that stays mapped for the life of the value and belongs to no thread;
// who may touch which bytes of it is settled by `BlockWriter` and `BlockRef`. All other fields are Send.
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

        let reserved_len = len + CHUNK;
        // SAFETY: a new mapping where the kernel likes; it touches no memory that is in use.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        let pad = reserved.addr().wrapping_neg() % CHUNK;
        let base = reserved.wrapping_byte_add(pad);
        // SAFETY: `base..base + len` lies within the reservation made above (`pad` is below CHUNK), which nobody else
        // knows of, so replacing that part of it takes no memory away from anyone.
        let mapped = unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap(base, len, ProtFlags::READ | ProtFlags::WRITE, flags, &memfd, 0)
        };
        let (Ok(_), Some(base), Some(reserved_at)) = (mapped, NonNull::new(base.cast()), NonNull::new(reserved.cast()))
        else {
            // SAFETY: the reservation made above, which nobody else knows of.
            unsafe { rustix::mm::munmap(reserved, reserved_len) }?;
            return Err(mapped.err().map_or(io::ErrorKind::AddrNotAvailable.into(), io::Error::from));
        };
        let mut mapping = Self {
            base,
            len,
            reserved: reserved_at,
            reserved_len,
            memfd,
            read_only,
            huge_pages: HugePages::Unavailable,
            freed: SegQueue::new(),
            used: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
        };
        // All of it starts plain. A kernel without huge pages refuses the advice, and does not need it.
        if mapping.advise(0, len, Advice::LinuxNoHugepage).is_ok() && shmem_allows_huge_pages() {
            mapping.huge_pages = HugePages::Advised;
        }
        // Finds out now, not at the first eviction, that something forbids it.
        mapping.try_punch(0, len)?;
        Ok(mapping)
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// The file, for reading: offset 0 is `base`.
    pub(super) fn read_only(&self) -> BorrowedFd<'_> {
        self.read_only.as_fd()
    }

    /// Gives the pages of a range that nobody uses back to the kernel; whoever else has references to them keeps their
    /// content. False when the kernel would not.
    pub(super) fn punch(&self, offset: usize, len: usize) -> bool {
        self.try_punch(offset, len).is_ok()
    }

    /// Makes a wholly free chunk huge or plain. On an error it is still what it was.
    pub(super) fn convert(&self, offset: usize, len: usize, huge: bool) -> io::Result<()> {
        if huge {
            self.try_punch(offset, len)?;
            return self.advise(offset, len, Advice::LinuxHugepage);
        }
        // The advice first: between the two nothing may put a huge page back.
        self.advise(offset, len, Advice::LinuxNoHugepage)?;
        self.try_punch(offset, len)
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

    fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        debug_assert!(offset + len <= self.len);
        // SAFETY: the range is part of our mapping, and the advice given says only what size of pages to use: it
        // changes no content.
        unsafe { rustix::mm::madvise(self.base.as_ptr().add(offset).cast(), len, advice) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours from `new` on, and every extent in it held an Arc of this mapping, so none is
        // left and no slice of it can be. An error means that nothing was unmapped: then the address space is lost.
        let _ = unsafe { rustix::mm::munmap(self.reserved.as_ptr().cast(), self.reserved_len) };
    }
}

/// Whether the kernel's policy gives advised shared memory huge pages of the size of a chunk.
fn shmem_allows_huge_pages() -> bool {
    let read = |name: &str| fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
    let (Ok(size), Ok(global)) = (read("hpage_pmd_size"), read("shmem_enabled")) else { return false };
    // Kernels since 6.11 have a policy per size beside the global one.
    let sized = read(&format!("hugepages-{}kB/shmem_enabled", CHUNK >> 10));
    size.trim().parse() == Ok(CHUNK) && policy_allows(&global, sized.as_deref().unwrap_or("[inherit]"))
}

fn policy_allows(global: &str, sized: &str) -> bool {
    let chosen = |text: &str, names: &[&str]| names.iter().any(|name| text.contains(&format!("[{name}]")));
    let yes = ["always", "within_size", "advise", "force"];
    !chosen(global, &["deny"]) && (chosen(sized, &yes) || (chosen(sized, &["inherit"]) && chosen(global, &yes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_per_size_comes_before_the_global_one() {
        let global = |name: &str| "always within_size advise never deny force".replace(name, &format!("[{name}]"));
        let sized = |name: &str| "always inherit within_size advise never".replace(name, &format!("[{name}]"));
        assert!(policy_allows(&global("advise"), &sized("inherit")));
        assert!(policy_allows(&global("never"), &sized("advise")));
        assert!(!policy_allows(&global("never"), &sized("inherit")));
        assert!(!policy_allows(&global("always"), &sized("never")));
        assert!(!policy_allows(&global("deny"), &sized("always")));
    }

    #[test]
    fn the_mapping_is_aligned_for_huge_pages_and_gone_with_its_value() {
        let mapping = Mapping::new(3 * PAGE).unwrap();
        assert_eq!(mapping.base().as_ptr().addr() % CHUNK, 0);
        assert!(rustix::io::pwrite(mapping.read_only(), b"x", 0).is_err());
    }
}
