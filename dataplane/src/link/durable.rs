//! Files that a kill or a power cut leaves either old or new, and lines that tell whether they are whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Ending of files that are not complete.
pub(super) const TEMPORARY: &str = "tmp";
/// Snapshots hold signing keys, and usage is nobody else's business.
const MODE: u32 = 0o600;
/// Hex digits of a checksum: half of SHA-256 finds damage as well as the whole.
const SUM_LEN: usize = 32;

/// Appends `payload` (which holds no line feed, as JSON never does) to `out` as a line with its checksum.
pub(super) fn encode_line(payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&checksum(payload));
    out.push(b' ');
    out.extend_from_slice(payload);
    out.push(b'\n');
}

/// The payload of the first line, and the bytes the line takes; `None` when it is not whole or not right.
pub(super) fn decode_line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (sum, rest) = input.get(..end)?.split_at_checked(SUM_LEN)?;
    let payload = rest.strip_prefix(b" ")?;
    (sum == checksum(payload)).then_some((payload, end + 1))
}

fn checksum(payload: &[u8]) -> [u8; SUM_LEN] {
    let digest = Sha256::digest(payload);
    let mut hex = [0; SUM_LEN];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
    }
    hex
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Replaces `path` by a file with these bytes. On an error the old file is still there. [`sync_folder`] afterwards makes
/// it last through a power cut.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// Makes a new file that nobody else may read.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Makes the names in a folder last through a power cut.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A random number from the kernel, such as a boot id.
///
/// # Errors
/// A kernel without entropy, which does not happen after its first seconds.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    // Up to 256 bytes always come whole.
    if got == bytes.len() { Ok(u64::from_ne_bytes(bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_or_nothing() {
        let mut line = Vec::new();
        encode_line(br#"{"a":1}"#, &mut line);
        assert_eq!(decode_line(&line), Some((&br#"{"a":1}"#[..], line.len())));
        for cut in 0..line.len() {
            assert_eq!(decode_line(&line[..cut]), None, "cut at {cut}");
        }
        for at in 0..line.len() {
            let mut damaged = line.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_line(&damaged), None, "damaged at {at}");
        }
    }

    #[test]
    fn replacing_keeps_the_old_file_until_the_new_one_is_complete() {
        let folder = crate::testing::folder();
        let path = folder.path().join("file");
        replace(&path, b"old").unwrap();
        // A kill in the middle leaves this behind.
        std::fs::write(temporary(&path), b"ne").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(!temporary(&path).exists());
        sync_folder(folder.path()).unwrap();
    }
}
