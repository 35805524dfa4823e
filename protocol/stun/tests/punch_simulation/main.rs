//! A node and peers behind NATs, with a network between them that loses, delays, doubles and reorders, a node that is killed now
//! and then, and NATs that forget: all from a seed. The node is held to its model (`shoal_stun::fuzzing::punch`) with each
//! datagram, and who can connect (docs/punch.md) does.

mod nats;
mod peer;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use nats::{KINDS, NatBox};
use peer::{Checks, Key, Peer, next_ports};
use shoal_stun::fuzzing::Random;
use shoal_stun::fuzzing::punch::world::{NODE, World};
use shoal_stun::message::{Nat, Punch, Role};
use shoal_stun::punch::{Standing, can_connect};

/// Runs, each of a minute and a half.
const SEEDS: u64 = 250;
const RUN_MS: u64 = 90_000;
const PEERS: usize = 9;
const CHANNELS: [&str; 2] = ["free", "paid"];
/// Milliseconds from an introduction until it has come to something, or to nothing.
const SETTLED_MS: u64 = 5_000;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// Destinations that a NAT's type is found by: the node, and its other address and port.
fn discovery(node: SocketAddr) -> [SocketAddr; 3] {
    let other: IpAddr = if node.is_ipv4() { "198.51.100.2" } else { "2001:db8:9::2" }.parse().expect("an address");
    [node, SocketAddr::new(other, node.port()), SocketAddr::new(other, node.port() + 1)]
}

/// What is under way.
#[derive(Debug, Clone)]
struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// How bad the network is, of a hundred datagrams each.
#[derive(Debug, Clone, Copy)]
struct Weather {
    lost: u64,
    doubled: u64,
    late: u64,
    delay_ms: u64,
}

struct Network {
    weather: Weather,
    dice: Random,
    order: BinaryHeap<Reverse<(u64, u64)>>,
    flights: BTreeMap<u64, Flight>,
    count: u64,
}

impl Network {
    fn send(&mut self, now: u64, flight: &Flight) {
        let Weather { lost, doubled, late, delay_ms } = self.weather;
        let chance = self.dice.below(100);
        let copies = if chance < lost { 0 } else { 1 + u64::from(chance < lost + doubled) };
        for _ in 0..copies {
            let slow = if self.dice.below(100) < late { 2_000 } else { delay_ms };
            self.count += 1;
            self.order.push(Reverse((now + 1 + self.dice.below(slow), self.count)));
            self.flights.insert(self.count, flight.clone());
        }
    }

    fn next_at(&self) -> Option<u64> {
        self.order.peek().map(|Reverse((at, _))| *at)
    }

    fn next(&mut self, now: u64) -> Option<Flight> {
        let Reverse((_, number)) = *self.order.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.order.pop();
        self.flights.remove(&number)
    }
}

/// One side of an introduction, when it began.
#[derive(Debug, Clone)]
struct Begun {
    peer: usize,
    at: u64,
    role: Role,
    told: SocketAddr,
    nat: Nat,
    other: [u8; 20],
    /// Whether it has sent to none of the other's addresses before: it would not take new ports for them.
    fresh: bool,
    connected: bool,
}

