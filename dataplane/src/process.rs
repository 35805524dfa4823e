//! What belongs to the process as a whole: how it dies, how many files it may open, that it is alone.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

/// Exit status after a panic or a shard that failed: EX_SOFTWARE of sysexits.h.
pub(crate) const SOFTWARE_FAILURE: u8 = 70;

/// From now on a panic in any thread ends the process: a node that has lost a shard answers a part of its viewers with
/// silence, and its supervisor starts a whole one.
pub(crate) fn die_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        eprintln!("shoal-dataplane: thread {name} {panic}");
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        eprintln!("shoal-dataplane: ending the process with status {SOFTWARE_FAILURE}");
        std::process::exit(i32::from(SOFTWARE_FAILURE));
    }));
}

/// Takes all the file descriptors that this user may have; each connection needs one.
pub(crate) fn raise_file_limit() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(?current, ?maximum, %error, "cannot raise the limit of open files"),
    }
}

/// How nice threads are that viewers do not wait for. The kernel then lets a shard go on that they would interrupt when they
/// wake, and gives them a quarter of a CPU that a shard would use all of.
const NICE: i32 = 5;

/// From now on the calling thread, and those that it starts, give way to the shards that share its CPUs.
pub(crate) fn give_way() {
    // Of a process, Linux means the calling thread.
    match rustix::process::getpriority_process(None).map(|nice| nice.max(NICE)) {
        Ok(nice) => {
            if let Err(error) = rustix::process::setpriority_process(None, nice) {
                tracing::warn!(%error, "housekeeping cannot give way to the shards");
            }
        }
        Err(error) => tracing::warn!(%error, "housekeeping cannot give way to the shards"),
    }
}

/// Makes the state folder, and holds it as long as the file returned is open: two processes would count each other's
/// usage.
pub(crate) fn hold_state_dir(folder: &Path) -> anyhow::Result<File> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("node.state_dir = {shown:?}: cannot make the folder"))?;
    let path = folder.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("node.state_dir = {shown:?}: cannot write there; give it to this user"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            bail!("node.state_dir = {shown:?}: another shoal-dataplane uses it; stop that one or choose another folder")
        }
        Err(error) => Err(error).with_context(|| format!("node.state_dir = {shown:?}: cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "SHOAL_TEST_PANICS";

    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_names_it() {
        if std::env::var_os(CHILD).is_some() {
            die_on_panic();
            let shard = std::thread::Builder::new().name("shard-3".to_owned());
            let ended = shard.spawn(|| panic!("on purpose")).unwrap().join();
            panic!("the process outlives its shard: {ended:?}");
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        let again = again.args(["a_panic_in_any_thread", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&again.stderr);
        assert_eq!(again.status.code(), Some(i32::from(SOFTWARE_FAILURE)), "{said}");
        for part in ["shard-3", "on purpose", "process.rs:"] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert!(!said.contains("outlives"), "{said}");
    }

    #[test]
    fn the_state_folder_has_one_holder() {
        let folder = std::env::temp_dir().join(format!("shoal-held-{}", std::process::id()));
        let held = hold_state_dir(&folder.join("a/b")).unwrap();
        let error = hold_state_dir(&folder.join("a/b")).unwrap_err().to_string();
        assert!(error.contains("node.state_dir") && error.contains("another shoal-dataplane"), "{error}");
        drop(held);
        hold_state_dir(&folder.join("a/b")).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
