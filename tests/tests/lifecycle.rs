//! Start, drain and end of the processes.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use shoal_tests::client::{self, End, Request};
use shoal_tests::lab::{self, Lab, Settings, until};
use shoal_tests::net;
use shoal_tests::origin::{Object, Origin};
use shoal_tests::process::Process;
use shoal_tests::{tool, with_one_and_four_shards};

with_one_and_four_shards!(sigterm_drains, a_drain_has_a_bound, ipv6_and_ipv4);

const SOON: Duration = Duration::from_secs(10);

fn sigterm_drains(shards: u32) {
    let origin = Origin::start();
    let size = 500_000;
    origin.put(Object::new("/slow", size).paced(16 << 10, Duration::from_millis(60))).put(Object::new("/a", 10));
    let mut lab = Settings::new(shards).set("http.drain_ms", "10000").start();
    lab.channel("vod", &[&origin]);
    let http = lab.http();
    let mut idle = client::connect(http);
    assert_eq!(idle.expect(&Request::get("/vod/a")).status(), 200);
    let mut received = size + 10;
    thread::scope(|scope| {
        let viewer = scope.spawn(move || client::expect(http, &Request::get("/vod/slow")));
        until("the download runs", SOON, || origin.requests("/slow") > 0);
        thread::sleep(Duration::from_millis(200));
        lab.edge().signal(Signal::TERM);
        until("new connections are refused", SOON, || match TcpStream::connect(http) {
            Err(_) => true,
            Ok(_) => match client::ask(http, &Request::get("/vod/a")) {
                // The signal is still on its way.
                Ok(answer) => {
                    received += answer.body.len() as u64;
                    false
                }
                // Accepted by the kernel before the listener closed.
                Err(_) => true,
            },
        });
        assert!(idle.wait_for_close(SOON).is_ok(), "idle connections are closed");
        let ready = client::ask(lab.status(), &Request::get("/readyz"));
        assert!(ready.is_err() || ready.is_ok_and(|answer| answer.status() == 503), "a draining node is not ready");
        let answer = viewer.join().expect("the viewer does not panic");
        assert!(answer.end == End::Complete && Object::new("/slow", size).is_right(0, 0, &answer.body));
    });
    let ended = Instant::now();
    let status = lab.edge().wait(SOON).expect("it ends after the last download");
    assert_eq!(status.code(), Some(0), "{}", lab.edge().output());
    println!("ended {:?} after the last download", ended.elapsed());

    // What it counted is not lost, although it ended.
    let admin = lab.admin();
    let counted = || admin.ledger("vod", "client").body_bytes;
    if counted() != received {
        lab.start_edge();
    }
    until("the ledger has it all", SOON, || counted() >= received);
    assert_eq!(counted(), received);

    lab.control().signal(Signal::TERM);
    let status = lab.control().wait(SOON).expect("the control plane ends on SIGTERM");
    assert_eq!(status.code(), Some(0), "{}", lab.control().output());
}

fn a_drain_has_a_bound(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/endless", 50 << 20).paced(8 << 10, Duration::from_millis(50)));
    let mut lab = Settings::new(shards).set("http.drain_ms", "1000").start();
    lab.channel("vod", &[&origin]);
    let http = lab.http();
    thread::scope(|scope| {
        let viewer = scope.spawn(move || client::ask(http, &Request::get("/vod/endless")));
        until("the download runs", SOON, || origin.requests("/endless") > 0);
        let started = Instant::now();
        lab.edge().signal(Signal::TERM);
        let status = lab.edge().wait(Duration::from_secs(8)).expect("the bound is one second");
        println!("drained in {:?}", started.elapsed());
        assert_eq!(status.code(), Some(0), "{}", lab.edge().output());
        let answer = viewer.join().expect("the viewer does not panic");
        if let Ok(answer) = answer {
            assert!(matches!(answer.end, End::Short(_)));
            assert!(Object::new("/endless", 50 << 20).is_right(0, 0, &answer.body));
        }
    });
}

fn ipv6_and_ipv4(shards: u32) {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        tool::skip("IPv6", "this machine has no ::1");
        return;
    }
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let lab = Settings::new(shards).listen_on(Ipv6Addr::LOCALHOST.into()).start();
    let mut channel = lab::channel("vod", &[&origin]);
    channel["access"] = json!({"address": {"allow": ["::1/128"]}});
    lab.put_channel(&channel);
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).text(), "fine");
    channel["access"] = json!({"address": {"deny": ["::/0"]}});
    lab.put_channel(&channel);
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).status(), 403);
    if let Some(curl) = tool::need("IPv6 with curl", "curl") {
        let output = tool::run(Command::new(curl).args(["-s", "-g", "-6", &lab.url("/vod/a")]));
        assert!(output.status.success());
    }
}

