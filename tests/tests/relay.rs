//! The relay with a control plane beside it: whom it serves, how much of it, and what the ledger says of that.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_perf::udp::dance::Refused;
use shoal_perf::udp::ends::Sending;
use shoal_perf::udp::engine::{Engine, Pace, Pattern};
use shoal_perf::udp::field::{Direction, Field, Server, Shape};
use shoal_perf::udp::lanes::Lanes;
use shoal_perf::udp::report::Outcome;
use shoal_perf::udp::server::Watched;
use shoal_tests::lab::{Lab, Settings, binary, until};
use shoal_tests::origin::Origin;
use shoal_tests::process::Process;
use shoal_tests::resources::resident;
use shoal_tests::{net, with_one_and_four_shards};

with_one_and_four_shards!(
    what_is_relayed_is_in_the_ledger_to_the_byte,
    tenants_say_who_may_relay_how_much_and_to_whom,
    floods_are_counted_by_their_reason_and_harm_nobody,
    the_control_plane_knows_who_is_registered,
);

const PORT: u16 = 3478;
const PAYLOAD: usize = 160;

/// A node that relays from an address of its own.
fn node(shards: u32) -> (Lab, SocketAddr) {
    let ip = net::own_address();
    let lab = Settings::new(shards)
        .set("udp.addresses", &format!("[\"{ip}\"]"))
        .set("udp.port", &PORT.to_string())
        .set("turn.relay_addresses", &format!("[\"{ip}\"]"))
        .set("turn.ports", "\"20000-29999\"")
        .set("turn.refusals_per_address", "20000")
        .start();
    (lab, (ip, PORT).into())
}

fn tenant(id: &str, more: &Value) -> Value {
    let mut relay = json!({"secrets": [{"id": "one", "secret": "sixteen characters"}], "allow": ["127.0.0.0/8"]});
    let (Some(relay_fields), Some(more)) = (relay.as_object_mut(), more.as_object()) else { panic!("objects") };
    relay_fields.extend(more.clone());
    json!({"id": id, "relay": relay})
}

fn field(address: SocketAddr, (username, password): (String, String), clients: usize) -> Field {
    let server = Server { address, username, password };
    Field::new(server, clients, Sending::Sockets).expect("loopback has ports")
}

/// The code with which a request was refused.
#[track_caller]
fn code<T: std::fmt::Debug>(result: anyhow::Result<T>) -> u16 {
    let error = result.expect_err("it is refused");
    match error.downcast_ref::<Refused>() {
        Some(Refused::Error { code, .. }) => *code,
        _ => panic!("{error:#}"),
    }
}

/// Sends at a rate for some time.
fn relay(field: &mut Field, direction: Direction, rate: f64, seconds: f64) -> Outcome {
    let lanes = Lanes::new(field.lanes(Shape::Peer, direction).expect("the channels are bound"), PAYLOAD, 1);
    let pattern = Pattern {
        train: 1,
        burst: 1,
        pace: Pace::Rate(rate),
        warmup: Duration::from_millis(50),
        duration: Duration::from_secs_f64(seconds),
    };
    let outcome = Engine::new(field.ends()).run(&lanes, pattern, Watched { pid: None, cpu: None, spins: true });
    let outcome = outcome.expect("the generator works");
    assert_eq!((outcome.wrong, outcome.stale), (0, 0), "{outcome:?}");
    outcome
}

fn what_is_relayed_is_in_the_ledger_to_the_byte(shards: u32) {
    let (lab, address) = node(shards);
    lab.change(|| lab.admin().put_tenant(&tenant("acme", &json!({}))));
    let credential = lab.admin().credential("acme", "ann");
    let mut field = field(address, credential, 6);
    field.allocate(0..6).expect("there is room for six");
    field.bind(0..6, Shape::Peer).expect("the tenant allows loopback");
    let up = relay(&mut field, Direction::Up, 4_000.0, 0.6);
    let both = relay(&mut field, Direction::Both, 4_000.0, 0.6);
    field.release(0..6).expect("they were there");
    assert!(up.received > 1_000 && both.received > 1_000, "{up:?} {both:?}");
    // What did not arrive was lost in queues behind the relay's back, or never got into it.
    let (least, most) = (up.received + both.received, up.sent + both.sent);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut usage = lab.admin().relayed("acme");
    while usage.requests < least && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        usage = lab.admin().relayed("acme");
    }
    std::thread::sleep(Duration::from_millis(1_200));
    let settled = lab.admin().relayed("acme");
    assert_eq!(settled, usage, "it stays so");
    println!("{shards} shards: sent {most}, came {least}, in the ledger {usage:?}");
    assert!((least..=most).contains(&usage.requests), "{usage:?} between {least} and {most}");
    assert_eq!(usage.body_bytes, usage.requests * PAYLOAD as u64);
    assert_eq!(usage.wire_bytes, usage.body_bytes + 4 * usage.requests, "with a header of four bytes each");
    assert_eq!(least, most, "on loopback, at this rate, nothing is lost");
    let rows = lab.admin().call("GET", "/api/v1/ledger?kind=relay&group=tenant,session", None);
    assert_eq!(rows["items"][0]["session"], "ann", "{rows}");
}

