//! The XDP program in front of the sockets, where there is one: told what the node serves, and asked what it did.
//!
//! It takes nothing away: without it user space drops and answers the same by itself, only later and at a higher price.

mod blocking;
mod life;
mod sockets;
pub mod watch;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use rustix::time::ClockId;
use shoal_packet::flow::Owners;
use shoal_probes::{Mode, Probes, Relay};
use shoal_stun::discovery::Other;

use crate::routes::Published;
use crate::settings::Settings;
use crate::shard::ShardListeners;
use crate::steer::{self, SocketSteering};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;
use crate::udp;
use blocking::Blocking;
use watch::Watch;

/// Sources that wait to be made known; more are forgotten, and come again.
const KNOWN_MAX: usize = 4_096;

/// Sampled drops taken in a round; more stay in their ring, which is bounded.
const DROPS_MAX: usize = 4_096;

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
    /// Whether it stays when the node ends in order.
    keep: bool,
    /// The pins are this process's alone.
    _held: Option<File>,
    watch: Arc<Watch>,
    blocking: Blocking,
    /// Whether the kernel's last answer was an error: said once, not at each round.
    failing: bool,
}

impl Filter {
    /// Loads the program and attaches it to the interfaces that are configured, or opens what a loader has pinned, and gives the shards
    /// their AF_XDP sockets, if they shall have some. `None`, and a line in the log, where that cannot be. With it, a hand on the channels
    /// that it relays for each shard. `steering` is that of the sockets, if they are steered.
    pub fn start(
        settings: &Settings,
        (seed, steering): (u64, Option<&SocketSteering>),
        stats: &NodeStats,
        watch: Arc<Watch>,
        shards: &mut [ShardListeners],
    ) -> Option<(Filter, Vec<Relay>)> {
        let own = &settings.xdp;
        if own.interfaces.is_empty() {
            life::leave(own);
            return None;
        }
        let (probes, held) = match life::begin(own, seed, steering.and_then(SocketSteering::held)) {
            Ok(begun) => begun,
            Err(error) => {
                tracing::warn!(%error, "no XDP; UDP goes on in user space alone");
                watch.note_absence(error.to_string());
                return None;
            }
        };
        let mut filter =
            Filter { probes, keep: own.keep, _held: held, watch, blocking: Blocking::default(), failing: false };
        if let Err(error) = filter.feed(settings) {
            tracing::warn!(%error, "no XDP, for its maps cannot be written; UDP goes on in user space alone");
            filter.watch.note_absence(error.to_string());
            return None;
        }
        filter.steer(settings, steering.map(SocketSteering::owners).filter(|_| own.steer_cpus));
        let relaying = if own.channels > 0 { settings.shard_count() } else { 0 };
        // What a process before this one has bound ends here: its sockets are gone.
        let relays = filter.probes.begin_anew().and_then(|()| filter.probes.relays(relaying));
        let relays = relays.unwrap_or_else(|error| {
            tracing::warn!(%error, "XDP relays no channels; user space does");
            Vec::new()
        });
        life::attach(&mut filter.probes, &own.interfaces);
        if let Err(error) = filter.probes.forget_untold() {
            tracing::warn!(%error, "XDP's maps have what an earlier configuration served");
        }
        sockets::open(settings, &mut filter.probes, stats, shards);
        filter.watch.begin(own, &filter.probes);
        filter.look(stats);
        Some((filter, relays))
    }

    /// Ends it in order: it is taken off the interfaces, if it is not to stay.
    pub fn end(self) {
        let Some(pins) = self.probes.pins().filter(|_| !self.keep).cloned() else { return };
        match pins.remove() {
            Ok(()) => tracing::info!("XDP detached"),
            Err(error) => tracing::warn!(%error, "XDP stays attached"),
        }
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

    /// Has packets go on at their owners' CPUs, or stay where they are.
    fn steer(&mut self, settings: &Settings, owners: Option<Owners>) {
        let Some(owners) = owners else {
            if let Err(error) = self.probes.keep_cpus() {
                tracing::warn!(%error, "packets may be sent on to other CPUs, as an earlier configuration wanted");
            }
            return;
        };
        let cpus: Vec<u32> = settings.shards.cpus.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect();
        if let Err(error) = self.probes.steer_cpus(owners, &cpus, steer::relay_ports(settings)) {
            tracing::warn!(%error, "packets stay on the CPUs that they come in by; leave xdp.steer_cpus out");
        }
    }

    /// Makes known who has proven itself and who is blocked, and notes what the program has done since the last time.
    pub fn round(&mut self, known: &KnownSources, published: &Published, stats: &NodeStats) {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let until = u64::try_from((now + KNOWN_FOR).as_nanos()).unwrap_or(u64::MAX);
        let mut done = self.blocking.follow(&mut self.probes, published);
        for _ in 0..DROPS_MAX {
            let Some(drop) = self.probes.next_drop() else { break };
            self.watch.tell(&drop, now);
        }
        self.look(stats);
        while let Some(source) = known.0.pop() {
            done = done.and(self.probes.know(source, until));
        }
        let read = |()| Ok((self.probes.verdicts()?, self.probes.redirected()?));
        match done.and_then(read) {
            Ok((packets, redirected)) => {
                self.failing = false;
                stats.set_xdp(&packets);
                stats.set(Node::XdpRedirects, redirected);
                self.watch.count(&packets);
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "XDP's maps cannot be reached; what the metrics say of it is old");
            }
            Err(_) => {}
        }
    }

    /// Looks where the program is.
    fn look(&self, stats: &NodeStats) {
        let attached = match self.probes.attached() {
            Ok(attached) => attached,
            Err(error) => {
                tracing::debug!(%error, "cannot see where XDP is");
                return;
            }
        };
        for (gauge, mode) in
            [(Node::XdpNative, Mode::Native), (Node::XdpGeneric, Mode::Generic), (Node::XdpOffloaded, Mode::Offloaded)]
        {
            stats.set(gauge, attached.iter().filter(|at| at.mode == Some(mode)).count() as u64);
        }
        self.watch.see(attached, |program| self.probes.tag(program));
    }
}
