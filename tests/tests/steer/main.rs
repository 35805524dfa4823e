//! Flows come to the shards that own them: by the kernel's program for sockets, by packets' way through CPUs, and in a whole node.

mod pins;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use shoal_packet::flow::{Owners, RelayPorts};
use shoal_perf::frame::Frame;
use shoal_perf::udp::dance::{Ask, Client, Step};
use shoal_perf::wire::Wire;
use shoal_probes::{LoadError, Probes, Steering, action};
use shoal_tests::client::{self, Request};
use shoal_tests::metrics::Metrics;
use shoal_tests::natlab::{self, Family, Kind, NatLab, Plan, Server};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::tool;
use socket2::{Domain, Protocol, Socket, Type};

/// For what was sent to have arrived; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node looks at what its programs have counted twice in a second.
const LAG: Duration = Duration::from_secs(2);

/// Frames on their way at once: fewer than queues have room for.
const WINDOW: usize = 2_048;

/// The words of a command that runs another one as root without any capability.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];

/// Relay ports of the node: the default.
const RELAYS: (u16, u16) = (49_152, 65_535);

/// The side from which everything comes, at whose end of the wire the hub has the address that frames are for.
struct Road<'l> {
    lab: &'l NatLab,
    wire: Wire,
    rng: Rng,
}

impl Road<'_> {
    /// Runs a test on one, or notes that it was skipped.
    fn run(test: &str, run: impl FnOnce(Road<'_>) + Send) {
        if !natlab::possible(test) || steering(test, Owners { seed: 1, shards: 2 }).is_none() {
            return;
        }
        let lab = NatLab::start(&[Plan { ipv6: true, ..Kind::Open.into() }]);
        let command = ["link", "set", "bridge", "address", "02:00:00:00:00:02"];
        assert!(tool::run(lab.hub().command("ip").args(command)).status.success());
        let side = &lab.sides()[0];
        side.write_checksums().expect("the client's interface can be told so");
        side.nat().within(|| {
            let wire = Wire::open(side.outer()).expect("root may send frames");
            run(Road { lab: &lab, wire, rng: Rng::new(seed()) });
        });
    }

    /// An address that nobody has and a peer may have, of the family of `own`, and any port.
    fn anybody(&mut self, own: IpAddr) -> SocketAddr {
        let [a, b] = [self.rng.next_u64(), self.rng.next_u64()].map(u64::to_be_bytes);
        let ip: IpAddr = match own {
            IpAddr::V4(_) => [self.rng.between(128, 168) as u8, a[1], a[2], a[3]].into(),
            IpAddr::V6(_) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&a);
                octets[8..].copy_from_slice(&b);
                octets[..4].copy_from_slice(&[0x26, 0, 0x1f, 0]);
                octets.into()
            }
        };
        SocketAddr::new(ip, self.rng.between(1, 65_535) as u16)
    }

    fn send(&mut self, frames: &[Vec<u8>]) {
        let taken = self.wire.send(frames.iter().map(Vec::as_slice)).expect("the wire is up");
        assert_eq!(taken, frames.len() as u64, "a veth takes what it is given");
    }

    /// Sends as many as the node takes: after each window it is waited for what it says to have received.
    fn send_to_node(&mut self, count: usize, mut frame: impl FnMut(&mut Self) -> Vec<u8>) {
        let before = self.received();
        let mut sent = 0;
        while sent < count {
            let frames: Vec<_> = (0..WINDOW.min(count - sent)).map(|_| frame(self)).collect();
            self.send(&frames);
            sent += frames.len();
            let start = Instant::now();
            loop {
                let came = self.received() - before;
                if came >= sent as f64 {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "of {sent} datagrams {came} have come");
            }
        }
        assert_eq!(self.received() - before, count as f64, "as many as were sent, and no others");
    }

    fn received(&self) -> f64 {
        self.metrics().sum("shoal_udp_datagrams_total", &[("direction", "in")])
    }

    /// The node's metrics.
    fn metrics(&self) -> Metrics {
        let at = Server::ADMIN.parse().expect("an address");
        Metrics::parse(&self.lab.hub().within(|| client::expect(at, &Request::get("/metrics")).text()))
    }
}

