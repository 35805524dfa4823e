//! The configuration as the program uses it: parsed, checked and complete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use shoal_stun::turn::{self, RelayAddress};

use crate::config::{Config, LogFormat, TlsVersion, XdpSockets};
use crate::routes::ParentSettings;
use crate::tls::certificates::Pair;

mod check;

pub(crate) use check::ports_of_shard;
pub use check::xdp_place;

/// Most shards of one process: the owner of a key is one byte in many places.
pub const MAX_SHARDS: usize = 256;
/// Fewest blocks a shard can work with: flights, front index and eviction need some to choose from.
pub const MIN_BLOCKS_PER_SHARD: u64 = 16;
/// Smallest block.
pub const MIN_BLOCK_BYTES: u64 = 64 << 10;
/// Largest block: what the arena gives out in one piece.
pub const MAX_BLOCK_BYTES: u64 = shoal_sys::arena::CHUNK as u64;

/// A key whose value cannot be used; all of one file are reported together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    /// One line each: key, value, what is wrong with it, what to do.
    pub problems: Vec<String>,
}

/// The validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who this node is.
    pub node: NodeSettings,
    /// How the work is spread.
    pub shards: ShardSettings,
    /// Serving viewers.
    pub http: HttpSettings,
    /// Serving viewers over TLS.
    pub tls: TlsSettings,
    /// The RAM tier.
    pub cache: CacheSettings,
    /// The disk tier.
    pub disk: DiskSettings,
    /// Asking origins.
    pub upstream: UpstreamSettings,
    /// STUN, and the type of a NAT.
    pub udp: UdpSettings,
    /// The relay, if there is one.
    pub turn: Option<TurnSettings>,
    /// Section `xdp`.
    pub xdp: XdpSettings,
    /// Metrics and health.
    pub admin: AdminSettings,
    /// The control plane.
    pub link: LinkSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Section `node`.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// Stable name at the control plane.
    pub name: String,
    /// Absolute folder for snapshot and spool.
    pub state_dir: PathBuf,
    /// Base URL for viewers, without a trailing slash.
    pub public_url: Option<String>,
    /// Where it stands.
    pub region: Option<String>,
}

/// Section `shards`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardSettings {
    /// The CPU of each shard: as many entries as shards, 1 to [`MAX_SHARDS`].
    pub cpus: Vec<usize>,
    /// How long a busy shard may go without a look at glommio's reactor.
    pub reactor_interval: Duration,
}

/// Section `http`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSettings {
    /// Where viewers are served without TLS. A `[::]` among them is IPv6 only.
    pub listen: Vec<SocketAddr>,
    /// Whether each connection starts with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Nodes that have this one as a parent.
    pub children: Vec<IpNet>,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Bytes of a request line; at most `head_bytes`.
    pub request_line_bytes: usize,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// Rest between requests.
    pub idle_timeout: Duration,
    /// Slowest send rate; 0: any.
    pub min_send_bytes_per_s: u64,
    /// Open connections of a shard.
    pub connections_per_shard: usize,
    /// Open connections of a client address on a shard; `usize::MAX`: no limit.
    pub connections_per_address: usize,
    /// Ranges in one request.
    pub ranges_per_request: usize,
    /// Fewest bytes of a block that goes out by sendfile.
    pub sendfile_min_bytes: usize,
    /// Time for transfers to finish when draining.
    pub drain: Duration,
}

/// Section `tls`.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsSettings {
    /// Where viewers are served by TLS; not empty when `http.listen` is.
    pub listen: Vec<SocketAddr>,
    /// Not empty when there is a listener; TURN uses them too.
    pub certificates: Vec<Pair>,
    /// Oldest version accepted.
    pub min_version: TlsVersion,
}

/// Section `cache`.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheSettings {
    /// Bytes of the RAM tier, all shards together.
    pub ram_bytes: u64,
    /// Bytes of a block; a power of two.
    pub block_bytes: u64,
    /// Percent of RAM for front indexes.
    pub front_percent: u8,
}

/// Section `disk`.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskSettings {
    /// Folders, and the bytes of each for all shards together; empty: no disk tier.
    pub paths: Vec<(PathBuf, u64)>,
    /// Uses of a block before it is written.
    pub admit_uses: u8,
    /// Bytes written in a second, all shards and devices together.
    pub write_bytes_per_s: u64,
    /// How long a read may take.
    pub read_timeout: Duration,
}

/// Section `upstream`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamSettings {
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for a response head, and between reads.
    pub response_timeout: Duration,
    /// Connections to an origin from a shard.
    pub connections_per_origin: usize,
    /// Attempts after the first.
    pub retries: u32,
    /// Blocks fetched ahead.
    pub readahead_blocks: usize,
    /// File of the authorities trusted; none: the system's.
    pub roots: Option<PathBuf>,
    /// Nodes to ask before the origins.
    pub parents: Vec<ParentSettings>,
}

