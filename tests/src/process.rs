//! Child processes that never outlive their test, and whose log is shown when it fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a log shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A running process with its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exited: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with both outputs in `log`, behind what is there already.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log);
        let output = output.unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        let copy = output.try_clone().expect("a file can be shared");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(copy).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), exited: None }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exited.is_none() {
            // Fails only when it is gone already.
            drop(self.child.kill());
            self.exited = self.child.wait().ok();
        }
    }

    /// Its exit status, when it has one.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("a child can be waited for");
        }
        self.exited
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        while self.poll().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.poll()
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let died = self.poll();
        self.kill();
        if thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            let state = died.map_or("was running".to_owned(), |status| format!("had ended with {status}"));
            println!("--- end of the log of {}, which {state}:\n{}\n---", self.name, lines[from..].join("\n"));
        }
    }
}
