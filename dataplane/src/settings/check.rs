//! From [`Config`] to [`Settings`]: one function per section, every problem collected.

mod partner;
mod turn;
mod xdp;

pub(crate) use turn::ports_of_shard;
pub use xdp::place as xdp_place;

use std::fmt::Display;
use std::time::Duration;

use super::*;
use crate::config;
use crate::routes::host_and_port;

/// Folder of a node that is told no other.
const DEFAULT_STATE_DIR: &str = "/var/lib/shoal/dataplane";
/// Longest of any time-out: a day. More is a unit mistaken for another.
const MAX_TIMEOUT_MS: u64 = 86_400_000;
/// Bytes of a region's name.
const MAX_REGION: usize = 64;
/// A Unix socket's path must fit `sockaddr_un` with its closing NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Collects what is wrong.
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, key: &str, value: impl Display, problem: impl Display) {
        self.0.push(format!("{key} = {value}: {problem}"));
    }

    /// `value` when it is within `range`; else notes the problem and returns it all the same.
    fn within<T: Copy + PartialOrd + Display>(&mut self, key: &str, value: T, least: T, most: T, unit: &str) -> T {
        if value < least || value > most {
            self.add(key, value, format_args!("must be from {least} to {most} {unit}"));
        }
        value
    }

    fn timeout(&mut self, key: &str, milliseconds: u64) -> Duration {
        Duration::from_millis(self.within(key, milliseconds, 1, MAX_TIMEOUT_MS, "milliseconds"))
    }

    fn parse<T: std::str::FromStr>(&mut self, key: &str, text: &str, remedy: &str) -> Option<T>
    where
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(key, format_args!("{text:?}"), format_args!("{error}; {remedy}"));
                None
            }
        }
    }
}

pub(super) fn settings(config: &Config, machine: &Machine) -> Result<Settings, ConfigError> {
    let mut problems = Problems(Vec::new());
    let node = node(&config.node, machine, &mut problems);
    let shards = shards(&config.shards, machine, &mut problems);
    let http = http(&config.http, config.tls.listen.is_empty(), &mut problems);
    let tls = tls(&config.tls, &http, &mut problems);
    let cache = cache(&config.cache, shards.cpus.len() as u64, machine, &mut problems);
    let disk = disk(&config.disk, shards.cpus.len() as u64, &mut problems);
    let upstream = upstream(&config.upstream, &mut problems);
    let udp = udp(&config.udp, &mut problems);
    let admin = admin(&config.admin, &http, &tls, &mut problems);
    let admins = admin.as_ref().map(|admin| admin.listen);
    let taken = [("http.listen", &http.listen[..]), ("tls.listen", &tls.listen), ("admin.listen", admins.as_slice())];
    let turn = turn::settings(&config.turn, &udp, shards.cpus.len(), &taken, &mut problems);
    let xdp = xdp::settings(&config.xdp, &udp, &mut problems);
    let link = link(&config.link, &mut problems);
    let log = log(&config.log, &mut problems);
    match admin {
        Some(admin) if problems.0.is_empty() => {
            Ok(Settings { node, shards, http, tls, cache, disk, upstream, udp, turn, xdp, admin, link, log })
        }
        _ => Err(ConfigError { problems: problems.0 }),
    }
}

