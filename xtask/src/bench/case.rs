//! Objects that a case asks for.

use std::fs;
use std::path::Path;

/// Objects of one size, asked for in turn over so many connections.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(super) files: usize,
    /// By TLS 1.3 with AES-128-GCM.
    pub(super) tls: bool,
    /// Our requests per second over nginx's.
    pub(super) target: f64,
}

impl Case {
    pub(super) fn file(&self, number: usize) -> String {
        format!("{}/{number}.ts", self.bytes)
    }

    /// The URLs of the case's objects at a plain server.
    pub(super) fn urls(&self, base: &str) -> Vec<String> {
        (0..self.files).map(|number| format!("{base}/{}", self.file(number))).collect()
    }

    /// Writes files of noise, the same at every run.
    pub(super) fn write_files(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder.join(self.bytes.to_string()))?;
        for number in 0..self.files {
            let mut state = (self.bytes + number) as u64 | 1;
            let mut bytes = Vec::with_capacity(self.bytes);
            while bytes.len() < self.bytes {
                // xorshift64 (Marsaglia 2003)
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend_from_slice(&state.to_le_bytes());
            }
            fs::write(folder.join(self.file(number)), bytes)?;
        }
        Ok(())
    }
}
