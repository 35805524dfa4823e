//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use shoal_control::access::Role;

/// Operate shoal: channels, keys, signed URLs, tenants, peers, caches, nodes, usage.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 refused (or a node did not do it), 2 wrong arguments or input, 3 no answer."
)]
pub(crate) struct Arguments {
    /// Where the control plane's admin API is.
    #[arg(long, global = true, env = "SHOAL_API", default_value = "http://127.0.0.1:9091", value_name = "URL")]
    pub(crate) api: String,
    /// File with the operator's token.
    #[arg(
        long,
        global = true,
        env = "SHOAL_TOKEN_FILE",
        default_value = "/var/lib/shoal/control/token",
        value_name = "FILE"
    )]
    pub(crate) token_file: PathBuf,
    /// Where a node has its own pages (`admin.listen`), for `xdp` and `drops`.
    #[arg(long, global = true, env = "SHOAL_NODE_API", default_value = "http://127.0.0.1:9090", value_name = "URL")]
    pub(crate) node_api: String,
    /// Print the API's JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Channels: what is served, from where, to whom.
    #[command(subcommand, alias = "channel")]
    Channels(Channels),
    /// Keys of a channel: what signs, what is accepted.
    #[command(subcommand, alias = "key")]
    Keys(Keys),
    /// Sign a URL for a viewer.
    Mint(Mint),
    /// Tenants: whose users may have traffic relayed, to whom, how much.
    #[command(subcommand, alias = "tenant")]
    Tenants(Tenants),
    /// Make name and password of a user of the relay (TURN).
    Turn(Turn),
    /// List the peers of a channel that are registered at nodes.
    #[command(alias = "peer")]
    Peers {
        /// Channel id.
        channel: String,
        /// This one only: its 40 hexadecimal digits.
        peer: Option<String>,
    },
    /// Have all nodes serve an address or network nothing, by HTTP or UDP.
    Block {
        /// As in 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32.
        network: String,
        /// How long, as in 90m, 24h or 7d; by default until it is taken away.
        #[arg(long = "for", value_name = "TIME", value_parser = crate::input::span)]
        seconds: Option<u64>,
        /// Why, for people.
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
        /// Loopback is meant.
        #[arg(long)]
        loopback: bool,
    },
    /// Take a block away.
    Unblock {
        /// As it was blocked.
        network: String,
    },
    /// List who is blocked.
    Blocks,
    /// Have nodes forget cached objects.
    Purge(Purge),
    /// Have nodes fetch objects into their caches, in the background.
    Prefetch(Prefetch),
    /// What nodes have in their caches, and what would come of a request.
    #[command(subcommand)]
    Cache(Cache),
    /// List data planes, connected or not.
    #[command(alias = "node")]
    Nodes,
    /// Have a node take no more viewers, finish what runs, and exit.
    Drain {
        /// Name of the node.
        node: String,
    },
    /// The program in a node's network driver: where it is, and what it does.
    #[command(subcommand)]
    Xdp(Xdp),
    /// Show packets that a node's driver drops, as they come; one of many (`xdp.sample_every`). Ctrl-C ends it.
    Drops {
        /// End after so many.
        #[arg(short = 'n', long, value_name = "NUMBER")]
        count: Option<usize>,
    },
    /// Sum up usage.
    Ledger(Ledger),
    /// Users of the console.
    #[command(subcommand, alias = "user")]
    Users(Users),
    /// Tokens of the admin API, besides the one in the token file.
    #[command(subcommand, alias = "token")]
    Tokens(Tokens),
    /// Show who changed what, the newest first.
    Audit(Audit),
    /// Hold CDNs' logs, the ledger and what SDKs report against one another.
    #[command(subcommand, alias = "reconciliation")]
    Recon(Recon),
    /// Show what nodes are sent.
    Snapshot,
    /// Print the control plane's metrics.
    Metrics,
}

