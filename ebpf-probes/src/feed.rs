//! What user space tells the programs.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use shoal_packet::source::{Source, place};

use crate::gate::{Changed, Gate};
use crate::maps::{self, Address, Config, Drop, Endpoint, EndpointKey, SAMPLE, config, port};
use crate::{MapError, Probes, address, endpoint};

/// What a node takes. Rates in packets per second; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of a source address, an IPv6 /64.
    pub source: u32,
    /// Of a source network, an IPv4 /24 or an IPv6 /48.
    pub network: u32,
    /// Of a source address that is not known, while there is an attack.
    pub new_source: u32,
    /// There is one when so many packets come of unknown sources in a second, on one CPU. 0: never.
    pub attack: u32,
    /// Binding requests of a source address.
    pub bindings: u32,
    /// Of the drops of a CPU every so-many-th is told of; 0: none.
    pub sample_every: u32,
    /// Whether fragments are dropped.
    pub drop_fragments: bool,
}

/// What this process has told the maps so far; what they have beyond it is of one before.
#[derive(Default)]
pub(crate) struct Told {
    endpoints: HashSet<EndpointKey>,
    /// By number; empty before the first one.
    ports: Vec<u8>,
    /// Whether there was a process before.
    resumed: bool,
}

impl Told {
    /// What a port is to be.
    fn port(&mut self, number: u16) -> &mut u8 {
        self.ports.resize(1 << 16, port::NONE);
        &mut self.ports[usize::from(number)]
    }
}

impl Probes {
    /// Takes over what the maps have, if they were used before: the places of rates, and whom is blocked.
    pub(crate) fn resume(&mut self) -> Result<(), MapError> {
        let before = self.config.get(&0, 0)?;
        if before.seed == 0 {
            return self.config.set(0, self.now, 0);
        }
        self.now = before;
        self.told.resumed = true;
        self.gate = Gate::new(before.seed);
        for network in self.blocked()? {
            let changed = self.gate.add(network);
            self.write_gate(changed)?;
        }
        Ok(())
    }