/// The object that is to be tested, if it is not the embedded one: the suite compiles it anew.
fn object() -> Option<Vec<u8>> {
    env::var_os("SHOAL_EBPF_OBJECT").map(|path| fs::read(&path).expect("SHOAL_EBPF_OBJECT can be read"))
}

fn loaded<T>(test: &str, loaded: Result<T, LoadError>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(error @ LoadError::Privilege(_)) => {
            tool::skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn steering(test: &str, owners: Owners) -> Option<Steering> {
    let result = match object() {
        Some(object) => Steering::load_object(&object, owners),
        None => Steering::load(owners),
    };
    loaded(test, result)
}

/// A socket that shares its address with others.
fn sharing(at: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    if at.is_ipv6() {
        socket.set_only_v6(true).expect("it is not bound");
    }
    socket.set_reuse_port(true).expect("it is not bound");
    socket.bind(&at.into()).expect("the address is there");
    socket.set_nonblocking(true).expect("it is a socket");
    socket.into()
}

/// Whether a share of `total` is within five standard deviations of what chance gives one of `of`.
#[track_caller]
fn assert_fair(share: u64, total: u64, of: f64) {
    let (mean, chance) = (total as f64 / of, 1.0 / of);
    let bound = 5.0 * (total as f64 * chance * (1.0 - chance)).sqrt();
    assert!((share as f64 - mean).abs() <= bound, "{share} of {total} is not one of {of} (± {bound:.0})");
}

/// Sockets of all shards, by the address that they share.
struct Sockets(Vec<(SocketAddr, Vec<UdpSocket>)>);

impl Sockets {
    /// At these addresses of the hub, of so many shards.
    fn open(road: &Road<'_>, shards: u32, endpoints: &[(IpAddr, u16)]) -> Self {
        let open = |(ip, port): &(IpAddr, u16)| {
            let at = SocketAddr::new(*ip, *port);
            (at, road.lab.hub().within(|| (0..shards).map(|_| sharing(at)).collect()))
        };
        Self(endpoints.iter().map(open).collect())
    }

    fn steer(&self, steering: &mut Steering) {
        for (at, sockets) in &self.0 {
            steering.add(*at, sockets).expect("the kernel agrees");
        }
    }

    /// Sends `count` datagrams of random flows. How many came to each shard, and how many of those to another than their owner.
    fn exchange(&self, road: &mut Road<'_>, owners: Owners, count: usize) -> (Vec<u64>, u64) {
        let (mut shares, mut strays) = (vec![0; owners.shards as usize], 0);
        let mut left = count;
        while left > 0 {
            let mut on_their_way = HashMap::new();
            let frames: Vec<_> = (0..left.min(WINDOW) as u32)
                .map(|nth| {
                    let (own, _) = self.0[road.rng.below(self.0.len() as u64) as usize];
                    let source = road.anybody(own.ip());
                    on_their_way.insert(nth, (source, own));
                    Frame::new(source, own, &nth.to_be_bytes()).bytes()
                })
                .collect();
            road.send(&frames);
            left -= frames.len();
            let start = Instant::now();
            while !on_their_way.is_empty() {
                assert!(start.elapsed() < PATIENCE, "{} did not come", on_their_way.len());
                for (own, sockets) in &self.0 {
                    for (shard, socket) in sockets.iter().enumerate() {
                        let mut datagram = [0; 8];
                        while let Ok((length, source)) = socket.recv_from(&mut datagram) {
                            assert_eq!(length, 4);
                            let nth = u32::from_be_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]);
                            let sent = on_their_way.remove(&nth).expect("it was sent once");
                            let ends = |at: SocketAddr| (at.ip(), at.port());
                            assert_eq!((ends(source), own), (ends(sent.0), &sent.1));
                            shares[shard] += 1;
                            strays += u64::from(owners.of(sent.0, sent.1) as usize != shard);
                        }
                    }
                }
            }
        }
        (shares, strays)
    }
}