struct Simulation {
    world: World,
    peers: Vec<Peer>,
    nats: Vec<NatBox>,
    /// Which of them each peer is behind.
    behind: Vec<usize>,
    network: Network,
    dice: Random,
    begun: BTreeMap<Key, Vec<Begun>>,
    /// Those that have been judged; it is done once, while it is known what else went on.
    judged: BTreeSet<Key>,
    /// When a peer's NAT forgot, or the peer itself.
    disturbed: Vec<u64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Random::new(seed);
        let weather = match seed % 3 {
            0 => Weather { lost: 0, doubled: 0, late: 0, delay_ms: 40 },
            1 => Weather { lost: 5, doubled: 5, late: 1, delay_ms: 100 },
            _ => Weather { lost: 10, doubled: 10, late: 3, delay_ms: 200 },
        };
        let network = Network {
            weather,
            dice: Random::new(dice.bits()),
            order: BinaryHeap::new(),
            flights: BTreeMap::new(),
            count: 0,
        };
        let mut simulation = Self {
            world: World::new(),
            peers: Vec::new(),
            nats: Vec::new(),
            behind: Vec::new(),
            network,
            dice,
            begun: BTreeMap::new(),
            judged: BTreeSet::new(),
            disturbed: vec![0; PEERS],
        };
        (0..PEERS).for_each(|number| simulation.add(number));
        simulation
    }

    /// A peer behind a NAT of its own, or of another's that does not count.
    fn add(&mut self, number: usize) {
        let kind = KINDS[self.dice.below(KINDS.len() as u64) as usize];
        let v6 = self.dice.below(8) == 0;
        let shares = number > 0 && kind.step == 0 && !v6 && self.dice.below(6) == 0;
        let shared = self
            .behind
            .last()
            .copied()
            .filter(|nat| shares && self.nats[*nat].kind.step == 0 && self.nats[*nat].outside.is_ipv4());
        let behind = shared.unwrap_or_else(|| {
            let outside = if v6 { format!("2001:db8:{}::1", 100 + number) } else { format!("192.0.2.{}", 10 + number) };
            self.nats.push(NatBox::new(kind, outside.parse().expect("an address"), self.dice.bits()));
            self.nats.len() - 1
        });
        self.behind.push(behind);
        let v6 = self.nats[behind].outside.is_ipv6();
        let inside = socket(&if v6 { format!("[fd00::{number}]:4000") } else { format!("10.0.0.{number}:4000") });
        let id = [b'A' + number as u8; 20];
        let channel = CHANNELS[usize::from(self.dice.below(3) == 0)];
        let mut peer = Peer::new(id, channel, inside, socket(NODE[usize::from(v6)]), self.dice.bits());
        peer.relayed = (self.dice.below(4) == 0).then(|| SocketAddr::new(peer.node.ip(), 50_000 + number as u16));
        peer.session = (channel == "paid").then(|| ["s", "t", "u", "v"][number % 4]);
        self.peers.push(peer);
        self.discover(number);
    }

    fn discover(&mut self, number: usize) {
        let now = self.world.now;
        let peer = &mut self.peers[number];
        let towards = discovery(peer.node);
        let mut nat = self.nats[self.behind[number]].discover(peer.inside, towards);
        if nat.step == 0 && self.dice.below(6) == 0 {
            nat.filtering = None;
        }
        peer.found(nat, towards, now);
    }

    fn send(&mut self, number: usize, to: SocketAddr, bytes: Vec<u8>) {
        let nat = &mut self.nats[self.behind[number]];
        let from = nat.outbound(self.peers[number].inside, to);
        // NATs that send back in what was meant for themselves are rare.
        if to.ip() != nat.outside {
            self.network.send(self.world.now, &Flight { from, to, bytes });
        }
    }

    fn arrive(&mut self, flight: &Flight) {
        let Flight { from, to, bytes } = flight;
        let now = self.world.now;
        if NODE.iter().any(|node| socket(node) == *to) {
            let shard = self.dice.below(3) as u16;
            if let Some(reply) = self.world.deliver(shard, *from, *to, bytes) {
                self.network.send(now, &Flight { from: *to, to: *from, bytes: reply });
            }
            return;
        }
        let Some(nat) = self.nats.iter().find(|nat| nat.outside == to.ip()) else { return };
        let Some(inside) = nat.inbound(to.port(), *from) else { return };
        // Nobody: the socket of a client that has been started again.
        let Some(number) = self.peers.iter().position(|peer| peer.inside == inside) else { return };
        for (to, bytes) in self.peers[number].handle(now, *from, bytes) {
            self.send(number, to, bytes);
        }
        self.note(number);
    }

    /// Remembers what has begun, and what has connected.
    fn note(&mut self, number: usize) {
        let peer = &self.peers[number];
        for (key, Checks { other, role, address, nat, begun, connected, .. }) in &peer.checks {
            let sides = self.begun.entry(*key).or_default();
            match sides.iter_mut().find(|side| side.peer == number) {
                Some(side) => side.connected |= connected.is_some(),
                None => {
                    let (at, told, nat, other) = (*begun, *address, *nat, *other);
                    let fresh = match nat.step {
                        0 => !peer.has_reached(told),
                        _ => !next_ports(told.ip(), nat, 8).any(|to| peer.has_reached(to)),
                    };
                    sides.push(Begun { peer: number, at, role: *role, told, nat, other, fresh, connected: false });
                    // Nobody is told of another channel's peer, nor an address that was never its own.
                    let target = self.peers.iter().position(|peer| peer.id == other).expect("a peer");
                    assert_eq!(self.peers[target].channel, peer.channel);
                    assert_eq!(self.nats[self.behind[target]].outside, told.ip());
                }
            }
        }
    }

    /// All that is due until then, in its order.
    fn run_until(&mut self, until: u64) {
        loop {
            let now = self.world.now;
            while let Some(flight) = self.network.next(now) {
                self.arrive(&flight);
            }
            for number in 0..self.peers.len() {
                for (to, bytes) in self.peers[number].poll(now, self.world.unix()) {
                    self.send(number, to, bytes);
                }
            }
            for (from, to, bytes) in self.world.poll() {
                self.network.send(now, &Flight { from, to, bytes });
            }
            let peers = self.peers.iter().filter_map(Peer::next_deadline);
            let next = peers.chain(self.network.next_at()).chain(self.world.next_deadline()).min();
            let next = next.map_or(until, |next| next.clamp(now + 1, until.max(now + 1)));
            if next >= until {
                self.world.pass(until - now, false);
                return;
            }
            self.world.pass(next - now, self.dice.below(2) == 0);
        }
    }

    /// Something happens, or somebody asks for somebody.
    fn happen(&mut self) {
        let now = self.world.now;
        let number = self.dice.below(PEERS as u64) as usize;
        match self.dice.below(60) {
            0 => self.world.restart(self.dice.below(2) == 0),
            1 | 2 => {
                let nat = self.behind[number];
                self.nats[nat].reboot();
                for number in (0..PEERS).filter(|number| self.behind[*number] == nat).collect::<Vec<_>>() {
                    self.disturbed[number] = now;
                    self.discover(number);
                }
            }
            3 => {
                // The client is started again: it remembers nothing, and has another socket.
                let old = &self.peers[number];
                let port = old.inside.port() + 1;
                let mut fresh =
                    Peer::new(old.id, old.channel, SocketAddr::new(old.inside.ip(), port), old.node, self.dice.bits());
                fresh.session = old.session;
                fresh.relayed = old.relayed;
                self.peers[number] = fresh;
                self.disturbed[number] = now;
                self.discover(number);
            }
            4 => {
                let standing = [Standing::Open, Standing::Open, Standing::RelayOnly][self.dice.below(3) as usize];
                self.world.stand(CHANNELS[self.dice.below(2) as usize], standing);
            }
            5..=9 => self.world.observe(self.dice.below(40) as usize),
            _ => {
                let other = self.dice.below(PEERS as u64) as usize;
                let nat = self.peers[other].nat;
                // Who has a step is asked for when it has nothing else to do, as its own page says of asking.
                if number != other && self.peers[number].is_ready() && (nat.step == 0 || self.peers[other].is_ready()) {
                    let target = self.peers[other].id;
                    self.peers[number].ask_for(now, target);
                }
            }
        }
    }

    /// Whether nothing but the two NATs decides on whether two peers meet.
    fn is_undisturbed(&self, sides: &[Begun]) -> bool {
        let [a, b] = sides else { return false };
        let (first, last) = (a.at.min(b.at), a.at.max(b.at));
        let quiet = |side: &Begun| {
            let forgot =
                self.disturbed[side.peer] + SETTLED_MS > first && self.disturbed[side.peer] < last + SETTLED_MS;
            let counts = self.nats[self.behind[side.peer]].kind.step != 0;
            let stale = counts && !side.fresh;
            let others = self.begun.values().filter(|others| !std::ptr::eq(others.as_slice(), sides)).flatten();
            let busy =
                others.filter(|other| other.peer == side.peer).any(|other| other.at.abs_diff(side.at) < SETTLED_MS);
            !(forgot || stale || counts && busy)
        };
        // The address that was told may be one that a NAT has forgotten since.
        let known = |side: &Begun, other: &Begun| self.is_address_of(other.peer, side.told);
        let near = self.behind[a.peer] == self.behind[b.peer];
        quiet(a) && quiet(b) && known(a, b) && known(b, a) && !near && last - first < 2_000
    }

    /// Whether it is where the node sees a peer.
    fn is_address_of(&self, number: usize, address: SocketAddr) -> bool {
        let peer = &self.peers[number];
        self.nats[self.behind[number]].inbound(address.port(), peer.node) == Some(peer.inside)
    }

    /// Judges what has settled. Gives the names of the kinds that met.
    fn settle(&mut self, met: &mut BTreeSet<(&'static str, &'static str)>) {
        let now = self.world.now;
        let settled = |sides: &Vec<Begun>| sides.iter().all(|side| side.at + SETTLED_MS <= now);
        let keys: Vec<Key> = self.begun.iter().filter(|(_, sides)| settled(sides)).map(|(key, _)| *key).collect();
        for key in keys {
            let sides = &self.begun[&key];
            assert!(sides.len() <= 2, "a key is for two: {sides:?}");
            if let [a, b] = sides.as_slice() {
                assert_ne!(a.role, b.role);
                let ids = [a.peer, b.peer].map(|number| self.peers[number].id);
                assert_eq!([b.other, a.other], ids, "one is told of the other");
                let relays = [a.peer, b.peer].map(|number| self.peers[number].relayed.is_some());
                assert!(can_connect(&a.nat, &b.nat) || relays.contains(&true));
                let kinds = [a.peer, b.peer].map(|number| self.nats[self.behind[number]].kind.name);
                // What a peer does not know of its NAT is taken for the best.
                let truly = |side: &Begun, other: &Begun| Nat {
                    filtering: Some(self.nats[self.behind[other.peer]].kind.filtering),
                    ..side.nat
                };
                let first = self.judged.insert(key);
                if first && can_connect(&truly(a, b), &truly(b, a)) && self.is_undisturbed(sides) {
                    assert!(a.connected && b.connected, "{kinds:?} at {now}: {sides:?}");
                    met.insert((kinds[0].min(kinds[1]), kinds[0].max(kinds[1])));
                }
            }
        }
        let keeps = 3 * SETTLED_MS;
        self.begun.retain(|_, sides| sides.iter().any(|side| side.at + keeps > now));
        for peer in &mut self.peers {
            peer.checks.retain(|_, checks| checks.begun + 2 * SETTLED_MS > now);
        }
    }
}

