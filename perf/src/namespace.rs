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
    run(Command::new("ip").args(words.split(' ')), &format!("ip {words}"))
}

/// Has this thread's host write the checksums of what it sends out of an interface itself, as on a wire: a veth leaves them to who comes next.
///
/// # Errors
/// What `ethtool` says.
pub fn write_checksums(interface: &str) -> anyhow::Result<()> {
    run(Command::new("ethtool").args(["-K", interface, "tx", "off"]), &format!("checksums of {interface}"))
}

/// Has what a CPU sends out of an interface with several queues go by the one of its number (XPS).
///
/// # Errors
/// What the kernel says.
pub fn queue_by_cpu(interface: &str, queues: u32) -> anyhow::Result<()> {
    // /sys shows the interfaces of the namespace in which it was mounted; that mount goes with the shell.
    let mut script = "set -e; mount -t sysfs sysfs /sys".to_owned();
    for queue in 0..queues {
        script.push_str(&format!("; echo {:x} > /sys/class/net/{interface}/queues/tx-{queue}/xps_cpus", 1 << queue));
    }
    run(Command::new("unshare").args(["--mount", "sh", "-c", &script]), &format!("XPS of {interface}"))
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().with_context(|| what.to_owned())?;
    ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
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
