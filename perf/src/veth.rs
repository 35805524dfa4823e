//! A veth between two network namespaces, to measure XDP on: the node's, and one where everybody else is.

use std::sync::mpsc;
use std::{fs, thread};

use anyhow::{Context, anyhow};
use rustix::thread::gettid;

use crate::namespace::{self, ip};

/// The node's end.
pub const NODE_END: &str = "node0";
/// The other one.
pub const OUTER_END: &str = "outer0";
/// Where the node serves STUN and TURN.
pub const NODE: &str = "192.0.2.1:3478";

/// Receive queues of each end, and as many to send by.
pub const QUEUES: u32 = 2;

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, where the sender is.
pub struct Outer {
    work: mpsc::Sender<Work>,
    thread: i32,
}

impl Outer {
    /// On this CPU.
    ///
    /// # Errors
    /// As [`namespace::enter`] and [`namespace::pin`].
    pub fn start(cpu: usize) -> anyhow::Result<Self> {
        let (work, todo) = mpsc::channel::<Work>();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let entered =
                namespace::enter("outer").and_then(|()| namespace::pin(cpu)).map(|()| gettid().as_raw_nonzero().get());
            if ready.send(entered).is_ok() {
                todo.into_iter().for_each(|work| work());
            }
        });
        Ok(Self { work, thread: is_ready.recv().context("the sender's thread ended")?? })
    }

    /// Has it do something, and waits for that.
    ///
    /// # Errors
    /// Those of the work.
    pub fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, is_done) = mpsc::channel();
        let work: Work = Box::new(move || drop(done.send(work())));
        self.work.send(work).map_err(|_| anyhow!("the sender's thread ended"))?;
        is_done.recv().context("the sender's thread ended")?
    }
}

/// Lays the veth from this thread's namespace, the node's, to the other one, where these hosts are. The node's host knows how to reach
/// them, and everybody else by the first of them; and it forwards.
///
/// # Errors
/// What `ip` says.
pub fn lay(outer: &Outer, hosts: &[&str]) -> anyhow::Result<()> {
    let queues = format!("numrxqueues {QUEUES} numtxqueues {QUEUES}");
    let first = hosts.first().context("somebody has to be there")?;
    ip(&format!("link add {NODE_END} {queues} type veth peer name {OUTER_END} {queues} netns {}", outer.thread))?;
    ip("link set lo up")?;
    ip(&format!("link set {NODE_END} address 02:00:00:00:00:02 up"))?;
    ip(&format!("addr add 192.0.2.1/24 dev {NODE_END}"))?;
    for host in hosts {
        ip(&format!("neigh add {host} lladdr 02:00:00:00:00:01 dev {NODE_END}"))?;
    }
    ip(&format!("route add default via {first}"))?;
    namespace::forward()?;
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    outer.within(move || {
        ip(&format!("link set {OUTER_END} address 02:00:00:00:00:01 up"))?;
        for host in hosts {
            ip(&format!("addr add {host}/24 dev {OUTER_END}"))?;
        }
        ip(&format!("neigh add 192.0.2.1 lladdr 02:00:00:00:00:02 dev {OUTER_END}"))
    })
}

/// Packets that came in at the node's end, whatever became of them. To be called in the node's namespace.
///
/// # Errors
/// The kernel does not say.
pub fn came_in() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("/proc/thread-self/net/dev")?;
    text.lines().find_map(|line| packets(line, NODE_END)).with_context(|| format!("no packets of {NODE_END}"))
}

/// What an interface received, of a line of `/proc/net/dev` (proc_pid_net(5)): bytes, then packets.
fn packets(line: &str, interface: &str) -> Option<u64> {
    line.trim_start().strip_prefix(interface)?.strip_prefix(':')?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Makes of the veth what a network card with queues is, for what sockets at either end send: what a CPU sends goes by the queue of its
/// number, as by XDP it does anyway, and what comes to the node has its checksums.
///
/// # Errors
/// What the kernel says.
pub fn be_a_card(outer: &Outer) -> anyhow::Result<()> {
    namespace::queue_by_cpu(NODE_END, QUEUES)?;
    outer.within(|| {
        namespace::write_checksums(OUTER_END)?;
        namespace::queue_by_cpu(OUTER_END, QUEUES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_read_of_the_interface_alone() {
        let line = "  node0: 56150123  935835    0    0    0     0          0         0   210     5    0    0    0     0       0          0";
        assert_eq!(packets(line, "node0"), Some(935_835));
        assert_eq!(packets(line, "node"), None);
        assert_eq!(packets("face |bytes    packets errs", "face"), None);
    }
}