fn node(raw: &config::Node, machine: &Machine, problems: &mut Problems) -> NodeSettings {
    let given = !raw.name.is_empty();
    // A host name is not ours to refuse: what the alphabet lacks becomes a hyphen.
    let name = if given { raw.name.clone() } else { fold_name(&machine.host) };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if given && (name.len() > 64 || !name.chars().all(allowed)) {
        problems.add("node.name", format_args!("{name:?}"), "must be 1 to 64 of a-z 0-9 - _ .");
    }
    let state_dir = match (raw.state_dir.as_str(), &machine.state_directory) {
        ("", Some(folder)) => folder.clone(),
        ("", None) => PathBuf::from(DEFAULT_STATE_DIR),
        (folder, _) => PathBuf::from(folder),
    };
    if !state_dir.is_absolute() {
        let value = format_args!("{:?}", state_dir.display().to_string()).to_string();
        problems.add("node.state_dir", value, "must be an absolute path, starting with /");
    } else if let Err(reason) = can_create_files(&state_dir) {
        problems.add("node.state_dir", format_args!("{:?}", state_dir.display().to_string()), reason);
    }
    let url = raw.public_url.trim_end_matches('/');
    if !(url.is_empty() || shoal_config::is_base_url(url)) {
        let remedy = "must be http:// or https:// with a host, and no query, such as http://edge1.example.com:8080";
        problems.add("node.public_url", format_args!("{:?}", raw.public_url), remedy);
    }
    let region = raw.region.trim();
    if region.len() > MAX_REGION || region.chars().any(char::is_control) {
        let problem = format_args!("must be text of at most {MAX_REGION} bytes, such as DE-BE");
        problems.add("node.region", format_args!("{:?}", raw.region), problem);
    }
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    NodeSettings { name, state_dir, public_url: text(url), region: text(region) }
}