#[test]
fn each_datagram_comes_to_its_owners_socket() {
    const SHARDS: u32 = 4;
    const DATAGRAMS: usize = 200_000;
    let test = "each_datagram_comes_to_its_owners_socket";
    Road::run(test, |mut road| {
        let owners = Owners { seed: road.rng.next_u64(), shards: SHARDS };
        let Some(mut steering) = steering(test, owners) else { return };
        let (v4, v6) = (road.lab.addresses(), road.lab.addresses_v6());
        let endpoints = [(v4[0], 3478), (v4[0], 3479), (v4[1], 3478), (v6[0], 3478), (v6[1], 3479)];
        let mut sockets = Sockets::open(&road, SHARDS, &endpoints);
        // The kernel's own choice is another one, or the rest would show nothing.
        let (_, strays) = sockets.exchange(&mut road, owners, 10_000);
        assert_fair(strays, 10_000, 4.0 / 3.0);
        sockets.steer(&mut steering);
        let (shares, strays) = sockets.exchange(&mut road, owners, DATAGRAMS);
        println!("{shares:?}");
        assert_eq!(strays, 0);
        shares.iter().for_each(|share| assert_fair(*share, DATAGRAMS as u64, SHARDS.into()));
        let steered = steering.steered().expect("the map is there");
        assert_eq!((steered.owner, steered.kernel), (DATAGRAMS as u64, 0));
        // Who has loaded it may go.
        drop(steering);
        let (_, strays) = sockets.exchange(&mut road, owners, 10_000);
        assert_eq!(strays, 0);
        // What an owner without a socket would get goes to the others, and nothing is lost.
        let gone = SHARDS as usize - 1;
        sockets.0.iter_mut().for_each(|(_, sockets)| drop(sockets.pop()));
        let (shares, strays) = sockets.exchange(&mut road, owners, 10_000);
        assert_eq!(shares[gone], 0);
        assert_fair(strays, 10_000, SHARDS.into());
    });
}

#[test]
fn sockets_that_are_not_one_for_each_shard_are_refused() {
    let test = "sockets_that_are_not_one_for_each_shard_are_refused";
    let Some(mut steering) = steering(test, Owners { seed: 1, shards: 2 }) else { return };
    let at = "127.0.0.1:0".parse().expect("an address");
    let error = steering.add(at, &[sharing(at)]).expect_err("there is one for two shards");
    assert!(error.to_string().contains("1 sockets are not one for each of 2 shards"), "{error}");
    let alone = UdpSocket::bind(at).expect("loopback has ports");
    let error = steering.add(at, &[&alone, &alone]).expect_err("they share nothing");
    assert!(error.to_string().contains("cannot steer what comes to 127.0.0.1:0"), "{error}");
    let first = sharing(at);
    let at = first.local_addr().expect("it is bound");
    steering.add(at, &[first, sharing(at)]).expect("two for two shards");
}

