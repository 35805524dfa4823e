//! Processes that we start, and stop.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A child with its output in a file. It is killed when dropped, with the processes it has started.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; Ctrl-C in the terminal does not reach it.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the last lines it wrote, when it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} ended ({status}); its last words:\n{}", self.name, self.last_words())
            }
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        last.iter().map(|line| format!("    {line}\n")).collect()
    }

    /// SIGTERM, and SIGKILL when that did not help `within` this time.
    pub(crate) fn stop(mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = self.pid() {
            // It may just have ended by itself; the loop below sees it.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                anyhow::bail!("{} did not end within {within:?} of SIGTERM and was killed", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.id()).ok().and_then(Pid::from_raw)
    }

    /// At once, and its whole group: nginx's worker would outlive a master that is killed.
    fn kill(&mut self) {
        // While it was not waited for, its id is nobody else's.
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), self.pid()) {
            // It may end by itself in this moment.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_has_started_ends_too() {
        let dir = std::env::temp_dir().join(format!("xtask-process-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let process = Process::start("sh", &mut command, &log).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let child = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(id) = text.strip_suffix('\n') {
                break id.to_owned();
            }
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(10));
        };
        // A zombie, for which nobody here can wait, is as good as gone.
        let lives = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
        };
        assert!(lives());
        drop(process);
        while lives() {
            assert!(Instant::now() < deadline, "the child of a killed process lives on");
            thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
