//! `cargo xtask up`: a node on this machine, with a demo.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::node::{Node, Place};
use crate::signals::Stop;
use crate::{demo_media, tools, workspace};

/// Time that npm gets to bring hls.js, most of it while cargo builds.
const NPM: Duration = Duration::from_secs(60);

/// Time that npm gets beyond the build.
const NPM_AFTER_BUILD: Duration = Duration::from_secs(10);

/// The tenant of channels and of TURN users that name none.
const TENANT: &str = "default";

/// Seconds that the demo's signed URL lives.
const TICKET_TTL_S: u32 = 7 * 24 * 3600;

#[derive(Args)]
pub(crate) struct Options {
    /// Address to serve viewers on; the admin ports stay on 127.0.0.1.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Port for viewers: streams and the demo page.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port of the data plane's metrics and health.
    #[arg(long, default_value_t = 9090)]
    admin_port: u16,
    /// Port of the control plane's admin API and metrics.
    #[arg(long, default_value_t = 9091)]
    control_port: u16,
    /// First of two UDP ports, for STUN; 0: none.
    #[arg(long, default_value_t = 3478)]
    udp_port: u16,
    /// Port of conf, tracker and reports, for players and SDKs.
    #[arg(long, default_value_t = 9092)]
    public_port: u16,
    /// Folder for state, logs, the admin token and the demo; by default `.shoal` in the repository.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Build without optimisation, which is faster.
    #[arg(long)]
    debug: bool,
}

/// Runs until Ctrl-C, or until a process ends.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let place = options.place()?;
    options.check_ports()?;
    let stop = Stop::listen()?;
    let demo = place.dir.join("demo");
    fs::create_dir_all(&demo).with_context(|| format!("cannot create {}; choose another --dir", demo.display()))?;
    let demo = demo.canonicalize()?;
    let hls = fetch_hls(place.dir.join("npm"));
    println!("building shoal-dataplane and shoal-control …");
    let bin = workspace::build_planes(!options.debug)?;
    anyhow::ensure!(!stop.asked(), "stopped");
    let hls = hls.finish(Instant::now() + NPM_AFTER_BUILD);
    copy_demo(&demo, hls.as_deref().ok())?;
    // Somebody may have taken one meanwhile.
    options.check_ports()?;

    let mut node = Node::start(&bin, place, &stop)?;
    create_channels(&node, &demo)?;
    create_tenant(&node)?;
    let signed = node.sign("protected", demo_media::PLAYLIST, "", TICKET_TTL_S)?;
    // For the page: what it cannot know by itself.
    let facts = json!({
        "protected": signed,
        "mp4_bytes": fs::metadata(demo.join(demo_media::MP4))?.len(),
        "hls_js": hls.is_ok(),
        "hls_js_missing": hls.as_ref().err(),
    });
    fs::write(demo.join("demo.json"), facts.to_string())?;
    node.await_path("/demo/index.html", &stop)?;

    print_urls(&node.place, &signed);
    if let Some(address) = options.udp_addresses().first() {
        println!("STUN, TURN {}", SocketAddr::new(*address, options.udp_port));
        let (user, password) = node.turn_credential(TENANT)?;
        println!("TURN user  {user}\npassword   {password}");
    }
    if let Err(why) = &hls {
        println!("hls.js     not there ({why}); browsers without HLS of their own play the MP4");
    }
    println!("files      {}", node.place.dir.display());
    println!("\nCtrl-C stops everything.");
    let mut ended = Ok(());
    while ended.is_ok() && !stop.asked() {
        thread::sleep(Duration::from_millis(100));
        ended = node.check();
    }
    println!("stopping …");
    let stopped = node.stop();
    // Why it ended says more than how the rest did.
    ended.and(stopped)?;
    println!("stopped.");
    Ok(ExitCode::SUCCESS)
}

