//! A local folder as an origin.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use shoal_http::caching::Vary;
use shoal_http::date;
use shoal_http::response::BodyFraming;
use shoal_sys::arena::BlockWriter;

use super::Ask;
use super::error::UpstreamError;
use super::head::{OriginHead, Validators};

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// The rest of a file; without one, the end of an empty body.
pub struct FileBody {
    file: Option<Arc<Opened>>,
    at: u64,
    end: u64,
}

/// A file, and what it was when it was opened.
struct Opened {
    file: File,
    size: u64,
    modified_ns: u128,
}

/// Opens the file that `ask` names below `root`; a missing one is a 404 like any origin's.
pub async fn open(root: &Path, ask: &Ask<'_>, now_unix: u64) -> Result<(OriginHead, FileBody), UpstreamError> {
    if ask.is_unsafe() {
        return Ok((plain_head(405), FileBody { file: None, at: 0, end: 0 }));
    }
    let name = ask.path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let Some(name) = file_name(name) else {
        return Ok((plain_head(404), FileBody { file: None, at: 0, end: 0 }));
    };
    let (root, name) = (root.to_owned(), PathBuf::from(name));
    // Opening may wait for a disk: not on the shard's thread.
    let opened = glommio::executor().spawn_blocking(move || open_below(&root, &name)).await;
    match opened {
        Ok(opened) => Ok(answer(opened, ask, now_unix)),
        Err(error) if is_missing(&error) => Ok((plain_head(404), FileBody { file: None, at: 0, end: 0 })),
        Err(error) => Err(UpstreamError::Io(error)),
    }
}

/// Nothing that a viewer could have: missing, a folder, or outside the root.
fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidFilename)
        || error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn open_below(root: &Path, name: &Path) -> io::Result<Opened> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // Not a missing file: another origin may be well.
    let folder = folder.map_err(|error| io::Error::other(format!("cannot open {}: {error}", root.display())))?;
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    // The kernel keeps the path below the root, whatever symbolic links say.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file: OwnedFd = rustix::fs::openat2(&folder, name, flags, Mode::empty(), ResolveFlags::BENEATH)?;
    let file = File::from(file);
    let (size, modified_ns) = state(&file)?;
    Ok(Opened { file, size, modified_ns })
}

/// Size and time of the last change of a regular file.
fn state(file: &File) -> io::Result<(u64, u128)> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let modified = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
    Ok((meta.len(), modified))
}

/// The file that a URL's path names; none where an escape hides a separator, which no file's name can hold.
fn file_name(path: &str) -> Option<OsString> {
    let hidden = path.to_ascii_lowercase().contains("%2f") || path.contains("%00");
    (!hidden).then(|| OsString::from_vec(percent_decode(path)))
}

/// The bytes behind a path's escapes; anything that is no escape stands for itself.
fn percent_decode(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn answer(opened: Opened, ask: &Ask<'_>, now_unix: u64) -> (OriginHead, FileBody) {
    let (size, modified_ns) = (opened.size, opened.modified_ns);
    let modified = (modified_ns / 1_000_000_000) as u64;
    let etag = format!("\"{modified_ns:x}-{size:x}\"");
    let mut head = plain_head(200);
    head.version_lines.extend_from_slice(b"Last-Modified: ");
    head.version_lines.extend_from_slice(&date::format(modified));
    head.version_lines.extend_from_slice(format!("\r\nETag: {etag}\r\n").as_bytes());
    head.validators =
        Validators { etag: Some(etag.into()), last_modified: Some(modified), settled: modified < now_unix };
    if ask.revalidate && ask.known.is_some_and(|known| known.same_bytes(&head.validators)) {
        head.status = 304;
        return (head, FileBody { file: None, at: 0, end: 0 });
    }
    let same = ask.known.is_none_or(|known| known.same_bytes(&head.validators));
    let (first, end) = match ask.range {
        Some((first, last)) if same && first < size => {
            head.status = 206;
            (first, last.map_or(size, |last| size.min(last.saturating_add(1))))
        }
        _ => (0, size),
    };
    head.first = first;
    head.total = Some(size);
    head.length = Some(end - first);
    head.framing = if end > first { BodyFraming::Length(end - first) } else { BodyFraming::None };
    (head, FileBody { file: Some(Arc::new(opened)), at: first, end })
}

fn plain_head(status: u16) -> OriginHead {
    OriginHead {
        status,
        first: 0,
        total: Some(0),
        length: Some(0),
        framing: BodyFraming::None,
        keep_alive: true,
        validators: Validators::default(),
        relay: Vec::new(),
        version_lines: Vec::new(),
        content_type: None,
        cache_control: None,
        expires: None,
        date_s: None,
        age_s: 0,
        cookies: Vec::new(),
        vary: Vary::Nothing,
        tags: String::new(),
        head_bytes: 0,
    }
}

impl FileBody {
    /// See [`super::Body::fill`].
    pub async fn fill(
        &mut self,
        mut block: BlockWriter,
        limit: usize,
    ) -> (Option<BlockWriter>, Result<usize, UpstreamError>) {
        let space = limit.min(block.capacity() - block.filled()).min(READ_BYTES);
        let want = space.min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let Some(file) = self.file.as_ref().filter(|_| want > 0) else { return (Some(block), Ok(0)) };
        let (file, at) = (Arc::clone(file), self.at);
        let read = glommio::executor()
            .spawn_blocking(move || {
                let mut bytes = vec![0; want];
                let read = file.file.read_at(&mut bytes, at)?;
                bytes.truncate(read);
                // Looked at after the read: what was read before a change is of the version that was opened.
                let unchanged = state(&file.file)? == (file.size, file.modified_ns);
                io::Result::Ok((bytes, unchanged))
            })
            .await;
        match read {
            Ok((_, false)) => (Some(block), Err(UpstreamError::OtherVersion)),
            Ok((bytes, true)) if bytes.is_empty() => {
                (Some(block), Err(UpstreamError::Truncated { missing: self.end - self.at }))
            }
            Ok((bytes, true)) => {
                let appended = block.append(&bytes);
                self.at += appended as u64;
                (Some(block), Ok(appended))
            }
            Err(error) => (Some(block), Err(UpstreamError::Io(error))),
        }
    }

    /// See [`super::Body::skip`].
    pub fn skip(&mut self, count: u64) {
        self.at = self.at.saturating_add(count).min(self.end);
    }
}

#[cfg(test)]
mod tests;
