//! Receive buffers that the kernel picks from: a ring of its own, shared by all sockets of a kind (streams, datagrams).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::Inner;

/// Group id of the pool of all streams.
pub(super) const STREAMS: u16 = 0;
/// Group id of the pool of all datagram sockets.
pub(super) const DATAGRAMS: u16 = 1;

const PAGE: usize = 4096;

/// A registered buffer ring and the memory behind it.
pub(super) struct BufferPool {
    entries: *mut BufRingEntry,
    entries_layout: Layout,
    memory: *mut u8,
    memory_layout: Layout,
    count: u16,
    size: u32,
    tail: Cell<u16>,
    /// How many the kernel does not have.
    taken: Cell<u16>,
    leaked: Cell<bool>,
}

impl BufferPool {
    pub(super) fn register(uring: &IoUring, group: u16, count: u16, size: u32) -> io::Result<BufferPool> {
        assert!(
            count.is_power_of_two() && count <= 1 << 15,
            "a buffer ring has a power of two of at most 32768 buffers"
        );
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let entries_layout =
            Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE).map_err(invalid)?;
        let memory_layout = Layout::from_size_align(usize::from(count) * size as usize, PAGE).map_err(invalid)?;
        // SAFETY: neither layout is of size zero.
        let (entries, memory) = unsafe { (alloc_zeroed(entries_layout), alloc_zeroed(memory_layout)) };
        if entries.is_null() || memory.is_null() {
            handle_alloc_error(memory_layout);
        }
        let pool = BufferPool {
            entries: entries.cast(),
            entries_layout,
            memory,
            memory_layout,
            count,
            size,
            tail: Cell::new(0),
            taken: Cell::new(count),
            leaked: Cell::new(false),
        };
        // SAFETY: the entries are page aligned, zeroed, of `count` elements, and outlive the ring: `Inner` drops its ring
        // first (field order), or leaks this memory.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries as u64, count, group, 0)? };
        for id in 0..count {
            pool.give(id);
        }
        Ok(pool)
    }

    /// Hands buffer `id` (back) to the kernel.
    pub(super) fn give(&self, id: u16) {
        debug_assert!(id < self.count);
        self.taken.set(self.taken.get() - 1);
        let tail = self.tail.get();
        // SAFETY: the index is masked into the ring, and the address lies in our memory. The entry at `tail` is ours until
        // the store below publishes it.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(tail & (self.count - 1)));
            entry.set_addr(self.memory.add(usize::from(id) * self.size as usize) as u64);
            entry.set_len(self.size);
            entry.set_bid(id);
        }
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the tail lies in the first entry's reserved field, 2-byte aligned, and only the kernel reads it.
        unsafe {
            let shared = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*shared).store(self.tail.get(), Ordering::Release);
        }
    }

    /// Counts buffer `id` as ours, which a completion has just named.
    pub(super) fn take(&self, id: u16) {
        debug_assert!(id < self.count);
        self.taken.set(self.taken.get() + 1);
    }

    /// The first `len` bytes of buffer `id`, which the kernel has just filled.
    pub(super) fn bytes(&self, id: u16, len: u32) -> &[u8] {
        debug_assert!(id < self.count && len <= self.size);
        // SAFETY: the kernel gave us the buffer with its completion and does not touch it before `give`, which needs the
        // `Chunk` or `Arrived` (or the completion handler) to be done with it. The memory was zeroed, so it is initialised.
        unsafe { std::slice::from_raw_parts(self.memory.add(usize::from(id) * self.size as usize), len as usize) }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// How many the kernel does not have.
    pub(super) fn taken(&self) -> usize {
        usize::from(self.taken.get())
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(super) fn leak(&self) {
        self.leaked.set(true);
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        if !self.leaked.get() {
            // SAFETY: allocated in `register` with these layouts; the ring that used it is closed and had nothing in flight.
            unsafe {
                dealloc(self.entries.cast(), self.entries_layout);
                dealloc(self.memory, self.memory_layout);
            }
        }
    }
}

/// Bytes received, in a buffer of the pool; goes back to it when dropped. Hold it briefly: all connections share the pool.
pub struct Chunk {
    ring: Rc<Inner>,
    id: u16,
    len: u32,
}

impl Chunk {
    /// Takes over a buffer that a completion named.
    pub(super) fn new(ring: &Rc<Inner>, id: u16, len: u32) -> Chunk {
        ring.buffers.take(id);
        Chunk { ring: Rc::clone(ring), id, len }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.ring.buffers.bytes(self.id, self.len)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.ring.buffers.give(self.id);
    }
}
