//! A shard's relay with clients on streams, its ring turned by hand while they block in threads of their own.

mod client;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use shoal_stun::message::{Class, Data, Message, Method, OtherAddress, XorMappedAddress, XorPeerAddress};
use shoal_sys::net::set_unsent_max;
use shoal_sys::ring::RingConfig;
use shoal_sys::udp::{Buffers, own_socket};

use super::super::{PostOffice, TurnNode, UdpNode, UdpParts};
use super::open::{GREETING_MS, IDLE_MS, NO_ALLOCATION_MS};
use super::output::QUEUE_MAX;
use super::*;
use crate::clock::Clock;
use crate::config::CertificateFiles;
use crate::counts::Counts;
use crate::http::addresses::AddressCounts;
use crate::routes::{Published, Routes};
use crate::settings::{Machine, Settings};
use crate::shard::UdpListener;
use crate::telemetry::metrics::Gauge;
use crate::testing::{Folder, folder};
use crate::tls::Tls;
use crate::tls::tests::{Authority, NOW};
use client::{Client, SECRET, channel_data, code};

const SOON: Duration = Duration::from_secs(20);
const RELAY: &str = "127.0.0.2";
/// A peer's address: the relay's own are none.
const PEER: &str = "127.0.0.9:0";

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Shard {
    ring: Ring,
    udp: Rc<Udp>,
    tasks: Vec<Task>,
    listener: TcpListener,
    server: SocketAddr,
    clock: Clock,
}

/// A node that relays, with this certificate if there is one.
fn settings(certificate: Option<(&Folder, &Authority)>) -> Settings {
    let mut config = crate::config::Config::default();
    config.node.state_dir = std::env::temp_dir().display().to_string();
    config.udp.addresses = vec![RELAY.to_owned()];
    config.turn.relay_addresses = vec![RELAY.to_owned()];
    if let Some((folder, authority)) = certificate {
        let pair = authority.issue(folder, "relay", &["relay.test"], NOW);
        let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
        config.tls.certificates = vec![CertificateFiles { certificate, key }];
    }
    config.validate_on(&Machine::this()).unwrap()
}

impl Shard {
    fn new() -> Self {
        Self::with(settings(None))
    }

    fn with(settings: Settings) -> Self {
        let listener = TcpListener::bind((RELAY, 0)).unwrap();
        set_unsent_max(&listener, UNSENT_MAX).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = listener.local_addr().unwrap();
        let buffers = Buffers { receive: 1 << 20, send: 1 << 20 };
        let endpoint = UdpListener { address: server, socket: own_socket(server, buffers).unwrap(), owners: None };
        let ring = Ring::new(RingConfig { entries: 256, buffers: 16, buffer_bytes: 4096 }).unwrap();
        let relay = serde_json::json!({ "secrets": [{ "id": "one", "secret": SECRET }], "allow": ["127.0.0.0/8"] });
        let tenants = serde_json::json!([{ "id": "default", "relay": relay }]);
        let snapshot = serde_json::json!({ "version": 1, "channels": [], "tenants": tenants });
        let routes = Routes::compile(&serde_json::from_value(snapshot).unwrap(), None).unwrap();
        let tls = Tls::load(&settings).unwrap().tls.turn;
        let streams = Arc::new(StreamNode { tls, addresses: AddressCounts::new(1) });
        let own_addresses = settings.udp.addresses.clone();
        let turn = TurnNode { counts: Arc::new(Counts::new(1)), nonce_secret: [1; 32], own_addresses, streams };
        let clock = Clock::start();
        let udp = Udp::start(UdpParts {
            relay: None,
            shard: 0,
            settings: &settings,
            node: &UdpNode { post: Arc::new(PostOffice::new(1)), turn, seed: 3, known: None },
            listeners: vec![endpoint],
            frames: None,
            ring: &ring,
            clock: clock.clone(),
            stats: Arc::default(),
            published: Arc::new(Published::new(routes)),
            seed: [2; 32],
        })
        .unwrap();
        let tasks: Vec<Task> = vec![Box::pin(Rc::clone(&udp).serve())];
        Self { ring, udp, tasks, listener, server, clock }
    }

