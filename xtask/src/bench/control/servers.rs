//! The servers under test, each on the servers' core, fresh.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::SERVER_CPU;
use super::cases::SWARMS;
use crate::node::free;
use crate::process::Process;
use crate::{tools, workspace};

/// Time to start.
const START: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// Time to stop.
const STOP: Duration = Duration::from_secs(10);

/// Peers from crates.io, by name and version.
const AQUATIC: [(&str, &str); 2] = [("aquatic_http", "0.9.0"), ("aquatic_ws", "0.9.0")];

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// shoal-control.
    Shoal,
    /// aquatic_http: one socket worker, one swarm worker.
    AquaticHttp,
    /// aquatic_ws: the same.
    AquaticWs,
    /// opentracker, from Debian.
    Opentracker,
}

/// A running server; stops when dropped.
pub(super) struct Server {
    /// Where it is called.
    pub(super) address: SocketAddr,
    /// Of ours, the admin API.
    pub(super) admin: Option<SocketAddr>,
    pub(super) dir: PathBuf,
    process: Process,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::AquaticHttp => "aquatic_http",
            Self::AquaticWs => "aquatic_ws",
            Self::Opentracker => "opentracker",
        }
    }

    /// Starts it; ours is among the programs in `bin`.
    pub(super) fn start(self, bin: &Path, dir: &Path) -> anyhow::Result<Server> {
        drop(fs::remove_dir_all(dir));
        fs::create_dir_all(dir)?;
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = free(local)?;
        let mut admin = None;
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(SERVER_CPU.to_string());
        match self {
            Self::Shoal => {
                let listen = free(local)?;
                admin = Some(listen);
                let config = dir.join("control.toml");
                fs::write(&config, shoal(listen, address, dir))?;
                command.arg(bin.join("shoal-control")).arg("--config").arg(config);
            }
            Self::AquaticHttp | Self::AquaticWs => {
                let config = dir.join("aquatic.toml");
                let text = format!(
                    "socket_workers = 1\nswarm_workers = 1\nlog_level = \"error\"\n\n\
                     [network]\naddress = \"{address}\"\n\n[protocol]\npeer_announce_interval = 16\n"
                );
                fs::write(&config, text)?;
                command.arg(workspace::peer_program(self.name())?).arg("-c").arg(config);
            }
            Self::Opentracker => {
                let (ip, port) = (address.ip().to_string(), address.port().to_string());
                // Debian's serves only swarms that it was told of, and as root it changes to another user in its folder.
                let told = Command::new(bin.join("shoal-callload"))
                    .args(["--server", &address.to_string(), "info-hashes", "--swarms", &SWARMS.to_string()])
                    .output()?;
                fs::write(dir.join("swarms"), told.stdout)?;
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
                let program = tools::find("opentracker").unwrap_or_else(|| PathBuf::from("opentracker"));
                command.arg(program).args(["-i", &ip, "-p", &port, "-P", &port, "-w", "/swarms", "-d"]).arg(dir);
            }
        }
        let process = Process::start(self.name(), &mut command, &dir.join(format!("{}.log", self.name())))?;
        let mut server = Server { address, admin, dir: dir.to_owned(), process };
        server.wait().with_context(|| format!("start {}", self.name()))?;
        Ok(server)
    }
}

impl Server {
    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            self.process.check()?;
            anyhow::ensure!(Instant::now() < deadline, "nobody listens at {}", self.address);
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Resident memory, in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        self.status("VmRSS:")
    }

    /// The most of it that there ever was.
    pub(super) fn most_resident(&self) -> anyhow::Result<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> anyhow::Result<f64> {
        // `taskset` has become the server.
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib: f64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .with_context(|| format!("no {name}"))?
            .trim()
            .parse()?;
        Ok(kib * 1024.0)
    }

    /// Ends it.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.process.stop(STOP).map(drop)
    }
}

/// One worker for one core; a tracker that is open, as the peers are, with room for all that cases have.
fn shoal(listen: SocketAddr, public: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "listen = \"{listen}\"\nstate_dir = \"{dir}/state\"\nlink_socket = \"{dir}/link.sock\"\n\n\
         [public]\nlisten = \"{public}\"\n\n[tracker]\nopen = \"bench\"\n\n[log]\nlevel = \"warn\"\n"
    )
}

/// Installs the peers from crates.io, which takes minutes, if they are not there.
pub(super) fn install_aquatic() -> anyhow::Result<()> {
    AQUATIC.iter().try_for_each(|(name, version)| workspace::install_peer(name, version, true))
}
