//! Bound channels in XDP, against the state machine of user space: the same datagrams to the same places, and the same counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use shoal_perf::frame::Frame;
use shoal_probes::maps::{RelayUsage, Verdict};
use shoal_probes::{Channel, Owner, Relay, index};
use shoal_stun::credentials::{
    Authenticator, Key, NonceKey, Nonces, PasswordAlgorithm, PeerRules, Secret, Tenant, TenantId, Tenants,
    time_limited_password,
};
use shoal_stun::message::{
    AdditionalAddressFamily, Builder, ChannelNumber, Class, Family, Integrity, Message, Method, Nonce, Realm,
    RequestedTransport, TransactionId, Username, XorPeerAddress, XorRelayedAddress,
};
use shoal_stun::turn::{
    BoundChannel, Config, FiveTuple, FromClient, Limits, LocalQuota, MAX_REPLY, Now, OpenError, QuotaLimits,
    RelayAddress, RelayId, Relays, Server, Transport, Usage,
};
use shoal_tests::natlab::{Namespace, possible};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::tool;
use shoal_tests::xdp::Xdp;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket,
    UdpRepr,
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PORT: u16 = 3478;
const RELAYS: std::ops::RangeInclusive<u16> = 50_000..=50_099;

const CLIENTS: [&str; 2] = ["198.51.100.7:40000", "[2001:db8:7::7]:40000"];
/// By the interface that clients come by, and by another one.
const PEERS: [&str; 4] = ["198.18.0.9:9000", "198.19.0.9:9001", "[2001:db8:9::9]:9002", "[2001:db8:f::9]:9003"];

/// The next hops, by who is behind them.
const HOPS: [(&str, [u8; 6]); 6] = [
    ("198.51.100.7", [2, 0, 0, 0, 1, 4]),
    ("198.18.0.9", [2, 0, 0, 0, 2, 4]),
    ("198.19.0.9", [2, 0, 0, 0, 3, 4]),
    ("2001:db8:7::7", [2, 0, 0, 0, 1, 6]),
    ("2001:db8:9::9", [2, 0, 0, 0, 2, 6]),
    ("2001:db8:f::9", [2, 0, 0, 0, 3, 6]),
];

/// What the host knows of its network: two interfaces, and who is behind which next hop.
const NETWORK: &str = "link add near0 type veth peer name near1
link add far0 mtu 1400 type veth peer name far1 mtu 1400
link set near0 up
link set near1 up
link set far0 up
link set far1 up
addr add 192.0.2.1/24 dev near0
addr add 10.0.0.1/24 dev far0
addr add 2001:db8::1/64 dev near0 nodad
addr add fd00::1/64 dev far0 nodad
neigh add 192.0.2.4 lladdr 02:00:00:00:01:04 dev near0
neigh add 192.0.2.5 lladdr 02:00:00:00:02:04 dev near0
neigh add 10.0.0.4 lladdr 02:00:00:00:03:04 dev far0
neigh add 2001:db8::4 lladdr 02:00:00:00:01:06 dev near0
neigh add 2001:db8::5 lladdr 02:00:00:00:02:06 dev near0
neigh add fd00::4 lladdr 02:00:00:00:03:06 dev far0
route add 198.51.100.0/24 via 192.0.2.4
route add 198.18.0.0/16 via 192.0.2.5
route add 198.19.0.0/16 via 10.0.0.4
route add 203.0.113.0/24 via 192.0.2.77
route add 2001:db8:7::/48 via 2001:db8::4
route add 2001:db8:9::/48 via 2001:db8::5
route add 2001:db8:f::/48 via fd00::4
";