impl Options {
    fn place(&self) -> anyhow::Result<Place> {
        let dir = self.dir.clone().unwrap_or_else(|| workspace::root().join(".shoal"));
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Place {
            dir: std::path::absolute(&dir).with_context(|| format!("--dir {}", dir.display()))?,
            http: SocketAddr::new(self.address, self.http_port),
            admin: SocketAddr::new(local, self.admin_port),
            control: SocketAddr::new(local, self.control_port),
            public: SocketAddr::new(self.address, self.public_port),
            cpus: Vec::new(),
            tls: None,
            http_more: String::new(),
            edge_more: self.udp_toml(),
        })
    }

    /// Where STUN is served: on loopback at two addresses, so that a client can see how the type of a NAT is found.
    fn udp_addresses(&self) -> Vec<IpAddr> {
        let second = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        match self.address {
            _ if self.udp_port == 0 => Vec::new(),
            address if address.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into(), second],
            address if address == IpAddr::V4(Ipv4Addr::LOCALHOST) => vec![address, second],
            address => vec![address],
        }
    }

    fn udp_toml(&self) -> String {
        let addresses = self.udp_addresses();
        if addresses.is_empty() {
            return String::new();
        }
        let other = self.udp_port.checked_add(1).unwrap_or_default();
        let relay = json!(addresses.first());
        format!(
            "\n[udp]\naddresses = {}\nport = {}\nalternate_port = {other}\n\n[turn]\nrelay_addresses = [{relay}]\n",
            json!(addresses),
            self.udp_port
        )
    }

    /// Fails when a port is taken, before anything was started.
    fn check_ports(&self) -> anyhow::Result<()> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ports = [
            ("--http-port", self.address, self.http_port),
            ("--admin-port", local, self.admin_port),
            ("--control-port", local, self.control_port),
            ("--public-port", self.address, self.public_port),
        ];
        let mut held = Vec::new();
        for (flag, ip, port) in ports {
            anyhow::ensure!(port != 0, "{flag} 0: give the port a number, so that its URL can be printed");
            // Held until all were tried: two flags with the same port are found as well.
            let listener = TcpListener::bind((ip, port))
                .with_context(|| format!("port {port} on {ip} cannot be used; choose another with {flag}"))?;
            held.push(listener);
        }
        for ip in self.udp_addresses() {
            for port in [self.udp_port, self.udp_port.saturating_add(1)] {
                UdpSocket::bind((ip, port)).with_context(|| {
                    format!("UDP port {port} on {ip} cannot be used; choose another with --udp-port (0: no UDP)")
                })?;
            }
        }
        Ok(())
    }
}

fn create_channels(node: &Node, demo: &Path) -> anyhow::Result<()> {
    let origin = json!([{"id": "files", "url": format!("file:{}", demo.display())}]);
    node.put_channel(&json!({"id": "demo", "prefix": "/demo/", "origins": origin}))?;
    let key = kept_secret(&node.place.dir.join("protected.key"))?;
    let ticket = json!({"keys": [{"id": "k1", "secret": key}]});
    node.put_channel(
        &json!({"id": "protected", "prefix": "/protected/", "origins": origin, "access": {"ticket": ticket}}),
    )
}

/// Whose users may have traffic relayed. Loopback is open to them, which is no node's default: here everything is on it.
fn create_tenant(node: &Node) -> anyhow::Result<()> {
    let secret = kept_secret(&node.place.dir.join("turn.key"))?;
    let relay = json!({"secrets": [{"id": "k1", "secret": secret}], "allow": ["127.0.0.0/8", "::1/128"]});
    node.put_tenant(&json!({"id": TENANT, "relay": relay}))
}

/// A random secret, the same at each start.
fn kept_secret(file: &Path) -> anyhow::Result<String> {
    if let Ok(secret) = fs::read_to_string(file) {
        return Ok(secret);
    }
    let secret = random_hex()?;
    fs::write(file, &secret).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(secret)
}

