//! The relay by TCP, with clients that mean no good: those that do not read, and those that have nothing to say.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use shoal_perf::udp::dance::{Ask, Client, Step};
use shoal_stun::message::{Frame, channel_data_header, next_frame};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::resources::resident;
use shoal_tests::{net, with_one_and_four_shards};

with_one_and_four_shards!(
    who_does_not_read_costs_no_more_than_a_queue_and_harms_nobody,
    what_is_no_turn_is_closed_at_once_and_counted,
);

const PORT: u16 = 3478;
/// A second one, as firewalls leave open.
const OPEN_PORT: u16 = 3443;
const SOON: Duration = Duration::from_secs(20);
const CHANNEL: u16 = 0x4000;
const PAYLOAD: usize = 1200;

/// Clients that do not read, and datagrams for each of them: far more than it is kept.
const SLOW: usize = 50;
const DATAGRAMS: usize = 1_500;
/// What the node keeps for each of them.
const SLOW_BYTES: u64 = 256 << 10;
/// What it may take besides, of tables that have grown.
const GROWTH: u64 = 16 << 20;

/// A node that relays from an address of its own.
fn node(shards: u32, more: &[(&str, &str)]) -> (Lab, IpAddr) {
    let ip = net::own_address();
    let settings = Settings::new(shards)
        .set("udp.addresses", &format!("[\"{ip}\"]"))
        .set("udp.port", &PORT.to_string())
        .set("turn.relay_addresses", &format!("[\"{ip}\"]"))
        .set("turn.ports", "\"20000-29999\"")
        .set("turn.tcp_ports", &format!("[{OPEN_PORT}]"));
    let lab = more.iter().fold(settings, |settings, (key, value)| settings.set(key, value)).start();
    let relay = json!({"secrets": [{"id": "one", "secret": "sixteen characters"}], "allow": ["127.0.0.0/8"]});
    lab.change(|| lab.admin().put_tenant(&json!({"id": "acme", "relay": relay})));
    // Each shard looks for a new snapshot ten times in a second.
    thread::sleep(Duration::from_millis(300));
    (lab, ip)
}

/// A client of the relay on a stream.
struct Streamed {
    stream: TcpStream,
    client: Client,
    received: Vec<u8>,
}

impl Streamed {
    /// One with an allocation and a channel for `peer`.
    fn connect(server: SocketAddr, (name, password): &(String, String), seed: u32, peer: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("the relay listens");
        stream.set_read_timeout(Some(SOON)).expect("the time is not zero");
        stream.set_nodelay(true).expect("it is a TCP socket");
        let mut streamed = Self { stream, client: Client::new(name, password, seed), received: Vec::new() };
        streamed.ask(Ask::Allocate);
        streamed.ask(Ask::Bind(CHANNEL, peer));
        streamed
    }

    fn ask(&mut self, ask: Ask) {
        loop {
            let request = self.client.request(ask);
            self.stream.write_all(&request).expect("the relay reads");
            let answer = self.next().expect("the relay answers");
            match self.client.handle(&answer).expect("the relay grants it") {
                Step::Granted => return,
                Step::Again => {}
                step => panic!("{step:?} to {ask:?}"),
            }
        }
    }

    fn relayed(&self) -> SocketAddr {
        self.client.relayed().expect("it has an allocation")
    }

    /// The next message; none when nothing comes, or the relay has closed.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Frame::Whole(length)) = next_frame(&self.received) {
                return Some(self.received.drain(..length).collect());
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend_from_slice(&bytes[..read]),
            }
        }
    }
}

