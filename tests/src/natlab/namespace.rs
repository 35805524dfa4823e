//! A network namespace that goes away with its owner, at the latest when the next run finds it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::tool;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// All names begin with this; the process id and its start time follow.
const PREFIX: &str = "shoal-nat-";

/// One namespace, reachable by name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose name ends in `role`, with its loopback device up; `Err` says why this machine does not let us.
    pub fn create(role: &str) -> Result<Self, String> {
        let own = std::process::id();
        let name = format!("{PREFIX}{own}-{}-{role}", started(own).unwrap_or_default());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program, not started, that will run in here.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program.as_ref());
        command
    }

    /// Calls `work` on a thread in here. Sockets that it returns stay in here.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("the namespace is there as long as we are");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("who made a namespace may enter it");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A UDP socket in here, bound to `address`.
    pub fn udp(&self, address: SocketAddr) -> UdpSocket {
        self.within(|| UdpSocket::bind(address))
            .unwrap_or_else(|error| panic!("cannot bind {address} in {}: {error}", self.name))
    }

    /// Runs lines of `ip -batch`.
    pub fn ip(&self, lines: &str) -> Result<(), String> {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
    }

    /// Runs lines of `tc -batch`.
    pub(super) fn tc(&self, lines: &str) -> Result<(), String> {
        feed(Command::new("tc").args(["-n", &self.name, "-batch", "-"]), lines)
    }

    /// Adds rules of nftables.
    pub(super) fn nft(&self, rules: &str) -> Result<(), String> {
        feed(self.command("nft").args(["-f", "-"]), rules)
    }

    /// Sets what lies in /proc/sys/net.
    pub(super) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        self.within(|| {
            for (key, value) in settings {
                let file = format!("/proc/sys/net/{key}");
                fs::write(&file, value).map_err(|error| format!("cannot write {file}: {error}"))?;
            }
            Ok(())
        })
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// The names of all that process `pid` has made, or had, before it was killed.
pub fn of_process(pid: u32) -> Vec<String> {
    let prefix = format!("{PREFIX}{pid}-");
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

/// Removes what runs left that were killed, and ends what still runs in there.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let mut parts = rest.splitn(3, '-');
        let (pid, start) = (parts.next().and_then(|pid| pid.parse().ok()), parts.next());
        // Process ids come round again; with the same start time they do not.
        let alive = pid.and_then(started).is_some_and(|started| Some(started.as_str()) == start);
        if !alive {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let listed = Command::new("ip").args(["netns", "pids", name]).output();
    let listed = listed.map(|output| tool::stdout(&output)).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        // Fails only when it has just ended.
        let _ = kill_process(pid, Signal::KILL);
    }
    if let Err(error) = ip(&["netns", "del", name])
        && Path::new(FOLDER).join(name).exists()
    {
        println!("{error}");
    }
}

/// When a process started, in the kernel's ticks since boot.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may have spaces; the field is the 22nd (proc(5)), so the 20th behind it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    feed(Command::new("ip").args(arguments), "")
}

/// Runs a command with `input` to its end.
fn feed(command: &mut Command, input: &str) -> Result<(), String> {
    let run = |command: &mut Command| -> io::Result<_> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who has ended without reading it says why.
            drop(stdin.write_all(input.as_bytes()));
        }
        child.wait_with_output()
    };
    let output = run(command).map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed: {}{input}", String::from_utf8_lossy(&output.stderr)))
}