/// 32 random bytes.
pub(crate) fn random_hex() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn print_urls(place: &Place, signed: &str) {
    let Place { http, admin, control, public, .. } = place;
    println!();
    for (what, url) in [
        ("page", format!("http://{http}/demo/index.html")),
        ("hls", format!("http://{http}/demo/{}", demo_media::PLAYLIST)),
        ("mp4", format!("http://{http}/demo/{}", demo_media::MP4)),
        ("protected", signed.to_owned()),
        ("metrics", format!("http://{admin}/metrics")),
        ("metrics", format!("http://{control}/metrics")),
        ("console", format!("http://{control}/console")),
        ("admin API", format!("http://{control}/api/v1/openapi.json")),
        ("public API", format!("http://{public}/v1/openapi.json")),
    ] {
        println!("{what:<10} {url}");
    }
    println!("token      {}", place.dir.join("token").display());
}

/// Puts video and page where the channels' origin is.
fn copy_demo(demo: &Path, hls: Option<&Path>) -> anyhow::Result<()> {
    let source = workspace::root().join("demo");
    copy_folder(&source.join("media"), demo)?;
    copy_folder(&source.join("page"), demo)?;
    anyhow::ensure!(demo.join(demo_media::PLAYLIST).is_file(), "the demo video is not in {}", source.display());
    match hls {
        Some(file) => drop(fs::copy(file, demo.join("hls.min.js"))?),
        None => drop(fs::remove_file(demo.join("hls.min.js"))),
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in from.read_dir().with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

/// npm on its way to hls.js, or what came of it.
enum Hls {
    There(PathBuf),
    Coming { npm: std::process::Child, started: Instant, file: PathBuf },
    Missing(String),
}

/// Starts to fetch hls.js into `folder`, unless it is there.
fn fetch_hls(folder: PathBuf) -> Hls {
    let file = folder.join("node_modules/hls.js/dist/hls.min.js");
    if file.is_file() {
        return Hls::There(file);
    }
    let Some(npm) = tools::find("npm") else {
        return Hls::Missing("npm is not installed".to_owned());
    };
    if let Err(error) = fs::create_dir_all(&folder) {
        return Hls::Missing(format!("cannot create {}: {error}", folder.display()));
    }
    let mut command = Command::new(npm);
    command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=1"]);
    command.arg("--prefix").arg(&folder).arg("hls.js");
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(npm) => Hls::Coming { npm, started: Instant::now(), file },
        Err(error) => Hls::Missing(format!("cannot run npm: {error}")),
    }
}

impl Hls {
    /// Waits until `deadline` at most; the file, or why there is none.
    fn finish(self, deadline: Instant) -> Result<PathBuf, String> {
        match self {
            Self::There(file) => Ok(file),
            Self::Missing(why) => Err(why),
            Self::Coming { mut npm, started, file } => {
                let deadline = deadline.min(started + NPM);
                let ended = loop {
                    match npm.try_wait() {
                        Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                        Ok(None) => break Err("npm took too long; is the network there?".to_owned()),
                        Ok(Some(status)) if status.success() => break Ok(()),
                        Ok(Some(status)) => break Err(format!("npm install hls.js failed: {status}")),
                        Err(error) => break Err(format!("npm: {error}")),
                    }
                };
                drop(npm.kill());
                drop(npm.wait());
                ended?;
                if file.is_file() { Ok(file) } else { Err("npm brought another hls.js than expected".to_owned()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port: u16, other: u16) -> Options {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Options {
            address,
            http_port: port,
            admin_port: other,
            control_port: 1,
            public_port: 2,
            udp_port: 0,
            dir: None,
            debug: true,
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = format!("{:#}", options(port, 1).check_ports().unwrap_err());
        assert!(error.contains(&format!("port {port} on 127.0.0.1")) && error.contains("--http-port"), "{error}");
    }

    #[test]
    fn two_flags_with_one_port_are_refused() {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let error = format!("{:#}", options(free, free).check_ports().unwrap_err());
        assert!(error.contains("--admin-port"), "{error}");
        let error = format!("{:#}", options(0, free).check_ports().unwrap_err());
        assert!(error.contains("--http-port 0"), "{error}");
    }
}