/// A node's programs in a network of its own, and what runs in there.
fn lab(test: &str, work: impl FnOnce(&mut Node<'_>) + Send) {
    if tool::need(test, "ip").is_none() || !possible(test) {
        return;
    }
    let namespace = Namespace::create(test).expect("whoever may load programs may make one");
    namespace.ip(NETWORK).expect("the kernel has veth");
    forwarding(&namespace, true);
    namespace.within(|| {
        let Some(mut node) = Node::new(test, &namespace) else { return };
        work(&mut node);
    });
}

fn forwarding(namespace: &Namespace, on: bool) {
    for key in ["net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding"] {
        let mut sysctl = namespace.command("sysctl");
        tool::run(sysctl.arg("-q").arg("-w").arg(format!("{key}={}", u8::from(on))));
    }
}

struct Node<'n> {
    namespace: &'n Namespace,
    xdp: Xdp,
    hands: Hands,
    server: Server<LocalQuota>,
    nonces: Nonces,
    now: Now,
    asked: u64,
}

/// What the state machine is told to do, done for XDP alone.
struct Hands {
    relay: Relay,
    bound: BTreeMap<(RelayId, u16), (u32, Channel)>,
    next: u32,
    /// At 0 of the state machine's time, by the kernel's clock.
    zero_ns: u64,
}

impl Relays for Hands {
    fn open(&mut self, _: RelayId, _: SocketAddr) -> Result<(), OpenError> {
        Ok(())
    }

    fn close(&mut self, _: RelayId) {}

    fn bind(&mut self, bound: &BoundChannel<'_>) {
        let BoundChannel { relay, number, client, server, relayed, peer, expires, user, .. } = *bound;
        let channel = Channel { number, client, server, relayed, peer };
        let (next, allocation) = (self.next, relay.to_bits());
        let (place, _) = *self.bound.entry((relay, number)).or_insert((next, channel));
        self.next = next.max(place + 1);
        self.relay.own(place, allocation, Owner { tenant: "acme", user }).expect("the kernel agrees");
        let expires_ns = self.zero_ns + expires * 1_000_000;
        self.relay.bind(&channel, place, allocation, expires_ns).expect("the kernel agrees");
    }

    fn unbind(&mut self, relay: RelayId, number: u16) {
        if let Some((_, channel)) = self.bound.remove(&(relay, number)) {
            self.relay.unbind(&channel).expect("the kernel agrees");
        }
    }
}

const NAME: &str = "1900000000:viewer";