fn run(seed: u64, met: &mut BTreeSet<(&'static str, &'static str)>) {
    let mut simulation = Simulation::new(seed);
    while simulation.world.now < RUN_MS {
        let step = 50 + simulation.dice.below(800);
        simulation.run_until(simulation.world.now + step);
        simulation.happen();
        simulation.settle(met);
    }
    simulation.run_until(RUN_MS + SETTLED_MS);
    simulation.settle(met);
    simulation.world.observe(usize::MAX);
}

#[test]
fn the_node_is_its_model_and_who_can_connect_does() {
    let mut met = BTreeSet::new();
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| {
            let mut met = BTreeSet::new();
            run(seed, &mut met);
            met
        });
        match result {
            Ok(more) => met.extend(more),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // All that the table allows has been seen.
    for (index, a) in KINDS.iter().enumerate() {
        for b in &KINDS[index..] {
            let possible = can_connect(&seen(a), &seen(b));
            let pair = (a.name.min(b.name), a.name.max(b.name));
            assert_eq!(met.contains(&pair), possible, "{pair:?}");
        }
    }
}

/// What the peer behind a NAT of a kind finds out.
fn seen(kind: &nats::Kind) -> Nat {
    let mut nat = NatBox::new(*kind, "192.0.2.1".parse().expect("an address"), 1);
    nat.discover(socket("10.0.0.1:4000"), discovery(socket(NODE[0])))
}

