//! The XDP program in front of the sockets, where there is one: told what the node serves, and asked what it did.
//!
//! It takes nothing away: without it user space drops and answers the same by itself, only later and at a higher price.

mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use rustix::time::ClockId;
use shoal_probes::{Mode, Probes};
use shoal_stun::discovery::Other;

use crate::settings::Settings;
use crate::shard::ShardListeners;
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;
use crate::udp;

/// Sources that wait to be made known; more are forgotten, and come again.
const KNOWN_MAX: usize = 4_096;

/// How long a source that has proven itself is known to be no forgery: longer than clients are silent.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Sources that have proven to be where they say: by credentials or a registration, which take an answer of theirs to ours.
#[derive(Debug)]
pub struct KnownSources(ArrayQueue<IpAddr>);

impl Default for KnownSources {
    fn default() -> Self {
        Self(ArrayQueue::new(KNOWN_MAX))
    }
}

impl KnownSources {
    /// Notes one. Never waits.
    pub(crate) fn note(&self, source: IpAddr) {
        // Not the last time that it says something.
        let _ = self.0.push(source);
    }
}

/// The program, attached.
pub struct Filter {
    probes: Probes,
    /// Whether the kernel's last answer was an error: said once, not at each round.
    failing: bool,
}

impl Filter {
    /// Loads the program and attaches it to the interfaces that are configured, and gives the shards their AF_XDP sockets, if they shall
    /// have some. `None`, and a line in the log, where that cannot be.
    pub fn start(settings: &Settings, seed: u64, stats: &NodeStats, shards: &mut [ShardListeners]) -> Option<Filter> {
        if settings.xdp.interfaces.is_empty() {
            return None;
        }
        let mut filter = match Probes::load(seed) {
            Ok(probes) => Filter { probes, failing: false },
            Err(error) => {
                tracing::warn!(%error, "no XDP; UDP goes on in user space alone");
                return None;
            }
        };
        if let Err(error) = filter.feed(settings) {
            tracing::warn!(%error, "no XDP, for its maps cannot be written; UDP goes on in user space alone");
            return None;
        }
        let mut attached = Vec::new();
        for interface in &settings.xdp.interfaces {
            match filter.probes.attach(interface) {
                Ok(mode) => {
                    let (gauge, mode) = match mode {
                        Mode::Native => (Node::XdpNative, "native"),
                        Mode::Generic => (Node::XdpGeneric, "generic"),
                    };
                    stats.add(gauge, 1);
                    tracing::info!(interface, mode, "XDP attached");
                    attached.push(interface.as_str());
                }
                Err(error) => tracing::warn!(%error, "what comes by this interface goes to user space unfiltered"),
            }
        }
        sockets::open(settings, &attached, &mut filter.probes, stats, shards);
        Some(filter)
    }

    /// Tells it what the node serves.
    fn feed(&mut self, settings: &Settings) -> Result<(), shoal_probes::MapError> {
        let own = &settings.udp;
        self.probes.set_limits(&settings.xdp.limits)?;
        for ip in &own.addresses {
            let at = udp::endpoints(own, *ip);
            for port in [Some(own.port), own.alternate_port].into_iter().flatten() {
                let local = SocketAddr::new(*ip, port);
                let other = match at.other {
                    Other::Here(_) => at.other_of(local).map(|(other, _)| other),
                    Other::Nowhere | Other::Partner { .. } => None,
                };
                self.probes.add_endpoint(local, settings.xdp.answer, other)?;
            }
        }
        if let Some(turn) = &settings.turn {
            let relays = turn.ipv4.map(|at| at.bind.into()).into_iter().chain(turn.ipv6.map(|at| at.bind.into()));
            relays.into_iter().try_for_each(|ip: IpAddr| self.probes.add_address(ip))?;
            self.probes.add_relay_ports(turn.ports.clone())?;
        }
        Ok(())
    }

    /// Makes known who has proven itself, and notes what the program has done since the last time.
    pub fn round(&mut self, known: &KnownSources, stats: &NodeStats) {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let until = u64::try_from((now + KNOWN_FOR).as_nanos()).unwrap_or(u64::MAX);
        let mut done = Ok(());
        while let Some(source) = known.0.pop() {
            done = done.and(self.probes.know(source, until));
        }
        match done.and_then(|()| self.probes.verdicts()) {
            Ok(packets) => {
                self.failing = false;
                stats.set_xdp(&packets);
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "XDP's maps cannot be reached; what the metrics say of it is old");
            }
            Err(_) => {}
        }
    }
}
