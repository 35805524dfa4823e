//! The configuration file as it is written. [`Config::validate`](crate::settings) turns it into [`crate::settings::Settings`],
//! exactly once; nothing else in the program reads these types. The doc comments are the sample file's comments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that can be set. Every key has a default, so an empty file, or none, is a working configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is, and where it keeps what must survive a restart.
    pub node: Node,
    /// How the work is spread over the CPUs.
    pub shards: Shards,
    /// Where viewers are served, and the limits that keep one of them from hurting the others.
    pub http: Http,
    /// Serving viewers over TLS.
    pub tls: Tls,
    /// The RAM tier.
    pub cache: Cache,
    /// The disk tier, behind the RAM tier: what is read again and again survives eviction and restarts.
    pub disk: Disk,
    /// How origins are asked.
    pub upstream: Upstream,
    /// What is served over UDP: STUN, and with it the type of a viewer's NAT.
    pub udp: Udp,
    /// The relay for those who cannot reach each other otherwise (TURN, RFC 8656), on the ports of `udp`. Whose users may use it,
    /// and to whom they may send, comes from the control plane with the tenants.
    pub turn: Turn,
    /// What is dropped or answered before it reaches a socket, by a program in the network driver (XDP).
    pub xdp: Xdp,
    /// Metrics and health, for operators.
    pub admin: Admin,
    /// The control plane.
    pub link: Link,
    /// What the process says.
    pub log: Log,
}

/// Section `node`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Name of this node at the control plane: it must be stable and unique, for the usage ledger is counted by it.
    /// 1 to 64 of `a-z 0-9 - _ .`. Empty: the host name.
    pub name: String,
    /// Folder for the last good snapshot and for usage that the control plane has not acknowledged yet. It may grow to
    /// 256 MiB while the control plane is away. Empty: the folder systemd gives (`STATE_DIRECTORY`), else
    /// `/var/lib/shoal/dataplane`.
    pub state_dir: String,
    /// Base URL at which viewers reach this node, such as `http://edge1.example.com:8080`; told to the control plane,
    /// which builds signed URLs on it. Empty: unknown.
    pub public_url: String,
    /// Where this node stands: free text, such as `DE-BE` (ISO 3166-2), at most 64 bytes; told to the control plane, which sends viewers
    /// of the same region here first. Empty: unknown.
    pub region: String,
}

/// Section `shards`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shards {
    /// Number of shards, each a thread with memory and sockets of its own. 0: one for each CPU of `cpus`.
    pub count: usize,
    /// CPUs to pin shards to, used in turn and again from the start when there are more shards. Empty: all that this
    /// process may run on.
    pub cpus: Vec<usize>,
    /// Microseconds after which a busy shard looks at timers, DNS answers and disk reads between requests. Lower is
    /// smoother, higher is faster.
    pub reactor_us: u64,
}

