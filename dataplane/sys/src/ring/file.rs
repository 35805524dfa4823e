//! Reads from files opened for direct I/O, straight into a block of the arena.

use std::future::Future;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::opcode;

use super::op::{Hold, Op, to_result};
use super::{Ring, fd};
use crate::arena::{BlockWriter, PAGE};

/// A page of its own.
pub struct Page(Box<Aligned>);

/// As direct I/O wants it.
#[repr(C, align(4096))]
struct Aligned([u8; PAGE]);

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.0
    }
}

/// What the kernel reads to: a page, and a block behind it.
pub(super) struct Scatter {
    page: Page,
    block: BlockWriter,
    parts: [libc::iovec; 2],
}

/// A block whose bytes have come, but cannot be read by others yet: they may be wrong.
#[derive(Debug)]
pub struct Landed {
    block: BlockWriter,
    /// So many bytes behind those that are readable were written.
    len: usize,
}

impl Landed {
    /// Makes the first `len` of the new bytes readable; what came behind them is forgotten.
    pub fn keep(mut self, len: usize) -> BlockWriter {
        // SAFETY: `self.len` bytes have been written there, and the read that did it is over.
        unsafe { self.block.advance(len.min(self.len)) };
        self.block
    }
}

impl Deref for Landed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.landed(self.len)
    }
}

/// A read under way. Cancelled when dropped.
pub struct ReadBlock(Op);

impl Future for ReadBlock {
    type Output = io::Result<(Page, Landed)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_done(cx).map(|(result, hold)| {
            let read = to_result(result)?;
            match hold {
                Hold::Scatter(_, scatter) if read >= PAGE => {
                    let Scatter { page, block, .. } = *scatter;
                    Ok((page, Landed { block, len: read - PAGE }))
                }
                _ => {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{read} bytes instead of {PAGE} or more")))
                }
            }
        })
    }
}

impl Ring {
    /// Reads a page at `offset`, and what is behind it to where the block goes on: `len` bytes, or as many as it has room for.
    /// What comes may be less. With a file opened for direct I/O offset and length are whole pages, and the block is empty.
    pub fn read_block(&self, file: &Rc<OwnedFd>, offset: u64, len: usize, block: BlockWriter) -> ReadBlock {
        const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut scatter = Box::new(Scatter { page: Page(Box::new(Aligned([0; PAGE]))), block, parts: [EMPTY; 2] });
        let (spare, room) = scatter.block.spare();
        let page = (&raw mut *scatter.page.0).cast();
        scatter.parts = [
            libc::iovec { iov_base: page, iov_len: PAGE },
            libc::iovec { iov_base: spare.cast(), iov_len: len.min(room) },
        ];
        let entry = opcode::Readv::new(fd(file.as_raw_fd()), scatter.parts.as_ptr(), 2).offset(offset).build();
        // SAFETY: the list of parts is boxed and owned by the hold, and so are the page and the block's writer, which alone may fill
        // the block; neither moves its memory.
        ReadBlock(unsafe { Op::start(&self.inner, Hold::Scatter(Rc::clone(file), scatter), entry) })
    }
}
