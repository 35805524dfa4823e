//! Sockets with the options the data plane needs.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that may wait to be accepted; the kernel bounds it by net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct SocketAddress {
    /// The larger of the two families' addresses.
    storage: libc::sockaddr_in6,
    len: libc::socklen_t,
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: all zeros is a valid sockaddr_in6.
        let mut storage: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_in6 is larger than sockaddr_in and as strictly aligned.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                storage = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }
}

impl SocketAddress {
    /// The address in `bytes`, which the kernel wrote: a sockaddr_in or sockaddr_in6.
    pub(crate) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
        // Family in the host's order, port in the network's; then the address, of IPv6 behind the flow.
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match libc::c_int::from(u16::from_ne_bytes(*bytes.first_chunk()?)) {
            libc::AF_INET => Some(SocketAddr::from((*bytes.get(4..)?.first_chunk::<4>()?, port))),
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
                let ip = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
                let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            _ => None,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }
}

/// A listener that shares its port with the other shards' (SO_REUSEPORT). An IPv6 listener takes IPv6 only.
pub fn shard_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = listening_socket(address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Fails when anybody listens on `address`: a listener with SO_REUSEPORT alone would share the port with another
/// process of the same user and say nothing. Returns the address with the port the kernel chose for port 0.
pub fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = listening_socket(address)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1)?;
    local_address(&socket)
}

fn listening_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Inherited by every accepted socket.
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// An unconnected TCP socket of the address's family, without Nagle's delay.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// Limits the rate at which TCP sends (SO_MAX_PACING_RATE, bytes per second); the kernel paces by itself where the device has
/// no fq queue. `None`: no limit.
pub(crate) fn set_max_pacing_rate(socket: impl AsFd, bytes_per_s: Option<u64>) -> io::Result<()> {
    let rate = bytes_per_s.unwrap_or(u64::MAX).to_ne_bytes();
    set_option(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate)
}

/// Has TCP take no more than about so many bytes ahead of what it may send (TCP_NOTSENT_LOWAT): for a peer that does not read,
/// the kernel would keep megabytes. A listener's holds for what it accepts.
///
/// # Errors
/// The kernel's.
pub fn set_unsent_max(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes.to_ne_bytes())
}

/// `value` is in the form that the option has.
fn set_option(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the option's value is read from bytes that are there, and whose number is given.
    let result = unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address a socket is bound to.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?).map_err(io::Error::from)
}

/// The address a socket is connected to.
pub fn peer_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    match rustix::net::getpeername(socket)? {
        Some(address) => SocketAddr::try_from(address).map_err(io::Error::from),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Bytes that the kernel takes for a peer that reads nothing.
    fn taken(unsent_max: Option<u32>) -> usize {
        let listener = shard_listener("127.0.0.1:0".parse().unwrap()).unwrap();
        unsent_max.inspect(|bytes| set_unsent_max(&listener, *bytes).unwrap());
        let listener = TcpListener::from(listener);
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let mut taken = 0;
        loop {
            match accepted.write(&[0; 4096]) {
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_kernel_takes_less_for_who_does_not_read() {
        let (bounded, free) = (taken(Some(64 << 10)), taken(None));
        assert!(bounded < 512 << 10 && bounded < free, "{bounded} of {free}");
    }
}
