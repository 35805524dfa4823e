//! A node of our own: `shoal-dataplane` and `shoal-control` with the defaults, in a folder, as the current user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::bench::Certificate;
use crate::http::{self, Admin};
use crate::process::Process;
use crate::signals::Stop;

/// Time for both processes to become ready.
const START: Duration = Duration::from_secs(20);

/// Milliseconds that viewers get to finish when the node stops.
const DRAIN_MS: u64 = 2_000;

/// Time for a process to end after SIGTERM: its drain, and its last words to disk.
const STOP: Duration = Duration::from_millis(DRAIN_MS + 3_000);

/// Where the node listens, and where it keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) http: SocketAddr,
    /// Metrics and health of the data plane.
    pub(crate) admin: SocketAddr,
    /// The control plane's API and metrics.
    pub(crate) control: SocketAddr,
    /// Where conf, tracker and reports are.
    pub(crate) public: SocketAddr,
    /// Cores for the data plane, and for nothing else of ours; empty: all.
    pub(crate) cpus: Vec<usize>,
    /// Where viewers are served by TLS, and the certificate.
    pub(crate) tls: Option<(SocketAddr, Certificate)>,
    /// More of its section `http`, in whole lines.
    pub(crate) http_more: String,
    /// More of the data plane's configuration, from `[section]` on.
    pub(crate) edge_more: String,
}

/// The running node; stops when dropped, but `stop` does it gently.
pub(crate) struct Node {
    pub(crate) place: Place,
    edge: Process,
    control: Process,
}

impl Place {
    /// A folder, and ports that are free now.
    pub(crate) fn somewhere(dir: PathBuf, cpus: Vec<usize>) -> anyhow::Result<Self> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            dir,
            http: free(local)?,
            admin: free(local)?,
            control: free(local)?,
            public: free(local)?,
            cpus,
            tls: None,
            http_more: String::new(),
            edge_more: String::new(),
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("link.sock")
    }

    fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// By TLS, too.
    pub(crate) fn with_tls(self, certificate: Certificate) -> anyhow::Result<Self> {
        Ok(Self { tls: Some((free(self.http.ip())?, certificate)), ..self })
    }

    fn edge_toml(&self) -> String {
        let dir = self.dir.join("dataplane");
        let tls = self.tls.as_ref().map_or(String::new(), |(address, Certificate { certificate, key })| {
            let (certificate, key) = (quoted(certificate), quoted(key));
            format!(
                "[tls]\nlisten = [\"{address}\"]\n\
                 certificates = [{{ certificate = {certificate}, key = {key} }}]\n\n"
            )
        });
        format!(
            "# Written by cargo xtask at every start; what it does not name has its default.\n\
             [node]\nname = \"local\"\nstate_dir = {}\npublic_url = \"http://{http}\"\n\n\
             [shards]\ncpus = {cpus:?}\n\n\
             [http]\nlisten = [\"{http}\"]\ndrain_ms = {DRAIN_MS}\n{http_more}\n\
             {tls}\
             [admin]\nlisten = \"{admin}\"\n\n\
             [link]\ncontrol = [{socket}]\n{more}",
            quoted(&dir),
            http = self.http,
            cpus = self.cpus,
            admin = self.admin,
            socket = json!(format!("unix:{}", self.socket().display())),
            http_more = self.http_more,
            more = self.edge_more,
        )
    }

    fn control_toml(&self) -> String {
        format!(
            "# Written by cargo xtask at every start; what it does not name has its default.\n\
             listen = \"{}\"\nstate_dir = {}\nlink_socket = {}\ntoken_file = {}\n\n\
             [public]\nlisten = \"{}\"\n",
            self.control,
            quoted(&self.dir.join("control")),
            quoted(&self.socket()),
            quoted(&self.token_file()),
            self.public,
        )
    }
}

/// A path as a TOML string, which for paths is the same as a JSON one.
fn quoted(path: &Path) -> Value {
    json!(path.to_string_lossy())
}

/// An address with a port that is free now.
pub(crate) fn free(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?)
}

impl Node {
    /// Starts both processes from the programs in `bin`, and waits until they are ready.
    pub(crate) fn start(bin: &Path, place: Place, stop: &Stop) -> anyhow::Result<Self> {
        private_folder(&place.dir)?;
        let program = |name: &str, config: String| -> anyhow::Result<(Command, PathBuf)> {
            let file = place.dir.join(format!("{name}.toml"));
            fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
            let mut command = Command::new(bin.join(name));
            command.arg("--config").arg(&file);
            Ok((command, place.dir.join(format!("{name}.log"))))
        };
        let (command, log) = program("shoal-control", place.control_toml())?;
        let cores = if place.cpus.is_empty() { 0 } else { available_parallelism()?.get() };
        let others: Vec<usize> = (0..cores).filter(|cpu| !place.cpus.contains(cpu)).collect();
        let mut command = pinned(command, &others);
        let mut control = Process::start("shoal-control", &mut command, &log)?;
        await_ready(&mut control, place.control, stop)?;
        let (command, log) = program("shoal-dataplane", place.edge_toml())?;
        // Its other threads too: what they use is part of the price.
        let mut command = pinned(command, &place.cpus);
        let mut edge = Process::start("shoal-dataplane", &mut command, &log)?;
        await_ready(&mut edge, place.admin, stop)?;
        Ok(Self { place, edge, control })
    }

