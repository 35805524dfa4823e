//! A shard's UDP half on loopback, its ring turned by hand, asked by real sockets.

use std::future::Future;
use std::net::{IpAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use shoal_stun::discovery::Other;
use shoal_stun::message::{Builder, Class, Message, Method, TransactionId, XorMappedAddress};
use shoal_stun::nat::{Detector, Dialect, NatType, Timing};
use shoal_sys::ring::RingConfig;
use shoal_sys::udp::{Buffers, SendBatch, own_socket};

use super::*;
use crate::counts::Counts;
use crate::http::addresses::AddressCounts;
use crate::settings::UdpSettings;

const BUFFERS: Buffers = Buffers { receive: 1 << 20, send: 1 << 20 };

struct Server {
    ring: Ring,
    serve: Pin<Box<dyn Future<Output = ()>>>,
    stats: Arc<ShardStats>,
    udp: Rc<Udp>,
}

/// Two addresses with two ports each.
fn settings(bindings_per_address: u32) -> UdpSettings {
    let free = |_| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    loop {
        let ports: Vec<u16> = (0..2).map(free).collect();
        if ports[0] != ports[1] {
            return UdpSettings {
                addresses: vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()],
                port: ports[0],
                alternate_port: Some(ports[1]),
                bindings_per_address,
                receive_buffers: 64,
                socket_bytes: 1 << 20,
                steer: false,
                partner: None,
            };
        }
    }
}

fn server(bindings_per_address: u32) -> Server {
    let own = settings(bindings_per_address);
    let ports = [own.port, own.alternate_port.unwrap()];
    let bound = own.addresses.iter().flat_map(|ip| ports.map(|port| SocketAddr::new(*ip, port)));
    let listeners = bound
        .map(|address| UdpListener { address, socket: own_socket(address, BUFFERS).unwrap(), owners: None })
        .collect();
    let ring = Ring::new(RingConfig { entries: 64, buffers: 4, buffer_bytes: 1024 }).unwrap();
    let stats = Arc::new(ShardStats::default());
    let mut settings = crate::testing::settings();
    settings.udp = own;
    let streams = Arc::new(StreamNode { tls: None, addresses: AddressCounts::new(1) });
    let turn = TurnNode { counts: Arc::new(Counts::new(1)), nonce_secret: [1; 32], own_addresses: Vec::new(), streams };
    let node = UdpNode { post: Arc::new(PostOffice::new(1)), turn, seed: 3, known: None };
    let udp = Udp::start(UdpParts {
        shard: 0,
        settings: &settings,
        node: &node,
        listeners,
        frames: None,
        ring: &ring,
        clock: Clock::start(),
        stats: Arc::clone(&stats),
        published: Arc::default(),
        relay: None,
        seed: [2; 32],
    })
    .unwrap();
    Server { ring, serve: Box::pin(Rc::clone(&udp).serve()), stats, udp }
}

impl Server {
    fn main(&self) -> SocketAddr {
        self.udp.endpoints[0].address
    }

