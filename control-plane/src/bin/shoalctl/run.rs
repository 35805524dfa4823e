//! What each command does.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use shoal_control::api::{
    ChannelPage, CommandReport, HIDDEN, KeyList, KeyName, LedgerReport, LedgerSum, MintedUrls, NodeList, NodeStatus,
    SnapshotView,
};
use shoal_link::Channel;
use ureq::http::Method;

use crate::arguments::{Arguments, Channels, Command, Keys, Ledger, Mint, NewKey, Purge};
use crate::client::{Client, Failure, encode};
use crate::input;
use crate::table::{Align, Table};
use crate::tenants::tenant_table;
use crate::xdp::NodePages;

/// Carries out a command and prints its result.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // These are about a node, which asks for no token.
    match &arguments.command {
        Command::Xdp(command) => return NodePages::new(arguments)?.xdp(command),
        Command::Drops { count } => return NodePages::new(arguments)?.drops(*count),
        _ => {}
    }
    let client = Client::new(&arguments.api, &arguments.token_file)?;
    let run = Run { client, json: arguments.json };
    match &arguments.command {
        Command::Channels(command) => run.channels(command),
        Command::Keys(command) => run.keys(command),
        Command::Mint(mint) => run.mint(mint),
        Command::Tenants(command) => run.tenants(command),
        Command::Turn(turn) => run.turn(turn),
        Command::Peers { channel, peer } => run.peers(channel, peer.as_deref()),
        Command::Block { network, seconds, reason, loopback } => run.block(network, *seconds, reason, *loopback),
        Command::Unblock { network } => run.unblock(network),
        Command::Blocks => run.blocks(),
        Command::Purge(purge) => run.purge(purge),
        Command::Prefetch(prefetch) => run.prefetch(prefetch),
        Command::Cache(command) => run.cache(command),
        Command::Xdp(_) | Command::Drops { .. } => Ok(()),
        Command::Nodes => run.nodes(),
        Command::Drain { node } => run.command(&format!("/nodes/{}/drain", encode(node)), None),
        Command::Ledger(ledger) => run.ledger(ledger),
        Command::Users(command) => run.users(command),
        Command::Tokens(command) => run.tokens(command),
        Command::Audit(audit) => run.audit(audit),
        Command::Recon(command) => run.recon(command),
        Command::Snapshot => run.snapshot(),
        Command::Metrics => {
            print!("{}", run.client.text("/metrics")?);
            Ok(())
        }
    }
}

/// One run of the program.
pub(crate) struct Run {
    pub(crate) client: Client,
    json: bool,
}

impl Run {
    fn channels(&self, command: &Channels) -> Result<(), Failure> {
        match command {
            Channels::List { tenant } => {
                let channels = self.every_channel(tenant.as_deref())?;
                self.print(&channels, || channel_table(&channels))
            }
            Channels::Get { id } => self.show(&one(id)),
            Channels::Create { file } => {
                let body = input::document(file)?;
                let channel: Channel = self.client.call(Method::POST, "/channels", Some(&body))?;
                self.print(&channel, || format!("channel {} is created\n", channel.id))
            }
            Channels::Apply { file } => {
                for (id, body) in input::list(file, "channels")? {
                    let channel: Channel = self.client.call(Method::PUT, &one(&id), Some(&body))?;
                    self.print(&channel, || format!("channel {} is applied\n", channel.id))?;
                }
                Ok(())
            }
            Channels::Delete { id } => {
                let gone: Value = self.client.call(Method::DELETE, &one(id), None)?;
                self.print(&gone, || format!("channel {id} is deleted\n"))
            }
            Channels::Enable { id } => self.switch(id, true),
            Channels::Disable { id } => self.switch(id, false),
        }
    }

    fn switch(&self, id: &str, enabled: bool) -> Result<(), Failure> {
        let body = json!({"enabled": enabled});
        let channel: Channel = self.client.call(Method::PATCH, &one(id), Some(&body))?;
        self.print(&channel, || format!("channel {id} is {}\n", if enabled { "on" } else { "off" }))
    }