fn fold_name(host: &str) -> String {
    let name: String = host
        .chars()
        .take(64)
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Whether files can be made in `folder`, or in the nearest one above that exists. Changes nothing on disk.
fn can_create_files(folder: &Path) -> Result<(), String> {
    use rustix::fs::Access;
    let remedy = "choose another folder, or create it and give it to this user (`install -d -o USER FOLDER`)";
    for above in folder.ancestors() {
        match std::fs::metadata(above) {
            Ok(meta) if !meta.is_dir() => return Err(format!("{} is not a folder; {remedy}", above.display())),
            Ok(_) => {
                return rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
                    let error = std::io::Error::from(error);
                    format!("this user cannot write to {}: {error}; {remedy}", above.display())
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot look at {}: {error}; {remedy}", above.display())),
        }
    }
    Err(format!("no folder above it exists; {remedy}"))
}

fn shards(raw: &config::Shards, machine: &Machine, problems: &mut Problems) -> ShardSettings {
    for cpu in &raw.cpus {
        if !machine.cpus.contains(cpu) {
            let have = format_args!("this process may run on CPUs {}", ranges(&machine.cpus)).to_string();
            problems.add("shards.cpus", cpu, format_args!("there is no such CPU; {have}"));
        }
    }
    let cpus = if raw.cpus.is_empty() { &machine.cpus } else { &raw.cpus };
    let count = if raw.count == 0 { cpus.len().min(MAX_SHARDS) } else { raw.count };
    problems.within("shards.count", count, 1, MAX_SHARDS, "shards");
    let reactor_interval =
        Duration::from_micros(problems.within("shards.reactor_us", raw.reactor_us, 50, 100_000, "microseconds"));
    ShardSettings { cpus: cpus.iter().copied().cycle().take(count.min(MAX_SHARDS)).collect(), reactor_interval }
}

/// `0-3,8` for `[0, 1, 2, 3, 8]`.
fn ranges(sorted: &[usize]) -> String {
    let parts = sorted.chunk_by(|a, b| a + 1 == *b).filter_map(|run| match run {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    parts.collect::<Vec<_>>().join(",")
}

/// `alone`: nobody is served by TLS.
fn http(raw: &config::Http, alone: bool, problems: &mut Problems) -> HttpSettings {
    let listen = addresses("http.listen", &raw.listen, problems);
    if raw.listen.is_empty() && alone {
        problems.add("http.listen", "[]", "needs at least one address:port, here or in tls.listen");
    }
    let trusted_proxies = networks("http.trusted_proxies", &raw.trusted_proxies, problems);
    let children = networks("http.children", &raw.children, problems);
    let head_bytes = problems.within("http.head_bytes", raw.head_bytes, 1 << 10, 1 << 20, "bytes");
    let request_line_bytes = raw.request_line_bytes;
    if request_line_bytes < 64 || request_line_bytes > head_bytes {
        let problem = format_args!("must be from 64 to http.head_bytes ({head_bytes}), which includes it").to_string();
        problems.add("http.request_line_bytes", request_line_bytes, problem);
    }
    let most = 16 << 20;
    HttpSettings {
        listen,
        proxy_protocol: raw.proxy_protocol,
        trusted_proxies,
        children,
        head_bytes,
        headers: problems.within("http.headers", raw.headers, 4, 1_000, "fields"),
        request_line_bytes,
        head_timeout: problems.timeout("http.head_timeout_ms", raw.head_timeout_ms),
        idle_timeout: problems.timeout("http.idle_timeout_ms", raw.idle_timeout_ms),
        min_send_bytes_per_s: raw.min_send_bytes_per_s,
        connections_per_shard: problems.within(
            "http.connections_per_shard",
            raw.connections_per_shard,
            1,
            most,
            "connections",
        ),
        connections_per_address: match raw.connections_per_address {
            0 => usize::MAX,
            limit => limit,
        },
        ranges_per_request: problems.within("http.ranges_per_request", raw.ranges_per_request, 1, 1_000, "ranges"),
        sendfile_min_bytes: problems.within(
            "http.sendfile_min_bytes",
            raw.sendfile_min_bytes,
            64 << 10,
            1 << 30,
            "bytes",
        ),
        drain: Duration::from_millis(problems.within("http.drain_ms", raw.drain_ms, 0, MAX_TIMEOUT_MS, "milliseconds")),
    }
}

fn addresses(key: &str, texts: &[String], problems: &mut Problems) -> Vec<SocketAddr> {
    let remedy = "write address:port, such as 0.0.0.0:8080 or [::1]:8080";
    let mut listen: Vec<SocketAddr> = Vec::new();
    for text in texts {
        let Some(address) = problems.parse::<SocketAddr>(key, text, remedy) else { continue };
        match listen.iter().find(|other| clash(**other, address)) {
            Some(other) => problems.add(key, text, format_args!("is already taken by {other} in the same list")),
            None => listen.push(address),
        }
    }
    listen
}

fn tls(raw: &config::Tls, http: &HttpSettings, problems: &mut Problems) -> TlsSettings {
    let listen = addresses("tls.listen", &raw.listen, problems);
    for address in &listen {
        if let Some(other) = http.listen.iter().find(|other| clash(**other, *address)) {
            problems.add("tls.listen", address, format_args!("is already taken by {other} in http.listen"));
        }
    }
    if !listen.is_empty() && raw.certificates.is_empty() {
        let remedy = "tls.listen needs at least one, as in [{ certificate = \"chain.pem\", key = \"key.pem\" }]";
        problems.add("tls.certificates", "[]", remedy);
    }
    let pair = |(index, raw): (usize, &config::CertificateFiles)| {
        for (name, value) in [("certificate", &raw.certificate), ("key", &raw.key)] {
            if value.is_empty() {
                problems.add(&format!("tls.certificates[{index}].{name}"), "\"\"", "must name a file in PEM");
            }
        }
        Pair { certificate: PathBuf::from(&raw.certificate), key: PathBuf::from(&raw.key) }
    };
    let certificates = raw.certificates.iter().enumerate().map(pair).collect();
    TlsSettings { listen, certificates, min_version: raw.min_version }
}

/// Whether both cannot be bound at once. IPv6 sockets are IPv6 only, so the families never meet.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn cache(raw: &config::Cache, shards: u64, machine: &Machine, problems: &mut Problems) -> CacheSettings {
    let block = raw.block_bytes;
    if !(block.is_power_of_two() && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block)) {
        let problem =
            format_args!("must be a power of two from {MIN_BLOCK_BYTES} (64 KiB) to {MAX_BLOCK_BYTES} (2 MiB)");
        problems.add("cache.block_bytes", block, problem);
    }
    let least = shards.saturating_mul(MIN_BLOCKS_PER_SHARD).saturating_mul(block);
    if raw.ram_bytes < least {
        let problem = format_args!(
            "{shards} shards with {MIN_BLOCKS_PER_SHARD} blocks of {block} bytes each need at least {least}; \
             raise it, or lower shards.count or cache.block_bytes"
        )
        .to_string();
        problems.add("cache.ram_bytes", raw.ram_bytes, problem);
    } else if raw.ram_bytes > machine.memory {
        let problem = format_args!("this machine has {} bytes of memory", machine.memory).to_string();
        problems.add("cache.ram_bytes", raw.ram_bytes, problem);
    }
    CacheSettings {
        ram_bytes: raw.ram_bytes,
        block_bytes: block,
        front_percent: problems.within("cache.front_percent", raw.front_percent, 0, 50, "percent"),
    }
}

/// Networks; a plain address is one.
fn networks(key: &str, list: &[String], problems: &mut Problems) -> Vec<IpNet> {
    let remedy = "write a network such as 10.0.0.0/8 or fd00::/8";
    let network = |text: &String| match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => problems.parse::<IpNet>(key, text, remedy),
    };
    list.iter().filter_map(network).collect()
}

/// Parents at most.
const MAX_PARENTS: usize = 64;

fn parents(list: &[config::Parent], problems: &mut Problems) -> Vec<ParentSettings> {
    if list.len() > MAX_PARENTS {
        problems.add("upstream.parents", list.len(), format_args!("give at most {MAX_PARENTS}"));
        return Vec::new();
    }
    let mut parents: Vec<ParentSettings> = Vec::new();
    for (at, config::Parent { address, weight }) in list.iter().enumerate() {
        let key = format!("upstream.parents[{at}]");
        let Some((host, port)) = host_and_port(address) else {
            let problem = "is no host; write a name or address, with a port if it is not 80, as in parent1:8080";
            problems.add(&format!("{key}.address"), format_args!("{address:?}"), problem);
            continue;
        };
        if *weight == 0 {
            problems.add(&format!("{key}.weight"), weight, "must be 1 or more; leave the parent out instead");
        }
        if parents.iter().any(|other| *other.authority == **address) {
            problems.add(&format!("{key}.address"), format_args!("{address:?}"), "is in the list twice");
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        parents.push(ParentSettings {
            id: format!("parent:{address}").into(),
            host: bare.into(),
            port: port.unwrap_or(80),
            authority: address.as_str().into(),
            weight: *weight,
        });
    }
    parents
}

fn disk(raw: &config::Disk, shards: u64, problems: &mut Problems) -> DiskSettings {
    let least = shards * shoal_disk::Geometry::MIN_BYTES;
    let mut paths: Vec<(PathBuf, u64)> = Vec::new();
    for config::DiskPath { path, bytes } in &raw.paths {
        let shown = format_args!("{path:?}").to_string();
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            problems.add("disk.paths", &shown, "must be an absolute path, starting with /");
        }
        if paths.iter().any(|(other, _)| *other == path) {
            problems.add("disk.paths", &shown, "is there twice; name each device once");
        }
        if *bytes < least {
            let problem = format_args!("{shards} shards need at least {least} bytes; raise it, or lower shards.count");
            problems.add("disk.paths", format_args!("{shown} with bytes = {bytes}"), problem);
        }
        paths.push((path, *bytes));
    }
    DiskSettings {
        paths,
        admit_uses: problems.within("disk.admit_uses", raw.admit_uses, 1, shoal_sys::arena::MAX_USES, "uses"),
        write_bytes_per_s: problems.within("disk.write_bytes_per_s", raw.write_bytes_per_s, 1 << 20, 1 << 40, "bytes"),
        read_timeout: problems.timeout("disk.read_timeout_ms", raw.read_timeout_ms),
    }
}

fn upstream(raw: &config::Upstream, problems: &mut Problems) -> UpstreamSettings {
    let connections = raw.connections_per_origin;
    UpstreamSettings {
        connect_timeout: problems.timeout("upstream.connect_timeout_ms", raw.connect_timeout_ms),
        response_timeout: problems.timeout("upstream.response_timeout_ms", raw.response_timeout_ms),
        connections_per_origin: problems.within(
            "upstream.connections_per_origin",
            connections,
            1,
            65_536,
            "connections",
        ),
        retries: problems.within("upstream.retries", raw.retries, 0, 100, "attempts"),
        readahead_blocks: problems.within("upstream.readahead_blocks", raw.readahead_blocks, 0, 64, "blocks"),
        roots: (!raw.roots.is_empty()).then(|| PathBuf::from(&raw.roots)),
        parents: parents(&raw.parents, problems),
    }
}

/// Addresses that UDP is served on, at most: each has sockets on each shard.
const MAX_UDP_ADDRESSES: usize = 16;

fn udp(raw: &config::Udp, problems: &mut Problems) -> UdpSettings {
    let key = "udp.addresses";
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in &raw.addresses {
        let remedy = "write an address without a port, such as 192.0.2.1 or 2001:db8::1";
        let Some(address) = problems.parse::<IpAddr>(key, text, remedy) else { continue };
        if address.is_unspecified() {
            problems.add(
                key,
                address,
                "an answer must come from the address that was asked; name each of the machine's",
            );
        } else if address.is_multicast() || address == IpAddr::from([255; 4]) {
            problems.add(key, address, "is no address of one machine");
        } else if addresses.contains(&address) {
            problems.add(key, address, "is in the list twice");
        }
        addresses.push(address);
    }
    if addresses.len() > MAX_UDP_ADDRESSES {
        problems.add(key, addresses.len(), format_args!("give at most {MAX_UDP_ADDRESSES}"));
    }
    if raw.port == 0 && !addresses.is_empty() {
        problems.add("udp.port", 0, "must be from 1 to 65535; 3478 is STUN's");
    }
    if raw.port == raw.alternate_port && !addresses.is_empty() {
        problems.add("udp.alternate_port", raw.alternate_port, "must differ from udp.port; 0 for none");
    }
    let buffers = raw.receive_buffers;
    if !buffers.is_power_of_two() || !(16..=4096).contains(&buffers) {
        problems.add("udp.receive_buffers", buffers, "must be a power of two from 16 to 4096");
    }
    UdpSettings {
        addresses,
        port: raw.port,
        alternate_port: (raw.alternate_port != 0).then_some(raw.alternate_port),
        bindings_per_address: raw.bindings_per_address,
        receive_buffers: buffers,
        socket_bytes: problems.within("udp.socket_bytes", raw.socket_bytes, 64 << 10, 1 << 30, "bytes"),
        steer: raw.steer,
        partner: partner::settings(raw, problems),
    }
}

fn admin(
    raw: &config::Admin,
    http: &HttpSettings,
    tls: &TlsSettings,
    problems: &mut Problems,
) -> Option<AdminSettings> {
    let listen =
        problems.parse::<SocketAddr>("admin.listen", &raw.listen, "write address:port, such as 127.0.0.1:9090")?;
    for (key, taken) in [("http.listen", &http.listen), ("tls.listen", &tls.listen)] {
        if let Some(other) = taken.iter().find(|other| clash(**other, listen)) {
            problems.add("admin.listen", listen, format_args!("is already taken by {other} in {key}"));
        }
    }
    Some(AdminSettings { listen })
}

fn link(raw: &config::Link, problems: &mut Problems) -> LinkSettings {
    let mut control = Vec::new();
    for text in &raw.control {
        match text.strip_prefix("unix:").filter(|path| path.starts_with('/') && path.len() <= MAX_SOCKET_PATH) {
            Some(path) => control.push(Endpoint::Unix(PathBuf::from(path))),
            None => {
                let problem = format_args!("must be unix: and an absolute path of at most {MAX_SOCKET_PATH} bytes");
                problems.add("link.control", format_args!("{text:?}"), problem);
            }
        }
    }
    LinkSettings {
        control,
        retry: Duration::from_millis(problems.within("link.retry_ms", raw.retry_ms, 10, 60_000, "milliseconds")),
    }
}

fn log(raw: &config::Log, problems: &mut Problems) -> LogSettings {
    let remedy = "write error, warn, info, debug or trace, or TARGET=LEVEL pairs separated by commas";
    problems.parse::<tracing_subscriber::EnvFilter>("log.level", &raw.level, remedy);
    let access_log = (!raw.access_log.is_empty()).then(|| PathBuf::from(&raw.access_log));
    if let Some(path) = &access_log {
        let folder = path.parent().filter(|_| path.is_absolute());
        if !folder.is_some_and(Path::is_dir) {
            let problem = "must be an absolute path of a file in a folder that exists";
            problems.add("log.access_log", format_args!("{:?}", raw.access_log), problem);
        }
    }
    LogSettings { level: raw.level.clone(), format: raw.format, access_log }
}
