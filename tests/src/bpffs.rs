//! A bpf file system of a test's own: with it goes what is pinned in there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// Mounted as long as it lives.
#[derive(Debug)]
pub struct BpfFs {
    dir: PathBuf,
}

impl BpfFs {
    /// Mounts one at this folder, which is made. Takes root.
    pub fn mount(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("a test's own folder is writable");
        let output = tool::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&dir));
        assert!(output.status.success(), "cannot mount: {}", String::from_utf8_lossy(&output.stderr));
        Self { dir }
    }

    /// A folder in it that is not there yet, for the pins of a node.
    pub fn pins(&self) -> PathBuf {
        self.dir.join("node")
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Lazily: a process that ends just now may still have something open.
        let output = tool::run(Command::new("umount").arg("--lazy").arg(&self.dir));
        if !output.status.success() {
            println!("cannot unmount {}: {}", self.dir.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
}