    fn every_channel(&self, tenant: Option<&str>) -> Result<Vec<Channel>, Failure> {
        let mut channels = Vec::new();
        let mut after = String::new();
        loop {
            let mut query = vec![("limit", "1000"), ("after", after.as_str())];
            query.extend(tenant.map(|tenant| ("tenant", tenant)));
            let page: ChannelPage = self.client.get("/channels", &query)?;
            channels.extend(page.items);
            match page.next {
                Some(next) => after = next,
                None => return Ok(channels),
            }
        }
    }

    fn keys(&self, command: &Keys) -> Result<(), Failure> {
        match command {
            Keys::List { channel } => {
                let list: KeyList = self.client.get(&format!("{}/keys", one(channel)), &[])?;
                self.print(&list, || key_table("KEY", &list.keys))
            }
            Keys::Add(new) => self.new_key(new, "keys"),
            Keys::Rotate(new) => self.new_key(new, "keys/rotate"),
            Keys::Remove { channel, key } => {
                let path = format!("{}/keys/{}", one(channel), encode(key));
                let gone: Value = self.client.call(Method::DELETE, &path, None)?;
                self.print(&gone, || format!("key {key} of channel {channel} is removed\n"))
            }
        }
    }

    fn new_key(&self, new: &NewKey, path: &str) -> Result<(), Failure> {
        let body = new_key(new.id.as_deref(), new.secret_file.as_deref())?;
        let key: KeyName = self.client.call(Method::POST, &format!("{}/{path}", one(&new.channel)), Some(&body))?;
        self.print(&key, || key_added(&format!("key {} of channel {}", key.id, new.channel), &key))
    }

    fn mint(&self, mint: &Mint) -> Result<(), Failure> {
        let body = json!({
            "path": mint.path.trim_start_matches('/'),
            "profile": mint.profile,
            "ttl_s": mint.ttl,
            "session": mint.session,
            "network": mint.network,
            "client": mint.client,
            "base": mint.base,
        });
        let minted: MintedUrls =
            self.client.call(Method::POST, &format!("{}/mint", one(&mint.channel)), Some(&body))?;
        self.print(&minted, || {
            // The URL alone, when one is asked for: it goes into other commands.
            if let ([only], Some(_)) = (minted.urls.as_slice(), &mint.profile) {
                return format!("{}\n", only.url.as_deref().unwrap_or_default());
            }
            let mut table = Table::new(&[("PROFILE", Align::Left), ("URL", Align::Left)]);
            for url in &minted.urls {
                let text = match (&url.url, &url.error) {
                    (Some(url), _) => url.clone(),
                    (None, error) => format!("not possible: {}", error.as_deref().unwrap_or_default()),
                };
                table.row(vec![url.profile.clone(), text]);
            }
            table.to_string()
        })
    }

    fn purge(&self, purge: &Purge) -> Result<(), Failure> {
        let below = |path: &str| path.trim_start_matches('/').to_owned();
        let mut body = match (&purge.url, &purge.channel) {
            (Some(url), _) => json!({"scope": "url", "url": url}),
            (None, Some(channel)) => match (&purge.prefix, &purge.path, &purge.tag) {
                (_, _, Some(tag)) => json!({"scope": "tag", "channel": channel, "tag": tag}),
                (Some(prefix), ..) => json!({"scope": "prefix", "channel": channel, "path": below(prefix)}),
                (None, Some(path), None) => json!({"scope": "object", "channel": channel, "path": below(path)}),
                (None, None, None) => json!({"scope": "channel", "channel": channel}),
            },
            (None, None) => json!({"scope": "all"}),
        };
        name_nodes(&mut body, &purge.nodes);
        self.command("/purge", Some(&body))
    }