impl<'n> Node<'n> {
    fn new(test: &str, namespace: &'n Namespace) -> Option<Self> {
        let mut xdp = Xdp::new(test)?;
        for ip in [IpAddr::from(NODE), NODE6.into()] {
            xdp.probes.add_endpoint(SocketAddr::new(ip, PORT), true, None).expect("the kernel agrees");
            xdp.probes.add_address(ip).expect("the kernel agrees");
        }
        xdp.probes.add_relay_ports(RELAYS).expect("the kernel agrees");
        for interface in ["near0", "far0"] {
            // Not this one: it would count what the host says by itself, too.
            xdp.probes.attach_empty(interface).expect("a veth runs programs");
            xdp.probes.let_out(interface).expect("it is there");
        }
        xdp.comes_by(index("near0").expect("it is there"));
        let relay = xdp.probes.relays(1).expect("the kernel agrees").remove(0);
        let rules = PeerRules {
            allow: vec!["198.18.0.0/15".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")],
            deny: Vec::new(),
        };
        let tenant =
            Tenant { name: String::new(), id: TenantId(1), secrets: vec![Secret::new(*b"secret")], peers: rules };
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: [7; 32] }], 86_400, true);
        let config = Config {
            shard: 0,
            ipv4: Some(RelayAddress { bind: NODE, public: NODE }),
            ipv6: Some(RelayAddress { bind: NODE6, public: NODE6 }),
            ports: RELAYS,
            node_ports: RELAYS,
            own_addresses: vec![NODE.into(), NODE6.into()],
            limits: Limits::default(),
            seed: [9; 32],
        };
        let quota = LocalQuota::new(QuotaLimits { tenant: 100, user: 100, address: 100 });
        let authenticator = Authenticator::new("example.org", nonces.clone(), true);
        let tenants = Arc::new(Tenants::new(vec![tenant]).expect("one tenant"));
        let hands = Hands { relay, bound: BTreeMap::new(), next: 0, zero_ns: now_ns() };
        Some(Self {
            namespace,
            xdp,
            hands,
            server: Server::new(config, authenticator, tenants, quota),
            nonces,
            now: Now { ms: 0, unix: 1_800_000_000 },
            asked: 0,
        })
    }

    fn flow(client: SocketAddr) -> FiveTuple {
        FiveTuple { client, server: server_of(client), transport: Transport::Udp }
    }

    /// Asks the state machine for something that it grants. Gives the addresses that it relays from.
    fn ask(&mut self, client: SocketAddr, method: Method, add: &dyn Fn(&mut Builder<'_>)) -> Vec<SocketAddr> {
        self.asked += 1;
        let [a, b, c, d, e, f, g, h] = self.asked.to_be_bytes();
        let id = TransactionId::new([0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        let (mut request, mut out) = (vec![0; 2000], vec![0; MAX_REPLY]);
        let mut message = Builder::new(&mut request, method, Class::Request, id);
        add(&mut message);
        let nonce = self.nonces.issue(client, self.now.unix);
        let nonce = std::str::from_utf8(&nonce).expect("it is text");
        message.add(&Username(NAME)).add(&Realm("example.org")).add(&Nonce(nonce));
        let password = time_limited_password(b"secret", NAME);
        let password = std::str::from_utf8(&password).expect("it is text");
        let key = Key::long_term(PasswordAlgorithm::Md5, NAME, "example.org", password);
        let length = message.integrity(Integrity::Sha1, key.as_bytes()).finish().expect("there is room");
        let reply =
            self.server.handle_client(self.now, &Self::flow(client), &request[..length], &mut self.hands, &mut out);
        let FromClient::Reply { length, .. } = reply else { panic!("{method:?}: {reply:?}") };
        let reply = Message::parse(&out[..length]).expect("a reply");
        assert_eq!(reply.class(), Class::Success, "{method:?}: {reply:?}");
        reply.read_all::<XorRelayedAddress>().map(|relayed| relayed.expect("an address").0).collect()
    }

    /// An allocation in both families, with a channel to each peer: [`channel`]. Gives where it relays from, by family.
    fn allocate(&mut self, client: SocketAddr) -> [SocketAddr; 2] {
        let relayed = self.ask(client, Method::ALLOCATE, &|request| {
            request.add(&RequestedTransport(17)).add(&AdditionalAddressFamily(Family::Ipv6));
        });
        for nth in 0..PEERS.len() {
            self.bind(client, nth);
        }
        [relayed[0], relayed[1]]
    }

    fn bind(&mut self, client: SocketAddr, nth: usize) {
        self.ask(client, Method::CHANNEL_BIND, &|request| {
            request.add(&ChannelNumber(channel(nth))).add(&XorPeerAddress(at(PEERS[nth])));
        });
    }

    /// What user space sends for a client's datagram: from where, to where, what.
    fn send_to_peer(&mut self, client: SocketAddr, datagram: &[u8], relayed: &[SocketAddr; 2]) -> Sent {
        let mut out = vec![0; MAX_REPLY];
        let done = self.server.handle_client(self.now, &Self::flow(client), datagram, &mut self.hands, &mut out);
        let FromClient::Forward(to) = done else { panic!("{done:?}") };
        let from = relayed[usize::from(to.relay.family() == Family::Ipv6)];
        Sent { source: from, destination: to.peer, payload: to.data.to_vec() }
    }

    /// The same for a peer's.
    fn send_to_client(&mut self, relay: RelayId, peer: SocketAddr, payload: &[u8]) -> Sent {
        let done = self.server.handle_peer(self.now.ms, relay, peer, 1, payload.len());
        let mut to = done.expect("it has a channel");
        let payload = [to.head(payload.len() as u16).as_bytes(), payload].concat();
        Sent { source: to.flow.server, destination: to.flow.client, payload }
    }

    /// The relay of a client in a family.
    fn relay_of(&self, client: SocketAddr, family: Family) -> RelayId {
        let bound = self
            .hands
            .bound
            .iter()
            .find(|((relay, _), (_, channel))| channel.client == client && relay.family() == family);
        bound.expect("it has bound channels").0.0
    }

    /// Has the program relay a frame, and gives what it has sent and by which interface it should leave.
    fn relayed(&mut self, frame: &[u8], about: &str) -> Seen {
        let (verdict, run) = self.xdp.run(frame);
        assert!(matches!(verdict, Verdict::Relayed | Verdict::Redirected), "{about}: {verdict:?}");
        let seen = Seen::parse(&run.frame);
        let far = ["198.19.0.9", "2001:db8:f::9"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let expected = if far.contains(&seen.sent.destination.ip()) { Verdict::Redirected } else { Verdict::Relayed };
        assert_eq!(verdict, expected, "{about}");
        let hop = HOPS.iter().find(|(ip, _)| ip.parse() == Ok(seen.sent.destination.ip())).expect("one of those");
        assert_eq!(seen.to, EthernetAddress(hop.1), "{about}");
        seen
    }
}

/// What leaves.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    source: SocketAddr,
    destination: SocketAddr,
    payload: Vec<u8>,
}

/// What left, with what only a frame has.
#[derive(Debug)]
struct Seen {
    to: EthernetAddress,
    sent: Sent,
    hops: u8,
    class: u8,
    /// Identification and flags of IPv4.
    fragmentation: Option<(u16, bool)>,
    checksum: u16,
}

impl Seen {
    /// Takes a frame apart, whose lengths and checksums must be right. Behind it there may be padding up to Ethernet's shortest frame.
    fn parse(bytes: &[u8]) -> Self {
        let ethernet = EthernetFrame::new_checked(bytes).expect("a frame");
        let checksums = ChecksumCapabilities::default();
        let packet = ethernet.payload();
        let (ends, hops, class, fragmentation, header, length): ((IpAddress, IpAddress), _, _, _, _, _) =
            if ethernet.ethertype() == EthernetProtocol::Ipv4 {
                let packet = Ipv4Packet::new_checked(packet).expect("an IPv4 packet");
                let ip = Ipv4Repr::parse(&packet, &checksums).expect("a right one");
                let fragmentation = Some((packet.ident(), packet.dont_frag()));
                let class = packet.dscp() << 2 | packet.ecn();
                let ends = (ip.src_addr.into(), ip.dst_addr.into());
                (ends, ip.hop_limit, class, fragmentation, 20, 20 + ip.payload_len)
            } else {
                assert_eq!(ethernet.ethertype(), EthernetProtocol::Ipv6);
                let packet = Ipv6Packet::new_checked(packet).expect("an IPv6 packet");
                let ip = Ipv6Repr::parse(&packet).expect("a right one");
                let ends = (ip.src_addr.into(), ip.dst_addr.into());
                (ends, ip.hop_limit, packet.traffic_class(), None, 40, 40 + ip.payload_len)
            };
        assert!(packet.len() == length || bytes.len() <= 60, "{} bytes of {length}", packet.len());
        let udp = UdpPacket::new_checked(&packet[header..length]).expect("a UDP packet");
        assert_eq!(usize::from(udp.len()), length - header);
        let ports = UdpRepr::parse(&udp, &ends.0, &ends.1, &checksums).expect("with a right checksum");
        Self {
            to: ethernet.dst_addr(),
            sent: Sent {
                source: SocketAddr::new(ends.0.into(), ports.src_port),
                destination: SocketAddr::new(ends.1.into(), ports.dst_port),
                payload: udp.payload().to_vec(),
            },
            hops,
            class,
            fragmentation,
            checksum: udp.checksum(),
        }
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn server_of(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(if client.is_ipv4() { NODE.into() } else { NODE6.into() }, PORT)
}

/// The channel of a peer.
fn channel(nth: usize) -> u16 {
    0x4000 + nth as u16
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.below(256) as u8).collect()
}

/// Whether a whole checksum is by chance what one would be that a device has still to complete: then the program leaves the
/// datagram to user space.
fn looks_unfinished(frame: &[u8]) -> bool {
    let (addresses, udp) = if frame[12..14] == [0x08, 0x00] { (&frame[26..34], 34) } else { (&frame[22..54], 54) };
    let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let sum: u32 = addresses.chunks(2).map(word).sum::<u32>() + 17 + word(&frame[udp + 4..]);
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) == word(&frame[udp + 6..])
}

#[test]
fn the_same_bytes_and_counts_as_user_space() {
    lab("the_same_bytes_and_counts_as_user_space", |node| {
        let mut rng = Rng::new(seed());
        let relayed: Vec<[SocketAddr; 2]> = CLIENTS.iter().map(|client| node.allocate(at(client))).collect();
        let lengths: Vec<usize> = (0..40).chain([159, 160, 1199, 1200]).collect();
        let mut count = 0;
        for round in 0..2 {
            for (client, relayed) in CLIENTS.iter().map(|client| at(client)).zip(&relayed) {
                for (nth, peer) in PEERS.iter().map(|peer| at(peer)).enumerate() {
                    for length in &lengths {
                        let about = format!("{client} {peer} {length} bytes");
                        // All of one bit pattern make sums that carry much.
                        let to = relayed[usize::from(peer.is_ipv6())];
                        let payload = (0..=u8::MAX)
                            .map(|less| if round == 0 { random(&mut rng, *length) } else { vec![0xff - less; *length] })
                            .find(|payload| {
                                let there = Frame::new(client, server_of(client), &channel_data(channel(nth), payload));
                                let back = Frame::new(peer, to, payload);
                                ![there, back].into_iter().any(|frame| looks_unfinished(&frame.bytes()))
                            })
                            .expect("one of 65,536 checksums is hit, not each of 256");
                        let datagram = channel_data(channel(nth), &payload);
                        let expected = node.send_to_peer(client, &datagram, relayed);
                        let frame = Frame::new(client, server_of(client), &datagram).bytes();
                        let seen = node.relayed(&frame, &about);
                        assert_eq!(seen.sent, expected, "{about}");
                        assert_eq!(seen.hops, 56, "{about}");

                        let relay = node.relay_of(client, Family::of(&peer.ip()));
                        let expected = node.send_to_client(relay, peer, &payload);
                        let seen = node.relayed(&Frame::new(peer, to, &payload).bytes(), &about);
                        assert_eq!(seen.sent, expected, "{about}");
                        assert_eq!(seen.hops, 56, "{about}");
                        count += 1;
                    }
                }
            }
        }
        println!("{count} datagrams each way");
        // The same counts, place by place and in all.
        let mut all = Usage::default();
        for (place, _) in node.hands.bound.values().copied().collect::<Vec<_>>() {
            let RelayUsage { datagrams, bytes } = node.hands.relay.take(place);
            assert_eq!(datagrams, [2 * lengths.len() as u64; 2], "place {place}");
            all.sent += datagrams[0];
            all.received += datagrams[1];
            all.sent_bytes += bytes[0];
            all.received_bytes += bytes[1];
            all.framing_bytes += 4 * (datagrams[0] + datagrams[1]);
            assert_eq!(node.hands.relay.take(place), RelayUsage::default(), "what was taken is taken");
        }
        let mut expected = Usage::default();
        node.server.take_usage(|_, _, usage| {
            expected.sent += usage.sent;
            expected.sent_bytes += usage.sent_bytes;
            expected.received += usage.received;
            expected.received_bytes += usage.received_bytes;
            expected.framing_bytes += usage.framing_bytes;
        });
        assert_eq!(all, expected);
        assert_eq!(all.sent, count);
    });
}

#[test]
fn what_the_packet_says_of_its_way_is_kept() {
    lab("what_the_packet_says_of_its_way_is_kept", |node| {
        let client = at(CLIENTS[0]);
        let [relayed, _] = node.allocate(client);
        let payload = [7; 100];
        let datagram = channel_data(channel(0), &payload);
        let mut frame = Frame::new(client, server_of(client), &datagram).bytes();
        for (class, ident, dont_fragment) in [(0, 0, true), (0xb9, 0x1234, false), (0x03, 0xffff, true)] {
            let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
            packet.set_dscp(class >> 2);
            packet.set_ecn(class & 3);
            packet.set_ident(ident);
            packet.set_dont_frag(dont_fragment);
            packet.fill_checksum();
            let seen = node.relayed(&frame, "IPv4 to IPv4");
            assert_eq!((seen.class, seen.fragmentation), (class, Some((ident, dont_fragment))));
            // Across, to IPv6 there is nothing else than the class.
            frame[43] = channel(2) as u8;
            Seen::fill(&mut frame);
            assert_eq!(node.relayed(&frame, "IPv4 to IPv6").class, class);
            frame[43] = channel(0) as u8;
            Seen::fill(&mut frame);
        }
        // From IPv6, it is not to be fragmented.
        let client = at(CLIENTS[1]);
        node.allocate(client);
        let mut frame = Frame::new(client, server_of(client), &datagram).bytes();
        Ipv6Packet::new_unchecked(&mut frame[14..]).set_traffic_class(0xb9);
        let seen = node.relayed(&frame, "IPv6 to IPv4");
        assert_eq!((seen.class, seen.fragmentation), (0xb9, Some((0, true))));
        // Without a checksum over IPv4 there is none afterwards.
        let mut frame = Frame::new(at(PEERS[0]), relayed, &payload).bytes();
        frame[40..42].fill(0);
        assert_eq!(node.relayed(&frame, "no checksum").checksum, 0);
    });
}

impl Seen {
    /// Makes the UDP checksum of an IPv4 frame right again.
    fn fill(frame: &mut [u8]) {
        let packet = Ipv4Packet::new_unchecked(&frame[14..]);
        let ends = (packet.src_addr(), packet.dst_addr());
        UdpPacket::new_unchecked(&mut frame[34..]).fill_checksum(&ends.0.into(), &ends.1.into());
    }
}

#[test]
fn what_is_not_for_the_driver_goes_to_user_space() {
    lab("what_is_not_for_the_driver_goes_to_user_space", |node| {
        let client = at(CLIENTS[0]);
        let [relayed, _] = node.allocate(client);
        let datagram = channel_data(channel(0), &[7; 61]);
        let to_peer = |datagram: &[u8]| Frame::new(client, server_of(client), datagram).bytes();
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = to_peer(&datagram);
            change(&mut frame);
            Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
            frame
        };
        let across = channel_data(channel(2), &[7; 61]);
        let mut uncounted = to_peer(&across);
        uncounted[40..42].fill(0);
        // What a device is to complete: the sum of the pseudo header.
        let partial = changed(&|frame| {
            let words = frame[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            let sum = words.sum::<u32>() + 17 + u32::from(u16::from_be_bytes([frame[38], frame[39]]));
            frame[40..42].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
        });
        let mut options = to_peer(&datagram);
        options.splice(34..34, [1, 1, 1, 0]);
        (options[14], options[17]) = (0x46, options[17] + 4);
        Ipv4Packet::new_unchecked(&mut options[14..]).fill_checksum();
        let stranger = Frame::new(at("198.51.100.7:40001"), server_of(client), &datagram).bytes();
        for (about, frame, expected) in [
            ("an unbound channel", to_peer(&channel_data(0x4100, &[1])), Verdict::Passed),
            ("somebody else's port", stranger, Verdict::Passed),
            ("an unbound peer", Frame::new(at("198.18.0.9:9999"), relayed, &[1]).bytes(), Verdict::Passed),
            (
                "another relay",
                Frame::new(at(PEERS[0]), SocketAddr::new(relayed.ip(), 50_099), &[1]).bytes(),
                Verdict::Passed,
            ),
            ("padding", to_peer(&[&datagram[..], &[0; 3]].concat()), Verdict::NotRelayed),
            ("the last hop", changed(&|frame| frame[22] = 1), Verdict::NotRelayed),
            ("no hop", changed(&|frame| frame[22] = 0), Verdict::NotRelayed),
            ("no checksum, to IPv6", uncounted, Verdict::NotRelayed),
            ("a checksum to be completed", partial, Verdict::NotRelayed),
            ("options", options, Verdict::NotRelayed),
            ("a VLAN", Frame::new(client, server_of(client), &datagram).tagged(&[5]).bytes(), Verdict::NotRelayed),
            ("a fragment", changed(&|frame| frame[20] = 0x20), Verdict::Fragment),
            ("longer than the other way takes", to_peer(&channel_data(channel(1), &[7; 1373])), Verdict::TooLong),
            ("as long as the other way takes", to_peer(&channel_data(channel(1), &[7; 1372])), Verdict::Redirected),
            (
                "longer than IPv6 takes",
                Frame::new(at(PEERS[2]), relayed_v6(node, client), &[7; 1453]).bytes(),
                Verdict::Relayed,
            ),
        ] {
            assert_eq!(node.xdp.verdict(&frame), expected, "{about}");
        }
        // A wrong checksum stays wrong: it is for the receiver to see.
        let mut wrong = to_peer(&datagram);
        wrong[60] ^= 1;
        let (verdict, run) = node.xdp.run(&wrong);
        assert_eq!(verdict, Verdict::Relayed);
        let udp = UdpPacket::new_unchecked(&run.frame[34..]);
        assert!(!udp.verify_checksum(&NODE.into(), &Ipv4Addr::new(198, 18, 0, 9).into()));
        // The limits and the block list come first.
        node.xdp.probes.block("198.51.100.7/32".parse().expect("a network")).expect("the kernel agrees");
        assert_eq!(node.xdp.verdict(&to_peer(&datagram)), Verdict::Blocked);
    });
}

/// Where a client's peers of IPv6 send to.
fn relayed_v6(node: &Node<'_>, client: SocketAddr) -> SocketAddr {
    let mut bound = node.hands.bound.values();
    let found = bound.find(|(_, channel)| channel.client == client && channel.relayed.is_ipv6());
    found.expect("it has one").1.relayed
}

#[test]
fn the_hosts_routes_decide() {
    lab("the_hosts_routes_decide", |node| {
        let client = at(CLIENTS[0]);
        let [relayed, _] = node.allocate(client);
        let frame = Frame::new(client, server_of(client), &channel_data(channel(0), &[7; 61])).bytes();
        assert_eq!(node.xdp.verdict(&frame), Verdict::Relayed);
        // What was found is believed for a moment.
        let change = |node: &Node<'_>, lines: &str| {
            node.namespace.ip(lines).expect("it can be changed");
            std::thread::sleep(std::time::Duration::from_millis(300));
        };
        change(node, "neigh del 192.0.2.5 dev near0\n");
        assert_eq!(node.xdp.verdict(&frame), Verdict::NoNextHop);
        change(node, "neigh add 192.0.2.5 lladdr 02:00:00:00:02:04 dev near0\n");
        assert_eq!(node.xdp.verdict(&frame), Verdict::Relayed);
        change(node, "route replace 198.18.0.0/16 via 10.0.0.4\n");
        assert_eq!(node.xdp.verdict(&frame), Verdict::Redirected);
        change(node, "route replace blackhole 198.18.0.0/16\n");
        assert_eq!(node.xdp.verdict(&frame), Verdict::NoNextHop);
        change(node, "route replace 198.18.0.0/16 via 192.0.2.5 mtu lock 80\n");
        assert_eq!(node.xdp.verdict(&frame), Verdict::TooLong);
        let back = Frame::new(at(PEERS[0]), relayed, &[7; 61]).bytes();
        assert_eq!(node.xdp.verdict(&back), Verdict::Relayed, "the other way is as it was");
        forwarding(node.namespace, false);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(node.xdp.verdict(&frame), Verdict::NoForwarding);
    });
}

#[test]
fn nothing_is_relayed_beyond_its_time() {
    lab("nothing_is_relayed_beyond_its_time", |node| {
        let client = at(CLIENTS[0]);
        let relayed = node.allocate(client);
        let frames = |node: &Node<'_>| {
            let to_peer = Frame::new(client, server_of(client), &channel_data(channel(0), &[7; 61])).bytes();
            let to_client = Frame::new(at(PEERS[3]), relayed_v6(node, client), &[7; 61]).bytes();
            [to_peer, to_client]
        };
        // Time that has passed, for the kernel: expiry of a channel is in 600 s, that of the allocation, too.
        let frames = frames(node);
        for frame in &frames {
            assert_eq!(node.xdp.verdict(frame), Verdict::Relayed);
        }
        node.hands.zero_ns -= 599_000_000_000;
        for nth in 0..PEERS.len() {
            node.bind(client, nth);
        }
        for frame in &frames {
            assert_eq!(node.xdp.verdict(frame), Verdict::Relayed);
        }
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        for frame in &frames {
            assert_eq!(node.xdp.verdict(frame), Verdict::Passed, "their time is over, whoever is alive");
        }
        // Refreshed, and then released.
        node.hands.zero_ns += 599_000_000_000;
        for nth in 0..PEERS.len() {
            node.bind(client, nth);
        }
        for frame in &frames {
            assert_eq!(node.xdp.verdict(frame), Verdict::Relayed);
        }
        node.ask(client, Method::REFRESH, &|request| {
            request.add(&shoal_stun::message::Lifetime(0));
        });
        assert!(node.hands.bound.is_empty() && relayed[0].is_ipv4());
        for frame in &frames {
            assert_eq!(node.xdp.verdict(frame), Verdict::Passed);
        }
    });
}

