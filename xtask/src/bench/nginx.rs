//! nginx as an operator would tune it for this job, as the current user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::certificate::Certificate;
use super::{SERVER_CPU, machine};
use crate::process::Process;
use crate::{http, node, tools};

/// Time to start.
const START: Duration = Duration::from_secs(10);

/// Time to stop.
const STOP: Duration = Duration::from_secs(5);

/// Connections that its worker takes.
const CONNECTIONS: usize = 12_288;

/// Files that its worker may have open: the connections, and what it serves to them.
const FILES: usize = CONNECTIONS + 4_096;

/// The running server.
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    /// The same by TLS.
    pub(super) secure: SocketAddr,
    process: Process,
}

/// The program; Debian keeps it where an ordinary user's PATH does not look.
pub(super) fn program() -> PathBuf {
    tools::find("nginx").unwrap_or_else(|| PathBuf::from("nginx"))
}

/// What it says its version is.
pub(super) fn version() -> String {
    machine::said(Command::new(program()).arg("-v"))
}

/// How to run it.
pub(super) struct Setup<'a> {
    /// Its own folder.
    pub(super) dir: &'a Path,
    /// What it serves.
    pub(super) root: &'a Path,
    pub(super) certificate: &'a Certificate,
    /// Where it listens.
    pub(super) ip: IpAddr,
    /// More directives.
    pub(super) more: &'a str,
}

impl<'a> Setup<'a> {
    /// On IPv4 loopback.
    pub(super) fn new(dir: &'a Path, root: &'a Path, certificate: &'a Certificate) -> Self {
        Self { dir, root, certificate, ip: IpAddr::V4(Ipv4Addr::LOCALHOST), more: "" }
    }
}

impl Nginx {
    /// With one worker, on the servers' core.
    pub(super) fn start(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let Setup { dir, ip, .. } = *setup;
        let (address, secure) = (node::free(ip)?, node::free(ip)?);
        fs::create_dir_all(dir)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(setup, [address, secure]))?;
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(SERVER_CPU.to_string()).arg(program());
        command.arg("-p").arg(dir).arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
        let mut process = Process::start("nginx", &mut command, &dir.join("nginx.log"))?;
        let deadline = Instant::now() + START;
        while http::request(address, "GET", "/", &[], &[]).is_err() {
            process.check()?;
            anyhow::ensure!(Instant::now() < deadline, "nginx does not answer at {address}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { address, secure, process })
    }

    /// Its master and its worker.
    pub(super) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let master = self.process.id();
        let file = format!("/proc/{master}/task/{master}/children");
        let workers = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let workers = workers.split_ascii_whitespace().filter_map(|id| id.parse().ok());
        Ok(std::iter::once(master).chain(workers).collect())
    }

    /// Stops it.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.process.stop(STOP).map(drop).context("nginx")
    }
}

fn configuration(setup: &Setup<'_>, [address, secure]: [SocketAddr; 2]) -> String {
    let Setup { dir, root, certificate: tls, more, .. } = setup;
    let dir = dir.display();
    // As root nginx would give its worker to `nobody`, who may not read the files.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;\nworker_processes 1;\npid \"{dir}/pid\";\nerror_log \"{dir}/error.log\" warn;\n\
         worker_rlimit_nofile {FILES};\nevents {{ worker_connections {CONNECTIONS}; use epoll; multi_accept on; }}\n\
         http {{\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  access_log off;\n\
         \x20 keepalive_timeout 300s;\n  keepalive_requests 1000000000;\n\
         \x20 open_file_cache max=10000 inactive=300s;\n  open_file_cache_valid 300s;\n\
         \x20 client_body_temp_path \"{dir}/body\";\n  proxy_temp_path \"{dir}/proxy\";\n\
         \x20 fastcgi_temp_path \"{dir}/fastcgi\";\n  uwsgi_temp_path \"{dir}/uwsgi\";\n\
         \x20 scgi_temp_path \"{dir}/scgi\";\n  {more}\n\
         \x20 server {{ listen {address} reuseport; root \"{root}\"; }}\n\
         \x20 server {{ listen {secure} ssl reuseport; root \"{root}\"; ssl_protocols TLSv1.3;\n\
         \x20   ssl_certificate \"{certificate}\"; ssl_certificate_key \"{key}\"; }}\n}}\n",
        root = root.display(),
        certificate = tls.certificate.display(),
        key = tls.key.display(),
    )
}