#[derive(Subcommand)]
pub(crate) enum Channels {
    /// List channels.
    List {
        /// Of this tenant only.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show a channel as JSON; its secrets are hidden.
    Get {
        /// Channel id.
        id: String,
    },
    /// Create a channel.
    Create {
        /// JSON or TOML; `-` reads standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Create or replace channels: one, a JSON list, or a list under the key `channels`.
    Apply {
        /// JSON or TOML; `-` reads standard input. A secret of *** keeps the one that is there.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Delete a channel; its ledger stays.
    Delete {
        /// Channel id.
        id: String,
    },
    /// Switch a channel on.
    Enable {
        /// Channel id.
        id: String,
    },
    /// Switch a channel off: every request is answered 403.
    Disable {
        /// Channel id.
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Users {
    /// List users.
    List,
    /// Add a user.
    Add {
        /// 1 to 64 of a-z, 0-9, '-', '_', '.', '@'.
        name: String,
        /// viewer, operator or admin.
        #[arg(long)]
        role: Role,
        /// File whose only line is the password, of 12 characters or more; `-` for standard input.
        #[arg(long, default_value = "-", value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Change a user's role or password.
    Change {
        /// The name.
        name: String,
        /// viewer, operator or admin.
        #[arg(long)]
        role: Option<Role>,
        /// File whose only line is the new password, `-` for standard input; it ends the user's sessions.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Delete a user, and end the sessions.
    Delete {
        /// The name.
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Tokens {
    /// List tokens, without themselves.
    List,
    /// Make a token, which is printed and never shown again.
    Add {
        /// 1 to 64 of a-z, 0-9, '-', '_', '.', '@'.
        name: String,
        /// viewer, operator or admin.
        #[arg(long)]
        role: Role,
        /// Days until it is refused; by default never.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Delete a token: it is refused from now on.
    Delete {
        /// The name.
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct Audit {
    /// Of this user or token.
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// This operation, as in patchChannel.
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// What it was done to, as in 'channel room1'.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Most entries.
    #[arg(short = 'n', long, default_value = "50")]
    pub(crate) limit: u32,
}

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// List the ids of a channel's keys.
    List {
        /// Channel id.
        channel: String,
    },
    /// Add a key that is accepted, and does not sign yet.
    Add(NewKey),
    /// Add a key and sign with it from now on; the older ones are still accepted.
    Rotate(NewKey),
    /// Remove a key: what it signed is refused from now on.
    Remove {
        /// Channel id.
        channel: String,
        /// Key id.
        key: String,
    },
}

#[derive(Args)]
pub(crate) struct NewKey {
    /// Channel id.
    pub(crate) channel: String,
    /// Key id; by default a random one.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// File whose only line is the secret, `-` for standard input; by default a random one, which is printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Mint {
    /// Channel id.
    pub(crate) channel: String,
    /// Path below the channel's prefix.
    pub(crate) path: String,
    /// This profile only, as in `shoal` or `tencent-d`; by default all that the channel accepts.
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// Seconds that the URL lives; by default the channel's own setting.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u32>,
    /// Session id that usage is counted under; by default a random one.
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Only clients of this network, as in 192.0.2.0/24.
    #[arg(long, value_name = "CIDR")]
    pub(crate) network: Option<String>,
    /// The viewer's address, for nginx expressions with `$remote_addr`.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) client: Option<IpAddr>,
    /// What the URL begins with, as in `https://cdn.example.com`.
    #[arg(long, value_name = "URL")]
    pub(crate) base: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Tenants {
    /// List tenants that have rules.
    List,
    /// Show a tenant as JSON; its secrets are hidden.
    Get {
        /// Tenant id.
        id: String,
    },
    /// Create or replace tenants: one, a JSON list, or a list under the key `tenants`.
    #[command(alias = "apply")]
    Put {
        /// JSON or TOML; `-` reads standard input. A secret of *** keeps the one that is there.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Take a tenant's rules away: nothing is relayed in its name. Its channels and its ledger stay.
    Delete {
        /// Tenant id.
        id: String,
    },
    /// Secrets of a tenant: what passwords of its users are made with.
    #[command(subcommand, alias = "secrets")]
    Secret(Secrets),
}

#[derive(Subcommand)]
pub(crate) enum Secrets {
    /// List the ids of a tenant's secrets.
    List {
        /// Tenant id.
        tenant: String,
    },
    /// Add a secret that is accepted; it signs only if it is the first one.
    Add(NewSecret),
    /// Add a secret and sign with it from now on; the older ones are still accepted.
    Rotate(NewSecret),
    /// Remove a secret: no allocation is made with what it signed from now on.
    Remove {
        /// Tenant id.
        tenant: String,
        /// Id of the secret.
        secret: String,
    },
}

#[derive(Args)]
pub(crate) struct NewSecret {
    /// Tenant id.
    pub(crate) tenant: String,
    /// Id of the secret; by default a random one.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// File whose only line is the secret, `-` for standard input; by default a random one, which is printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Turn {
    /// Tenant id.
    pub(crate) tenant: String,
    /// User that usage is counted under; by default a random one.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Seconds that new allocations can be made with it; by default a day.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u32>,
}

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).args(["url", "channel", "all"]))]
pub(crate) struct Purge {
    /// A viewer's URL, with or without a signature.
    pub(crate) url: Option<String>,
    /// All objects of this channel.
    #[arg(long, value_name = "ID")]
    pub(crate) channel: Option<String>,
    /// Only those whose path below the channel's prefix starts so.
    #[arg(long, value_name = "PATH", requires = "channel", conflicts_with_all = ["path", "tag"])]
    pub(crate) prefix: Option<String>,
    /// Only those that the origin gave this tag, in Surrogate-Key or Cache-Tag.
    #[arg(long, requires = "channel", conflicts_with = "path")]
    pub(crate) tag: Option<String>,
    /// Only the one at this path below the channel's prefix.
    #[arg(long, requires = "channel")]
    pub(crate) path: Option<String>,
    /// Everything.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only this node; may be given several times.
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
}

#[derive(Args)]
#[command(group = ArgGroup::new("items").required(true).multiple(true).args(["paths", "file"]))]
pub(crate) struct Prefetch {
    /// Channel id.
    pub(crate) channel: String,
    /// Paths below the channel's prefix, or viewers' URLs.
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// More of them, one in each line, with a range behind it if only that is wanted, as in `a.mp4 0-1048575`; `-` reads
    /// standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Bytes per second on each node; by default 25000000, 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    pub(crate) rate: Option<u64>,
    /// End when so many bytes were fetched on a node.
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes_max: Option<u64>,
    /// Seconds after which to tell how far it has come; it goes on.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=58))]
    pub(crate) wait: u32,
    /// Only this node; may be given several times.
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum Cache {
    /// The same as `shoalctl prefetch`.
    Prefetch(Prefetch),
    /// List orders to fetch ahead, and how far they have come.
    Prefetches {
        /// Only this node; may be given several times.
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Stop an order; what it has fetched stays.
    Cancel {
        /// The node.
        node: String,
        /// The order's number.
        order: u64,
    },
    /// List the objects that viewers ask for most.
    Top {
        /// Order: requests, bytes (sent to viewers), or ram (bytes held).
        #[arg(long, default_value = "requests", value_name = "ORDER", value_parser = ["requests", "bytes", "ram"])]
        by: String,
        /// Of this channel only.
        #[arg(long, value_name = "ID")]
        channel: Option<String>,
        /// Objects of each node.
        #[arg(short = 'n', long, default_value = "20")]
        limit: u32,
        /// Only this node; may be given several times.
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Show a cache in figures, or what is kept of one object.
    Stat {
        /// A viewer's URL, or its path; none: the whole cache.
        url: Option<String>,
        /// Only this node; may be given several times.
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Say what would happen to a request, and why; it is not made.
    Explain {
        /// A viewer's URL, with its ticket if it has one; or its path.
        url: String,
        /// The method.
        #[arg(short = 'X', long, default_value = "GET")]
        method: String,
        /// A header that the viewer sends, as in `Range: bytes=0-99`; may be given several times.
        #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = crate::input::header)]
        headers: Vec<(String, String)>,
        /// The viewer's address.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        /// Only this node; may be given several times.
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
    },
}

#[derive(Subcommand)]
pub(crate) enum Xdp {
    /// Show interfaces, program and packets.
    Status,
    /// Put the program on an interface of this machine, until the node starts anew. Takes the privileges of `shoal-xdp`.
    Attach(Attach),
    /// Take it off one. Takes permission for the pins.
    Detach(Attach),
}

#[derive(Args)]
pub(crate) struct Attach {
    /// The interface.
    pub(crate) interface: String,
    /// Folder of the node's pins; by default the node is asked.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) pins: Option<String>,
}

#[derive(Args)]
pub(crate) struct Ledger {
    /// Of this tenant only.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Of this channel only.
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// Of this session only.
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Of this kind only: client, child, upstream or relay.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// From this time on: Unix seconds, or an age such as 90m, 24h or 7d. Hours count whole.
    #[arg(long, value_name = "TIME", value_parser = crate::input::time)]
    pub(crate) from: Option<u64>,
    /// Up to this time, as for --from.
    #[arg(long, value_name = "TIME", value_parser = crate::input::time)]
    pub(crate) to: Option<u64>,
    /// Columns to group by, of hour, tenant, channel, session, kind, origin; with commas between. Empty: one sum.
    #[arg(long, default_value = "channel,kind", value_name = "COLUMNS")]
    pub(crate) group: String,
}

#[derive(Subcommand)]
pub(crate) enum Recon {
    /// Count a CDN's access log. A compressed one: `zcat FILE | shoalctl recon import - …`.
    Import(Import),
    /// List imported logs.
    Imports {
        /// Of this CDN only.
        #[arg(long)]
        provider: Option<String>,
    },
    /// Take an import back.
    Forget {
        /// The CDN.
        provider: String,
        /// The import, as listed.
        digest: String,
    },
    /// Say which origins are a CDN, and from where our nodes ask it.
    Provider {
        /// Its id.
        id: String,
        /// Ids of origins.
        #[arg(long, value_delimiter = ',', value_name = "IDS")]
        origins: Vec<String>,
        /// Networks of our nodes, as the CDN sees them.
        #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
        edges: Vec<String>,
        /// Query parameter with the viewer's session.
        #[arg(long, default_value = "", value_name = "NAME")]
        session: String,
    },
    /// List CDNs.
    Providers,
    /// Show, or set, from which difference on a tenant's channels alert.
    Limit {
        /// Tenant id.
        tenant: String,
        /// Percent.
        #[arg(long)]
        percent: Option<f64>,
        /// Bytes that an hour must have.
        #[arg(long)]
        min_bytes: Option<u64>,
    },
    /// Compare, by channel and hour.
    Show {
        /// Of this channel only.
        channel: Option<String>,
        /// Of this tenant only.
        #[arg(long)]
        tenant: Option<String>,
        /// `upstream`, `direct` or `edge` only.
        #[arg(long)]
        pair: Option<String>,
        /// From this time on, in Unix seconds; by default a day ago.
        #[arg(long)]
        from: Option<u64>,
        /// Up to this time, in Unix seconds; by default now.
        #[arg(long)]
        to: Option<u64>,
        /// Only what alerts.
        #[arg(long)]
        alerts: bool,
    },
    /// The sessions that explain most of a difference.
    Sessions {
        /// Channel id.
        channel: String,
        /// The hour, by a Unix second in it.
        hour: u64,
        /// `upstream`, `direct` or `edge`.
        #[arg(long, default_value = "edge")]
        pair: String,
        /// The CDN; not for `edge`.
        #[arg(long)]
        provider: Option<String>,
        /// Most sessions.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Args)]
pub(crate) struct Import {
    /// The log; `-` for standard input.
    pub(crate) file: PathBuf,
    /// The CDN's id.
    #[arg(long, value_name = "ID")]
    pub(crate) provider: String,
    /// `nginx`, `w3c`, `tencent` or `aliyun`.
    #[arg(long)]
    pub(crate) format: String,
    /// nginx's `log_format`, if it is not `combined`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) log_format: Option<String>,
    /// Host of lines that name none.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Zone of times that name none, as in +08:00.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) zone: Option<String>,
    /// What its bytes are of, if not what the format says: `body` or `wire` (with heads).
    #[arg(long)]
    pub(crate) bytes: Option<String>,
}