    fn turn(&mut self) {
        if let Ok((socket, _)) = self.listener.accept() {
            // The ring wants it to block.
            socket.set_nonblocking(false).unwrap();
            if let Some(task) = self.udp.take_stream(socket.into(), self.server) {
                self.tasks.push(Box::pin(task));
            }
        }
        self.ring.turn().unwrap();
        self.tasks.retain_mut(|task| task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    /// Turns until it is so.
    #[track_caller]
    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !so(self) {
            assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
            self.turn();
        }
    }

    /// What a client does in a thread of its own, while the shard turns.
    #[track_caller]
    fn during<T: Send>(&mut self, act: impl FnOnce(SocketAddr) -> T + Send) -> T {
        let server = self.server;
        thread::scope(|scope| {
            let acting = scope.spawn(move || act(server));
            let start = Instant::now();
            while !acting.is_finished() {
                assert!(start.elapsed() < SOON, "the client did not end");
                self.turn();
            }
            acting.join().unwrap()
        })
    }

    /// A client with an allocation, and where that relays from.
    fn allocated(&mut self) -> (Client<TcpStream>, SocketAddr) {
        self.during(|server| {
            let mut client = Client::new(connect(server));
            let relayed = client.allocate();
            (client, relayed)
        })
    }

    fn count(&self, counter: Counter) -> u64 {
        self.udp.stats.counter(counter)
    }

    fn drops(&self, wanted: &str) -> u64 {
        let mut total = 0;
        self.udp.stats.each_udp_drop(|reason, count| total += if reason == wanted { count } else { 0 });
        total
    }

    fn allocations(&self) -> usize {
        self.udp.work.borrow().state.turn.as_ref().unwrap().server.allocations()
    }

    /// As if so much time had passed since now.
    fn sweep(&self, ms: u64) {
        let work = self.udp.work.borrow();
        self.udp.streams.sweep(self.clock.now_ms() + ms, &work.state.turn.as_ref().unwrap().server);
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind(PEER).unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    peer
}

fn received(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 2048];
    let (length, from) = peer.recv_from(&mut bytes).unwrap();
    (bytes[..length].to_vec(), from)
}

/// Everything that a relay does, by a client on `stream`.
fn use_relay<S: Read + Write>(stream: S) {
    let (mut client, peer) = (Client::new(stream), peer());
    let relayed = client.allocate();
    let at = peer.local_addr().unwrap();
    client.permit(at);
    peer.send_to(b"indication", relayed).unwrap();
    let message = client.next().unwrap();
    let message = Message::parse(&message).unwrap();
    assert_eq!((message.method(), message.class()), (Method::DATA, Class::Indication));
    assert_eq!(message.read::<Data<'_>>().unwrap().unwrap().0, b"indication");
    assert_eq!(message.read::<XorPeerAddress>().unwrap().unwrap().0, at);
    client.bind(0x4000, at);
    // Of all lengths that padding can have, some at once.
    for length in [0, 1, 2, 3, 4, 1200] {
        let data = vec![length as u8; length];
        client.stream.write_all(&channel_data(0x4000, &data).repeat(3)).unwrap();
        for _ in 0..3 {
            assert_eq!(received(&peer), (data.clone(), relayed));
        }
        peer.send_to(&data, relayed).unwrap();
        assert_eq!(client.next().unwrap(), channel_data(0x4000, &data));
    }
    // Many at once, which are sent together.
    for nth in 0..100 {
        peer.send_to(&[nth; 333], relayed).unwrap();
    }
    for nth in 0..100 {
        assert_eq!(client.next().unwrap(), channel_data(0x4000, &[nth; 333]));
    }
    // Alike in bytes, and not in what they hold.
    let mixed = [b"abcd", &b"efg"[..], b"hijk", b"l"].map(|data| channel_data(0x4000, data)).concat();
    client.stream.write_all(&mixed).unwrap();
    for data in [b"abcd", &b"efg"[..], b"hijk", b"l"] {
        assert_eq!(received(&peer).0, data);
    }
}

#[test]
fn a_relay_is_used_by_tcp() {
    Shard::new().during(|server| use_relay(connect(server)));
}

/// Writes so many bytes at a time, each in a segment of its own.
struct Pieces(TcpStream, usize);

impl Read for Pieces {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let length = bytes.len().min(self.1);
        self.0.read(&mut bytes[..length])
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // Long enough for the shard to take what there is.
        thread::sleep(Duration::from_micros(200));
        self.0.write(&bytes[..bytes.len().min(self.1)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn messages_in_pieces_of_any_size_are_the_same_messages() {
    for size in [1, 3, 7, 150, 1300] {
        Shard::new().during(|server| use_relay(Pieces(connect(server), size)));
    }
}

#[test]
fn a_relay_is_used_by_tls_on_the_same_port() {
    let (folder, authority) = (folder(), Authority::new());
    let mut shard = Shard::with(settings(Some((&folder, &authority))));
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let client = ClientConfig::builder_with_provider(crate::tls::provider()).with_safe_default_protocol_versions();
    let mut client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    for protocols in [vec![], vec![b"stun.turn".to_vec()]] {
        client.alpn_protocols = protocols;
        let config = Arc::new(client.clone());
        let session = || ClientConnection::new(config, ServerName::try_from("relay.test").unwrap()).unwrap();
        let session = session();
        shard.during(|server| use_relay(StreamOwned::new(session, connect(server))));
    }
    shard.during(|server| use_relay(connect(server)));
    shard.until("both handshakes are counted", |shard| {
        shard.count(Counter::TlsFull13) + shard.count(Counter::TlsResumed13) == 2
    });

    // Who wants HTTP is not to be mistaken for a client of the relay.
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let session = ClientConnection::new(Arc::new(client), ServerName::try_from("relay.test").unwrap()).unwrap();
    let refused = shard.during(|server| StreamOwned::new(session, connect(server)).write_all(b"GET"));
    assert!(refused.is_err());
    shard.until("it is counted", |shard| shard.count(Counter::TurnClosedHandshake) == 1);
    assert_eq!(shard.count(Counter::TlsIncompatible), 1);
}

#[test]
fn a_binding_request_is_answered_without_a_second_address() {
    let mut shard = Shard::new();
    shard.during(|server| {
        let mut client = Client::new(connect(server));
        let own = client.stream.local_addr().unwrap();
        let request = client.request(Method::BINDING, |_| ());
        client.stream.write_all(&request).unwrap();
        // Who will send no more still gets the answer.
        client.stream.shutdown(Shutdown::Write).unwrap();
        let answer = client.next().unwrap();
        let message = Message::parse(&answer).unwrap();
        assert_eq!((message.class(), code(&message)), (Class::Success, 0));
        assert_eq!(message.read::<XorMappedAddress>().unwrap().unwrap().0, own);
        assert_eq!(message.read::<OtherAddress>().unwrap(), None);
        assert_eq!(client.next(), None);
    });
    shard.until("it is closed", |shard| shard.count(Counter::TurnClosedByPeer) == 1);
    assert_eq!(shard.count(Counter::StunAnswered), 1);
}

#[test]
fn who_does_not_read_loses_messages_and_nobody_else_does() {
    const PAYLOAD: usize = 1200;
    let mut shard = Shard::new();
    let ((mut slow, relayed), peer) = (shard.allocated(), peer());
    let (mut other, other_relayed) = shard.allocated();
    let at = peer.local_addr().unwrap();
    let (slow, other) = shard.during(|_| {
        slow.bind(0x4000, at);
        other.bind(0x4000, at);
        (slow, other)
    });
    let mut sent = 0;
    // Far more than queue, socket and the client's own buffer hold.
    while shard.drops("stream_full") < 1000 {
        for _ in 0..20 {
            peer.send_to(&[sent as u8; PAYLOAD], relayed).unwrap();
            sent += 1;
        }
        for _ in 0..3 {
            shard.turn();
        }
        assert!(sent < 100_000, "it all went somewhere");
        if sent % 500 == 0 {
            let mut other = Client::new(other.stream.try_clone().unwrap());
            let got = shard.during(|_| {
                peer.send_to(b"for the other", other_relayed).unwrap();
                other.next()
            });
            assert_eq!(got, Some(channel_data(0x4000, b"for the other")));
        }
    }
    let held: usize = {
        let open = shard.udp.streams.all();
        open.iter().map(|connection| connection.output.held()).sum()
    };
    assert!(held <= QUEUE_MAX, "{held}");

    // Now it reads: whole messages, and as many as it is charged for.
    let mut slow = slow;
    slow.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut got = 0;
    let slow = shard.during(|_| {
        while let Some(message) = slow.next() {
            assert_eq!(message.len(), PAYLOAD + 4);
            got += 1;
        }
        slow
    });
    drop(slow);
    let mut charged = (0, 0);
    {
        let mut work = shard.udp.work.borrow_mut();
        let turn = work.state.turn.as_mut().unwrap();
        turn.server.take_usage(|_, _, usage| {
            charged.0 += usage.received;
            charged.1 += usage.received_bytes;
        });
    }
    let others = sent / 500;
    assert_eq!(charged, (got + others, got * PAYLOAD as u64 + others * 13), "of {sent}");
    assert_eq!(shard.drops("stream_full") + got, sent);
}

#[test]
fn a_connection_takes_its_allocation_along() {
    let mut shard = Shard::new();
    let (client, relayed) = shard.allocated();
    let taken = |relayed| UdpSocket::bind(relayed).is_err();
    assert!(shard.allocations() == 1 && taken(relayed));
    drop(client);
    shard.until("the allocation is gone", |shard| shard.allocations() == 0);
    shard.until("its socket, too", |_| !taken(relayed));
    assert!(shard.udp.streams.all().is_empty());

    // By a reset as well.
    let (client, _) = shard.allocated();
    reset(&client.stream);
    drop(client);
    shard.until("that one is gone, too", |shard| shard.allocations() == 0);
    assert_eq!((shard.count(Counter::TurnClosedByPeer), shard.count(Counter::TurnClosedReset)), (1, 1));
}

/// Closing becomes a reset.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn who_connects_anew_from_the_same_port_has_nothing_of_the_old_connection() {
    let mut shard = Shard::new();
    let (client, _) = shard.allocated();
    let connection = shard.udp.streams.all().pop().unwrap();
    // Its end has not been seen yet; the socket of the next one is only made to look like its successor.
    let (_client, socket) = (connect(shard.server), shard.listener.accept().unwrap().0);
    let next = Connection::new(shard.ring.stream(socket.into()), connection.flow, shard.clock.now_ms());
    let next = Rc::new(next);
    assert_eq!(shard.udp.streams.open(&next), Some(Some(connection.flow)));
    shard.udp.end_allocation(&connection.flow);
    assert_eq!(shard.allocations(), 0);
    shard.until("the old one has ended", |shard| shard.count(Counter::TurnClosedReplaced) == 1);
    assert!(shard.udp.streams.all().iter().any(|known| Rc::ptr_eq(known, &next)), "the new one is known");
    drop(client);
}

#[test]
fn what_is_no_turn_is_closed_and_counted() {
    let mut shard = Shard::new();
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let long = [0x40, 0, 0xff, 0xff, 1, 2, 3];
    let cases: [(&[u8], Counter); 6] = [
        // The start of ChannelData, and of much.
        (b"GET / HTTP/1.1\r\n\r\n", Counter::TurnClosedTooLong),
        (b"\x80\x2e\x01\x03\x01", Counter::TurnClosedMalformed),
        (&[0, 1, 0, 0, 1, 2, 3, 4], Counter::TurnClosedMalformed),
        (&[0xff; 3000], Counter::TurnClosedMalformed),
        (&hello, Counter::TurnClosedNoCertificate),
        (&long, Counter::TurnClosedTooLong),
    ];
    for (bytes, counter) in cases {
        let before = shard.count(counter);
        let answer = shard.during(|server| {
            let mut stream = connect(server);
            stream.write_all(bytes).unwrap();
            Client::new(stream).next()
        });
        assert_eq!(answer, None, "{bytes:?}");
        shard.until("it is counted", |shard| shard.count(counter) == before + 1);
    }
    // What is one, and of no use, is dropped.
    shard.during(|server| {
        let mut client = Client::new(connect(server));
        client.stream.write_all(&channel_data(0x4000, b"nobody's")).unwrap();
        client.allocate();
        // With an allocation messages may be long.
        client.stream.write_all(&channel_data(0x4000, &[7; 65_000])).unwrap();
        client.ask(Method::REFRESH, |_| ());
    });
    assert_eq!(shard.drops("no_allocation") + shard.drops("no_channel"), 2);
}

#[test]
fn who_is_of_no_use_is_not_kept() {
    let mut shard = Shard::new();
    let silent = connect(shard.server);
    let mut idle = Client::new(connect(shard.server));
    let request = idle.request(Method::BINDING, |_| ());
    idle.stream.write_all(&request).unwrap();
    let (client, _) = shard.allocated();
    shard.until("all are there", |shard| shard.count(Counter::StunAnswered) == 1 && shard.udp.streams.all().len() == 3);
    shard.sweep(GREETING_MS - 1000);
    assert_eq!(shard.udp.stats.gauge(Gauge::TurnTcp), 3);
    shard.sweep(GREETING_MS + 2000);
    shard.until("who said nothing is gone", |shard| shard.count(Counter::TurnClosedGreeting) == 1);
    shard.sweep(IDLE_MS + 4000);
    shard.until("who has nothing is gone", |shard| shard.count(Counter::TurnClosedIdle) == 1);
    shard.sweep(IDLE_MS + 6000);
    for _ in 0..100 {
        shard.turn();
    }
    assert_eq!(shard.udp.stats.gauge(Gauge::TurnTcp), 1);
    assert_eq!(shard.udp.streams.all().len(), 1, "who has an allocation stays");

    // Who keeps asking, and never for an allocation.
    let mut busy = Client::new(connect(shard.server));
    let request = busy.request(Method::BINDING, |_| ());
    busy.stream.write_all(&request).unwrap();
    shard.until("it is answered", |shard| shard.count(Counter::StunAnswered) == 2);
    for connection in shard.udp.streams.all() {
        connection.heard_ms.set(Some(shard.clock.now_ms() + NO_ALLOCATION_MS));
    }
    shard.sweep(NO_ALLOCATION_MS + 2000);
    shard.until("it is gone", |shard| shard.count(Counter::TurnClosedNoAllocation) == 1);
    assert_eq!(shard.udp.streams.all().len(), 1, "who has an allocation stays");
    drop((silent, idle, client));
}

#[test]
fn there_are_no_more_than_may_be() {
    let mut few = settings(None);
    let turn = few.turn.as_mut().unwrap();
    (turn.connections, turn.connections_per_address) = (3, 2);
    let mut shard = Shard::with(few);
    let _here: Vec<_> = (0..2).map(|_| connect(shard.server)).collect();
    shard.until("two are there", |shard| shard.udp.streams.all().len() == 2);
    let closed = |shard: &mut Shard, from: &str| {
        let from: SocketAddr = from.parse().unwrap();
        shard.during(|server| {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
            let socket = socket.unwrap();
            rustix::net::bind(&socket, &from).unwrap();
            rustix::net::connect(&socket, &server).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let read = stream.read(&mut [0]);
            (read.is_ok() || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), stream)
        })
    };
    assert!(closed(&mut shard, "127.0.0.1:0").0);
    assert_eq!(shard.count(Counter::TurnClosedPerAddress), 1);
    let (was_closed, kept) = closed(&mut shard, "127.0.0.7:0");
    assert!(!was_closed, "another address has its own");
    assert!(closed(&mut shard, "127.0.0.8:0").0);
    assert_eq!(shard.count(Counter::TurnClosedPerShard), 1);
    drop(kept);
    shard.until("there is room again", |shard| shard.udp.streams.all().len() == 2);
    assert!(!closed(&mut shard, "127.0.0.8:0").0);
}