/// What a service manager relies on: readiness, the sockets it hands over, the end.
#[test]
fn systemd_is_told_and_its_sockets_are_used() {
    let Some(activate) = tool::need("inherited listeners", "systemd-socket-activate") else { return };
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let mut lab = Lab::start(2);
    lab.channel("vod", &[&origin]);
    lab.kill_edge();
    let told = lab.dir().join("notify");
    let socket = UnixDatagram::bind(&told).expect("our own folder");
    socket.set_read_timeout(Some(SOON)).expect("a positive timeout");
    let hears = |wanted: &str| {
        let mut heard = String::new();
        while !heard.contains(wanted) {
            let mut buffer = [0; 4096];
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}; heard {heard}"));
            heard.push_str(&String::from_utf8_lossy(&buffer[..len]));
            heard.push('\n');
        }
    };
    // A port of its own: that of the configuration must not be used.
    let inherited = net::free_port(lab.http().ip());
    let edge = lab.edge_command();
    let mut command = Command::new(activate);
    command.arg(format!("--listen={inherited}")).arg(format!("--setenv=NOTIFY_SOCKET={}", told.display()));
    command.arg(edge.get_program()).args(edge.get_args());
    let mut process = Process::start("activated", &mut command, &lab.dir().join("activated.log"));
    // It is started by the first connection.
    until("the socket is there", SOON, || TcpStream::connect(inherited).is_ok());
    hears("READY=1");
    assert_eq!(client::expect(inherited, &Request::get("/vod/a")).text(), "fine");
    assert!(TcpStream::connect(lab.http()).is_err(), "the configured address is not used as well");
    process.signal(Signal::TERM);
    hears("STOPPING=1");
    assert_eq!(process.wait(SOON).and_then(|status| status.code()), Some(0), "{}", process.output());
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let lab = Lab::start(2);
    let other = lab.dir().join("other.toml");
    let text = fs::read_to_string(lab.dir().join("dataplane.toml")).expect("our own file");
    // Another folder, for the state folder of a running node is locked, which is another error.
    let text = text.replace("/edge\"", "/edge2\"");
    fs::write(&other, &text).expect("our own folder");
    let start = || {
        let mut command = Command::new(lab::binary("shoal-dataplane"));
        let log = lab.dir().join("other.log");
        drop(fs::remove_file(&log));
        let mut process = Process::start("another", command.arg("--config").arg(&other), &log);
        let status = process.wait(SOON).expect("it cannot run");
        (status.code(), process.output())
    };
    let (code, said) = start();
    assert!(code.is_some_and(|code| code != 0), "{said}");
    let taken = lab.status().port().to_string();
    assert!(said.contains(&taken) || said.contains(&lab.http().port().to_string()), "which port is taken: {said}");
    assert!(!said.contains("panicked"), "{said}");

    // Held by someone who does not share it (SO_REUSEPORT), and the admin port is free.
    let holder = TcpListener::bind((lab.http().ip(), 0)).expect("a free port");
    let port = holder.local_addr().expect("it is bound").port().to_string();
    let free = TcpListener::bind((lab.status().ip(), 0)).expect("a free port").local_addr().expect("it is bound");
    let text = text
        .replace(&lab.http().to_string(), &format!("{}:{port}", lab.http().ip()))
        .replace(&lab.status().to_string(), &free.to_string());
    fs::write(&other, text).expect("our own folder");
    let (code, said) = start();
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains(&port) && !said.contains("panicked"), "which port is taken: {said}");
}

#[test]
fn a_folder_without_permission_is_a_clear_error() {
    let lab = Lab::start(1);
    let text = fs::read_to_string(lab.dir().join("dataplane.toml")).expect("our own file");
    // A file where the folder should be: nobody may make a folder below it, not even root.
    let file = lab.dir().join("not-a-folder");
    fs::write(&file, "").expect("our own folder");
    for (name, config, from) in [
        ("shoal-dataplane", text, "/edge\""),
        ("shoal-control", fs::read_to_string(lab.dir().join("control.toml")).expect("our own file"), "/control\""),
    ] {
        let bad = lab.dir().join("bad.toml");
        fs::write(&bad, config.replace(from, "/not-a-folder/state\"")).expect("our own folder");
        let mut command = Command::new(lab::binary(name));
        let mut process =
            Process::start(name, command.arg("--config").arg(&bad), &lab.dir().join(format!("{name}.bad")));
        let status = process.wait(SOON).expect("it cannot run");
        let said = process.output();
        assert!(status.code().is_some_and(|code| code != 0), "{name}: {said}");
        assert!(said.contains("not-a-folder/state") && said.contains("state_dir"), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
}
