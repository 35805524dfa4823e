//! What user space tells the programs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use shoal_packet::source::{Source, place};

use crate::gate::{Changed, Gate};
use crate::maps::{self, Address, Config, Drop, Own, SAMPLE, config, own, port};
use crate::{MapError, Probes, address};

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

/// Own addresses, as they are told.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses {
    clients: BTreeMap<u16, Vec<Own>>,
    relays: Vec<Own>,
    relay_ports: Vec<RangeInclusive<u16>>,
    /// In the order of their numbers; a relay's address with port 0.
    numbers: Vec<SocketAddr>,
    /// Which half of the places is in force.
    upper: bool,
    /// Whether a process before this one has told some.
    resumed: bool,
}

impl OwnAddresses {
    /// The number of an address, which gets one if it has none.
    fn number(&mut self, at: SocketAddr) -> u32 {
        self.number_of(at).unwrap_or_else(|| {
            self.numbers.push(at);
            self.numbers.len() as u32 - 1
        })
    }

    /// All that were told, by their numbers.
    pub(crate) fn numbers(&self) -> &[SocketAddr] {
        &self.numbers
    }

    /// The number of an address, if it was told.
    fn number_of(&self, at: SocketAddr) -> Option<u32> {
        self.numbers.iter().position(|known| *known == at).map(|place| place as u32)
    }

    /// The first place of the half that was not in force until now.
    const fn swap(&mut self) -> u32 {
        self.upper = !self.upper;
        if self.upper { maps::OWN_PLACES / 2 } else { 0 }
    }

    /// Whether this process has told of a port.
    fn has_port(&self, port: u16) -> bool {
        self.clients.contains_key(&port) || self.relay_ports.iter().any(|ports| ports.contains(&port))
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
        self.own.resumed = true;
        // The half that is in force is that of any port.
        for number in 0..=u16::MAX {
            let (kind, first, _) = port::parts(self.ports.get(&number.into(), 0)?);
            if kind != port::NONE {
                self.own.upper = first >= maps::OWN_PLACES / 2;
                break;
            }
        }
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

    /// Takes away ports that this process has not told of: those of another configuration, before it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget_untold(&mut self) -> Result<(), MapError> {
        if !self.own.resumed {
            return Ok(());
        }
        for number in 0..=u16::MAX {
            if !self.own.has_port(number) && self.ports.get(&number.into(), 0)? != port::NONE {
                self.ports.set(number.into(), port::NONE, 0)?;
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
            ..self.now
        };
        self.config.set(0, self.now, 0)
    }

    /// Has what clients send to `at` judged; with `answer`, plain Binding requests are answered, and clients told that `other` is the
    /// second address and port.
    pub fn add_endpoint(&mut self, at: SocketAddr, answer: bool, other: Option<SocketAddr>) -> Result<(), MapError> {
        let own = Own {
            address: address(at.ip()),
            other: other.map_or_else(Address::default, |other| address(other.ip())),
            other_port: other.map_or(0, |other| other.port().into()),
            flags: if answer { own::ANSWER } else { 0 },
            number: self.own.number(at),
            reserved: 0,
        };
        put(self.own.clients.entry(at.port()).or_default(), own);
        self.write_own()
    }

    /// Has what comes to a relay address judged, on the ports of [`add_relay_ports`](Self::add_relay_ports).
    pub fn add_address(&mut self, ip: IpAddr) -> Result<(), MapError> {
        let number = self.own.number(SocketAddr::new(ip, 0));
        put(&mut self.own.relays, Own { address: address(ip), number, ..Own::default() });
        self.write_own()
    }

    /// Ports of relays, on the addresses that are relayed from. Those that clients send to stay what they are.
    pub fn add_relay_ports(&mut self, ports: RangeInclusive<u16>) -> Result<(), MapError> {
        self.own.relay_ports.push(ports);
        self.write_own()
    }

    /// Writes all own addresses beside those in force, and then has the ports know them.
    fn write_own(&mut self) -> Result<(), MapError> {
        let Self { own, own_addresses, ports, .. } = self;
        let mut next = own.swap();
        let mut write = |addresses: &[Own]| {
            let (first, count) = (next, (addresses.len() as u32).min(maps::OWN_PER_PORT));
            for (place, address) in (first..first + count).zip(addresses) {
                own_addresses.set(place, address, 0)?;
            }
            next += count;
            Ok::<_, MapError>((first, count))
        };
        let (first, count) = write(&own.relays)?;
        let value = port::value(port::RELAY, first, count);
        for port in own.relay_ports.iter().flat_map(Clone::clone).filter(|port| !own.clients.contains_key(port)) {
            ports.set(port.into(), value, 0)?;
        }
        for (port, addresses) in &own.clients {
            let (first, count) = write(addresses)?;
            ports.set((*port).into(), port::value(port::CLIENTS, first, count), 0)?;
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

/// Adds an address, or replaces what was said of it.
fn put(all: &mut Vec<Own>, own: Own) {
    match all.iter_mut().find(|known| known.number == own.number) {
        Some(known) => *known = own,
        None => all.push(own),
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
    Some(Address::from_words(words))
}

/// The address that a map has.
#[must_use]
pub fn ip(address: Address) -> IpAddr {
    let mut octets = [0; 16];
    for (place, word) in octets.as_chunks_mut().0.iter_mut().zip(address.words()) {
        *place = word.to_ne_bytes();
    }
    Ipv6Addr::from(octets).to_canonical()
}