fn tenants_say_who_may_relay_how_much_and_to_whom(shards: u32) {
    let (lab, address) = node(shards);
    let admin = lab.admin();
    let small = json!({"allocations": 5, "allocations_per_user": 3});
    for (id, more) in [("closed", json!({"allow": []})), ("small", small), ("default", json!({}))] {
        lab.change(|| admin.put_tenant(&tenant(id, &more)));
    }
    let one = |tenant: &str, user: &str, clients| field(address, lab.admin().credential(tenant, user), clients);
    let mut closed = one("closed", "a", 1);
    closed.allocate(0..1).expect("it may allocate");
    assert_eq!(code(closed.bind(0..1, Shape::Peer)), 403, "loopback is not opened to it");

    let (mut ann, mut bob) = (one("small", "ann", 4), one("small", "bob", 4));
    ann.allocate(0..3).expect("a user may have three");
    assert_eq!(code(ann.allocate(3..4)), 486, "and no more");
    bob.allocate(0..2).expect("the tenant may have five");
    assert_eq!(code(bob.allocate(2..3)), 486, "and no more");
    ann.release(0..1).expect("it was there");
    bob.allocate(2..3).expect("there is room again, on whichever shard");

    let (name, password) = lab.admin().credential("default", "carol");
    assert!(!name.contains("default"), "{name}: who gives no tenant is the default one's");
    let mut guess = field(address, (name.clone(), "a guess".to_owned()), 1);
    assert_eq!(code(guess.allocate(0..1)), 401);
    let mut carol = field(address, (name.clone(), password.clone()), 2);
    carol.allocate(0..1).expect("the password is right");
    // A secret that is gone makes no passwords any more, and ends nothing that was begun.
    let secrets = "/api/v1/tenants/default/secrets";
    lab.change(|| admin.call("POST", &format!("{secrets}/rotate"), Some(&json!({"id": "two"}))));
    lab.change(|| admin.call("DELETE", &format!("{secrets}/one"), None));
    assert_eq!(code(carol.allocate(1..2)), 401);
    carol.bind(0..1, Shape::Peer).expect("what it has goes on");
    let (exit, said) = lab.shoalctl(&["turn", "default", "--user", "dora"]);
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("dora"), "{said}");
}

/// A source of bad datagrams, each of another kind.
fn junk(nth: u32, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at as u32).wrapping_mul(nth).to_le_bytes()[1]).collect();
    match (nth % 6, bytes.first_chunk_mut::<20>()) {
        // Allocate without credentials; with a length that is not its own; ChannelData of nobody's; Send of nobody's; noise.
        (0, Some(head)) => *head = header([0x00, 0x03], 0, nth),
        (1, Some(head)) => *head = header([0x00, 0x03], 400, nth),
        (2, Some(head)) => head[..4].copy_from_slice(&[0x40, 0x00, 0x00, 0x10]),
        (3, Some(head)) => *head = header([0x00, 0x16], 0, nth),
        (4, Some(head)) => *head = header([0x00, 0x08], 0, nth),
        _ => {}
    }
    if nth.is_multiple_of(6) || nth % 6 == 3 || nth % 6 == 4 {
        bytes.truncate(20);
    }
    bytes
}