    fn turn(&mut self) {
        self.ring.turn().unwrap();
        let _ = self.serve.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Turns until the client has something, or `patience` is over.
    fn receive(&mut self, client: &UdpSocket, patience: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        client.set_nonblocking(true).unwrap();
        let (start, mut buffer) = (Instant::now(), [0; 2048]);
        while start.elapsed() < patience {
            self.turn();
            if let Ok((length, from)) = client.recv_from(&mut buffer) {
                return Some((buffer[..length].to_vec(), from));
            }
        }
        None
    }
}

const SOON: Duration = Duration::from_secs(5);

fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn binding(nth: u8) -> Vec<u8> {
    let mut buffer = [0; 64];
    let id = TransactionId::new([nth; 12]);
    let length = Builder::new(&mut buffer, Method::BINDING, Class::Request, id).finish().unwrap();
    buffer[..length].to_vec()
}

#[test]
fn a_client_without_a_nat_finds_that_out_in_both_dialects() {
    let mut server = server(0);
    for dialect in [Dialect::Modern, Dialect::Classic] {
        let client = client();
        let local = client.local_addr().unwrap();
        let start = Instant::now();
        let now = |start: Instant| start.elapsed().as_millis() as u64;
        let mut detector = Detector::new(dialect, server.main(), local, 7, Timing::default());
        let report = loop {
            assert!(start.elapsed() < 2 * SOON, "{detector:?}");
            if let Some(report) = detector.report() {
                break *report;
            }
            let mut out = [0; 64];
            while let Some((to, length)) = detector.poll_transmit(now(start), &mut out) {
                client.send_to(&out[..length], to).unwrap();
            }
            if let Some((datagram, from)) = server.receive(&client, Duration::from_millis(20)) {
                detector.handle(now(start), from, &datagram);
            }
        };
        assert_eq!((report.kind, report.mapped), (Some(NatType::OpenInternet), Some(local)), "{dialect:?}");
    }
    let answered = |counter| server.stats.counter(counter);
    assert!(answered(Counter::StunAnswered) >= 2 && answered(Counter::ClassicAnswered) >= 2);
}

#[test]
fn a_train_of_requests_is_answered_by_a_train() {
    let mut server = server(0);
    let client = own_socket("127.0.0.1:0".parse().unwrap(), BUFFERS).unwrap();
    let requests: Vec<Vec<u8>> = (0..30).map(binding).collect();
    let mut batch = SendBatch::default();
    batch.push(server.main(), requests.iter().map(|request| &request[..]), requests[0].len());
    assert_eq!(batch.send(&client).trains, 1);
    let client = UdpSocket::from(client);
    for nth in 0..30 {
        // This socket joins trains too, so all may come at once.
        let Some((answers, from)) = server.receive(&client, SOON) else { panic!("{nth} answers of 30") };
        assert_eq!(from, server.main());
        let first = Message::parse(&answers[..usize::from(answers[3]) + 20]).unwrap();
        let mapped = first.read::<XorMappedAddress>().unwrap().map(|mapped| mapped.0);
        assert_eq!(mapped, Some(client.local_addr().unwrap()));
        if server.stats.counter(Counter::UdpDatagramsOut) == 30 {
            break;
        }
    }
    let counted = |counter| server.stats.counter(counter);
    assert_eq!(counted(Counter::StunAnswered), 30);
    assert_eq!((counted(Counter::UdpTrainsIn), counted(Counter::UdpTrainsOut)), (1, 1));
}

#[test]
fn what_is_no_request_is_counted_by_its_reason_and_not_answered() {
    let mut server = server(0);
    let client = client();
    for junk in [&b""[..], b"x", &[0; 20], &[0x40, 0, 0, 4, 1, 2, 3, 4], &[0xff; 1500], &[0; 4000]] {
        client.send_to(junk, server.main()).unwrap();
    }
    client.send_to(&binding(1), server.main()).unwrap();
    // What comes is for the request, the last of them.
    let (answer, _) = server.receive(&client, SOON).unwrap();
    assert_eq!(&answer[8..20], &[1; 12]);
    let mut dropped = Vec::new();
    server.stats.each_udp_drop(|reason, count| dropped.push((reason, count)));
    dropped.sort_unstable();
    assert_eq!(dropped.iter().map(|(_, count)| count).sum::<u64>(), 6, "{dropped:?}");
    assert!(dropped.contains(&("too_long", 1)), "{dropped:?}");
}

#[test]
fn a_client_that_asks_too_often_is_answered_at_the_agreed_rate() {
    let mut server = server(10);
    let client = client();
    for nth in 0..100 {
        client.send_to(&binding(nth), server.main()).unwrap();
    }
    let mut answers = 0;
    while server.receive(&client, Duration::from_millis(50)).is_some() {
        answers += 1;
    }
    assert!((10..20).contains(&answers), "{answers}");
    // Another address is another client.
    let other = UdpSocket::bind("127.0.0.9:0").unwrap();
    other.send_to(&binding(1), server.main()).unwrap();
    assert!(server.receive(&other, SOON).is_some());
}

#[test]
fn addresses_of_a_family_go_in_pairs() {
    let addresses = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3", "2001:db8::2"];
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let settings = UdpSettings { addresses, ..settings(0) };
    let partner = Known { addresses: [Some("192.0.2.9".parse().unwrap()), None], until_ms: 100 };
    let endpoints = |settings: &UdpSettings, own: IpAddr, now_ms| discovery::endpoints(settings, own, &partner, now_ms);
    let other = |own: &str| endpoints(&settings, own.parse().unwrap(), 0).other;
    let here = |text: &str| Other::Here(text.parse().unwrap());
    assert_eq!(other("192.0.2.1"), here("192.0.2.2"));
    assert_eq!(other("192.0.2.2"), here("192.0.2.1"));
    assert_eq!(other("192.0.2.3"), here("192.0.2.1"));
    assert_eq!(other("2001:db8::2"), here("2001:db8::1"));
    let alone = UdpSettings { addresses: vec!["192.0.2.1".parse().unwrap()], ..settings };
    let partners = |now_ms| endpoints(&alone, alone.addresses[0], now_ms).other;
    assert_eq!(partners(99), Other::Partner { address: "192.0.2.9".parse().unwrap(), fresh: true });
    assert_eq!(partners(100), Other::Partner { address: "192.0.2.9".parse().unwrap(), fresh: false });
    let alone = UdpSettings { addresses: vec!["2001:db8::1".parse().unwrap()], ..alone };
    assert_eq!(endpoints(&alone, alone.addresses[0], 0).other, Other::Nowhere, "the partner has none of this family");
}
