//! A network namespace for servers and their load generator: what is set for its loopback device is set there alone.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{tools, workspace};

/// It lasts as long as there are processes in it; this is the first of them. It ends with its input, so also when we are killed.
pub(super) struct Namespace(Child);

impl Namespace {
    /// Makes one, with its loopback device down.
    pub(super) fn create() -> anyhow::Result<Self> {
        tools::require(&[("ip", "iproute2"), ("unshare", "util-linux")])?;
        Self::start().context("a network namespace is needed, so root")
    }

    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut namespace = Self(command.spawn().context("cannot run unshare")?);
        let output = namespace.0.stdout.take().context("a piped child has an output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        anyhow::ensure!(line == "ready\n", "unshare --net failed");
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        anyhow::ensure!(of(&namespace.0.id().to_string())? != of("self")?, "unshare --net made no namespace");
        Ok(namespace)
    }

    /// Runs `work`, and all processes that it starts, in there, with its loopback device up.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // Of this thread, and of what it starts.
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                workspace::run(Command::new("ip").args(["link", "set", "dev", "lo", "up"]))?;
                work()
            });
            inside.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread in the namespace panicked")))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what we want.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
