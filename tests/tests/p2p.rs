//! Unmodified p2p-media-loader in two browsers, each behind a NAT of its own: they find each other by our tracker, our STUN tells
//! them their addresses, and one gets video from the other.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::lab::{binary, until};
use shoal_tests::natlab::{self, Kind, Mailbox, NatLab, Server, Side};
use shoal_tests::process::Process;
use shoal_tests::{chromium, tool};

const NAME: &str = "p2p-media-loader";

/// Two browsers start, find each other and exchange some segments, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What npm brings, and the files of it that a page needs.
const PACKAGES: [&str; 3] = ["hls.js@1", "p2p-media-loader-core@2.3.1", "p2p-media-loader-hlsjs@2.3.1"];
const SCRIPTS: [&str; 3] = [
    "hls.js/dist/hls.min.js",
    "p2p-media-loader-core/dist/p2p-media-loader-core.es.min.js",
    "p2p-media-loader-hlsjs/dist/p2p-media-loader-hlsjs.es.min.js",
];

#[test]
fn two_browsers_meet_through_our_tracker_and_share() {
    if !natlab::possible(NAME) {
        return;
    }
    let Some(chromium) = tool::need(NAME, "chromium") else { return };
    let Some(ffmpeg) = tool::need(NAME, "ffmpeg") else { return };
    let Some(python) = tool::need(NAME, "python3") else { return };
    let Some(modules) = tool::npm(NAME, &PACKAGES) else { return };
    let lab = NatLab::start(&[Kind::FullCone, Kind::PortRestricted]);
    let stun = Server::shoal(&lab);
    let ip = lab.addresses()[2];
    let [page, public] = [8000, 9092].map(|port| SocketAddr::new(ip, port));
    let site = lab.dir().join("site");
    make_site(&site, &ffmpeg, &modules);
    let mut command = lab.hub().command(python);
    command.args(["-m", "http.server", "--bind", &ip.to_string(), "--directory"]).arg(&site).arg("8000");
    let _pages = Process::start("http.server", &mut command, &lab.dir().join("pages.log"));
    let _control = start_control(&lab, public);
    let mailbox = Mailbox::start(lab.hub(), ip, "");

    let viewer = |side: &Side, name: &str| {
        let profile = lab.dir().join(name);
        let query = [
            ("source", "/index.m3u8".to_owned()),
            ("tracker", format!("ws://{public}/announce")),
            ("stun", format!("stun:{}", stun.told().v4)),
            ("report", format!("{}/put/{name}", mailbox.url())),
        ];
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", chromium::encode(value))).collect();
        let mut command = side.client().command(&chromium);
        chromium::headless(&mut command, &profile)
            .arg("--autoplay-policy=no-user-gesture-required")
            .arg(format!("--unsafely-treat-insecure-origin-as-secure=http://{page}"))
            .arg(format!("http://{page}/p2p.html?{}", query.join("&")));
        Process::start(name, &mut command, &profile.with_added_extension("log"))
    };
    let told = |name: &str| -> Value {
        let letter = mailbox.take(name, Duration::from_millis(100)).unwrap_or_default();
        serde_json::from_str(&letter).unwrap_or_default()
    };
    let bytes = |name: &str, kind: &str| told(name)[kind].as_u64().unwrap_or(0);
    let [one, other] = lab.sides() else { panic!("a lab of two") };
    let _first = viewer(one, "first");
    until("the first viewer plays", PATIENCE, || told("first")["at"].as_f64().is_some_and(|at| at > 0.5));
    let started = Instant::now();
    let _second = viewer(other, "second");
    // One segment has some 75 KB.
    let shared = || bytes("second", "p2p") + bytes("first", "p2p") > 300_000;
    let done = std::iter::repeat_with(shared)
        .inspect(|done| {
            if !done {
                std::thread::sleep(Duration::from_millis(200))
            }
        })
        .find(|done| *done || started.elapsed() > PATIENCE);
    let (first, second) = (told("first"), told("second"));
    println!("after {:.1?}: first {first}, second {second}", started.elapsed());
    assert_eq!(done, Some(true), "first {first}, second {second}");
    assert!(first["peers"].as_u64() >= Some(1) && second["peers"].as_u64() >= Some(1));
    until("the second viewer plays", PATIENCE, || told("second")["at"].as_f64().is_some_and(|at| at > 0.5));
}

/// The page, its scripts, and two minutes of video in short segments.
fn make_site(site: &Path, ffmpeg: &Path, modules: &Path) {
    fs::create_dir_all(site).expect("the lab's own folder is writable");
    fs::write(site.join("p2p.html"), include_str!("../peers/p2p.html")).expect("the lab's own folder is writable");
    for script in SCRIPTS {
        let name = Path::new(script).file_name().expect("a file");
        fs::copy(modules.join(script), site.join(name)).unwrap_or_else(|error| panic!("{script}: {error}"));
    }
    let mut command = Command::new(ffmpeg);
    command.current_dir(site).args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
    command.args(["-t", "120", "-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-pix_fmt", "yuv420p"]);
    command.args(["-b:v", "300k", "-minrate", "300k", "-maxrate", "300k", "-bufsize", "100k"]);
    command.args(["-x264-params", "nal-hrd=cbr:scenecut=0", "-hls_time", "2", "-hls_playlist_type", "vod"]);
    let output = tool::run(command.arg("index.m3u8"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start_control(lab: &NatLab, public: SocketAddr) -> Process {
    let dir = lab.dir().display();
    let config = lab.dir().join("control.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = \"{dir}/control\"\nlink_socket = \"{dir}/link.sock\"\n\
         [tracker]\nopen = \"default\"\n[public]\nlisten = \"{public}\"\n"
    );
    fs::write(&config, text).expect("the lab's own folder is writable");
    let mut command = lab.hub().command(binary("shoal-control"));
    Process::start("shoal-control", command.arg("--config").arg(&config), &lab.dir().join("control.log"))
}
