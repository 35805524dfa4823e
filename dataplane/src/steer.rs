//! Flows to the shards that own them, by sk_reuseport: by a program that this process loads, or, where it may not, one that `shoal-xdp` has
//! pinned. Else the kernel chooses by itself, and as steadily.
//!
//! What comes for a relay needs none of it: its socket is the only one with its port.

use std::fs::File;

use shoal_packet::flow::{Owners, RelayPorts};
use shoal_probes::{LoadError, PinError, Pins, Steering};

use crate::settings::{Settings, XdpSettings, ports_of_shard};
use crate::shard::{ShardListeners, UdpListener};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;

/// The program for sockets.
pub struct SocketSteering {
    steering: Steering,
    owners: Owners,
    /// Of the pins that it comes from.
    held: Option<File>,
    /// Whether the kernel's last answer was an error: said once, not at each round.
    failing: bool,
}

impl SocketSteering {
    /// Loads it, or opens what is pinned, before there are sockets: what comes before they are steered goes where the kernel likes. `None`,
    /// and a line in the log, where neither can be; without a line where there is nothing to steer.
    pub fn load(settings: &Settings, seed: u64) -> Option<SocketSteering> {
        let shards = u32::try_from(settings.shard_count()).ok().filter(|shards| *shards > 1)?;
        if !settings.udp.steer || settings.udp.addresses.is_empty() {
            return None;
        }
        let owners = Owners { seed, shards };
        match begin(&settings.xdp, owners) {
            Ok((steering, held)) => Some(SocketSteering { steering, owners, held, failing: false }),
            // Of pins that it may not use, XDP warns.
            Err(error @ (LoadError::Privilege(_) | LoadError::Pins(PinError::Denied(_) | PinError::Held(_)))) => {
                tracing::info!(%error, "the kernel chooses the shard of each UDP flow");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel chooses the shard of each UDP flow");
                None
            }
        }
    }

    /// Has the kernel give what clients send to the shard that owns the flow, and tells `listeners` so.
    pub fn attach(&mut self, listeners: &mut [ShardListeners]) {
        let endpoints = listeners.first().map_or(0, |shard| shard.udp.len());
        for nth in 0..endpoints {
            let mut same: Vec<&mut UdpListener> =
                listeners.iter_mut().filter_map(|shard| shard.udp.get_mut(nth)).collect();
            let Some(at) = same.first().map(|listener| listener.address) else { continue };
            let sockets: Vec<_> = same.iter().map(|listener| &listener.socket).collect();
            match self.steering.add(at, &sockets) {
                Ok(()) => same.iter_mut().for_each(|listener| listener.owners = Some(self.owners)),
                Err(error) => tracing::warn!(%error, "the kernel chooses the shard of each flow there"),
            }
        }
        tracing::info!(shards = self.owners.shards, "UDP flows come to the shards that own them");
    }

    /// Whose flows are.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// What keeps other processes from the pins, if it comes from there: all that is in them is this process's.
    pub fn held(&self) -> Option<File> {
        self.held.as_ref()?.try_clone().ok()
    }

    /// Notes what the program has done since the last time.
    pub fn round(&mut self, stats: &NodeStats) {
        match self.steering.steered() {
            Ok(steered) => {
                self.failing = false;
                stats.set(Node::SteeredToOwner, steered.owner);
                stats.set(Node::SteeredByKernel, steered.kernel);
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "the map of what was steered cannot be read; what the metrics say of it is old");
            }
            Err(_) => {}
        }
    }
}

/// The program, and what keeps others from its pins, if it is pinned.
fn begin(own: &XdpSettings, owners: Owners) -> Result<(Steering, Option<File>), LoadError> {
    let refused = match Steering::load(owners) {
        Err(error @ LoadError::Privilege(_)) => error,
        loaded => return Ok((loaded?, None)),
    };
    // They are for nodes that have XDP; what else is there is about to be removed.
    let Some(pins) = own.pins.as_ref().filter(|_| !own.interfaces.is_empty()).map(Pins::new) else {
        return Err(refused);
    };
    match open(&pins, owners) {
        Ok(Some((steering, held))) => Ok((steering, Some(held))),
        Ok(None) | Err(LoadError::Pins(PinError::NoFileSystem(_) | PinError::Missing(_))) => Err(refused),
        Err(error) => Err(error),
    }
}

fn open(pins: &Pins, owners: Owners) -> Result<Option<(Steering, File)>, LoadError> {
    pins.check()?;
    let held = pins.hold()?;
    Ok(Steering::open(pins, owners)?.map(|steering| (steering, held)))
}

/// How relay ports are divided among the shards.
pub(crate) fn relay_ports(settings: &Settings) -> RelayPorts {
    let Some(turn) = &settings.turn else { return RelayPorts::default() };
    let first = ports_of_shard(&turn.ports, 0, settings.shard_count());
    RelayPorts { first: (*first.start()).into(), each: first.len() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_ports_are_found_to_be_their_shards() {
        for (ports, shards) in [(49152..=65535, 3), (1025..=1060, 4), (65_500..=65_535, 2), (2000..=2003, 1)] {
            let first = ports_of_shard(&ports, 0, shards);
            let relays = RelayPorts { first: (*first.start()).into(), each: first.len() as u32 };
            for shard in 0..shards {
                let own = ports_of_shard(&ports, shard, shards);
                assert!(own.clone().all(|port| relays.shard(port) == Some(shard as u32)), "{own:?} of {ports:?}");
            }
            assert_eq!(relays.shard(first.start() - 1), None);
        }
        assert_eq!(RelayPorts::default().shard(50_000), None);
    }
}