/// Section `http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Addresses (`address:port`) to serve viewers on. `[::]` takes IPv6 only, so IPv4 needs `0.0.0.0` beside it. Port 0
    /// lets the system choose. Ignored when systemd hands over sockets.
    pub listen: Vec<String>,
    /// Expect a PROXY protocol version 2 header first on every connection, and refuse those without. Only behind a load
    /// balancer that sends it: whoever can connect can claim any address.
    pub proxy_protocol: bool,
    /// Networks (CIDR) of proxies whose X-Forwarded-For is believed. Empty: nobody's.
    pub trusted_proxies: Vec<String>,
    /// Networks (CIDR) of shoal nodes that have this one as a parent. They have checked their viewers: no ticket, Referer,
    /// User-Agent or address is asked of them, and what they get is counted as theirs, not as viewers'.
    pub children: Vec<String>,
    /// Bytes of a request head, request line included; more is 431.
    pub head_bytes: usize,
    /// Header fields of a request; more is 431.
    pub headers: usize,
    /// Bytes of a request line; more is 414.
    pub request_line_bytes: usize,
    /// Milliseconds from a head's first byte to its last; longer is 408. Stops clients that trickle headers.
    pub head_timeout_ms: u64,
    /// Milliseconds a connection may rest between two requests, or before its first.
    pub idle_timeout_ms: u64,
    /// Bytes per second, averaged over ten, below which a viewer who keeps a response waiting is cut off, because its
    /// blocks are held in RAM that long. 0: never.
    pub min_send_bytes_per_s: u64,
    /// Open connections of one shard; more are closed at once.
    pub connections_per_shard: usize,
    /// Open connections of one client address (IPv6: one /64) on all shards together; more are answered 429 and closed.
    /// 0: no limit.
    /// Generous, for thousands of viewers may share one address.
    pub connections_per_address: usize,
    /// Ranges in one request; more are answered 416 (RFC 9110 sections 14.2 and 15.5.17).
    pub ranges_per_request: usize,
    /// Blocks of at least so many bytes that come from an origin go to viewers by sendfile, without a copy but page by page; others
    /// are copied from huge pages, which is the better way up to some 512 KiB. Where the network device takes packets far beyond
    /// 64 KiB (`gso_max_size`) it is for all: then give more than `cache.block_bytes`, such as 4194304. From 65536 on.
    pub sendfile_min_bytes: usize,
    /// Milliseconds that transfers may take to finish after SIGTERM or a drain command, before they are cut.
    pub drain_ms: u64,
}

/// Section `tls`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Addresses (`address:port`) to serve viewers on by TLS, with the limits of section `http`. A socket that systemd hands
    /// over speaks TLS when its port is one of these. Empty: no TLS.
    pub listen: Vec<String>,
    /// Certificates and their keys, as in `[{ certificate = "chain.pem", key = "key.pem" }]`; which one is used follows from
    /// the names in it, wildcards included. The first is for clients that ask for no name, or for one that none has. The
    /// files are read again when they change; what cannot be used then is reported, and the old one stays. `turn.tcp` uses them
    /// too.
    pub certificates: Vec<CertificateFiles>,
    /// Oldest version of TLS to accept: `1.2` or `1.3`.
    pub min_version: TlsVersion,
}

/// One of `tls.certificates`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// File (PEM) of the certificate and of those that lead from it to a root: the server's own first.
    pub certificate: String,
    /// File (PEM) of its private key; nobody but the user that runs shoal-dataplane should be able to read it.
    pub key: String,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Section `cache`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Bytes of the RAM tier, all shards together; at least 16 blocks for each shard. Leave room for the kernel's
    /// socket buffers: two thirds of a machine that does nothing else is a good start.
    pub ram_bytes: u64,
    /// Bytes of a block, the unit of fetching and evicting: a power of two from 64 KiB to 2 MiB. Smaller wastes less on
    /// short objects, larger costs less per byte.
    pub block_bytes: u64,
    /// Percent of `ram_bytes` that may be pinned by shards sending other shards' hot blocks (the front index), 0 to 50.
    pub front_percent: u8,
}

/// Section `disk`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Devices: `{ path = "/var/cache/shoal", bytes = 100000000000 }` each, a folder on a file system of its own (with
    /// direct I/O and preallocation, such as ext4 and XFS), and the bytes that shoal may take there: it takes them at
    /// once, in one file for each shard. A device that fails is left out until it works again. Empty: no disk tier.
    pub paths: Vec<DiskPath>,
    /// Uses of a block before it is written, 1 to 3. 1 writes everything once, also what nobody will ask for again; 2
    /// spares the disk.
    pub admit_uses: u8,
    /// Bytes per second written, all devices together. What is beyond that is not kept, rather than slowing reads down.
    pub write_bytes_per_s: u64,
    /// Milliseconds that a read may take before the origin is asked instead.
    pub read_timeout_ms: u64,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskPath {
    /// Folder, absolute.
    pub path: String,
    /// Bytes to take there, all shards together.
    pub bytes: u64,
}