#[test]
fn packets_are_redirected_to_their_owners_cpu() {
    let test = "packets_are_redirected_to_their_owners_cpu";
    let Some([here, there]) = two_cpus(test) else { return };
    pin(here);
    let result = match object() {
        Some(object) => Probes::load_object(&object, 7),
        None => Probes::load(7),
    };
    let Some(mut probes) = loaded(test, result) else { return };
    let nodes = ["192.0.2.1:3478", "[2001:db8::1]:3478"].map(|at| at.parse::<SocketAddr>().expect("an address"));
    for node in nodes {
        probes.add_endpoint(node, false, None).expect("the kernel agrees");
        probes.add_address(node.ip()).expect("the kernel agrees");
    }
    probes.add_relay_ports(50_000..=50_099).expect("the kernel agrees");
    let mut rng = Rng::new(seed());
    let owners = Owners { seed: rng.next_u64(), shards: 3 };
    let data = [0x40, 0, 0, 0];
    let run = |probes: &Probes, source: SocketAddr, own: SocketAddr| {
        probes.run(&Frame::new(source, own, &data).bytes(), 1).expect("the kernel runs it").action
    };
    let anybody = |rng: &mut Rng, own: SocketAddr| {
        let [a, b, c, ..] = rng.next_u64().to_be_bytes();
        let ip: IpAddr =
            if own.is_ipv4() { [20, a, b, c].into() } else { [0x2600, 0, 0, 0, 0, 0, a.into(), b.into()].into() };
        SocketAddr::new(ip, rng.between(1, 65_535) as u16)
    };
    for node in nodes {
        let source = anybody(&mut rng, node);
        assert_eq!(run(&probes, source, node), action::PASS, "nobody asked for it");
    }
    // The first 32 ports are the first shard's, and so on; the last four are nobody's.
    probes.steer_cpus(owners, &[here, there, here], RelayPorts { first: 50_000, each: 32 }).expect("both are there");
    let mut redirected = 0;
    for node in nodes {
        for _ in 0..2_000 {
            let source = anybody(&mut rng, node);
            let elsewhere = owners.of(source, node) == 1;
            redirected += u64::from(elsewhere);
            let expected = if elsewhere { action::REDIRECT } else { action::PASS };
            assert_eq!(run(&probes, source, node), expected, "{source} to {node}");
        }
    }
    assert_fair(redirected, 4_000, 3.0);
    for port in 50_000..50_100 {
        let own = SocketAddr::new(nodes[0].ip(), port);
        let expected = if (50_032..50_064).contains(&port) { action::REDIRECT } else { action::PASS };
        assert_eq!(run(&probes, anybody(&mut rng, own), own), expected, "{own}");
    }
    assert_eq!(probes.redirected().expect("the map is there"), redirected + 32);
    // Another process does not want that.
    probes.keep_cpus().expect("the kernel agrees");
    for port in 50_032..50_064 {
        let own = SocketAddr::new(nodes[0].ip(), port);
        assert_eq!(run(&probes, anybody(&mut rng, own), own), action::PASS, "{own}");
    }
    // What is not ours is left alone.
    let own = SocketAddr::new(nodes[0].ip(), 53);
    assert_eq!(run(&probes, anybody(&mut rng, own), own), action::PASS);
    assert!(probes.steer_cpus(owners, &[100_000], RelayPorts::default()).is_err(), "there is no such CPU");
}

/// The first two CPUs, which the node's shards have.
fn two_cpus(test: &str) -> Option<[u32; 2]> {
    let ours = sched_getaffinity(None).expect("a thread may ask where it runs");
    if ours.is_set(0) && ours.is_set(1) {
        return Some([0, 1]);
    }
    tool::skip(test, "it takes the first two CPUs");
    None
}

fn pin(cpu: u32) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu as usize);
    sched_setaffinity(None, &cpus).expect("it was asked which there are");
}

/// A relay, with what keeps it, and addresses that may send to it.
struct Relay {
    _client: UdpSocket,
    at: SocketAddr,
    peers: Vec<IpAddr>,
}

impl Relay {
    /// The node's shard that has it.
    fn shard(&self) -> usize {
        usize::from((self.at.port() - RELAYS.0) / ((RELAYS.1 - RELAYS.0).div_ceil(2)))
    }
}