    fn command(&self, path: &str, body: Option<&Value>) -> Result<(), Failure> {
        let report: CommandReport = self.client.call(Method::POST, path, body)?;
        self.print(&report, || {
            if report.results.is_empty() {
                return "no node is connected\n".to_owned();
            }
            let mut table = Table::new(&[("NODE", Align::Left), ("OBJECTS", Align::Right), ("", Align::Left)]);
            for result in &report.results {
                let count = result.count.map(|count| count.to_string()).unwrap_or_default();
                table.row(vec![result.node.clone(), count, result.error.clone().unwrap_or_default()]);
            }
            table.to_string()
        })?;
        if report.ok { Ok(()) } else { Err(Failure::Nodes) }
    }

    fn nodes(&self) -> Result<(), Failure> {
        let list: NodeList = self.client.get("/nodes", &[])?;
        self.print(&list, || node_table(&list))
    }

    fn ledger(&self, ledger: &Ledger) -> Result<(), Failure> {
        let mut items: Vec<LedgerSum> = Vec::new();
        let mut offset = 0;
        loop {
            let numbers = [("from", ledger.from), ("to", ledger.to), ("offset", Some(offset.into()))];
            let numbers = numbers.map(|(name, number)| (name, number.map(|number| number.to_string())));
            let mut query = vec![("group", ledger.group.as_str()), ("limit", "10000")];
            query.extend(numbers.iter().filter_map(|(name, number)| Some((*name, number.as_deref()?))));
            for (name, value) in [
                ("tenant", &ledger.tenant),
                ("channel", &ledger.channel),
                ("session", &ledger.session),
                ("kind", &ledger.kind),
            ] {
                query.extend(value.as_deref().map(|value| (name, value)));
            }
            let report: LedgerReport = self.client.get("/ledger", &query)?;
            items.extend(report.items);
            match report.next {
                Some(next) => offset = next,
                None => break,
            }
        }
        self.print(&items, || ledger_table(&items))
    }

    fn snapshot(&self) -> Result<(), Failure> {
        let snapshot: SnapshotView = self.client.get("/snapshot", &[])?;
        self.print(&snapshot, || {
            let tenants = match snapshot.tenants.is_empty() {
                true => String::new(),
                false => format!("\n{}", tenant_table(&snapshot.tenants)),
            };
            format!("version {}\n{}{tenants}", snapshot.version, channel_table(&snapshot.channels))
        })
    }

    /// Prints a document as JSON.
    pub(crate) fn show(&self, path: &str) -> Result<(), Failure> {
        print_json(&self.client.get::<Value>(path, &[])?)
    }

    pub(crate) fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            return print_json(value);
        }
        print!("{}", text());
        Ok(())
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Usage(error.to_string()))?;
    println!("{text}");
    Ok(())
}

fn one(channel: &str) -> String {
    format!("/channels/{}", encode(channel))
}

pub(crate) fn name_nodes(body: &mut Value, nodes: &[String]) {
    if !nodes.is_empty() {
        body["nodes"] = json!(nodes);
    }
}

/// What asks for a new key or secret.
pub(crate) fn new_key(id: Option<&str>, secret_file: Option<&Path>) -> Result<Value, Failure> {
    let secret = secret_file.map(input::text).transpose()?;
    Ok(json!({"id": id, "secret": secret.as_deref().map(str::trim)}))
}

/// What became of it, and the secret if it was left to the control plane.
pub(crate) fn key_added(what: &str, key: &KeyName) -> String {
    let state = if key.signing { "signs from now on" } else { "is accepted" };
    let secret = key.secret.as_ref().map(|secret| format!("secret: {secret}\n")).unwrap_or_default();
    format!("{what} {state}\n{secret}")
}

pub(crate) fn key_table(head: &str, keys: &[KeyName]) -> String {
    let mut table = Table::new(&[(head, Align::Left), ("SIGNS", Align::Left)]);
    for key in keys {
        table.row(vec![key.id.clone(), if key.signing { "yes" } else { "" }.to_owned()]);
    }
    table.to_string()
}