/// Two peers that are told of one another whatever their NATs are: the table says yes to no one pair too many or too few.
#[test]
fn the_table_is_what_nats_do() {
    for (a, b) in KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (a, b))) {
        for seed in 0..4 {
            let mut simulation = Simulation::new(3 * seed);
            let node = socket(NODE[0]);
            simulation.peers.truncate(2);
            simulation.behind = vec![0, 1];
            simulation.nats.clear();
            let mut addresses = Vec::new();
            for (number, kind) in [a, b].into_iter().enumerate() {
                let outside = format!("192.0.2.{}", 10 + number).parse().expect("an address");
                simulation.nats.push(NatBox::new(*kind, outside, seed * 2 + number as u64));
                let inside = socket(&format!("10.0.0.{number}:4000"));
                simulation.peers[number] = Peer::new([b'A' + number as u8; 20], "free", inside, node, seed);
                let nat = simulation.nats[number].discover(inside, discovery(node));
                simulation.peers[number].found(nat, discovery(node), u64::MAX);
                addresses.push((simulation.nats[number].outbound(inside, node), nat));
            }
            for (number, role) in [Role::Controlling, Role::Controlled].into_iter().enumerate() {
                let ((address, nat), other) = (addresses[1 - number], simulation.peers[1 - number].id);
                let punch = Punch { key: [seed as u8; 16], start_ms: 200, role };
                simulation.peers[number].begin(1, other, address, nat, punch);
            }
            simulation.run_until(SETTLED_MS);
            let connected =
                |number: usize| simulation.peers[number].checks.values().all(|checks| checks.connected.is_some());
            let expected = can_connect(&addresses[0].1, &addresses[1].1);
            assert_eq!([connected(0), connected(1)], [expected; 2], "{} and {}", a.name, b.name);
            if expected {
                let nominated = simulation.peers[1].checks.values().all(|checks| checks.nominated == checks.connected);
                assert!(nominated, "both take the same pair: {} and {}", a.name, b.name);
            }
        }
    }
}
