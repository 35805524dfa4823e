//! A volume's file, read and written past the page cache.

use std::io;
use std::path::Path;
use std::sync::Arc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use shoal_disk::Medium;

use super::journal::off_shard;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;

/// What is cached is nobody else's business.
const MODE: u32 = 0o600;

/// A pre-allocated file.
pub(super) struct File {
    file: DmaFile,
    stats: Arc<ShardStats>,
    #[cfg(test)]
    faults: std::rc::Rc<super::tests::Faults>,
}

impl File {
    /// Opens the file, makes it when it is missing, and gives it all the room it will ever need.
    pub(super) async fn open(path: &Path, bytes: u64, stats: &Arc<ShardStats>) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).mode(MODE).dma_open(path).await?;
        let stat = file.stat().await?;
        if stat.file_size > bytes {
            file.truncate(bytes).await?;
        }
        let missing = bytes.saturating_sub(stat.allocated_file_size);
        let above = path.to_owned();
        // Asked before, for an attempt takes what there is.
        let free = off_shard(move || rustix::fs::statvfs(above)).await?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if missing > free {
            let remedy = "lower its bytes in disk.paths, or make room";
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("it needs {missing} bytes more, and its file system has {free} free; {remedy}"),
            ));
        }
        file.pre_allocate(bytes, false).await?;
        Ok(File {
            file,
            stats: Arc::clone(stats),
            #[cfg(test)]
            faults: super::tests::faults(),
        })
    }
}

impl Medium for File {
    type Buffer = DmaBuffer;
    type Bytes = ReadResult;

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
