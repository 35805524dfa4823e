//! The data plane with one shard, on a snapshot in its state folder, without a control plane.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use shoal_stun::message::{Builder, Class, HEADER, Method, TransactionId};

use super::{BLOCKED, NETWORK, SECRET};

/// Time to start.
const START: Duration = Duration::from_secs(10);

/// Where it tells what it did, in its own namespace.
const ADMIN: &str = "127.0.0.1:9090";

/// The metric of packets by XDP's verdict.
const VERDICTS: &str = "shoal_xdp_packets_total{verdict=\"";

/// A running node. It ends when dropped, and what it had at interfaces with it.
pub struct Node {
    process: Child,
    dir: PathBuf,
}

impl Node {
    /// Starts it on this CPU alone, where this thread's namespace is; with XDP at `interface`, or without. But for that, all is as it is
    /// by default.
    ///
    /// # Errors
    /// It does not start; then with what it said.
    pub fn start(program: &Path, cpu: usize, address: SocketAddr, interface: Option<&str>) -> anyhow::Result<Self> {
        let dir = env::temp_dir().join(format!("shoal-xdpflood-{}", process::id()));
        let state = dir.join("state");
        fs::create_dir_all(&state).with_context(|| state.display().to_string())?;
        let snapshot = snapshot().to_string();
        // A line with the first half of its checksum in front.
        let sum: String = Sha256::digest(&snapshot).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let config = dir.join("shoal.toml");
        for (path, text) in [
            (state.join("snapshot"), format!("{sum} {snapshot}\n")),
            (config.clone(), toml(&state, cpu, address, interface)),
        ] {
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        let log = dir.join("log");
        let output = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu.to_string()]).arg(program).arg("--config").arg(config).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let process = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let mut node = Self { process, dir };
        node.wait(address).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(node)
    }

    /// Until it answers.
    fn wait(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut request = [0; HEADER];
        Builder::new(&mut request, Method::BINDING, Class::Request, TransactionId::new(*b"is it ready?")).finish()?;
        let deadline = Instant::now() + START;
        let mut answer = [0; 500];
        loop {
            // Both fail until there is somebody.
            drop(socket.send_to(&request, address));
            if socket.recv(&mut answer).is_ok_and(|length| length >= HEADER && answer[..2] == [1, 1]) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the node ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the node does not answer at {address}");
        }
    }

    /// Packets so far, by XDP's verdict. It is told a moment later.
    ///
    /// # Errors
    /// The node does not say.
    pub fn verdicts(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut stream = TcpStream::connect(ADMIN).with_context(|| format!("metrics at {ADMIN}"))?;
        stream.set_read_timeout(Some(START))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("metrics")?;
        Ok(text.lines().filter_map(verdict).collect())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself, and what it wrote is of no use to anybody.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The verdict's name and number, of a line that has them.
fn verdict(line: &str) -> Option<(String, u64)> {
    let (name, number) = line.strip_prefix(VERDICTS)?.split_once("\"} ")?;
    Some((name.to_owned(), number.trim().parse::<f64>().ok()? as u64))
}

fn toml(state: &Path, cpu: usize, address: SocketAddr, interface: Option<&str>) -> String {
    let (ip, port, interfaces) = (address.ip(), address.port(), Vec::from_iter(interface));
    format!(
        "[node]\nname = \"flood\"\nstate_dir = {}\n\n[shards]\ncpus = [{cpu}]\n\n[cache]\nram_bytes = {}\n\n\
         [http]\nlisten = [\"127.0.0.1:0\"]\n\n[link]\ncontrol = []\n\n[admin]\nlisten = \"{ADMIN}\"\n\n\
         [udp]\naddresses = [\"{ip}\"]\nport = {port}\nalternate_port = 0\n\n\
         [turn]\nrelay_addresses = [\"{ip}\"]\nrealm = \"flood\"\n\n\
         [xdp]\ninterfaces = {}\npins = \"\"\n",
        json!(state.to_string_lossy()),
        64 << 20,
        json!(interfaces),
    )
}

/// Viewers and their peer have addresses of documentation, which are no peers otherwise.
fn snapshot() -> serde_json::Value {
    let relay = json!({ "secrets": [{ "id": "flood", "secret": SECRET }], "allow": [NETWORK] });
    json!({
        "version": 1,
        "channels": [],
        "tenants": [{ "id": "default", "relay": relay }],
        "blocks": [{ "network": BLOCKED, "until": null, "reason": "a flood", "since": 0 }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_from_metrics() {
        assert_eq!(verdict("shoal_xdp_packets_total{verdict=\"shape\"} 12"), Some(("shape".to_owned(), 12)));
        assert_eq!(verdict("shoal_xdp_interfaces{mode=\"native\"} 1"), None);
        assert_eq!(verdict("# TYPE shoal_xdp_packets_total counter"), None);
    }
}