/// Section `udp`.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpSettings {
    /// Specific addresses, none twice; empty: no UDP.
    pub addresses: Vec<IpAddr>,
    /// Port on each.
    pub port: u16,
    /// Second port on each.
    pub alternate_port: Option<u16>,
    /// Binding requests of a client address answered in a second by a shard; 0: any number.
    pub bindings_per_address: u32,
    /// Trains taken from the kernel and not yet handled, by a shard.
    pub receive_buffers: u16,
    /// Bytes of each socket's buffers.
    pub socket_bytes: usize,
    /// Whether flows are steered to their owners.
    pub steer: bool,
    /// The node that has the second address, if this one has none.
    pub partner: Option<PartnerSettings>,
}

/// The link between two nodes with one address each.
#[derive(Clone, PartialEq)]
pub struct PartnerSettings {
    /// Where this node listens for it.
    pub listen: SocketAddr,
    /// Where the partner does.
    pub address: SocketAddr,
    /// Keys by their number: the first one signs.
    pub keys: Vec<(u8, [u8; 32])>,
}

impl std::fmt::Debug for PartnerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartnerSettings")
            .field("listen", &self.listen)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Section `xdp`.
#[derive(Debug, Clone, PartialEq)]
pub struct XdpSettings {
    /// Names of interfaces; empty: no XDP.
    pub interfaces: Vec<String>,
    /// Where program and maps outlive the process, if they do.
    pub pins: Option<PathBuf>,
    /// Whether they are left there when it ends in order.
    pub keep: bool,
    /// Whether plain Binding requests are answered there.
    pub answer: bool,
    /// Channels of all shards that are relayed there; 0: none.
    pub channels: u32,
    /// What comes through.
    pub limits: shoal_probes::Limits,
    /// Whether packets are sent on to their owners' CPUs.
    pub steer_cpus: bool,
    /// Whether, and how, frames come to the process.
    pub sockets: XdpSockets,
}

/// Section `turn`.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnSettings {
    /// Where IPv4 is relayed from, if it is.
    pub ipv4: Option<RelayAddress<Ipv4Addr>>,
    /// Where IPv6 is relayed from, if it is.
    pub ipv6: Option<RelayAddress<Ipv6Addr>>,
    /// Relay ports of the node.
    pub ports: RangeInclusive<u16>,
    /// Realm of credentials.
    pub realm: String,
    /// Bounds of a shard.
    pub limits: turn::Limits,
    /// Allocations of a client address; 0: any number.
    pub allocations_per_address: u32,
    /// Requests of a client address without good credentials that are answered in a second by a shard; 0: any number.
    pub refusals_per_address: u32,
    /// Bytes of each relay socket's buffers.
    pub socket_bytes: usize,
    /// Ports of TURN by TCP, and by TLS if there are certificates, on each of `udp.addresses`; empty: none.
    pub tcp_ports: Vec<u16>,
    /// Open connections of a shard.
    pub connections: usize,
    /// Open connections of a client address; `u32::MAX`: any number.
    pub connections_per_address: u32,
}

/// Section `admin`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminSettings {
    /// Where metrics and health are served.
    pub listen: SocketAddr,
}

/// Section `link`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSettings {
    /// Control planes in the order they are tried; empty: none.
    pub control: Vec<Endpoint>,
    /// First back-off.
    pub retry: Duration,
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// A filter that `tracing_subscriber` has accepted.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// File of the access log, if there is one.
    pub access_log: Option<PathBuf>,
}

/// Where a control plane listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Settings {
    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.cpus.len()
    }

    /// Where TURN is served by TCP, and by TLS.
    pub fn turn_streams(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = self.turn.as_ref().map_or(&[][..], |turn| &turn.tcp_ports);
        self.udp.addresses.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)))
    }

    /// Bytes of the RAM tier that belong to one shard: whole blocks, at least [`MIN_BLOCKS_PER_SHARD`].
    pub fn ram_bytes_per_shard(&self) -> u64 {
        let share = self.cache.ram_bytes / self.shards.cpus.len().max(1) as u64;
        share - share % self.cache.block_bytes
    }
}

/// What validation needs to know of the machine; an argument so that tests can choose it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// CPUs this process may run on, ascending.
    pub cpus: Vec<usize>,
    /// Bytes of physical memory.
    pub memory: u64,
    /// Host name.
    pub host: String,
    /// `STATE_DIRECTORY` as systemd sets it.
    pub state_directory: Option<PathBuf>,
}

impl Config {
    /// Checks every value against this machine and against the others. Touches no file; finds all problems, not just the first.
    pub fn validate(&self) -> Result<Settings, ConfigError> {
        self.validate_on(&Machine::this())
    }

    /// [`Config::validate`] for a given machine.
    pub fn validate_on(&self, machine: &Machine) -> Result<Settings, ConfigError> {
        check::settings(self, machine)
    }
}

impl Machine {
    /// The one this process runs on.
    pub fn this() -> Self {
        let cpus = rustix::thread::sched_getaffinity(None)
            .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
            .unwrap_or_else(|_| vec![0]);
        let info = rustix::system::sysinfo();
        let state_directory = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty()).map(|value| {
            // systemd separates several folders by colons; ours is the first.
            let text = value.to_string_lossy().into_owned();
            PathBuf::from(text.split(':').next().unwrap_or(&text))
        });
        Self {
            cpus,
            memory: info.totalram as u64 * u64::from(info.mem_unit),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            state_directory,
        }
    }
}

#[cfg(test)]
mod tests;