/// Section `upstream`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// Milliseconds to connect to an origin, its TLS handshake included, before the next one is tried.
    pub connect_timeout_ms: u64,
    /// Milliseconds to wait for a response head, and between two reads of a body, before the next origin is tried.
    pub response_timeout_ms: u64,
    /// Connections to one origin, from each shard; further fetches wait for one.
    pub connections_per_origin: usize,
    /// Further attempts for one fetch after the first, on the next origins or on the same one.
    pub retries: u32,
    /// Blocks fetched ahead of a viewer who reads on.
    pub readahead_blocks: usize,
    /// File (PEM) of the authorities whose certificates `https://` origins may have, instead of those that this system
    /// trusts. Empty: the system's.
    pub roots: String,
    /// Shoal nodes to ask before the origins, each for its share of the objects. They must serve the same channels and
    /// have this node's address in `http.children`.
    pub parents: Vec<Parent>,
}

/// An entry of `upstream.parents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Name or address, with a port if it is not 80: `parent1.example.com:8080`.
    pub address: String,
    /// Share of the objects, beside the other parents.
    #[serde(default = "one")]
    pub weight: u16,
}

fn one() -> u16 {
    1
}

/// Section `udp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Udp {
    /// Addresses of this machine at which viewers reach it by UDP, such as `["192.0.2.1", "192.0.2.2", "2001:db8::1"]`. Two of a
    /// family, with `alternate_port`, let clients find the type of their NAT (RFC 5780, RFC 3489). Wildcards cannot be served: an
    /// answer must come from the address that was asked. Empty: no UDP.
    pub addresses: Vec<String>,
    /// Port on each of them.
    pub port: u16,
    /// Second port on each of them, for the type of a NAT. 0: none.
    pub alternate_port: u16,
    /// Binding requests that one shard answers one client address (IPv6: one /64) in a second; so many may come at once. What is
    /// beyond it is dropped. Thousands of viewers may share an address. 0: no limit.
    pub bindings_per_address: u32,
    /// Trains of datagrams that one shard can have taken from the kernel and not yet handled, 66 KiB of address space each, beside
    /// single ones: a power of two from 16 to 4096.
    pub receive_buffers: u16,
    /// A node with one address cannot tell clients the type of their NAT, but two of them can, when each sends for the other. Address
    /// and port at which the other node listens for that (its `partner_listen`), such as `192.0.2.7:3477`. Both need the same `port`
    /// and `alternate_port`, and different addresses. Empty: there is no partner.
    pub partner: String,
    /// Address and port at which this node listens for its partner.
    pub partner_listen: String,
    /// File with the key of that link, the same on both nodes: a line `NUMBER HEX` with a number from 0 to 255 and 64 hexadecimal
    /// digits (`openssl rand -hex 32`). The first line signs, those of further lines are accepted, so that keys can be changed.
    pub partner_key_file: String,
    /// Bytes that may wait in the kernel for each socket of a shard, in each direction. What is beyond it is dropped, newest
    /// first. The kernel grants no more than `net.core.rmem_max` and `net.core.wmem_max`.
    pub socket_bytes: usize,
    /// Have each client's datagrams come to the shard that owns the flow, by a program of eBPF. It takes CAP_BPF and CAP_NET_ADMIN, or, with
    /// `xdp.interfaces`, that `shoal-xdp` has pinned the program; else the kernel chooses a shard for each flow by itself.
    pub steer: bool,
}