fn channel_table(channels: &[Channel]) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TENANT", Align::Left),
        ("STATE", Align::Left),
        ("HOSTS", Align::Left),
        ("PREFIX", Align::Left),
        ("TICKET", Align::Left),
        ("ORIGINS", Align::Left),
    ]);
    for channel in channels {
        let ticket = channel.access.ticket.as_ref().map_or_else(String::new, |ticket| {
            let signing = ticket.keys.first().map_or(HIDDEN, |key| key.id.as_str());
            format!("key {signing}")
        });
        let origins: Vec<&str> = channel.origins.iter().map(|origin| origin.url.as_str()).collect();
        table.row(vec![
            channel.id.clone(),
            channel.tenant.clone(),
            if channel.enabled { "on" } else { "off" }.to_owned(),
            if channel.hosts.is_empty() { "any".to_owned() } else { channel.hosts.join(",") },
            channel.prefix.clone(),
            ticket,
            origins.join(" "),
        ]);
    }
    table.to_string()
}

fn node_table(list: &NodeList) -> String {
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("SNAPSHOT", Align::Left),
        ("CLIENTS", Align::Right),
        ("CACHE MIB", Align::Right),
        ("BUSY", Align::Right),
        ("SEEN", Align::Left),
        ("SOFTWARE", Align::Left),
        ("URL", Align::Left),
    ]);
    for node in &list.items {
        let health = node.health.as_ref().map(|seen| &seen.health);
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        table.row(vec![
            node.node.clone(),
            state(node).to_owned(),
            served(node, list.snapshot),
            number(health.map(|health| health.connections)),
            number(health.map(|health| health.cache_bytes >> 20)),
            health.map(|health| format!("{}%", health.busy_permille / 10)).unwrap_or_default(),
            age(node.last_seen_ms),
            node.software.clone(),
            node.public_url.clone().unwrap_or_default(),
        ]);
    }
    let mut text = table.to_string();
    for node in &list.items {
        if let Some(refused) = &node.refused {
            text.push_str(&format!("{} refused snapshot {}: {}\n", node.node, refused.version, refused.reason));
        }
    }
    text
}

fn state(node: &NodeStatus) -> &'static str {
    match (node.connected, &node.health) {
        (false, _) => "away",
        (true, Some(seen)) if seen.health.draining => "draining",
        (true, _) => "up",
    }
}

fn served(node: &NodeStatus, newest: u64) -> String {
    match node.snapshot {
        None => "none".to_owned(),
        Some(version) if version == newest => "newest".to_owned(),
        Some(version) => version.to_string(),
    }
}

pub(crate) fn age(unix_ms: u64) -> String {
    format!("{} ago", span(now().saturating_sub(unix_ms / 1000)))
}

/// A time to come, in Unix seconds.
pub(crate) fn ahead(unix_s: u64) -> String {
    format!("for {}", span(unix_s.saturating_sub(now())))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn ledger_table(items: &[LedgerSum]) -> String {
    let mut heads = Vec::new();
    if let Some(first) = items.first() {
        for (name, there) in [
            ("HOUR (UNIX)", first.hour.is_some()),
            ("TENANT", first.tenant.is_some()),
            ("CHANNEL", first.channel.is_some()),
            ("SESSION", first.session.is_some()),
            ("KIND", first.kind.is_some()),
            ("ORIGIN", first.origin.is_some()),
        ] {
            heads.extend(there.then_some((name, Align::Left)));
        }
    }
    heads.extend([("REQUESTS", Align::Right), ("BODY BYTES", Align::Right), ("WIRE BYTES", Align::Right)]);
    let mut table = Table::new(&heads);
    for sum in items {
        let mut cells: Vec<String> = sum.hour.map(|hour| hour.to_string()).into_iter().collect();
        let names = [&sum.tenant, &sum.channel, &sum.session, &sum.kind, &sum.origin];
        // Relayed bytes have no channel, most others no origin; a gap would look like a shifted row.
        let shown = |name: &String| if name.is_empty() { "-".to_owned() } else { name.clone() };
        cells.extend(names.into_iter().flatten().map(shown));
        cells.extend([sum.requests, sum.body_bytes, sum.wire_bytes].map(|number| number.to_string()));
        table.row(cells);
    }
    table.to_string()
}