    /// The admin API, with the token of this node.
    pub(crate) fn admin(&self) -> anyhow::Result<Admin> {
        let file = self.place.token_file();
        let token = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Admin::new(self.place.control, &token))
    }

    /// Creates or replaces a channel.
    pub(crate) fn put_channel(&self, channel: &Value) -> anyhow::Result<()> {
        let id = channel["id"].as_str().unwrap_or_default();
        self.admin()?.call("PUT", &format!("/api/v1/channels/{id}"), channel).map(drop)
    }

    /// Creates or replaces a tenant.
    pub(crate) fn put_tenant(&self, tenant: &Value) -> anyhow::Result<()> {
        let id = tenant["id"].as_str().unwrap_or_default();
        self.admin()?.call("PUT", &format!("/api/v1/tenants/{id}"), tenant).map(drop)
    }

    /// A name for the relay and its password, good for a day.
    pub(crate) fn turn_credential(&self, tenant: &str) -> anyhow::Result<(String, String)> {
        let path = format!("/api/v1/tenants/{tenant}/credentials");
        let minted = self.admin()?.call("POST", &path, &json!({}))?;
        let text = |name: &str| minted[name].as_str().map(str::to_owned).context("the admin API minted no credential");
        Ok((text("username")?, text("password")?))
    }

    /// A URL below a protected channel's prefix, signed with shoal's own ticket; it opens `opens` and what is below.
    pub(crate) fn sign(&self, channel: &str, path: &str, opens: &str, ttl_s: u32) -> anyhow::Result<String> {
        let base = format!("http://{}", self.place.http);
        let body = json!({"path": path, "opens": opens, "ttl_s": ttl_s, "profile": "shoal", "base": base});
        let minted = self.admin()?.call("POST", &format!("/api/v1/channels/{channel}/mint"), &body)?;
        Ok(minted["urls"][0]["url"].as_str().context("the admin API minted no URL")?.to_owned())
    }

    /// Waits until the edge answers 200 for this path.
    pub(crate) fn await_path(&mut self, path: &str, stop: &Stop) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let answer = http::request(self.place.http, "GET", path, &[], &[]);
            match &answer {
                Ok(answer) if answer.status == 200 => return Ok(()),
                _ if Instant::now() < deadline => self.check()?,
                Ok(answer) => anyhow::bail!(
                    "http://{}{path} answers {}: {}",
                    self.place.http,
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                ),
                Err(error) => anyhow::bail!("http://{}{path}: {error:#}", self.place.http),
            }
            anyhow::ensure!(!stop.asked(), "stopped before it was ready");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails when one of the processes has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.edge.check()?;
        self.control.check()
    }

    /// Process id of the data plane.
    pub(crate) fn edge_id(&self) -> u32 {
        self.edge.id()
    }

    /// Stops both: the data plane first, so that its last usage still reaches the control plane.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let edge = self.edge.stop(STOP);
        let control = self.control.stop(STOP);
        let edge = edge?;
        let control = control?;
        anyhow::ensure!(edge.success(), "shoal-dataplane ended with {edge}");
        anyhow::ensure!(control.success(), "shoal-control ended with {control}");
        Ok(())
    }
}

/// The command on these cores; on all where there is none.
fn pinned(command: Command, cpus: &[usize]) -> Command {
    if cpus.is_empty() {
        return command;
    }
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let mut pinned = Command::new("taskset");
    pinned.arg("--cpu-list").arg(cpus.join(",")).arg(command.get_program()).args(command.get_args());
    pinned
}

fn private_folder(dir: &Path) -> anyhow::Result<()> {
    // The token and the keys in there are nobody else's.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the folder {}; choose another", dir.display()))
}

fn await_ready(process: &mut Process, at: SocketAddr, stop: &Stop) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        process.check()?;
        if http::request(at, "GET", "/readyz", &[], &[]).is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        anyhow::ensure!(!stop.asked(), "stopped before it was ready");
        anyhow::ensure!(Instant::now() < deadline, "http://{at}/readyz is not ready within {START:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_quote_their_paths() {
        let place = Place::somewhere(PathBuf::from("a \"b\""), vec![0]).unwrap();
        assert!(place.edge_toml().contains(r#"state_dir = "a \"b\"/dataplane""#), "{}", place.edge_toml());
        assert!(place.edge_toml().contains("cpus = [0]"));
        assert!(place.control_toml().contains(r#"link_socket = "a \"b\"/link.sock""#), "{}", place.control_toml());
    }
}