fn channel_data(data: &[u8]) -> Vec<u8> {
    let mut message = channel_data_header(CHANNEL, data.len() as u16).to_vec();
    message.extend_from_slice(data);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn socket() -> UdpSocket {
    UdpSocket::bind((net::own_address(), 0)).expect("loopback has free ports")
}

fn who_does_not_read_costs_no_more_than_a_queue_and_harms_nobody(shards: u32) {
    // Few buffers: memory that is touched for the first time is not to be mistaken for the clients'.
    let (mut lab, ip) = node(shards, &[("udp.receive_buffers", "16")]);
    let credential = lab.admin().credential("acme", "ann");
    let other = lab.admin().credential("acme", "bob");
    let flood = socket();
    let from = flood.local_addr().expect("it is bound");
    let connect = |nth: usize| Streamed::connect((ip, PORT).into(), &credential, nth as u32, from);
    let mut slow: Vec<Streamed> = (0..SLOW).map(connect).collect();
    let echo = socket();
    let mut good = Streamed::connect((ip, OPEN_PORT).into(), &other, 1000, echo.local_addr().expect("it is bound"));
    let before = resident(lab.edge().id());

    let ended = AtomicBool::new(false);
    let worst = thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            for nth in 0..DATAGRAMS {
                for client in &slow {
                    flood.send_to(&[nth as u8; PAYLOAD], client.relayed()).expect("loopback takes it");
                }
                // The relay is to be flooded, not the queues before it.
                thread::sleep(Duration::from_millis(1));
            }
            ended.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            echo.set_read_timeout(Some(Duration::from_millis(100))).expect("the time is not zero");
            let mut bytes = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, relay)) = echo.recv_from(&mut bytes) {
                    echo.send_to(&bytes[..length], relay).expect("loopback takes it");
                }
            }
        });
        let (mut nth, mut worst) = (0u32, Duration::ZERO);
        while !ended.load(Ordering::Relaxed) {
            let message = channel_data(&nth.to_be_bytes());
            let asked = Instant::now();
            good.stream.write_all(&message).expect("the relay reads");
            assert_eq!(good.next(), Some(message), "{nth}");
            (nth, worst) = (nth + 1, worst.max(asked.elapsed()));
            thread::sleep(Duration::from_millis(2));
        }
        flooding.join().expect("the flood does not panic");
        println!("{shards} shards: {nth} messages went to and fro, the slowest in {worst:?}");
        worst
    });
    assert!(worst < SOON / 10, "{worst:?}");
    let grown = resident(lab.edge().id()).saturating_sub(before);
    println!("{shards} shards: {} bytes more for each of {SLOW} that do not read", grown / SLOW as u64);
    assert!(grown < SLOW as u64 * SLOW_BYTES + GROWTH, "{grown} bytes more");
    let dropped = || lab.metrics().sum("shoal_udp_drops_total", &[("reason", "stream_full")]);
    assert!(dropped() > (SLOW * DATAGRAMS / 2) as f64, "{} were dropped", dropped());

    // Now they read: whole messages, no more than the tenant is charged for, and behind them the answer to what they ask.
    thread::sleep(Duration::from_millis(500));
    let mut got = 0;
    for client in &mut slow {
        let request = client.client.request(Ask::Bind(CHANNEL, from));
        client.stream.write_all(&request).expect("the relay reads");
        loop {
            let message = client.next().expect("there is the answer");
            match client.client.handle(&message).expect("it is granted") {
                Step::Granted => break,
                step => assert_eq!((step, message.len()), (Step::Other, 4 + PAYLOAD)),
            }
            got += 1;
        }
    }
    let charged = || {
        let rows = lab.admin().call("GET", "/api/v1/ledger?kind=relay&group=tenant,session", None);
        let items = rows["items"].as_array().cloned().unwrap_or_default();
        items.iter().find(|row| row["session"] == "ann").and_then(|row| row["requests"].as_u64()).unwrap_or(0)
    };
    until("all is charged", SOON, || charged() == got);

    let open = || lab.metrics().sum("shoal_turn_connections", &[("transport", "tcp")]);
    until("all are seen", SOON, || open() == (SLOW + 1) as f64);
    drop((slow, good));
    let allocations = || lab.metrics().sum("shoal_turn_allocations", &[]);
    until("all are gone", SOON, || open() == 0.0 && allocations() == 0.0);
}

/// What the other side does with a connection that begins so.
fn answer(server: SocketAddr, bytes: &[u8]) -> Option<usize> {
    let mut stream = TcpStream::connect(server).expect("the relay listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("the time is not zero");
    stream.write_all(bytes).expect("the kernel takes it");
    match stream.read(&mut [0; 100]) {
        Ok(read) => Some(read),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
        Err(_) => None,
    }
}

fn what_is_no_turn_is_closed_at_once_and_counted(shards: u32) {
    const MOST: usize = 40;
    let (mut lab, ip) = node(shards, &[("turn.connections_per_address", &MOST.to_string())]);
    let server = SocketAddr::from((ip, PORT));
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 194]].concat();
    let cases: [(&[u8], &str); 4] = [
        (&hello, "no_certificate"),
        (b"\x80\x2e\x01\x03\x01", "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "too_long"),
        (&[0, 3, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8], "malformed"),
    ];
    for (bytes, _) in cases.iter().cycle().take(400) {
        assert_eq!(answer(server, bytes), Some(0), "{bytes:?}");
    }
    until("all are counted", SOON, || {
        let metrics = lab.metrics();
        let closed = |reason| metrics.sum("shoal_turn_connections_closed_total", &[("reason", reason)]);
        (closed("no_certificate"), closed("malformed"), closed("too_long")) == (100.0, 200.0, 100.0)
    });
    // The half of a request is waited for, if not for ever; of one address there are no more than may be.
    let half = |_| {
        let mut stream = TcpStream::connect(server).expect("the relay listens");
        stream.write_all(&[0, 3, 0, 8, 0x21, 0x12]).expect("the kernel takes it");
        stream
    };
    let halves: Vec<TcpStream> = (0..MOST + 10).map(half).collect();
    let closed = |reason| lab.metrics().sum("shoal_turn_connections_closed_total", &[("reason", reason)]);
    until("ten are too many", SOON, || closed("address") == 10.0);
    until("they are given up", SOON, || closed("greeting") == MOST as f64);
    drop(halves);

    let peer = socket();
    let credential = lab.admin().credential("acme", "ann");
    let client = Streamed::connect(server, &credential, 1, peer.local_addr().expect("it is bound"));
    let allocations = || lab.metrics().sum("shoal_turn_allocations", &[]);
    until("a client is served", SOON, || allocations() == 1.0);
    drop(client);
    until("and gone", SOON, || allocations() == 0.0);

    // The node does not wait for those who are there when it is to end.
    let _client = Streamed::connect(server, &credential, 2, peer.local_addr().expect("it is bound"));
    lab.edge().signal(Signal::TERM);
    let status = lab.edge().wait(SOON).expect("it ends");
    assert!(status.success(), "{status}");
}