#[test]
fn what_is_cut_off_anywhere_is_never_relayed() {
    lab("what_is_cut_off_anywhere_is_never_relayed", |node| {
        let mut frames = Vec::new();
        for client in CLIENTS.map(at) {
            let relayed = node.allocate(client);
            for (nth, peer) in PEERS.map(at).into_iter().enumerate() {
                frames.push(Frame::new(client, server_of(client), &channel_data(channel(nth), &[7; 61])).bytes());
                frames.push(Frame::new(peer, relayed[usize::from(peer.is_ipv6())], &[7; 61]).bytes());
            }
        }
        for frame in frames {
            for length in 14..frame.len() {
                let (verdict, _) = node.xdp.run(&frame[..length]);
                let untouched = matches!(verdict, Verdict::Untouched | Verdict::Length);
                assert!(untouched, "{verdict:?} of {length} bytes of {}", frame.len());
            }
            assert!(matches!(node.xdp.verdict(&frame), Verdict::Relayed | Verdict::Redirected));
        }
    });
}

#[test]
fn what_a_process_has_left_is_found() {
    lab("what_a_process_has_left_is_found", |node| {
        let client = at(CLIENTS[0]);
        node.allocate(client);
        let frame = Frame::new(client, server_of(client), &channel_data(channel(0), &[7; 61])).bytes();
        node.xdp.repeat(&frame, 1);
        let place = node.hands.bound[&(node.relay_of(client, Family::Ipv4), channel(0))].0;
        assert_eq!(node.hands.relay.take(place).datagrams, [1, 0]);
        // The process is dead, and its channels are not.
        for _ in 0..5 {
            assert_eq!(node.xdp.verdict(&frame), Verdict::Relayed);
        }
        node.xdp.probes.begin_anew().expect("the kernel agrees");
        assert_eq!(node.xdp.verdict(&frame), Verdict::Passed, "user space knows nothing of it any more");
        let mut relay = node.xdp.probes.relays(1).expect("the kernel agrees").remove(0);
        let left = relay.take_left().expect("the kernel agrees");
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!((left[0].tenant.as_str(), left[0].user.as_str()), ("acme", "viewer"));
        assert_eq!(left[0].usage, RelayUsage { datagrams: [5, 0], bytes: [5 * 61, 0] });
        assert_eq!(relay.take_left().expect("the kernel agrees"), []);
    });
}
