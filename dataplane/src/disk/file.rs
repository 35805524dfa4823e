//! A volume's file, read and written past the page cache.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use shoal_disk::{Medium, PAGE};
use shoal_sys::arena::BlockWriter;
use shoal_sys::ring::{Landed, Page, Ring};

use super::off_shard;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;

/// What is cached is nobody else's business.
const MODE: u32 = 0o600;

/// A pre-allocated file.
pub(super) struct File {
    file: DmaFile,
    /// The same file for the shard's own ring, which reads into blocks: glommio reads only into buffers of its own.
    direct: Rc<OwnedFd>,
    ring: Ring,
    stats: Arc<ShardStats>,
    #[cfg(test)]
    faults: std::rc::Rc<super::tests::Faults>,
}

impl File {
    /// Opens the file, makes it when it is missing, and gives it all the room it will ever need.
    pub(super) async fn open(path: &Path, bytes: u64, ring: &Ring, stats: &Arc<ShardStats>) -> io::Result<File> {
        let prepared = path.to_owned();
        let direct = off_shard(move || {
            prepare(&prepared, bytes)?;
            open_direct(&prepared)
        });
        let direct = Rc::new(direct.await?);
        let file = OpenOptions::new().read(true).write(true).dma_open(path).await?;
        Ok(File {
            file,
            direct,
            ring: ring.clone(),
            stats: Arc::clone(stats),
            #[cfg(test)]
            faults: super::tests::faults(),
        })
    }
}

/// For reading past the page cache, where the file system can do that. Blocks.
fn open_direct(path: &Path) -> io::Result<OwnedFd> {
    let open = |flags| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty());
    match open(OFlags::DIRECT) {
        Err(rustix::io::Errno::INVAL) => Ok(open(OFlags::empty())?),
        opened => Ok(opened?),
    }
}

/// Makes folder and file, and takes the bytes. Blocks.
fn prepare(path: &Path, bytes: u64) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    let meta = file.metadata()?;
    if meta.len() > bytes {
        file.set_len(bytes)?;
    }
    // Asked before, for an attempt takes what there is.
    let missing = bytes.saturating_sub(meta.blocks() * 512);
    let free = rustix::fs::fstatvfs(&file)?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    if missing > free {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "it needs {missing} bytes more, and its file system has {free} free: lower its bytes in disk.paths, or \
                 make room"
            ),
        ));
    }
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    // glommio finds out by reading the start of a device's first file whether the device is one to be polled. What was never
    // written is read without asking the device, and every read after that would fail.
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, 0)?;
    if page == [0; PAGE] {
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
    }
    Ok(())
}

impl Medium for File {
    type Buffer = DmaBuffer;
    type Bytes = ReadResult;
    type Page = Page;
    type Room = BlockWriter;
    type Block = Landed;

    fn buffer(&self, len: usize) -> DmaBuffer {
        self.file.alloc_dma_buffer(len)
    }

    fn bytes_mut(buffer: &mut DmaBuffer) -> &mut [u8] {
        buffer.as_bytes_mut()
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<ReadResult> {
        #[cfg(test)]
        self.faults.before_read().await?;
        let bytes = self.file.read_at_aligned(offset, len).await?;
        if bytes.len() != len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes instead of {len}", bytes.len()),
            ));
        }
        self.stats.add(Counter::DiskRead, len as u64);
        Ok(bytes)
    }

    async fn read_block(&self, offset: u64, len: usize, room: BlockWriter) -> io::Result<(Page, Landed)> {
        #[cfg(test)]
        self.faults.before_read().await?;
        let (page, block) = self.ring.read_block(&self.direct, offset, len, room).await?;
        if block.len() != len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes instead of {len}", block.len()),
            ));
        }
        self.stats.add(Counter::DiskRead, (PAGE + len) as u64);
        Ok((page, block))
    }

    async fn write(&self, offset: u64, buffer: DmaBuffer) -> io::Result<()> {
        #[cfg(test)]
        self.faults.before_write().await?;
        let len = buffer.len();
        let written = self.file.write_at(buffer, offset).await?;
        if written != len {
            return Err(io::Error::new(io::ErrorKind::WriteZero, format!("{written} bytes instead of {len}")));
        }
        self.stats.add(Counter::DiskWritten, len as u64);
        Ok(())
    }
}
