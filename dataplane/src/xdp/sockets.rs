//! AF_XDP sockets for the shards: one for each queue of the interfaces that have the program.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::io::Errno;
use shoal_probes::{FrameEndpoints, MapError, Probes};
use shoal_sys::xsk::{self, Interface, Mode, XskReceiver, XskSender};

use crate::config::XdpSockets;
use crate::settings::Settings;
use crate::shard::{FrameListener, FrameListeners, ShardListeners};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;

/// Queues of an interface that get a socket. What comes by others goes to the host's sockets.
const QUEUES_MAX: u32 = 64;

/// Why frames do not come to the process.
#[derive(Debug, thiserror::Error)]
enum SocketError {
    #[error("the kernel lets this process open no AF_XDP socket ({0}); that takes CAP_NET_RAW, or root")]
    Privilege(io::Error),
    #[error(
        "no AF_XDP socket for {interface}, for its driver cannot do zero-copy; xdp.sockets = \"copy\" works with every driver"
    )]
    ZeroCopy { interface: String },
    #[error(
        "no AF_XDP socket for queue {queue} of {interface}, for the process may lock no more memory; raise LimitMEMLOCK= (ulimit -l)"
    )]
    Memory { interface: String, queue: u32 },
    #[error("no AF_XDP socket for queue {queue} of {interface}: {source}")]
    Other { interface: String, queue: u32, source: io::Error },
    #[error("the kernel does not take the AF_XDP sockets: {0}")]
    Map(#[from] MapError),
}

/// Opens them, if they are configured, and divides them among the shards. What cannot be is a line in the log.
pub(super) fn open(settings: &Settings, probes: &mut Probes, stats: &NodeStats, shards: &mut [ShardListeners]) {
    let mode = match settings.xdp.sockets {
        XdpSockets::Off => return,
        XdpSockets::Copy => Mode::Copy,
        XdpSockets::ZeroCopy => Mode::ZeroCopy,
    };
    if let Err(error) = serve(settings, probes, shards) {
        tracing::warn!(%error, "UDP goes on by ordinary sockets alone");
        return;
    }
    let attached = probes.attached().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot see where XDP is");
        Vec::new()
    });
    let has_program = |name: &&String| attached.iter().any(|at| at.interface == **name && at.mode.is_some());
    for (nth, name) in settings.xdp.interfaces.iter().filter(has_program).enumerate() {
        match open_queues(name, nth, mode, probes, shards) {
            Ok(queues) => {
                stats.add(if mode == Mode::Copy { Node::XdpCopy } else { Node::XdpZeroCopy }, queues.into());
                tracing::info!(interface = name, queues, ?mode, "UDP comes by frames");
            }
            Err(error @ SocketError::Privilege(_)) => {
                tracing::warn!(%error, "UDP goes on by ordinary sockets alone");
                break;
            }
            Err(error) => tracing::warn!(%error, "what comes by it goes to ordinary sockets"),
        }
    }
    if shards.iter().flat_map(|shard| &shard.frames).all(|frames| frames.sockets.is_empty()) {
        // Nobody has to hand over what comes by sockets then.
        shards.iter_mut().for_each(|shard| shard.frames = None);
    }
}

/// Says what clients send to; the shards say where they relay from.
fn serve(settings: &Settings, probes: &Probes, shards: &mut [ShardListeners]) -> Result<(), SocketError> {
    let own = &settings.udp;
    let mut endpoints = probes.frame_endpoints()?;
    endpoints.clear()?;
    for ip in &own.addresses {
        for port in [Some(own.port), own.alternate_port].into_iter().flatten() {
            endpoints.add(SocketAddr::new(*ip, port))?;
        }
    }
    let each = shards.iter().map(|_| probes.frame_endpoints()).collect::<Result<Vec<FrameEndpoints>, _>>()?;
    for (shard, endpoints) in shards.iter_mut().zip(each) {
        shard.frames = Some(FrameListeners { sockets: Vec::new(), endpoints });
    }
    Ok(())
}

/// A socket for each queue of an interface, the `nth` of all, so that not all first queues are one shard's. How many they are.
fn open_queues(
    name: &str,
    nth: usize,
    mode: Mode,
    probes: &mut Probes,
    shards: &mut [ShardListeners],
) -> Result<u32, SocketError> {
    let other = |source| SocketError::Other { interface: name.to_owned(), queue: 0, source };
    let interface = xsk::interface(name).map_err(other)?;
    let count = shards.len().max(1);
    for queue in 0..QUEUES_MAX {
        // Who is behind another namespace's /sys does not see how many there are.
        let Some((receiver, sender)) = open_queue(name, interface, queue, mode)? else { return Ok(queue) };
        let Some(frames) = shards.get_mut((nth + queue as usize) % count).and_then(|shard| shard.frames.as_mut())
        else {
            return Ok(queue);
        };
        probes.add_socket(interface.index, queue, receiver.as_fd())?;
        frames.sockets.push(FrameListener { interface, receiver, sender });
    }
    Ok(QUEUES_MAX)
}

/// `None`: there are no more queues.
fn open_queue(
    name: &str,
    interface: Interface,
    queue: u32,
    mode: Mode,
) -> Result<Option<(XskReceiver, XskSender)>, SocketError> {
    let socket = xsk::socket().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => SocketError::Privilege(error),
        _ => SocketError::Other { interface: name.to_owned(), queue, source: error },
    })?;
    let error = match xsk::open(socket, interface, queue, mode) {
        Ok(halves) => return Ok(Some(halves)),
        Err(error) => error,
    };
    let interface = name.to_owned();
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL) if queue > 0 => Ok(None),
        Some(Errno::OPNOTSUPP) if mode == Mode::ZeroCopy => Err(SocketError::ZeroCopy { interface }),
        Some(Errno::NOBUFS) => Err(SocketError::Memory { interface, queue }),
        _ => Err(SocketError::Other { interface, queue, source: error }),
    }
}