/// Section `turn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// Addresses of this machine to relay from, one of a family at most, such as `["192.0.2.1", "2001:db8::1"]`. Behind a one-to-one
    /// NAT write both, the machine's and the public one: `["10.0.0.1/192.0.2.1"]`. Empty: nothing is relayed.
    pub relay_addresses: Vec<String>,
    /// First and last of the ports to relay from, each for one allocation, divided among the shards. Keep firewalls open for them.
    pub ports: String,
    /// Realm of credentials (RFC 8489 section 9.2), at most 64 bytes.
    pub realm: String,
    /// Allocations of one shard at once; beyond it clients are told that capacity is insufficient (508). From 1 to 1048576.
    pub allocations: usize,
    /// Allocations of one client address (IPv6: one /64) at once, on all shards; beyond it 486. Thousands of viewers may share an
    /// address. 0: no limit.
    pub allocations_per_address: u32,
    /// Addresses that one allocation may have permissions for; beyond it 508.
    pub permissions: usize,
    /// Channels of one allocation; beyond it 508.
    pub channels: usize,
    /// Seconds that an allocation lasts if its client asks for no more.
    pub lifetime_s: u32,
    /// Seconds that a client gets at most.
    pub max_lifetime_s: u32,
    /// Requests without good credentials that one shard answers one client address in a second; so many may come at once. Each
    /// client's first request is one. 0: no limit.
    pub refusals_per_address: u32,
    /// Bytes that may wait in the kernel for each allocation's socket, in each direction; see `udp.socket_bytes`.
    pub socket_bytes: usize,
    /// Serve clients whose network lets no UDP through by TCP as well, and by TLS if there are `tls.certificates`: on `udp.addresses`
    /// at `udp.port`, which tells TCP and TLS apart by itself. Only there a reserved port (RESERVATION-TOKEN) may be out of reach, when
    /// another shard has it: the client is told 508, and allocates another.
    pub tcp: bool,
    /// Ports for that beside `udp.port`, such as `[443, 5349]`: some firewalls leave nothing open but 443, and 5349 is where clients
    /// expect TURN by TLS.
    pub tcp_ports: Vec<u16>,
    /// Open connections of one shard by TCP and TLS; more are closed at once.
    pub connections: usize,
    /// Open connections of one client address (IPv6: one /64), on all shards together; more are closed at once. 0: no limit.
    pub connections_per_address: u32,
}

/// Section `xdp`. It takes `shoal-xdp load` before, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; without either, or where the kernel or the
/// driver cannot, all is done in user space, and the log says why. Only what comes to the ports of `udp` and `turn` is touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Xdp {
    /// Network interfaces by which viewers come, such as `["eth0"]`. Empty: no XDP.
    pub interfaces: Vec<String>,
    /// Folder of a bpf file system, this node's alone, where program and maps are while nobody runs: packets are filtered and answered also
    /// while the data plane restarts. Empty: all ends with the process, which then has to load it.
    pub pins: String,
    /// Leave the program where it is also when the data plane is stopped in order; `shoal-xdp unload` removes it.
    pub keep: bool,
    /// Tell of every so-many-th packet dropped on a CPU, for `shoalctl drops`. 0: of none.
    pub sample_every: u32,
    /// Answer plain Binding requests there, up to `udp.bindings_per_address` of an address in a second: before the host's firewall sees them.
    /// Not with `udp.partner`.
    pub answer: bool,
    /// TURN channels whose data is relayed there, of all shards: what is bound beyond that is relayed in user space. Takes about 250 bytes of
    /// the kernel's memory for each, and 32 for each of its CPUs. The host must forward (sysctl `net.ipv4.conf.eth0.forwarding` or
    /// `net.ipv6.conf.all.forwarding` is 1): else the kernel tells no next hops there, and user space relays. 0: none.
    pub channels: u32,
    /// Drop fragments for our ports: nothing that is spoken here needs them but datagrams that are longer than a packet.
    pub drop_fragments: bool,
    /// Packets in a second that come through of one client address (IPv6: one /64); so many may come at once. What is beyond it is dropped.
    /// Thousands of viewers may share an address. 0: no limit.
    pub packets_per_address: u32,
    /// The same for a client's network, an IPv4 /24 or an IPv6 /48. 0: no limit.
    pub packets_per_network: u32,
    /// There is an attack when so many packets in a second come, on one CPU, from addresses that have not proven lately that they are nobody's
    /// forgery, by a login or a registration. 0: never.
    pub attack_packets: u32,
    /// Packets in a second that come through, while there is an attack, of one such address; an eighth of them at once.
    pub packets_per_new_address: u32,
    /// Send packets on to the CPU of the shard that owns them, where they come in by another: for network cards whose queues are not spread
    /// over the shards' CPUs. The card's check of their checksums is lost by that, and made again. It takes `udp.steer`, and does
    /// not go with `xdp.sockets`.
    pub steer_cpus: bool,
    /// Take what comes by these interfaces for `udp` and `turn`, and answer it, by whole frames (AF_XDP), past the host's network stack, so
    /// that its firewall does not see them. `off`; `copy`, which works with every driver; `zero-copy`, which few drivers can, and which is
    /// untested: there was no such device. It takes CAP_NET_RAW as well, and 8 MiB of locked memory for each receive queue
    /// (LimitMEMLOCK=). What is not plain, such as fragments, goes by ordinary sockets, and so does everything where this cannot be.
    pub sockets: XdpSockets,
}