fn header(kind: [u8; 2], length: u16, nth: u32) -> [u8; 20] {
    let mut head = [0; 20];
    head[..2].copy_from_slice(&kind);
    head[2..4].copy_from_slice(&length.to_be_bytes());
    head[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    head[16..].copy_from_slice(&nth.to_be_bytes());
    head
}

fn floods_are_counted_by_their_reason_and_harm_nobody(shards: u32) {
    let (mut lab, address) = node(shards);
    lab.change(|| lab.admin().put_tenant(&tenant("acme", &json!({"allocations_per_user": 8}))));
    let mut good = field(address, lab.admin().credential("acme", "good"), 4);
    good.allocate(0..4).expect("there is room for four");
    good.bind(0..4, Shape::Peer).expect("the tenant allows loopback");
    let calm = relay(&mut good, Direction::Both, 1_000.0, 1.0);
    let before = resident(lab.edge().id());

    let stop = std::sync::atomic::AtomicBool::new(false);
    let (flooded, sent, refused) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let sockets: Vec<UdpSocket> =
                (0..64).map(|_| UdpSocket::bind((net::own_address(), 0)).expect("loopback has ports")).collect();
            let mut sent = 0u32;
            // Some twenty thousand in a second, for as long as the others are measured.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && sent < 200_000 {
                for socket in &sockets {
                    sent += u32::from(socket.send_to(&junk(sent, 20 + sent as usize % 200), address).is_ok());
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            sent
        });
        let greedy = scope.spawn(|| {
            let mut greedy = field(address, lab.admin().credential("acme", "greedy"), 64);
            code(greedy.allocate(0..64))
        });
        std::thread::sleep(Duration::from_millis(100));
        let flooded = relay(&mut good, Direction::Both, 1_000.0, 1.0);
        let refused = greedy.join().expect("the greedy user does not panic");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (flooded, flood.join().expect("the flood does not panic"), refused)
    });
    assert_eq!(refused, 486, "a user who wants all gets its share");
    let grown = resident(lab.edge().id()).saturating_sub(before);
    let p99 = |outcome: &Outcome| outcome.latency_us(0.99);
    println!(
        "{shards} shards: {sent} bad datagrams; p99 {:.0} us before, {:.0} us meanwhile; lost {} of {}; {grown} bytes more",
        p99(&calm),
        p99(&flooded),
        flooded.lost,
        flooded.sent
    );
    assert!(flooded.lost * 100 <= flooded.sent, "{flooded:?}");
    // Buffers that are set aside at the start are touched, in huge pages; more there is not.
    assert!(grown < u64::from(shards + 1) * (16 << 20), "{grown} bytes more for a flood");
    until("the flood is counted", Duration::from_secs(5), || {
        let metrics = lab.metrics();
        let drops = |reason| metrics.sum("shoal_udp_drops_total", &[("reason", reason)]);
        let refusals = metrics.sum("shoal_turn_refusals_total", &[("reason", "no_credentials")]);
        let rate = drops("rate");
        let lost = metrics.sum("shoal_udp_receive_queue_drops_total", &[]);
        let counted = refusals + drops("malformed") + drops("no_allocation") + drops("not_turn") + lost;
        println!("{refusals} without credentials, {rate} of them unanswered, {counted} in all, {lost} lost in queues");
        drops("malformed") > 0.0 && drops("no_allocation") > 0.0 && refusals > 0.0 && counted >= f64::from(sent) * 0.9
    });
    let errors = lab.metrics().sum("shoal_turn_requests_total", &[("result", "486")]);
    assert!(errors > 0.0);
}

fn the_control_plane_knows_who_is_registered(shards: u32) {
    let (mut lab, address) = node(shards);
    let origin = Origin::start();
    lab.channel("films", &[&origin]);
    let id = "00112233445566778899aabbccddeeff00112233";
    let known = || lab.admin().send("GET", &format!("/api/v1/channels/films/peers/{id}"), None);
    assert_eq!(known().status(), 404);
    let mut command = Command::new(binary("shoal-peer"));
    command.args(["serve", "--node", &address.to_string(), "--channel", "films", "--id", id, "--for", "20"]);
    let mut peer = Process::start("shoal-peer", &mut command, &lab.dir().join("peer.log"));
    until("it is known", Duration::from_secs(20), || known().status() == 200);
    assert!(known().text().contains("127."), "{}", known().text());
    // Another connection to the control plane is told of it anew.
    lab.kill_control();
    lab.start_control();
    let known = || lab.admin().send("GET", &format!("/api/v1/channels/films/peers/{id}"), None);
    until("it is known again", Duration::from_secs(20), || known().status() == 200);
    peer.kill();
    // A registration lasts for 30 seconds beyond its last word.
    until("it is forgotten", Duration::from_secs(45), || known().status() == 404);
}
