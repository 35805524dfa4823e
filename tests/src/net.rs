//! Addresses that nobody else uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address of this process's own, so that a port that was free a moment ago still is.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = process::id().to_be_bytes();
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 64 + (nth % 128) as u8, high, low.max(1)))
}

/// A port of `address` that is free now.
pub fn free_port(address: IpAddr) -> SocketAddr {
    let probe = TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("no free port on {address}: {error}"));
    probe.local_addr().expect("a bound socket has an address")
}