/// How UDP gets to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpSockets {
    /// By ordinary sockets.
    #[default]
    Off,
    /// By AF_XDP; the kernel copies frames.
    Copy,
    /// By AF_XDP; the device shares memory with the process. Untested.
    ZeroCopy,
}

/// Section `admin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address (`address:port`) of /metrics, /healthz, /readyz, /status, /xdp and /xdp/drops. They need no password: keep it off public
    /// networks.
    pub listen: String,
}

/// Section `link`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Control planes, tried in turn: `unix:/path/to/socket`. Empty: none, the node serves its last snapshot for ever.
    pub control: Vec<String>,
    /// Milliseconds before the first new attempt when all of them failed; doubles up to 16 times that, with jitter.
    pub retry_ms: u64,
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,shoal_dataplane::link=debug`.
    pub level: String,
    /// `text` for people, `json` (an object a line) for collectors.
    pub format: LogFormat,
    /// File for one JSON line per request; SIGHUP opens it anew after a rotation. Lines are dropped, and counted, rather
    /// than ever holding up a viewer. Empty: no access log.
    pub access_log: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

impl Default for Shards {
    fn default() -> Self {
        Self { count: 0, cpus: Vec::new(), reactor_us: 500 }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: vec!["0.0.0.0:8080".to_owned(), "[::]:8080".to_owned()],
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            children: Vec::new(),
            head_bytes: 16 << 10,
            headers: 100,
            request_line_bytes: 8 << 10,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            min_send_bytes_per_s: 1_000,
            connections_per_shard: 16_384,
            connections_per_address: 1_024,
            ranges_per_request: 16,
            sendfile_min_bytes: 1 << 20,
            drain_ms: 30_000,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { ram_bytes: 512 << 20, block_bytes: 1 << 20, front_percent: 20 }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self { paths: Vec::new(), admit_uses: 2, write_bytes_per_s: 100 << 20, read_timeout_ms: 500 }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 2_000,
            response_timeout_ms: 5_000,
            connections_per_origin: 64,
            retries: 3,
            readahead_blocks: 2,
            roots: String::new(),
            parents: Vec::new(),
        }
    }
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            port: 3478,
            alternate_port: 3479,
            bindings_per_address: 1_000,
            receive_buffers: 256,
            partner: String::new(),
            partner_listen: String::new(),
            partner_key_file: String::new(),
            socket_bytes: 4 << 20,
            steer: true,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            relay_addresses: Vec::new(),
            ports: "49152-65535".to_owned(),
            realm: "shoal".to_owned(),
            allocations: 16_384,
            allocations_per_address: 4_096,
            permissions: 32,
            channels: 16,
            lifetime_s: 600,
            max_lifetime_s: 3_600,
            refusals_per_address: 1_000,
            socket_bytes: 1 << 20,
            tcp: true,
            tcp_ports: Vec::new(),
            connections: 16_384,
            connections_per_address: 4_096,
        }
    }
}

impl Default for Xdp {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            pins: "/sys/fs/bpf/shoal".to_owned(),
            keep: false,
            sample_every: 64,
            answer: true,
            channels: shoal_probes::maps::CHANNELS,
            drop_fragments: false,
            packets_per_address: 0,
            packets_per_network: 0,
            attack_packets: 100_000,
            packets_per_new_address: 50,
            steer_cpus: false,
            sockets: XdpSockets::Off,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned() }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self { control: vec!["unix:/run/shoal/control.sock".to_owned()], retry_ms: 250 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, access_log: String::new() }
    }
}
