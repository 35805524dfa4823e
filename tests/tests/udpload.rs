//! The load generator for STUN and TURN against a real server: what it sent, it accounts for.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use shoal_perf::udp::bindings::Bindings;
use shoal_perf::udp::dance::Refused;
use shoal_perf::udp::ends::Sending;
use shoal_perf::udp::engine::{Engine, Pace, Pattern};
use shoal_perf::udp::field::{Direction, Field, Server, Shape};
use shoal_perf::udp::lanes::Lanes;
use shoal_perf::udp::report::Outcome;
use shoal_perf::udp::server::Watched;
use shoal_tests::natlab::{Kind, NatLab, possible};
use shoal_tests::process::Process;
use shoal_tests::tool;

/// Allocations of a run.
const CLIENTS: usize = 6;

/// Time for coturn to answer.
const START: Duration = Duration::from_secs(20);

/// Time for it to end allocations.
const END: Duration = Duration::from_secs(20);

/// coturn on loopback, and what it needs of the disk.
struct Coturn {
    server: Server,
    process: Process,
    dir: std::path::PathBuf,
}

impl Coturn {
    fn start(test: &str) -> Option<Self> {
        let program = tool::need(test, "turnserver")?;
        let dir = tool::target_dir().join(format!("udpload-{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the target folder can be written");
        let address =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("there is a free port");
        let mut command = Command::new(program);
        command.args(["-n", "-m", "1", "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", &address.port().to_string()]);
        command.args(["-a", "-u", "user:word", "-r", "lab", "--no-tls", "--no-dtls", "--no-tcp", "--no-cli"]);
        command.args(["--allow-loopback-peers", "--log-file", "stdout", "--simple-log"]);
        command.arg("--pidfile").arg(dir.join("pid")).arg("--userdb").arg(dir.join("db"));
        let process = Process::start("turnserver", &mut command, &dir.join("log"));
        let server = Server { address, username: "user".to_owned(), password: "word".to_owned() };
        let mut coturn = Self { server, process, dir };
        coturn.await_answer(address);
        Some(coturn)
    }

    fn await_answer(&mut self, address: SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("there is a free port");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("the time is not zero");
        let deadline = Instant::now() + START;
        loop {
            // Both fail until there is somebody.
            drop(socket.send_to(b"\x00\x01\x00\x00\x21\x12\xa4\x42it is ready?", address));
            if socket.recv(&mut [0; 100]).is_ok_and(|length| length >= 20) {
                return;
            }
            assert!(self.process.poll().is_none() && Instant::now() < deadline, "{}", self.process.output());
        }
    }

    fn watched(&self) -> Watched {
        Watched { pid: Some(self.process.id()), ..Watched::default() }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.process.kill();
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn pattern(train: usize, pace: Pace) -> Pattern {
    Pattern { train, burst: 1, pace, warmup: Duration::from_millis(50), duration: Duration::from_millis(250) }
}

fn assert_accounted(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.sent, outcome.received + outcome.lost, "{what}: {outcome:?}");
    assert_eq!((outcome.wrong, outcome.late, outcome.stale), (0, 0, 0), "{what}: {outcome:?}");
    // What is in flight fits into any queue; more is only when nothing came for long, on a machine that is busy.
    assert!(outcome.stalls > 0 || outcome.lost == 0, "{what}: {outcome:?}");
    assert!(outcome.received_measured > 100, "{what}: {outcome:?}");
    assert!(outcome.used.cpu_ns.is_some_and(|ns| ns > 0), "{what}: {outcome:?}");
}

/// Payloads by allocations and Binding requests, until the allocations are gone.
fn assert_all_accounted(coturn: &Coturn, sending: Sending, cases: &[(Shape, Direction, usize)]) {
    for &(shape, direction, train) in cases {
        let what = format!("{sending:?} {shape:?} {direction:?} {train}");
        let mut field = Field::new(coturn.server.clone(), CLIENTS, sending).expect("there are sockets");
        assert_eq!(field.ends().sending(), sending, "{what}");
        field.allocate(0..CLIENTS).expect("allocations");
        field.bind(0..CLIENTS, shape).expect("channels");
        let lanes = Lanes::new(field.lanes(shape, direction).expect("all have allocations"), 160, 1);
        let mut engine = Engine::new(field.ends());
        assert_accounted(
            &engine.run(&lanes, pattern(train, Pace::Window(64)), coturn.watched()).expect("a run"),
            &what,
        );
        let at_rate = engine.run(&lanes, pattern(1, Pace::Rate(1000.0)), coturn.watched()).expect("a run");
        assert_accounted(&at_rate, &what);
        assert!(at_rate.latency_us(0.5) > 0.0, "{what}: {at_rate:?}");
        field.release(0..CLIENTS).expect("allocations end");
        // Nothing is relayed any more, soon: coturn ends an allocation some time after it has said so.
        let mut engine = Engine::new(field.ends());
        let released = Instant::now();
        loop {
            let gone = engine.run(&lanes, pattern(1, Pace::Rate(1000.0)), coturn.watched()).expect("a run");
            if gone.received == 0 {
                assert_eq!(gone.lost, gone.sent, "{what}: {gone:?}");
                break;
            }
            assert!(released.elapsed() < END, "{what}: {gone:?}");
        }
    }
    let mut field = Field::new(coturn.server.clone(), CLIENTS, sending).expect("there are sockets");
    let bindings = Bindings::new(coturn.server.address, field.ends().clients().to_vec());
    let answered =
        Engine::new(field.ends()).run(&bindings, pattern(1, Pace::Window(64)), coturn.watched()).expect("a run");
    assert_accounted(&answered, &format!("{sending:?} bindings"));
}

#[test]
fn what_is_sent_through_coturn_comes_out_and_is_counted() {
    let Some(coturn) = Coturn::start("udpload") else { return };
    let cases = [(Shape::Peer, Direction::Up, 1), (Shape::Peer, Direction::Both, 8), (Shape::Pairs, Direction::Up, 1)];
    assert_all_accounted(&coturn, Sending::Sockets, &cases);
}

/// Calls `work` where frames of our own making arrive, if there is such a place.
fn where_frames_arrive(test: &str, work: impl FnOnce() + Send) {
    if !possible(test) {
        return;
    }
    NatLab::start::<Kind>(&[]).hub().within(|| {
        fs::write("/proc/sys/net/ipv4/conf/lo/route_localnet", "1").expect("root may set it");
        let protocols = fs::read_to_string("/proc/net/protocols").expect("/proc is mounted");
        match protocols.lines().any(|line| line.starts_with("XDP ")) {
            true => work(),
            false => tool::skip(test, "this kernel has no AF_XDP"),
        }
    });
}

#[test]
fn frames_go_through_coturn_as_datagrams_do() {
    where_frames_arrive("udpload-frames", || {
        let Some(coturn) = Coturn::start("udpload-frames") else { return };
        let cases =
            [(Shape::Peer, Direction::Up, 1), (Shape::Peer, Direction::Both, 1), (Shape::Pairs, Direction::Up, 1)];
        assert_all_accounted(&coturn, Sending::Frames, &cases);
    });
}

#[test]
fn frames_arrive_whole_in_every_direction_and_trains_are_refused() {
    where_frames_arrive("udpload-frames-direct", || {
        let server =
            Server { address: "127.0.0.1:9".parse().unwrap(), username: String::new(), password: String::new() };
        for (clients, direction) in [(1, Direction::Up), (70, Direction::Down), (300, Direction::Both)] {
            let mut field = Field::new(server.clone(), clients, Sending::Frames).unwrap();
            // The largest payload, and one that is shorter than an Ethernet frame may be on a wire.
            for payload in [1472, 32] {
                let lanes = Lanes::new(field.lanes(Shape::Direct, direction).unwrap(), payload, 1);
                let mut engine = Engine::new(field.ends());
                for pace in [Pace::Window(192), Pace::Rate(5000.0)] {
                    let outcome = engine.run(&lanes, pattern(1, pace), Watched::default()).unwrap();
                    let what = format!("{clients} {direction:?} {payload} {pace:?}: {outcome:?}");
                    assert_eq!((outcome.wrong, outcome.not_sent, outcome.own_drops), (0, 0, 0), "{what}");
                    assert!(outcome.is_whole() && outcome.received_measured > 100, "{what}");
                }
                assert!(engine.run(&lanes, pattern(2, Pace::Window(64)), Watched::default()).is_err());
            }
        }
    });
}

#[test]
fn without_the_password_there_is_no_allocation() {
    let Some(coturn) = Coturn::start("udpload-password") else { return };
    let server = Server { password: "other".to_owned(), ..coturn.server.clone() };
    let error = Field::new(server, 1, Sending::Sockets).unwrap().allocate(0..1).unwrap_err();
    let refused = error.downcast_ref::<Refused>();
    assert!(matches!(refused, Some(Refused::Error { code: 401, .. })), "{error:#}");
}
