//! A node of our own: the real `shoal-dataplane` and `shoal-control` in a folder that goes away with the test.

mod binaries;
mod settings;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use binaries::binary;
pub use settings::Settings;

use crate::admin::Admin;
use crate::client::{self, Request};
use crate::metrics::Metrics;
use crate::net;
use crate::origin::Origin;
use crate::process::Process;
use crate::tool;

/// Time for a process to become ready; far more than it needs.
const START: Duration = Duration::from_secs(20);

/// Time for a change at the control plane to reach the edge.
const SPREAD: Duration = Duration::from_secs(10);

/// One node.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    settings: Settings,
    http: SocketAddr,
    status: SocketAddr,
    api: SocketAddr,
    public: SocketAddr,
    edge: Option<Process>,
    control: Option<Process>,
}

impl Lab {
    /// Both processes with `shards` shards and defaults that suit tests.
    pub fn start(shards: u32) -> Self {
        Settings::new(shards).start()
    }

    fn with(settings: Settings) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("shoal-tests-{}-{nth}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        let ip = settings.listen_ip().unwrap_or_else(net::own_address);
        let local = net::own_address();
        let mut lab = Self {
            http: net::free_port(ip),
            status: net::free_port(local),
            api: net::free_port(local),
            public: net::free_port(local),
            dir,
            settings,
            edge: None,
            control: None,
        };
        lab.write_configs();
        lab.start_control();
        lab.start_edge();
        lab
    }

    fn write_configs(&self) {
        let edge = self.settings.edge_toml(&self.dir, self.http, self.status);
        fs::write(self.dir.join("dataplane.toml"), edge).expect("the lab's own folder is writable");
        let control = self.settings.control_toml(&self.dir, self.api, self.public);
        fs::write(self.dir.join("control.toml"), control).expect("the lab's own folder is writable");
    }

    /// The command line of the data plane, not started.
    pub fn edge_command(&self) -> Command {
        let mut command = Command::new(binary("shoal-dataplane"));
        command.arg("--config").arg(self.dir.join("dataplane.toml"));
        command
    }

    /// The command line of the control plane, not started.
    pub fn control_command(&self) -> Command {
        let mut command = Command::new(binary("shoal-control"));
        command.arg("--config").arg(self.dir.join("control.toml"));
        command
    }

    /// Starts the data plane and waits until it is ready.
    pub fn start_edge(&mut self) {
        let mut edge = Process::start("shoal-dataplane", &mut self.edge_command(), &self.dir.join("dataplane.log"));
        await_ready(&mut edge, self.status);
        self.edge = Some(edge);
    }

    /// Starts the control plane and waits until it is ready.
    pub fn start_control(&mut self) {
        let mut control = Process::start("shoal-control", &mut self.control_command(), &self.dir.join("control.log"));
        await_ready(&mut control, self.api);
        self.control = Some(control);
    }

    /// SIGKILL to the data plane.
    pub fn kill_edge(&mut self) {
        self.edge.take().expect("the data plane runs").kill();
    }

    /// SIGKILL to the control plane.
    pub fn kill_control(&mut self) {
        self.control.take().expect("the control plane runs").kill();
    }

    /// The data plane's process.
    pub fn edge(&mut self) -> &mut Process {
        self.edge.as_mut().expect("the data plane runs")
    }

    /// The control plane's process.
    pub fn control(&mut self) -> &mut Process {
        self.control.as_mut().expect("the control plane runs")
    }

    /// Where viewers connect.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where /metrics and /readyz of the data plane are.
    pub fn status(&self) -> SocketAddr {
        self.status
    }

    /// Where conf, tracker and reports are.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where the admin API is.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// The folder of this node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The URL of a path at the edge.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The admin API, with its token.
    pub fn admin(&self) -> Admin {
        Admin::new(self.api, &self.dir.join("token"))
    }

    /// Runs shoalctl with the node's token: its exit code, and all it said.
    pub fn shoalctl(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(binary("shoalctl"));
        command.env("SHOAL_API", format!("http://{}", self.api())).env("SHOAL_TOKEN_FILE", self.dir().join("token"));
        let output = tool::run(command.args(args));
        let said = tool::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
        println!("shoalctl {args:?}: {:?}\n{said}", output.status.code());
        (output.status.code(), said)
    }

    /// Creates or replaces a channel, and waits until the edge serves it so.
    pub fn put_channel(&self, channel: &Value) {
        self.change(|| self.admin().put_channel(channel));
    }

    /// Makes a change at the control plane, and waits until the edge serves by it.
    pub fn change<R>(&self, make: impl FnOnce() -> R) -> R {
        let before = self.snapshot_version();
        let made = make();
        until("the change reaches the edge", SPREAD, || {
            let newest = self.control_metrics().sum("shoal_control_snapshot_version", &[]);
            let served = self.snapshot_version();
            served > before && served >= newest
        });
        made
    }

    /// A channel `id` at `/id/` over these origins, tried in this order.
    pub fn channel(&self, id: &str, origins: &[&Origin]) {
        self.put_channel(&channel(id, origins));
    }

    /// Version of the snapshot that the edge serves.
    pub fn snapshot_version(&self) -> f64 {
        self.metrics().sum("shoal_snapshot_version", &[])
    }

    /// The data plane's metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&client::expect(self.status, &Request::get("/metrics")).text())
    }

    /// The control plane's metrics now.
    pub fn control_metrics(&self) -> Metrics {
        Metrics::parse(&client::expect(self.api, &Request::get("/metrics")).text())
    }

    /// Prints how many requests were handed from one shard to another, and returns it.
    pub fn report_handovers(&self, test: &str) -> f64 {
        let handovers = self.metrics().sum("shoal_mesh_handovers_total", &[("kind", "lookup")]);
        println!("{test}: {} shards, {handovers} hand-overs", self.settings.shards());
        handovers
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The processes first, so that nothing is written any more.
        drop(self.edge.take());
        drop(self.control.take());
        if thread::panicking() {
            println!("the folder of the failed node is {}", self.dir.display());
        } else {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}

/// Makes two tests of each function: with one shard, and with four on two CPUs.
#[macro_export]
macro_rules! with_one_and_four_shards {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn one_shard() {
                super::$name(1);
            }

            #[test]
            fn four_shards() {
                super::$name(4);
            }
        })*
    };
}

/// A channel `id` at `/id/` over these origins, tried in this order.
pub fn channel(id: &str, origins: &[&Origin]) -> Value {
    let origins: Vec<Value> = origins
        .iter()
        .enumerate()
        .map(|(order, origin)| json!({"id": format!("o{order}"), "url": origin.url(), "order": order}))
        .collect();
    json!({"id": id, "prefix": format!("/{id}/"), "origins": origins})
}

/// Waits until `condition` holds; panics when it does not `within` this time.
pub fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn await_ready(process: &mut Process, at: SocketAddr) {
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = process.poll() {
            panic!("ended with {status} before it was ready:\n{}", process.output());
        }
        if client::ask(at, &Request::get("/readyz")).is_ok_and(|answer| answer.status() == 200) {
            return;
        }
        assert!(Instant::now() < deadline, "not ready within {START:?}:\n{}", process.output());
        thread::sleep(Duration::from_millis(20));
    }
}
