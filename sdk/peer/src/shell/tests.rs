//! Over real sockets on the loopback net: two peers, and the node of the simulation with sockets of its own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;

use shoal_stun::nat::{Behaviour, NatType};

use super::*;
use crate::register::Identity;
use crate::session::sim::{Node, USER, id, password};
use crate::session::{Failure, Finished, Settings, Task};
use crate::transfer::Verdict;
use crate::turn::Account;

/// Two addresses of this process and this call alone.
fn own_addresses() -> [Ipv4Addr; 2] {
    static CALLS: AtomicU8 = AtomicU8::new(0);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let nth = CALLS.fetch_add(2, Ordering::Relaxed);
    [nth, nth + 1].map(|nth| Ipv4Addr::new(127, 128 | a << 4 | nth, b, c.max(1)))
}

/// Calls `work` while a node is at work; gives how many payloads it has relayed, too.
fn with_node<T>(work: impl FnOnce(SocketAddr) -> T) -> (T, u32) {
    let mut node = Node::new(own_addresses());
    let (address, stop) = (node.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let serving = scope.spawn(|| {
            let ready = ready;
            let (started, mut sockets) = (Instant::now(), Vec::new());
            let mut buffer = vec![0; 2_000];
            while !stop.load(Ordering::Relaxed) {
                sockets.retain(|(address, _)| node.sockets().contains(address));
                for address in node.sockets() {
                    if sockets.iter().all(|(known, _)| *known != address) {
                        let socket = UdpSocket::bind(address).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        sockets.push((address, socket));
                    }
                }
                // After the first time nobody waits for it.
                let _ = ready.send(());
                let now = started.elapsed().as_millis() as u64;
                let mut sent = node.poll_transmit(now);
                for (to, socket) in &sockets {
                    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        sent.extend(node.handle(now, from, *to, &buffer[..length]));
                    }
                }
                let idle = sent.is_empty();
                for (from, to, bytes) in sent {
                    let from = sockets.iter().find(|(address, _)| *address == from);
                    let (_, socket) = from.expect("it sends from its own addresses");
                    drop(socket.send_to(&bytes, to));
                }
                if idle {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            node.relayed
        });
        is_ready.recv().unwrap();
        let result = work(address);
        stop.store(true, Ordering::Relaxed);
        (result, serving.join().unwrap())
    })
}

/// Runs a peer to its end.
fn run(node: SocketAddr, peer: usize, relay_only: bool, task: Task, until: u64) -> Vec<Event> {
    let shell = Shell::bind(node).unwrap();
    let channel = if relay_only { "private" } else { "films" };
    let settings = Settings {
        identity: Identity { node, peer: id(peer), channel: channel.to_owned(), ticket: None },
        local: shell.local(),
        turn: Some(Account { server: node, user: USER.to_owned(), password: password() }),
        relay_only,
        discovery: Some(Timing::default()),
        task,
    };
    let mut session = Session::new(settings, Shell::seed().unwrap(), shell.now());
    let mut events = Vec::new();
    shell.run(&mut session, until, |_, event| events.push(event)).unwrap();
    events
}

/// One peer sends something to another; gives what both say.
fn meet(node: SocketAddr, relay_only: bool) -> [Finished; 2] {
    let finished = |events: Vec<Event>| {
        events
            .iter()
            .find_map(|event| match event {
                Event::Finished(finished) => Some(finished.clone()),
                _ => None,
            })
            .unwrap_or_else(|| panic!("{events:?}"))
    };
    thread::scope(|scope| {
        let served = scope.spawn(|| run(node, 0, relay_only, Task::Serve(1), 10_000));
        // Until the other is registered, it is not there; and whoever asks too early is told so.
        let connected = (0..50)
            .map(|_| run(node, 1, relay_only, Task::Connect(id(0), 300_000), 10_000))
            .find(|events| !events.iter().any(|event| matches!(event, Event::Failed(Failure::Refused(_)))));
        [served.join().unwrap(), connected.expect("the other registers within a second")].map(finished)
    })
}

#[test]
fn two_peers_connect_over_real_sockets() {
    let (both, relayed) = with_node(|node| meet(node, false));
    for side in &both {
        assert_eq!((side.bytes, side.verdict, side.relay), (300_000, Verdict::Right, false));
    }
    assert_eq!(relayed, 0);
}

#[test]
fn two_peers_connect_by_a_relay_over_real_sockets() {
    let (both, relayed) = with_node(|node| meet(node, true));
    for side in &both {
        assert_eq!((side.bytes, side.verdict, side.relay), (300_000, Verdict::Right, true));
    }
    assert!(relayed > 273, "all chunks went through it: {relayed}");
}

#[test]
fn there_is_no_nat_on_the_loopback_net() {
    for dialect in [Dialect::Modern, Dialect::Classic] {
        let found = |node| Shell::bind(node).unwrap().discover(dialect, node, Timing::default()).unwrap();
        let (found, _) = with_node(found);
        assert_eq!(found.report.kind, Some(NatType::OpenInternet));
        assert_eq!((found.nat.mapping, found.nat.step), (Some(Behaviour::EndpointIndependent), 0));
    }
}

#[test]
fn time_is_up_for_who_waits_in_vain() {
    let (events, _) = with_node(|node| run(node, 0, false, Task::Serve(1), 300));
    assert!(matches!(events.as_slice(), [Event::Found(_), Event::Registered(_)]), "{events:?}");
}
