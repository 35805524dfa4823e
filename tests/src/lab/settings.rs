//! Configuration files for a lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Lab;

/// What a node's configuration says, beyond its addresses and folders.
#[derive(Debug, Clone)]
pub struct Settings {
    shards: u32,
    edge: BTreeMap<(String, String), String>,
    listen_ip: Option<IpAddr>,
    access_log: bool,
    /// Where, if not in the node's folder, and of how many bytes.
    disks: Vec<(Option<PathBuf>, u64)>,
    /// Sections of the control plane.
    control: String,
}

impl Settings {
    /// `shards` shards on the first two CPUs, small blocks, a RAM tier that holds everything.
    pub fn new(shards: u32) -> Self {
        let settings = Self {
            shards,
            edge: BTreeMap::new(),
            listen_ip: None,
            access_log: false,
            disks: Vec::new(),
            control: String::new(),
        };
        settings
            .set("node.name", "\"lab\"")
            .set("shards.count", &shards.to_string())
            .set("shards.cpus", "[0, 1]")
            .set("cache.ram_bytes", &(64 << 20).to_string())
            .set("cache.block_bytes", &(64 << 10).to_string())
            .set("log.format", "\"text\"")
    }

    /// Sets `section.key` of the data plane to a TOML value.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let (section, key) = key.split_once('.').expect("a key is `section.key`");
        self.edge.insert((section.to_owned(), key.to_owned()), value.to_owned());
        self
    }

    /// Adds sections to the control plane's configuration, all but `[public]`.
    pub fn control(mut self, toml: &str) -> Self {
        self.control.push_str(toml);
        self
    }

    /// Listens on `ip`, such as `::1`.
    pub fn listen_on(mut self, ip: IpAddr) -> Self {
        self.listen_ip = Some(ip);
        self
    }

    /// Writes an access log, `access.log` in the node's folder.
    pub fn with_access_log(mut self) -> Self {
        self.access_log = true;
        self
    }

    /// A disk tier on devices of so many bytes: the folders `disk-0`, `disk-1` … of the node's.
    pub fn with_disks(mut self, bytes: &[u64]) -> Self {
        self.disks.extend(bytes.iter().map(|bytes| (None, *bytes)));
        self
    }

    /// One more of them, in this folder.
    pub fn with_disk_at(mut self, folder: &Path, bytes: u64) -> Self {
        self.disks.push((Some(folder.to_owned()), bytes));
        self
    }

    /// Starts the node.
    pub fn start(self) -> Lab {
        Lab::with(self)
    }

    pub(super) fn shards(&self) -> u32 {
        self.shards
    }

    pub(super) fn listen_ip(&self) -> Option<IpAddr> {
        self.listen_ip
    }

    pub(super) fn edge_toml(&self, dir: &Path, http: SocketAddr, status: SocketAddr) -> String {
        let dir = dir.display();
        let places = self
            .clone()
            .set("node.state_dir", &format!("\"{dir}/edge\""))
            .set("node.public_url", &format!("\"http://{http}\""))
            .set("http.listen", &format!("[\"{http}\"]"))
            .set("admin.listen", &format!("\"{status}\""))
            .set("link.control", &format!("[\"unix:{dir}/link.sock\"]"))
            .set("link.retry_ms", "100");
        let places = match self.access_log {
            true => places.set("log.access_log", &format!("\"{dir}/access.log\"")),
            false => places,
        };
        let disks = self.disks.iter().enumerate();
        let disks = disks.map(|(at, (folder, bytes))| {
            let folder = folder.as_ref().map_or(format!("{dir}/disk-{at}"), |folder| folder.display().to_string());
            format!("{{ path = \"{folder}\", bytes = {bytes} }}")
        });
        let disks = disks.collect::<Vec<_>>().join(", ");
        let places = if disks.is_empty() { places } else { places.set("disk.paths", &format!("[{disks}]")) };
        let mut text = String::new();
        let mut current = "";
        for ((section, key), value) in &places.edge {
            if section != current {
                text.push_str(&format!("[{section}]\n"));
                current = section;
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
        text
    }

    pub(super) fn control_toml(&self, dir: &Path, api: SocketAddr, public: SocketAddr) -> String {
        let dir = dir.display();
        format!(
            "listen = \"{api}\"\nstate_dir = \"{dir}/control\"\nlink_socket = \"{dir}/link.sock\"\n\
             token_file = \"{dir}/token\"\n\n{}\n[public]\nlisten = \"{public}\"\n",
            self.control
        )
    }
}
