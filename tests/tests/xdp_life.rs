//! The XDP program goes on while the data plane does not: killed, restarted, replaced, and without any capability.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};
use shoal_perf::udp::dance::{Ask, Client, Step};
use shoal_probes::Probes;
use shoal_tests::bpffs::BpfFs;
use shoal_tests::client::{Conn, Request};
use shoal_tests::lab::{Settings, binary, until};
use shoal_tests::metrics::Metrics;
use shoal_tests::natlab::{Family, Kind, NatLab, Server};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::xdp::lab;
use shoal_tests::{net, tool};

/// For an answer of the driver; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The node looks at the program twice in a second.
const LAG: Duration = Duration::from_secs(2);

/// For a node to end in order.
const END: Duration = Duration::from_secs(40);

/// A user that has nothing.
const NOBODY: u32 = 65_534;

/// The words of a command that runs another one as root without any capability.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];

/// A lab with one side, what keeps its other end's program, and where to pin. The pins go first, the lab last.
struct Life {
    bpf: BpfFs,
    client: UdpSocket,
    _probes: Probes,
    lab: NatLab,
}

impl Life {
    /// `None`: it was noted that `test` was skipped.
    fn begin(test: &str) -> Option<Self> {
        tool::need(test, "setpriv")?;
        let (lab, probes) = lab(test, &[Kind::Open])?;
        let side = &lab.sides()[0];
        let client = side.socket(Family::V4);
        client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
        let bpf = BpfFs::mount(lab.dir().join("bpf"));
        Some(Self { bpf, client, _probes: probes, lab })
    }

    fn port(&self) -> &str {
        self.lab.sides()[0].port()
    }

    /// A node with pins, and these lines more in its section.
    fn node(&self, more: &str, wrapper: &[&str]) -> Server {
        self.node_blocking(&json!([]), more, wrapper)
    }

    /// The same, when its driver answers: its shards do so a little earlier.
    fn attached_node(&self, more: &str) -> Server {
        let server = self.node(more, &[]);
        until("XDP is attached", END, || self.status()["interfaces"][0]["mode"] == "native");
        server
    }

    /// The same that blocks these.
    fn node_blocking(&self, blocks: &Value, more: &str, wrapper: &[&str]) -> Server {
        let (interfaces, pins) = (json!([self.port()]), json!(self.bpf.pins()));
        Server::shoal_so(&self.lab, &format!("interfaces = {interfaces}\npins = {pins}\n{more}"), blocks, wrapper)
    }

