//! Addresses that nobody else uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rng::Rng;

/// A loopback address of this process's own, so that a port that was free a moment ago still is.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = process::id().to_be_bytes();
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 64 + (nth % 128) as u8, high, low.max(1)))
}

/// A port of `address` that is free now, and another one at each call.
pub fn free_port(address: IpAddr) -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let probe =
            TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("no free port on {address}: {error}"));
        let free = probe.local_addr().expect("a bound socket has an address");
        // Nobody has bound the last one yet: the system may give it again.
        if GIVEN.lock().expect("nobody panics while it holds this").insert(free) {
            return free;
        }
    }
}

/// A loopback address to connect from that hardly anybody else has now.
pub fn anywhere(rng: &mut Rng) -> SocketAddr {
    let [a, b, c] = [rng.between(1, 60), rng.below(256), rng.between(1, 254)].map(|part| part as u8);
    SocketAddr::from((Ipv4Addr::new(127, a, b, c), 0))
}

/// Raises this process's limit of open files as far as it may, and returns it.
pub fn raise_file_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("the soft limit may be raised to the hard one");
    maximum.unwrap_or(u64::MAX)
}

/// Once nobody has the socket any more, its peer gets a RST.
pub fn reset_on_drop(stream: &TcpStream) {
    // Fails only when the peer was faster.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