    /// All networks that are blocked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn blocked(&self) -> Result<Vec<IpNet>, MapError> {
        let mut networks = Vec::new();
        for key in self.block_v4.keys() {
            let key = key?;
            networks.extend(net(key.data().into(), key.prefix_len()));
        }
        for key in self.block_v6.keys() {
            let key = key?;
            networks.extend(net(key.data().into(), key.prefix_len()));
        }
        Ok(networks)
    }

    /// Takes away endpoints and ports that this process has not told of: those of another configuration, before it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget_untold(&mut self) -> Result<(), MapError> {
        if !self.told.resumed {
            return Ok(());
        }
        let keys: Vec<EndpointKey> = self.endpoints.keys().collect::<Result<_, _>>()?;
        for key in keys.iter().filter(|key| !self.told.endpoints.contains(key)) {
            self.endpoints.remove(key)?;
        }
        for number in 0..=u16::MAX {
            let told = *self.told.port(number);
            if self.ports.get(&number.into(), 0)? != told {
                self.ports.set(number.into(), told, 0)?;
            }
        }
        Ok(())
    }

    /// Puts limits in force.
    ///
    /// # Errors
    /// The kernel's, here and below.
    pub fn set_limits(&mut self, limits: &Limits) -> Result<(), MapError> {
        let interval = |per_second: u32| 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0);
        let fragments = if limits.drop_fragments { config::DROP_FRAGMENTS } else { 0 };
        self.now = Config {
            seed: self.now.seed,
            source_ns: interval(limits.source),
            network_ns: interval(limits.network),
            new_source_ns: interval(limits.new_source),
            // Rounded up: none would be no limit at all.
            attack_packets: (u64::from(limits.attack) * maps::WINDOW_NS).div_ceil(1_000_000_000),
            binding_ns: interval(limits.bindings),
            sample_every: limits.sample_every,
            flags: self.now.flags & !config::DROP_FRAGMENTS | fragments,
        };
        self.config.set(0, self.now, 0)
    }

    /// Has what clients send to `at` judged; with `answer`, plain Binding requests are answered, and clients told that `other` is the
    /// second address and port.
    pub fn add_endpoint(&mut self, at: SocketAddr, answer: bool, other: Option<SocketAddr>) -> Result<(), MapError> {
        let value = Endpoint {
            other: other.map_or_else(Address::default, |other| address(other.ip())),
            other_port: other.map_or(0, |other| other.port().into()),
            flags: if answer { maps::endpoint::ANSWER } else { 0 },
        };
        self.endpoints.insert(endpoint(at), value, 0)?;
        self.told.endpoints.insert(endpoint(at));
        self.add_address(at.ip())?;
        *self.told.port(at.port()) = port::CLIENTS;
        self.ports.set(at.port().into(), port::CLIENTS, 0)
    }

    /// Has what comes to a relay address judged, on the ports of [`add_relay_ports`](Self::add_relay_ports).
    pub fn add_address(&mut self, ip: IpAddr) -> Result<(), MapError> {
        let key = endpoint(SocketAddr::new(ip, 0));
        self.told.endpoints.insert(key);
        self.endpoints.insert(key, Endpoint::default(), 0)
    }

    /// Ports of relays, on all own addresses. Those that clients send to stay what they are.
    pub fn add_relay_ports(&mut self, ports: RangeInclusive<u16>) -> Result<(), MapError> {
        for number in ports {
            let told = self.told.port(number);
            if *told == port::NONE {
                *told = port::RELAY;
                self.ports.set(number.into(), port::RELAY, 0)?;
            }
        }
        Ok(())
    }

    /// Drops whatever comes from there.
    pub fn block(&mut self, network: IpNet) -> Result<(), MapError> {
        match network {
            IpNet::V4(v4) => self.block_v4.insert(&Key::new(v4.prefix_len().into(), v4.network().octets()), 0, 0)?,
            IpNet::V6(v6) => self.block_v6.insert(&Key::new(v6.prefix_len().into(), v6.network().octets()), 0, 0)?,
        }
        let changed = self.gate.add(network.trunc());
        self.write_gate(changed)
    }

    /// The inverse of it, for the same network.
    pub fn unblock(&mut self, network: IpNet) -> Result<(), MapError> {
        match network {
            IpNet::V4(v4) => self.block_v4.remove(&Key::new(v4.prefix_len().into(), v4.network().octets()))?,
            IpNet::V6(v6) => self.block_v6.remove(&Key::new(v6.prefix_len().into(), v6.network().octets()))?,
        }
        let changed = self.gate.remove(network.trunc());
        self.write_gate(changed)
    }

    fn write_gate(&mut self, changed: Changed) -> Result<(), MapError> {
        match changed {
            Changed::V4(words) => {
                for word in words {
                    self.gate_v4.set(word, self.gate.v4(word), 0)?;
                }
                Ok(())
            }
            Changed::V6(word) => self.gate_v6.set(word, self.gate.v6(word), 0),
            Changed::AllV6 => {
                let short = if self.gate.has_short_v6() { config::BLOCK_V6_SHORT } else { 0 };
                self.now.flags = self.now.flags & !config::BLOCK_V6_SHORT | short;
                self.config.set(0, self.now, 0)
            }
        }
    }

    /// Says that a source has proven not to be forged, until then, by the kernel's monotonic clock.
    pub fn know(&mut self, source: IpAddr, until_ns: u64) -> Result<(), MapError> {
        let place = place(self.now.seed, Source::from(source).address, maps::SOURCES);
        self.known.set(place, until_ns, 0)
    }
}

fn net(address: IpAddr, length: u32) -> Option<IpNet> {
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}

/// A record of the ring.
pub(crate) fn parse_drop(bytes: &[u8]) -> Option<Drop> {
    let mut rest = bytes;
    let drop = Drop {
        at_ns: u64::from_ne_bytes(next(&mut rest)?),
        source: next_address(&mut rest)?,
        destination: next_address(&mut rest)?,
        source_port: u16::from_ne_bytes(next(&mut rest)?),
        destination_port: u16::from_ne_bytes(next(&mut rest)?),
        verdict: u32::from_ne_bytes(next(&mut rest)?),
        length: u32::from_ne_bytes(next(&mut rest)?),
        sampled: u32::from_ne_bytes(next(&mut rest)?),
        sample: next::<SAMPLE>(&mut rest)?,
    };
    rest.is_empty().then_some(drop)
}

fn next<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

fn next_address(rest: &mut &[u8]) -> Option<Address> {
    let mut words = [0; 4];
    for word in &mut words {
        *word = u32::from_ne_bytes(next(rest)?);
    }
    Some(Address(words))
}

/// The address that a map has.
#[must_use]
pub fn ip(address: Address) -> IpAddr {
    let mut octets = [0; 16];
    for (place, word) in octets.as_chunks_mut().0.iter_mut().zip(address.0) {
        *place = word.to_ne_bytes();
    }
    Ipv6Addr::from(octets).to_canonical()
}
