//! Network namespaces to measure in: they end with the last thread that is in there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{self, Command};

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};

/// Puts this thread into one of its own.
///
/// # Errors
/// It takes root, and iproute2.
pub fn enter(role: &str) -> anyhow::Result<()> {
    let name = format!("shoal-xdp-{}-{role}", process::id());
    ip(&format!("netns add {name}"))?;
    let file = File::open(format!("/run/netns/{name}")).with_context(|| format!("namespace {name}"))?;
    let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
    // Only the name goes: so nothing is left behind, however this process ends.
    ip(&format!("netns delete {name}"))?;
    entered.with_context(|| format!("cannot enter the namespace {name}"))
}

/// Has this thread run on one CPU.
///
/// # Errors
/// It is none that the process may run on.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("CPU {cpu} is not ours to run on"))
}

/// Runs `ip` with these words, where this thread is.
///
/// # Errors
/// What it says.
pub fn ip(words: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().with_context(|| format!("ip {words}"))?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Has this thread's host forward, as a node that relays in XDP does.
///
/// # Errors
/// The kernel's.
pub fn forward() -> anyhow::Result<()> {
    for family in ["ipv4", "ipv6"] {
        let file = format!("/proc/sys/net/{family}/conf/all/forwarding");
        fs::write(&file, "1").with_context(|| file.clone())?;
    }
    Ok(())
}
