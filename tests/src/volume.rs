//! A file system of its own in a file, whose device can be made to fail by the kernel itself. For root only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// A mounted file system; dropped, it is gone.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    device: String,
    mounted: PathBuf,
}

impl Volume {
    /// Makes one of so many bytes and mounts it; `Err` says why this machine does not let us.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        fs::create_dir_all(at).map_err(|error| format!("cannot create {}: {error}", at.display()))?;
        let image = PathBuf::from(format!("{}.image", at.display()));
        let made = File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(|error| format!("cannot make {}: {error}", image.display()))?;
        let shown = image.display().to_string();
        // Without a journal, which would give up before we are done with it.
        run(&["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", &shown])?;
        let device = run(&["losetup", "--find", "--show", &shown])?.trim().to_owned();
        let volume = Self { image, device, mounted: at.to_owned() };
        run(&["mount", "-o", "errors=continue", &volume.device, &at.display().to_string()])?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// From now on the device has only its first `bytes` bytes: what lies behind them fails with EIO.
    pub fn fail_beyond(&self, bytes: u64) {
        let image = File::options().write(true).open(&self.image);
        image.and_then(|image| image.set_len(bytes)).expect("the image is ours");
        run(&["losetup", "--set-capacity", &self.device]).expect("the device is ours");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for command in
            [&["umount", "--lazy", &self.mounted.display().to_string()][..], &["losetup", "--detach", &self.device]]
        {
            if let Err(error) = run(command) {
                println!("{error}");
            }
        }
        drop(fs::remove_file(&self.image));
        drop(fs::remove_dir_all(&self.mounted));
    }
}

fn run(command: &[&str]) -> Result<String, String> {
    let output = tool::find(command[0]).ok_or(format!("{} is not installed", command[0]))?;
    let output = tool::run(Command::new(output).args(&command[1..]));
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(tool::stdout(&output)) } else { Err(format!("{command:?}: {said}")) }
}