    /// Sends a plain Binding request; whether it is answered.
    fn is_answered(&self, server: &Server, nth: u32) -> bool {
        let request = [&b"\x00\x01\x00\x00\x21\x12\xa4\x42"[..], &nth.to_be_bytes(), &[7; 8]].concat();
        self.client.send_to(&request, server.told().v4).expect("there is a route");
        let mut answer = [0; 512];
        loop {
            match self.client.recv(&mut answer) {
                // One that was late does not count for this one.
                Ok(length) if length >= 20 && answer[8..20] == request[8..] => return answer[..2] == [1, 1],
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn metrics(&self) -> Metrics {
        let url = format!("http://{}/metrics", Server::ADMIN);
        Metrics::parse(&tool::stdout(&tool::run(self.lab.hub().command("curl").args(["--silent", &url]))))
    }

    fn answered(&self) -> f64 {
        self.packets("answered")
    }

    fn packets(&self, verdict: &str) -> f64 {
        self.metrics().sum("shoal_xdp_packets_total", &[("verdict", verdict)])
    }

    /// Where the pins of this release are.
    fn layout(&self) -> PathBuf {
        self.bpf.pins().join(shoal_probes::maps::LAYOUT.to_string())
    }

    /// The loader, at the hub.
    fn loader(&self, arguments: &[&str]) -> Output {
        let mut command = self.lab.hub().command(binary("shoal-xdp"));
        tool::run(command.arg("--pins").arg(self.bpf.pins()).args(arguments))
    }

    /// The same as a user who is nobody else, with these capabilities at most.
    fn loader_as_nobody(&self, capabilities: &str, pins: &Path, arguments: &[&str]) -> Output {
        let mut command = self.lab.hub().command("setpriv");
        command.args(["--reuid", &NOBODY.to_string(), "--regid", &NOBODY.to_string(), "--clear-groups"]);
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(set).arg(capabilities);
        }
        command.args(["--no-new-privs", "--"]).arg(binary("shoal-xdp")).arg("--pins").arg(pins);
        tool::run(command.args(arguments))
    }

    fn loaded(&self, arguments: &[&str]) -> String {
        let output = self.loader(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        tool::stdout(&output)
    }

    /// The same of what may say nothing for ever.
    fn ctl_within(&self, time: Duration, arguments: &[&str]) -> Output {
        let mut command = self.lab.hub().command("timeout");
        tool::run(command.arg(time.as_secs().to_string()).arg(binary("shoalctl")).args(arguments))
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        tool::run(self.lab.hub().command(binary("shoalctl")).args(arguments))
    }

    /// `shoalctl xdp status`.
    fn status(&self) -> Value {
        let output = self.ctl(&["xdp", "status", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    }

    /// Link and program of the one interface.
    fn ids(&self) -> (u64, u64) {
        let status = self.status();
        let at = &status["interfaces"][0];
        assert_eq!((&at["interface"], &at["mode"]), (&json!(self.port()), &json!("native")), "{status}");
        (at["link"].as_u64().expect("it is pinned"), at["program"].as_u64().expect("there is one"))
    }
}

/// Ends a node in order.
fn stop(server: &mut Server) {
    server.process().signal(Signal::TERM);
    let ended = server.process().wait(END).expect("it ends when it is told to");
    assert!(ended.success(), "{ended}:\n{}", server.process().output());
}

/// The one line of warning that says this, in a log that a lab's nodes have written one after the other.
#[track_caller]
fn warned(server: &mut Server, says: &str, by_nodes: usize) {
    let said = server.process().output();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("WARN") && line.contains(says)).collect();
    assert_eq!(lines.len(), by_nodes, "{says}:\n{said}");
    println!("{}", lines[0]);
}

#[test]
fn a_killed_node_is_answered_for_and_goes_on_where_it_was() {
    let Some(life) = Life::begin("a_killed_node_is_answered_for_and_goes_on_where_it_was") else { return };
    let mut server = life.attached_node("");
    assert!((0..10).all(|nth| life.is_answered(&server, nth)));
    let before = life.ids();
    thread::sleep(LAG);
    assert_eq!(life.answered(), 10.0);
    server.process().kill();
    assert!((10..20).all(|nth| life.is_answered(&server, nth)), "nobody answers for the dead");
    let mut server = life.attached_node("");
    assert_eq!(life.ids().0, before.0, "it is another link");
    assert!((20..30).all(|nth| life.is_answered(&server, nth)));
    thread::sleep(LAG);
    assert_eq!(life.answered(), 30.0, "what was counted while it was dead counts");
    stop(&mut server);
    assert!(!life.bpf.pins().exists(), "a clean stop leaves {:?}", fs::read_dir(life.bpf.dir()));
    assert!(!life.is_answered(&server, 30), "somebody answers for who has ended");
}

/// Asks a TURN server for something, until it is granted.
fn granted(socket: &UdpSocket, server: SocketAddr, client: &mut Client, ask: Ask) {
    let deadline = Instant::now() + END;
    let mut request = client.request(ask);
    loop {
        assert!(Instant::now() < deadline, "{ask:?} is not granted");
        socket.send_to(&request, server).expect("there is a route");
        let mut answer = [0; 1500];
        let Ok(length) = socket.recv(&mut answer) else { continue };
        match client.handle(&answer[..length]).expect("it is granted") {
            Step::Granted => return,
            Step::Again => request = client.request(ask),
            Step::Later | Step::Other => {}
        }
    }
}

#[test]
fn bound_channels_go_on_while_the_node_is_dead() {
    let Some(life) = Life::begin("bound_channels_go_on_while_the_node_is_dead") else { return };
    life.lab.make_router().expect("the hub is ours");
    let mut server = life.attached_node("");
    let side = &life.lab.sides()[0];
    let (client, peer, at) = (&life.client, side.socket(Family::V4), server.told().v4);
    peer.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
    let peer_address = SocketAddr::new(side.client_address().into(), peer.local_addr().expect("it is bound").port());
    let mut turn = Client::new(&server.told().user, &server.told().password, 1);
    granted(client, at, &mut turn, Ask::Allocate);
    granted(client, at, &mut turn, Ask::Bind(0x4000, peer_address));
    let relayed = turn.relayed().expect("it was told");
    let exchange = |times: u8| {
        for nth in 0..times {
            let (there, back) = ([nth; 100], [!nth; 60]);
            let framed = |payload: &[u8]| [&[0x40, 0, 0, payload.len() as u8][..], payload].concat();
            client.send_to(&framed(&there), at).expect("there is a route");
            let mut got = [0; 512];
            let (length, from) = peer.recv_from(&mut got).unwrap_or_else(|error| panic!("to the peer, {nth}: {error}"));
            assert_eq!((&got[..length], from), (&there[..], relayed));
            peer.send_to(&back, relayed).expect("there is a route");
            let length = client.recv(&mut got).unwrap_or_else(|error| panic!("to the client, {nth}: {error}"));
            assert_eq!(got[..length], framed(&back));
        }
    };
    let by_driver = || life.packets("relayed") + life.packets("redirected");
    let recorded = |what: &str| life.metrics().sum(&format!("shoal_turn_relayed_{what}_total"), &[("by", "xdp")]);
    exchange(20);
    thread::sleep(LAG);
    let before = recorded("datagrams");
    assert_eq!(before, by_driver(), "what the driver relays is in the books");
    // The first of each way found no next hop that was known.
    assert!(before >= 36.0, "{before}");
    server.process().kill();
    exchange(50);
    let mut server = life.attached_node("");
    thread::sleep(LAG);
    assert_eq!(by_driver(), before + 100.0);
    assert_eq!((recorded("datagrams"), recorded("bytes")), (100.0, 50.0 * 160.0), "what it did for a dead node counts");
    // Its allocation is gone with the process, and so are its channels.
    client.send_to(&[0x40, 0, 0, 1, 7], at).expect("there is a route");
    assert!(peer.recv(&mut [0; 16]).is_err(), "a channel has outlived its allocation");
    stop(&mut server);
}

#[test]
fn an_upgrade_loses_no_answer() {
    let Some(life) = Life::begin("an_upgrade_loses_no_answer") else { return };
    let mut server = life.attached_node("keep = true\n");
    let (link, program) = life.ids();
    let done = AtomicBool::new(false);
    let (asked, mut server) = thread::scope(|scope| {
        let told = server.told().clone();
        let (life, done) = (&life, &done);
        let asking = scope.spawn(move || {
            let mut asked = 0_u32;
            while !done.load(Relaxed) {
                let request = [&b"\x00\x01\x00\x00\x21\x12\xa4\x42"[..], &asked.to_be_bytes(), &[9; 8]].concat();
                life.client.send_to(&request, told.v4).expect("there is a route");
                let mut answer = [0; 512];
                let length = life.client.recv(&mut answer).unwrap_or_else(|error| panic!("request {asked}: {error}"));
                assert!(length >= 20 && answer[8..20] == request[8..], "request {asked} has another's answer");
                asked += 1;
                // Below udp.bindings_per_address.
                thread::sleep(Duration::from_millis(2));
            }
            asked
        });
        stop(&mut server);
        let server = life.attached_node("keep = true\n");
        // By the loader, too, beside a node that runs.
        let by_node = life.ids();
        assert_eq!(by_node.0, link, "the link stays");
        assert_ne!(by_node.1, program, "the program is the new process's");
        life.loaded(&["load", life.port()]);
        thread::sleep(LAG);
        let by_loader = life.ids();
        assert_eq!(by_loader.0, link);
        assert!(![program, by_node.1].contains(&by_loader.1));
        done.store(true, Relaxed);
        (asking.join().expect("every request was answered"), server)
    });
    println!("{asked} requests, one after the other, all answered");
    assert!(asked > 500);
    stop(&mut server);
    assert!(life.bpf.pins().exists() && life.is_answered(&server, 0), "it was to be kept");
    // Pins of another release with other maps: the link goes over to the new ones.
    let (layout, other) = (life.layout(), life.bpf.pins().join("4711"));
    fs::rename(&layout, &other).expect("a bpf file system renames");
    life.loaded(&["load", life.port()]);
    assert!(layout.is_dir() && !other.exists());
    assert!(life.loaded(&["status"]).contains(&format!("native link {link} program")));
    life.loaded(&["unload"]);
    assert!(!life.bpf.pins().exists() && !life.is_answered(&server, 1));
}

#[test]
fn without_capabilities_what_a_loader_has_pinned_is_fed() {
    let Some(life) = Life::begin("without_capabilities_what_a_loader_has_pinned_is_fed") else { return };
    let mut server = life.node("", &BARE);
    warned(&mut server, "there are no pins of layout", 1);
    drop(server);
    life.loaded(&["load", life.port()]);
    let mut server = life.node("", &BARE);
    assert!((0..10).all(|nth| life.is_answered(&server, nth)));
    thread::sleep(LAG);
    assert_eq!(life.answered(), 10.0, "it was not the driver that answered");
    assert_eq!(life.metrics().sum("shoal_xdp_interfaces", &[("mode", "native")]), 1.0);
    let status = life.status();
    assert_eq!((&status["loaded_here"], &status["keep"]), (&json!(false), &json!(false)), "{status}");
    assert!(status["interfaces"][0]["tag"].is_string(), "{status}");
    stop(&mut server);
    assert!(!life.bpf.pins().exists(), "removing what is one's own takes no capability");
    // Another user's.
    life.loaded(&["load", life.port(), "--user", &format!("{NOBODY}:{NOBODY}")]);
    let mut server = life.node("", &BARE);
    warned(&mut server, "this user may not use", 1);
    drop(server);
    // That user may take it off, without anything, and not put it on.
    let pins = life.bpf.pins();
    let gone = life.loader_as_nobody("-all", &pins, &["detach", life.port()]);
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    assert_eq!(life.loaded(&["status"]), "");
    let refused = life.loader_as_nobody("-all", &pins, &["attach", life.port()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("CAP_BPF") && said.lines().count() == 1, "{said}");
    // With what its unit gives it, in a folder that was made for it.
    let own = life.bpf.dir().join("own");
    fs::create_dir(&own).expect("root may");
    chown(&own, Some(NOBODY), Some(NOBODY)).expect("root may");
    let loaded = life.loader_as_nobody("-all,+bpf,+net_admin,+perfmon", &own, &["load", life.port()]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let steering = own.join(shoal_probes::maps::LAYOUT.to_string()).join("programs/shoal_steer");
    let found = fs::metadata(steering).expect("it is pinned, too");
    assert_eq!((found.uid(), found.mode() & 0o777), (NOBODY, 0o600));
    let status = tool::stdout(&life.loader_as_nobody("-all", &own, &["status"]));
    assert!(status.starts_with(&format!("{} native", life.port())), "{status}");
}

#[test]
fn pins_that_are_damaged_or_none_give_one_line() {
    let Some(life) = Life::begin("pins_that_are_damaged_or_none_give_one_line") else { return };
    // What has no driver that could is served by the kernel's stack.
    assert_eq!(life.loaded(&["load", "lo"]), "XDP is on lo (generic)\n");
    assert!(life.loaded(&["status"]).starts_with("lo generic link"));
    let said = life.loaded(&["load", life.port()]);
    assert_eq!(said, format!("XDP is on {} (native)\nXDP is off lo\n", life.port()));
    let layout = life.layout();
    // A map in the place of another.
    fs::remove_file(layout.join("maps/CONFIG")).expect("it is there");
    fs::rename(layout.join("maps/PORTS"), layout.join("maps/CONFIG")).expect("it is there");
    for (nth, wrapper) in [&[][..], &BARE].into_iter().enumerate() {
        let mut server = life.node("", wrapper);
        warned(&mut server, "is damaged or not of shoal", 1 + nth);
        assert!(life.is_answered(&server, 0), "user space answers");
        let said = life.status()["absent"].as_str().map(str::to_owned);
        assert!(said.is_some_and(|said| said.contains("maps/CONFIG")));
        server.process().kill();
    }
    life.loaded(&["unload"]);
    // Two nodes must not feed one program.
    let first = life.node("", &[]);
    let held = tool::run(Command::new("flock").args(["--nonblock"]).arg(life.bpf.pins()).arg("true"));
    assert!(!held.status.success(), "the node holds its pins");
    drop(first);
    // No bpf file system: all works, and ends with the process.
    let nowhere = life.lab.dir().join("nowhere");
    let lines = format!("interfaces = {}\npins = {}\n", json!([life.port()]), json!(nowhere));
    life.loaded(&["unload"]);
    let mut server = Server::shoal_so(&life.lab, &lines, &json!([]), &[]);
    until("XDP is attached", END, || life.status()["interfaces"][0]["mode"] == "native");
    warned(&mut server, "lies in no bpf file system", 1);
    assert!(life.is_answered(&server, 1));
    thread::sleep(LAG);
    assert_eq!(life.answered(), 1.0);
}

#[test]
fn an_operator_sees_attaches_and_detaches() {
    let Some(life) = Life::begin("an_operator_sees_attaches_and_detaches") else { return };
    let server = life.attached_node("");
    assert!((0..3).all(|nth| life.is_answered(&server, nth)));
    thread::sleep(LAG);
    let text = tool::stdout(&life.ctl(&["xdp", "status"]));
    println!("{text}");
    for part in [life.port(), "native", "answered", "loaded by the node itself", "until the node is stopped"] {
        assert!(text.contains(part), "no {part}");
    }
    let run = |what: &str| {
        let output = life.ctl(&["xdp", what, life.port()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        thread::sleep(LAG);
        life.metrics().sum("shoal_xdp_interfaces", &[("mode", "native")])
    };
    assert_eq!(run("detach"), 0.0);
    let output = life.ctl(&["xdp", "detach", life.port()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("XDP is not on"), "{said}");
    assert!(life.is_answered(&server, 3), "user space answers");
    assert_eq!(life.answered(), 3.0);
    assert_eq!(run("attach"), 1.0);
    assert!(life.is_answered(&server, 4));
    thread::sleep(LAG);
    assert_eq!(life.answered(), 4.0);
}

#[test]
fn drops_are_shown_as_they_come() {
    let Some(life) = Life::begin("drops_are_shown_as_they_come") else { return };
    life.loaded(&["load", life.port()]);
    // Both ways of loading have the same ring.
    for wrapper in [&BARE[..], &[]] {
        let mut server = life.node("sample_every = 1\nkeep = true\n", wrapper);
        let at = life.client.local_addr().expect("it is bound");
        let junk = [0xff; 40];
        let done = AtomicBool::new(false);
        let output = thread::scope(|scope| {
            // The reader may come later than some of them.
            scope.spawn(|| {
                let deadline = Instant::now() + END;
                while !done.load(Relaxed) && Instant::now() < deadline {
                    life.client.send_to(&junk, server.told().v4).expect("there is a route");
                    thread::sleep(Duration::from_millis(50));
                }
            });
            // One that shows nothing would wait for ever.
            let output = life.ctl_within(END, &["drops", "-n", "3", "--json"]);
            done.store(true, Relaxed);
            output
        });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = tool::stdout(&output);
        assert_eq!(lines.lines().count(), 3);
        for line in lines.lines() {
            let drop: Value = serde_json::from_str(line).expect("each line is JSON");
            assert_eq!((&drop["verdict"], &drop["source_port"]), (&json!("shape"), &json!(at.port())), "{drop}");
            assert_eq!((&drop["length"], &drop["first"]), (&json!(82), &json!("ff".repeat(16))), "{drop}");
            assert_eq!(drop["destination"], json!(server.told().v4.ip()));
        }
        stop(&mut server);
    }
}

#[test]
fn who_is_blocked_is_dropped_in_the_driver_until_it_ends() {
    let Some(life) = Life::begin("who_is_blocked_is_dropped_in_the_driver_until_it_ends") else { return };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is not 1970").as_secs();
    let block =
        |network: String, until: Option<u64>| json!([{"network": network, "until": until, "reason": "", "since": 0}]);
    let own = life.lab.sides()[0].client_address();
    let silent = |server: &Server, nth: u32| {
        life.client.set_read_timeout(Some(Duration::from_millis(300))).expect("the time is not zero");
        let answered = life.is_answered(server, nth);
        life.client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
        !answered
    };
    // In user space alone.
    let without = |lines: &str, blocks: &Value| Server::shoal_so(&life.lab, lines, blocks, &[]);
    let server = without("interfaces = []\npins = \"\"\n", &block(format!("{own}/32"), None));
    assert!((0..3).all(|nth| silent(&server, nth)));
    thread::sleep(LAG);
    assert_eq!(life.metrics().sum("shoal_udp_drops_total", &[("reason", "blocked")]), 3.0);
    drop(server);
    let server = without("interfaces = []\npins = \"\"\n", &block("198.51.100.0/24".to_owned(), None));
    assert!(life.is_answered(&server, 3), "another network is blocked");
    let none = life.ctl_within(END, &["drops", "-n", "1"]);
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(!none.status.success() && said.contains("no XDP on the node: xdp.interfaces names none"), "{said}");
    drop(server);
    // In the driver.
    let mut server = life.node_blocking(&block(format!("{own}/32"), None), "", &[]);
    thread::sleep(LAG);
    assert!((10..13).all(|nth| silent(&server, nth)));
    thread::sleep(LAG);
    assert_eq!(life.packets("blocked"), 3.0);
    assert_eq!(life.metrics().sum("shoal_udp_drops_total", &[("reason", "blocked")]), 0.0, "it reached user space");
    server.process().kill();
    assert!(silent(&server, 13), "who is blocked is so while the node is dead");
    // The same one's end is nearer now, and comes by itself.
    let until = now() + 8;
    let mut server = life.node_blocking(&block(format!("{own}/32"), Some(until)), "", &[]);
    assert!(silent(&server, 14) && now() < until, "it has ended early");
    thread::sleep(Duration::from_secs(until - now()) + LAG);
    assert!(life.is_answered(&server, 15), "it does not end");
    server.process().kill();
    // Taken away meanwhile.
    drop(life.node_blocking(&block(format!("{own}/32"), None), "", &[]));
    let server = life.node("", &[]);
    thread::sleep(LAG);
    assert!(life.is_answered(&server, 16), "it was taken away while the node was dead");
}

#[test]
fn an_operator_blocks_and_unblocks() {
    let (first, second, bad, good) = (net::own_address(), net::own_address(), net::own_address(), net::own_address());
    let origin = Origin::start();
    origin.put(Object::literal("/a", "one"));
    let lab = Settings::new(2).set("udp.addresses", &format!("[\"{first}\", \"{second}\"]")).start();
    lab.channel("vod", &[&origin]);
    let by_udp = |from: std::net::IpAddr| {
        let client = UdpSocket::bind((from, 0)).expect("loopback has free ports");
        client.set_read_timeout(Some(Duration::from_millis(500))).expect("the time is not zero");
        client.send_to(b"\x00\x01\x00\x00\x21\x12\xa4\x42blocked or n", (first, 3478)).expect("loopback takes it");
        client.recv(&mut [0; 256]).is_ok()
    };
    let by_http = |from: std::net::IpAddr| {
        let conn = Conn::open_from(lab.http(), Some((from, 0).into()), None);
        conn.expect("the node listens").expect(&Request::get("/vod/a")).status()
    };
    let served = |from| (by_http(from), by_udp(from));
    assert_eq!((served(bad), served(good)), ((200, true), (200, true)));
    let refused = |arguments: &[&str], says: &str| {
        let (code, said) = lab.shoalctl(arguments);
        assert!(code == Some(1) && said.contains(says), "{arguments:?}: {said}");
    };
    let text = bad.to_string();
    refused(&["block", &text], "loopback");
    refused(&["block", "192.0.2.1/24"], "192.0.2.0/24");
    refused(&["block", "0.0.0.0/0"], "everybody");
    refused(&["unblock", &text], "is not blocked");
    assert_eq!(lab.shoalctl(&["block", &text, "--for", "soon"]).0, Some(2));
    lab.change(|| assert_eq!(lab.shoalctl(&["block", &text, "--loopback", "--reason", "flood"]).0, Some(0)));
    assert_eq!((served(bad), served(good)), ((403, false), (200, true)));
    let (_, said) = lab.shoalctl(&["blocks"]);
    assert!(said.contains(&format!("{text}/32")) && said.contains("flood") && said.contains("never"), "{said}");
    assert!(lab.shoalctl(&["snapshot", "--json"]).1.contains("flood"));
    lab.change(|| assert_eq!(lab.shoalctl(&["unblock", &text]).0, Some(0)));
    assert_eq!(served(bad), (200, true));
    // One that ends by itself.
    lab.change(|| assert_eq!(lab.shoalctl(&["block", &text, "--loopback", "--for", "4s"]).0, Some(0)));
    assert_eq!(served(bad), (403, false));
    until("it ends", Duration::from_secs(10), || served(bad) == (200, true));
    assert!(!lab.shoalctl(&["blocks"]).1.contains(&text));
    assert!(lab.metrics().sum("shoal_udp_drops_total", &[("reason", "blocked")]) > 1.0);
}
