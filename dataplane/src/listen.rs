//! Sockets for viewers: one per shard and address, or (of TCP) those that systemd holds.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use shoal_sys::{net, udp};

use crate::settings::{Settings, UdpSettings};
use crate::shard::{Listener, ShardListeners, TurnListener, UdpListener};
use crate::udp::STREAM_UNSENT_MAX;

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error(
        "{key} = {address}: the port is already taken; stop whoever listens there (`ss -lntup`), or choose another"
    )]
    Taken {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The machine has no such address.
    #[error("{key} = {address}: this machine does not have that address; `ip address` lists what it has")]
    NotHere {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A port below 1024, most likely.
    #[error(
        "{key} = {address}: this user may not listen there; choose a port from 1024 on, or give the process CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{key} = {address}: cannot listen: {source}")]
    Other {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What systemd handed over is of no use.
    #[error(
        "socket {index} of those handed over (LISTEN_FDS) cannot be served: {source}; it must be a listening TCP socket (ListenStream=)"
    )]
    Inherited {
        /// From 0.
        index: usize,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl ListenError {
    fn new(key: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { key, address },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { key, address },
            io::ErrorKind::PermissionDenied => Self::Denied { key, address },
            _ => Self::Other { key, address, source },
        }
    }
}

/// What shards accept from.
#[derive(Debug)]
pub struct Listeners {
    /// One for each shard.
    pub shards: Vec<ShardListeners>,
    /// What is served, with the ports that the system chose.
    pub addresses: Vec<SocketAddr>,
}

/// An address to serve viewers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub address: SocketAddr,
    /// By TLS.
    pub tls: bool,
}

/// All that `settings` name.
pub fn wanted(settings: &Settings) -> Vec<Wanted> {
    let plain = settings.http.listen.iter().map(|&address| Wanted { address, tls: false });
    plain.chain(settings.tls.listen.iter().map(|&address| Wanted { address, tls: true })).collect()
}

impl Wanted {
    fn key(self) -> &'static str {
        if self.tls { "tls.listen" } else { "http.listen" }
    }
}

/// How long a port may still be held by a process that is gone.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);

/// Binds every address once for each shard; the kernel spreads connections over them.
///
/// # Errors
/// The first address that cannot be had. `[::]` on a machine without IPv6 is left out when there is another address.
pub fn bind(addresses: &[Wanted], shards: usize) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners { shards: Vec::new(), addresses: Vec::new() };
    listeners.shards.resize_with(shards, ShardListeners::default);
    for wanted in addresses {
        let mut address = wanted.address;
        let fail = |error| ListenError::new(wanted.key(), wanted.address, error);
        if address.port() != 0
            && let Err(error) = probe(address)
        {
            if address.is_ipv6() && address.ip().is_unspecified() && addresses.len() > 1 && lacks_family(&error) {
                tracing::warn!(%address, %error, "this machine has no IPv6; serving without it");
                continue;
            }
            return Err(fail(error));
        }
        for shard in &mut listeners.shards {
            let socket = net::shard_listener(address).map_err(fail)?;
            // Port 0: what the kernel chose for the first goes for all.
            address = net::local_address(&socket).map_err(fail)?;
            shard.sockets.push(Listener { socket: TcpListener::from(socket), tls: wanted.tls });
        }
        listeners.addresses.push(address);
    }
    Ok(listeners)
}

/// Binds every UDP address and port once for each shard, in the order of `settings`: port, then alternate port, of each address.
///
/// # Errors
/// The first that cannot be had.
pub fn bind_udp(settings: &UdpSettings, listeners: &mut Listeners) -> Result<(), ListenError> {
    let buffers = udp::Buffers { receive: settings.socket_bytes, send: settings.socket_bytes };
    for &ip in &settings.addresses {
        for port in std::iter::once(settings.port).chain(settings.alternate_port) {
            let address = SocketAddr::new(ip, port);
            let fail = |error| ListenError::new("udp.addresses", address, error);
            // A socket that shares its port would share it with another process of the same user, too, and say nothing.
            patiently(|| udp::own_socket(address, buffers)).map_err(fail)?;
            for shard in &mut listeners.shards {
                let socket = udp::shard_socket(address, buffers).map_err(fail)?;
                shard.udp.push(UdpListener { address, socket, owners: None });
            }
        }
    }
    Ok(())
}

/// Binds every TCP address and port of the relay once for each shard.
///
/// # Errors
/// The first that cannot be had.
pub fn bind_turn(settings: &Settings, listeners: &mut Listeners) -> Result<(), ListenError> {
    for address in settings.turn_streams() {
        let fail = |error| ListenError::new("turn.tcp", address, error);
        probe(address).map_err(fail)?;
        for shard in &mut listeners.shards {
            let socket = net::shard_listener(address).map_err(fail)?;
            net::set_unsent_max(&socket, STREAM_UNSENT_MAX).map_err(fail)?;
            shard.turn.push(TurnListener { address, socket });
        }
    }
    Ok(())
}

/// As [`net::probe`], but patient with a predecessor: the listeners of a killed process are closed with its rings, and that
/// is a little after the process is gone.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    patiently(|| net::probe(address))
}

fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PREDECESSOR_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn lacks_family(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// The sockets that a service manager has handed over, shared by all shards; `None` when it has not. Those on a port of
/// `tls_ports` speak TLS.
///
/// # Errors
/// A socket that cannot be served.
pub fn inherited(tls_ports: &[u16], shards: usize) -> Result<Option<Listeners>, ListenError> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        let taken = handed.take_tcp_listener(index).map_err(|source| ListenError::Inherited { index, source })?;
        sockets.extend(taken);
    }
    if sockets.is_empty() { Ok(None) } else { share(&sockets, tls_ports, shards).map(Some) }
}

/// Each of `sockets` once for each shard.
fn share(sockets: &[TcpListener], tls_ports: &[u16], shards: usize) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners { shards: Vec::new(), addresses: Vec::new() };
    let each = |act: &dyn Fn(&TcpListener) -> io::Result<()>| {
        let mut numbered = sockets.iter().enumerate();
        numbered.try_for_each(|(index, socket)| act(socket).map_err(|source| ListenError::Inherited { index, source }))
    };
    each(&|socket| socket.set_nonblocking(false))?;
    for (index, socket) in sockets.iter().enumerate() {
        let address = socket.local_addr().map_err(|source| ListenError::Inherited { index, source })?;
        listeners.addresses.push(address);
    }
    for _ in 0..shards {
        let copy = |(socket, address): (&TcpListener, &SocketAddr)| {
            Ok(Listener { socket: socket.try_clone()?, tls: tls_ports.contains(&address.port()) })
        };
        let copies: io::Result<Vec<_>> = sockets.iter().zip(&listeners.addresses).map(copy).collect();
        let sockets = copies.map_err(|source| ListenError::Inherited { index: 0, source })?;
        listeners.shards.push(ShardListeners { sockets, ..ShardListeners::default() });
    }
    Ok(listeners)
}

/// The admin socket, non-blocking as tokio wants it, and its address.
///
/// # Errors
/// As [`bind`].
pub fn bind_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let open = || {
        if address.port() != 0 {
            probe(address)?;
        }
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    open().map_err(|error| ListenError::new("admin.listen", address, error))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn plain(address: SocketAddr) -> Wanted {
        Wanted { address, tls: false }
    }

    #[test]
    fn every_shard_has_a_socket_on_the_same_port() {
        let listeners = bind(&[plain(local()), Wanted { address: local(), tls: true }], 3).unwrap();
        assert_eq!((listeners.shards.len(), listeners.addresses.len()), (3, 2));
        for shard in &listeners.shards {
            let addresses: Vec<_> = shard.sockets.iter().map(|at| at.socket.local_addr().unwrap()).collect();
            assert_eq!(addresses, listeners.addresses);
            assert!(!shard.sockets[0].tls && shard.sockets[1].tls);
        }
        TcpStream::connect(listeners.addresses[0]).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_also_when_it_could_be_shared() {
        let other = bind(&[plain(local())], 1).unwrap();
        let error = bind(&[Wanted { address: other.addresses[0], tls: true }], 2).unwrap_err();
        assert!(matches!(error, ListenError::Taken { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("tls.listen") && said.contains(&other.addresses[0].to_string()), "{said}");
        let error = bind_admin(other.addresses[0]).unwrap_err();
        assert!(matches!(error, ListenError::Taken { key: "admin.listen", .. }), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let error = bind(&[plain("192.0.2.1:0".parse().unwrap())], 1).unwrap_err();
        assert!(matches!(error, ListenError::NotHere { .. }), "{error}");
    }

    #[test]
    fn every_shard_has_udp_sockets_on_the_same_ports_and_a_taken_one_is_named() {
        let free = |_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..2).map(free).collect();
        let ports: Vec<u16> = held.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        let settings = UdpSettings {
            addresses: vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()],
            port: ports[0],
            alternate_port: Some(ports[1]),
            bindings_per_address: 0,
            receive_buffers: 16,
            socket_bytes: 1 << 16,
            steer: false,
            partner: None,
        };
        let error = bind_udp(&settings, &mut bind(&[], 2).unwrap()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("udp.addresses") && said.contains(&held[0].local_addr().unwrap().to_string()), "{said}");
        drop(held);
        let mut listeners = bind(&[], 2).unwrap();
        bind_udp(&settings, &mut listeners).unwrap();
        for shard in &listeners.shards {
            let addresses: Vec<_> = shard.udp.iter().map(|at| net::local_address(&at.socket).unwrap()).collect();
            let wanted = [(1, ports[0]), (1, ports[1]), (2, ports[0]), (2, ports[1])];
            assert!(
                addresses.iter().copied().eq(wanted.map(|(host, port)| SocketAddr::from(([127, 0, 0, host], port))))
            );
            assert!(addresses.iter().copied().eq(shard.udp.iter().map(|at| at.address)));
        }
    }

    #[test]
    fn sockets_handed_over_are_shared_by_all_shards() {
        let socket = TcpListener::bind(local()).unwrap();
        let address = socket.local_addr().unwrap();
        let tls = TcpListener::bind(local()).unwrap();
        let tls_port = tls.local_addr().unwrap().port();
        let listeners = share(&[socket, tls], &[tls_port], 2).unwrap();
        assert_eq!(listeners.addresses[0], address);
        let _viewer = TcpStream::connect(address).unwrap();
        assert!(listeners.shards[1].sockets[0].socket.accept().is_ok());
        assert!(listeners.shards.iter().all(|shard| !shard.sockets[0].tls && shard.sockets[1].tls));
    }
}