/// Allocations of one client address, each with some peers.
fn relays(road: &mut Road<'_>, server: &Server, count: u32) -> Vec<Relay> {
    let told = server.told().clone();
    (0..count)
        .map(|nth| {
            let socket = road.lab.sides()[0].socket(Family::V4);
            socket.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
            let mut client = Client::new(&told.user, &told.password, nth);
            let mut ask = |ask| {
                let mut answer = [0; 1_500];
                loop {
                    socket.send_to(&client.request(ask), told.v4).expect("there is a route");
                    let length = socket.recv(&mut answer).expect("the node answers");
                    match client.handle(&answer[..length]).expect("it is granted") {
                        Step::Granted => return client.relayed().expect("it was allocated"),
                        Step::Again => {}
                        step => panic!("{step:?}"),
                    }
                }
            };
            let at = ask(Ask::Allocate);
            let peers: Vec<IpAddr> = (0..8).map(|_| road.anybody(at.ip()).ip()).collect();
            for peer in &peers {
                ask(Ask::Permit(SocketAddr::new(*peer, 9)));
            }
            Relay { _client: socket, at, peers }
        })
        .collect()
}

/// A datagram of anybody to one of the node's addresses: a plain Binding request or another, or ChannelData.
fn from_client(road: &mut Road<'_>) -> Vec<u8> {
    let (v4, v6) = (road.lab.addresses(), road.lab.addresses_v6());
    let ip = *road.rng.pick(&[v4[0], v4[1], v6[0], v6[1]]);
    let own = SocketAddr::new(ip, *road.rng.pick(&[3478, 3479]));
    let mut request = [0; 28];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    request[8..16].copy_from_slice(&road.rng.next_u64().to_be_bytes());
    // SOFTWARE, of four bytes.
    request[20..].copy_from_slice(&[0x80, 0x22, 0, 4, b's', b'h', b'o', b'l']);
    let data = [0x40, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let payload = match road.rng.below(3) {
        0 => &request[..20],
        1 => {
            request[3] = 8;
            &request[..]
        }
        _ => &data[..],
    };
    Frame::new(road.anybody(ip), own, payload).bytes()
}

/// A datagram of one of a relay's peers.
fn from_peer(road: &mut Road<'_>, relay: &Relay) -> Vec<u8> {
    let peer = SocketAddr::new(*road.rng.pick(&relay.peers), road.rng.between(1, 65_535) as u16);
    Frame::new(peer, relay.at, &[0x80; 20]).bytes()
}

/// Since `before` nothing has gone from one shard to another, and nothing was lost. What the lab asks the node while it starts may have
/// come before its program.
#[track_caller]
fn assert_at_home(before: &Metrics, after: &Metrics) {
    let same = |name: &str| {
        let [before, after] = [before, after].map(|metrics| metrics.get(name, &[]));
        assert!(before.is_some());
        assert_eq!(after, before, "{name}");
    };
    same("shoal_udp_strays_total");
    same("shoal_udp_receive_queue_drops_total");
    for (name, label) in
        [("shoal_mesh_handovers_total", ("kind", "datagram")), ("shoal_udp_steered_total", ("to", "kernel"))]
    {
        assert_eq!(after.get(name, &[label]), Some(0.0), "{name}");
    }
}

#[test]
fn of_a_million_datagrams_in_both_directions_none_is_handed_over() {
    const CLIENTS: usize = 600_000;
    const PEERS: usize = 400_000;
    let test = "of_a_million_datagrams_in_both_directions_none_is_handed_over";
    Road::run(test, |mut road| {
        let server = Server::shoal_with(road.lab, "", &json!([]), &[]);
        let relays = relays(&mut road, &server, 48);
        let of_second: usize = relays.iter().map(Relay::shard).sum();
        println!("{of_second} of {} relays are the second shard's", relays.len());
        assert_fair(of_second as u64, relays.len() as u64, 2.0);
        let (started, start) = (road.metrics(), Instant::now());
        road.send_to_node(CLIENTS, from_client);
        println!("{CLIENTS} of clients in {:?}", start.elapsed());
        thread::sleep(LAG);
        let metrics = road.metrics();
        assert_at_home(&started, &metrics);
        assert!(metrics.sum("shoal_udp_steered_total", &[("to", "owner")]) >= CLIENTS as f64);
        let (start, sent) = (Instant::now(), ("shoal_udp_datagrams_total", [("direction", "out")]));
        let before = metrics.sum(sent.0, &sent.1);
        road.send_to_node(PEERS, |road| {
            let nth = road.rng.below(relays.len() as u64) as usize;
            from_peer(road, &relays[nth])
        });
        println!("{PEERS} of peers in {:?}", start.elapsed());
        let metrics = road.metrics();
        assert_at_home(&started, &metrics);
        assert_eq!(metrics.sum(sent.0, &sent.1) - before, PEERS as f64, "each is relayed");
    });
}

#[test]
fn the_driver_sends_packets_on_to_their_owners_cpus() {
    // A veth runs the program by itself, and a bridge has the kernel's stack do that.
    on_to_their_owners_cpus("the_driver_sends_packets_on_to_their_owners_cpus", "side1", "native");
}

#[test]
fn the_stack_sends_packets_on_to_their_owners_cpus() {
    on_to_their_owners_cpus("the_stack_sends_packets_on_to_their_owners_cpus", "bridge", "generic");
}

fn on_to_their_owners_cpus(test: &str, interface: &str, mode: &str) {
    const DATAGRAMS: usize = 40_000;
    let Some([here, _]) = two_cpus(test) else { return };
    Road::run(test, |mut road| {
        let xdp =
            format!("[xdp]\ninterfaces = [\"{interface}\"]\nsteer_cpus = true\nanswer = false\nattack_packets = 0\n");
        let server = Server::shoal_with(road.lab, &xdp, &json!([]), &[]);
        let relays = relays(&mut road, &server, 16);
        let started = road.metrics();
        // What a veth is given it takes on the same CPU.
        pin(here);
        let redirects = |road: &Road<'_>| {
            thread::sleep(LAG);
            let metrics = road.metrics();
            assert_at_home(&started, &metrics);
            assert_eq!(metrics.sum("shoal_xdp_interfaces", &[("mode", mode)]), 1.0);
            metrics.sum("shoal_xdp_redirects_total", &[]) as u64
        };
        let before = redirects(&road);
        road.send_to_node(DATAGRAMS, from_client);
        let of_clients = redirects(&road);
        println!("{} of {DATAGRAMS}", of_clients - before);
        assert_fair(of_clients - before, DATAGRAMS as u64, 2.0);
        let mut elsewhere = 0;
        road.send_to_node(DATAGRAMS, |road| {
            let nth = road.rng.below(relays.len() as u64) as usize;
            elsewhere += relays[nth].shard() as u64;
            from_peer(road, &relays[nth])
        });
        assert_eq!(redirects(&road) - of_clients, elsewhere);
    });
}

#[test]
fn without_privileges_the_kernel_chooses_and_all_are_served() {
    let test = "without_privileges_the_kernel_chooses_and_all_are_served";
    if tool::need(test, "setpriv").is_none() {
        return;
    }
    Road::run(test, |mut road| {
        let mut server = Server::shoal_with(road.lab, "", &json!([]), &BARE);
        relays(&mut road, &server, 8);
        road.send_to_node(10_000, from_client);
        thread::sleep(LAG);
        let metrics = road.metrics();
        for name in ["shoal_udp_strays_total", "shoal_udp_steered_total"] {
            assert_eq!(metrics.get(name, &[]), Some(0.0), "{name}");
        }
        let lines = left_to_kernel(&mut server);
        assert!(lines.len() == 1 && lines[0].contains("INFO") && lines[0].contains("CAP_BPF"), "{lines:?}");
    });
}

/// The lines in the log of a lab's nodes that say why flows are not steered.
fn left_to_kernel(server: &mut Server) -> Vec<String> {
    let said = server.process().output();
    said.lines().filter(|line| line.contains("the kernel chooses the shard")).map(str::to_owned).collect()
}
