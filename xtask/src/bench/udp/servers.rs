//! The servers under test, each on the servers' core, fresh.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::{SERVER_CPU, machine};
use super::shoal;
use crate::process::Process;
use crate::{tools, workspace};

/// Time to start.
const START: Duration = Duration::from_secs(10);

/// Time to stop; turn-server has no better way to end than being killed.
const STOP: Duration = Duration::from_secs(5);

const USER: &str = "bench";
const PASSWORD: &str = "bench-password";

/// What names' passwords are made with, of those servers that have such names.
const SECRET: &str = "bench-secret-of-many-characters";

/// Of all servers' credentials.
pub(super) const REALM: &str = "bench";

/// The Rust TURN server, by its name and version at crates.io. Without its gRPC interface, which nobody calls here.
const TURN_SERVER: [&str; 3] = ["turn-server", "--version", "4.1.5"];

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The data plane.
    Shoal,
    /// coturn, from Debian.
    Coturn,
    /// turn-server, from crates.io. It relays between its own clients only.
    TurnServer,
}

/// Where a server is, and as whom to ask.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) address: SocketAddr,
    pub(super) user: String,
    pub(super) proof: Proof,
    pub(super) pid: u32,
    /// Whether it looks for work for a while before it sleeps, so that its core is busy.
    pub(super) spins: bool,
}

/// How a user shows who it is.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// By this password.
    Password(String),
    /// By a name with a time and a password that is made of both with this.
    Secret(String),
}

/// A running server; stops when dropped.
pub(super) struct Server {
    pub(super) access: Access,
    process: Process,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::Coturn => "coturn",
            Self::TurnServer => "turn-server",
        }
    }

    /// An address for each, so that none takes relay ports from another.
    fn ip(self) -> Ipv4Addr {
        match self {
            Self::Shoal => Ipv4Addr::new(127, 0, 0, 1),
            Self::Coturn => Ipv4Addr::new(127, 0, 0, 2),
            Self::TurnServer => Ipv4Addr::new(127, 0, 0, 3),
        }
    }

    /// Starts it; ours is among the programs in `bin`.
    pub(super) fn start(self, bin: &Path, dir: &Path) -> anyhow::Result<Server> {
        // Fresh: what a server before it has learnt is not its own.
        drop(fs::remove_dir_all(dir));
        fs::create_dir_all(dir)?;
        let address = free(self.ip())?;
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(SERVER_CPU.to_string());
        let mut proof = Proof::Password(PASSWORD.to_owned());
        match self {
            Self::Shoal => {
                shoal::command(&mut command, &bin.join("shoal-dataplane"), address, SECRET, dir)?;
                proof = Proof::Secret(SECRET.to_owned());
            }
            Self::Coturn => coturn(&mut command, address, dir),
            Self::TurnServer => turn_server(&mut command, address, dir)?,
        }
        let process = Process::start(self.name(), &mut command, &dir.join(format!("{}.log", self.name())))?;
        let spins = self == Self::Shoal;
        let access = Access { address, user: USER.to_owned(), proof, pid: process.id(), spins };
        let mut server = Server { access, process };
        server.wait().with_context(|| format!("start {}", self.name()))?;
        Ok(server)
    }
}

impl Server {
    /// Until it answers Binding requests.
    fn wait(&mut self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // RFC 8489 section 5: a Binding request without attributes.
        let mut request = [0; 20];
        request[1] = 1;
        request[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        let deadline = Instant::now() + START;
        loop {
            self.process.check()?;
            anyhow::ensure!(Instant::now() < deadline, "no answer at {}", self.access.address);
            socket.send_to(&request, self.access.address)?;
            let mut answer = [0; 100];
            // A port that is not open yet shows as an error, too.
            if socket.recv(&mut answer).is_ok_and(|len| len >= 20 && answer[..2] == [1, 1]) {
                return Ok(());
            }
        }
    }

    /// Ends it.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.process.stop(STOP).map(drop)
    }
}

fn coturn_program() -> PathBuf {
    tools::find("turnserver").unwrap_or_else(|| PathBuf::from("turnserver"))
}

/// As an operator would tune it: one relay thread for the one core, no log.
fn coturn(command: &mut Command, address: SocketAddr, dir: &Path) {
    let ip = address.ip().to_string();
    command.arg(coturn_program());
    command.args(["-n", "-m", "1", "-L", &ip, "-E", &ip, "-p", &address.port().to_string()]);
    command.args(["-a", "-u", &format!("{USER}:{PASSWORD}"), "-r", REALM]);
    command.args(["--no-tls", "--no-dtls", "--no-tcp", "--no-tcp-relay", "--no-cli", "--no-stdout-log"]);
    // Peers are on loopback, as everything here is.
    command.args(["--simple-log", "--log-file", "/dev/null", "--allow-loopback-peers"]);
    command.arg("--pidfile").arg(dir.join("coturn.pid")).arg("--userdb").arg(dir.join("coturn.db"));
}

fn turn_server(command: &mut Command, address: SocketAddr, dir: &Path) -> anyhow::Result<()> {
    let config = dir.join("turn-server.toml");
    let text = format!(
        "[server]\nport-range = \"49152..65535\"\nmax-threads = 1\nrealm = \"{REALM}\"\n\n\
         [[server.interfaces]]\ntransport = \"udp\"\nlisten = \"{address}\"\nexternal = \"{address}\"\n\
         idle-timeout = 60\nmtu = 1500\n\n\
         [log]\nlevel = \"error\"\nstdout = true\n\n\
         [auth]\nenable-hooks-auth = false\n\n[auth.static-credentials]\n{USER} = \"{PASSWORD}\"\n"
    );
    fs::write(&config, text).with_context(|| format!("{}", config.display()))?;
    command.arg(turn_server_program()?).arg("--config").arg(config);
    Ok(())
}

fn peers() -> anyhow::Result<PathBuf> {
    Ok(workspace::target_dir()?.join("peers"))
}

fn turn_server_program() -> anyhow::Result<PathBuf> {
    Ok(peers()?.join("bin").join(TURN_SERVER[0]))
}

/// Installs turn-server into the target folder, which takes minutes, if it is not there.
pub(super) fn install_turn_server() -> anyhow::Result<()> {
    if turn_server_program()?.is_file() {
        return Ok(());
    }
    tools::require(&[("protoc", "protobuf-compiler")])?;
    println!("building turn-server, once; this takes minutes");
    let mut command = workspace::cargo();
    command.arg("install").args(TURN_SERVER).args(["--locked", "--no-default-features", "--features", "udp", "--root"]);
    workspace::run(command.arg(peers()?))
}

/// What coturn says its version is.
pub(super) fn coturn_version() -> String {
    machine::said(Command::new(coturn_program()).arg("--version"))
}

/// A UDP port of this address that is free now.
fn free(ip: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?)
}
