//! What pages show, gathered with bounded queries; what nobody has told yet is none, never nought.

use std::collections::BTreeMap;
use std::time::Instant;

use shoal_link::Channel;
use shoal_link::observation::Behaviour;

use crate::api::{NodeList, NodeStatus, node_list};
use crate::app::App;
use crate::report::measures::Sums;
use crate::rest::problem::Problem;
use crate::store::{
    Group, LedgerQuery, LedgerRow, ReportGroup, ReportQuery, ReportRow, ReportStep, StoreError, Stored, now_ms,
};

const HOUR_S: u64 = 3_600;
const HOUR_MS: u64 = 3_600_000;
/// Hours that charts go back.
const HOURS: u64 = 24;
/// Sums by hour and kind of a day: more than there can be.
const MAX_SUMS: u32 = 200;
/// Channels that are looked through for those with the most traffic.
const MAX_CHANNELS: u32 = 1_000;
/// Channels in the overview.
const TOP: usize = 10;
/// Peers of a channel that are looked at for how their NATs are.
const MAX_PEERS: usize = 1_000;
/// Regions and providers on their page.
const MAX_PLACES: u32 = 500;
/// From so much of a shard's time on, a node is busy.
const BUSY_PERMILLE: u16 = 900;

/// What went through the edges in an hour, in bytes of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Served {
    /// To viewers.
    pub(super) client: u64,
    /// To nodes that have an edge as their parent.
    pub(super) child: u64,
    /// From origins.
    pub(super) upstream: u64,
    /// By the relay.
    pub(super) relay: u64,
}

impl Served {
    /// The part of what viewers got that no origin had to send.
    pub(super) fn cached(&self) -> Option<f64> {
        let part = 1.0 - self.upstream as f64 / self.client as f64;
        (self.client > 0).then_some(part.max(0.0))
    }

    fn add(&mut self, row: &LedgerRow) {
        let sum = match row.kind.as_deref() {
            Some("client") => &mut self.client,
            Some("child") => &mut self.child,
            Some("upstream") => &mut self.upstream,
            Some("relay") => &mut self.relay,
            _ => return,
        };
        *sum = sum.saturating_add(row.body_bytes);
    }
}

/// Bytes per second of an hour, as bits.
pub(super) fn rate_of_hour(bytes: u64) -> f64 {
    bytes as f64 * 8.0 / HOUR_S as f64
}

/// What players reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reported {
    /// Of all of it.
    pub(super) all: Sums,
    /// Unix hours, the oldest first; those without reports are left out.
    pub(super) hours: Vec<(u64, Sums)>,
}

/// What players reported in the last day, of all channels or of one; none: nothing.
pub(super) async fn reported(app: &App, channel: Option<&str>) -> Result<Option<Reported>, StoreError> {
    let filters = channel.map(|channel| (ReportGroup::Channel, channel.to_owned()));
    let rows = reports(app, vec![ReportGroup::Time], filters.into_iter().collect(), HOURS as u32 + 1).await?;
    let mut reported = Reported::default();
    for row in &rows {
        reported.all.add(&row.sums);
        reported.hours.extend(row.time_s.map(|time| (time / HOUR_S, row.sums)));
    }
    Ok((!rows.is_empty()).then_some(reported))
}

/// What players of a region and provider reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) isp: String,
    pub(super) sums: Sums,
}

/// What players reported in the last day, by region and provider, the most bytes first; and whether there are more.
pub(super) async fn places(app: &App) -> Result<(Vec<Place>, bool), StoreError> {
    let group = vec![ReportGroup::Region, ReportGroup::Isp];
    let rows = reports(app, group, Vec::new(), MAX_PLACES + 1).await?;
    let more = rows.len() > MAX_PLACES as usize;
    let place = |row: ReportRow| {
        let name = |of: &str| row.names.iter().find(|(name, _)| *name == of).map(|(_, text)| text.clone());
        Place { region: name("region").unwrap_or_default(), isp: name("isp").unwrap_or_default(), sums: row.sums }
    };
    let mut places: Vec<Place> = rows.into_iter().map(place).collect();
    places.sort_by_key(|place| std::cmp::Reverse(delivered(&place.sums)));
    Ok((places, more))
}

/// Bytes that players got, from wherever.
pub(super) fn delivered(sums: &Sums) -> u64 {
    sums.p2p_in_bytes.saturating_add(sums.edge_bytes).saturating_add(sums.direct_bytes)
}

async fn reports(
    app: &App,
    group: Vec<ReportGroup>,
    filters: Vec<(ReportGroup, String)>,
    limit: u32,
) -> Result<Vec<ReportRow>, StoreError> {
    let now = now_ms() / 1_000;
    let from_s = now.saturating_sub((HOURS - 1) * HOUR_S);
    let query = ReportQuery { step: ReportStep::Hour, from_s, to_s: now, filters, group, offset: 0, limit };
    app.db(move |store| store.reports(&query)).await
}

/// Something that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    /// Somebody may be without service, or may soon be.
    pub(super) bad: bool,
    pub(super) text: String,
    /// Where more is told.
    pub(super) href: String,
}

/// What is live.
pub(super) struct Overview {
    pub(super) channels_on: usize,
    pub(super) channels_off: usize,
    pub(super) nodes_connected: usize,
    pub(super) nodes: usize,
    pub(super) connections: u64,
    pub(super) peers: usize,
    /// By the tracker of this instance.
    pub(super) viewers: u64,
    /// The channels with the most of them.
    pub(super) live: Vec<(String, u64)>,
    /// Unix hours, the oldest first; every one of the last day.
    pub(super) hours: Vec<(u64, Served)>,
    pub(super) day: Served,
    pub(super) reported: Option<Reported>,
    /// The channels with the most traffic of the last day.
    pub(super) top: Vec<(String, Served)>,
    pub(super) alerts: Vec<Alert>,
}

pub(super) async fn overview(app: &App) -> Result<Overview, Problem> {
    let hours = served(app, None).await?;
    let mut day = Served::default();
    for (_, served) in &hours {
        day.client = day.client.saturating_add(served.client);
        day.child = day.child.saturating_add(served.child);
        day.upstream = day.upstream.saturating_add(served.upstream);
        day.relay = day.relay.saturating_add(served.relay);
    }
    let nodes = node_list(app).await?;
    let newest = app.hub.newest();
    let on = newest.snapshot.channels.iter().filter(|channel| channel.enabled).count();
    let (viewers, live) = live(app, &newest.snapshot.channels);
    let connections =
        nodes.items.iter().filter_map(|node| node.health.as_ref()).map(|health| health.health.connections).sum();
    Ok(Overview {
        channels_on: on,
        channels_off: newest.snapshot.channels.len() - on,
        nodes_connected: nodes.items.iter().filter(|node| node.connected).count(),
        nodes: nodes.items.len(),
        connections,
        peers: app.peers.registrations(Instant::now()),
        viewers,
        live,
        day,
        hours,
        reported: reported(app, None).await?,
        top: top_channels(app).await?,
        alerts: alerts(&nodes),
    })
}

/// How many watch, and which channels most of them.
fn live(app: &App, channels: &[Channel]) -> (u64, Vec<(String, u64)>) {
    let watched = channels.iter().map(|channel| (channel.id.clone(), viewers(app, channel)));
    let mut watched: Vec<_> = watched.filter(|(_, viewers)| *viewers > 0).collect();
    let sum = watched.iter().map(|(_, viewers)| viewers).sum();
    watched.sort_by(|(one, a), (other, b)| b.cmp(a).then_with(|| one.cmp(other)));
    watched.truncate(TOP);
    (sum, watched)
}

/// Viewers of a channel that announce themselves to the tracker.
pub(super) fn viewers(app: &App, channel: &Channel) -> u64 {
    app.tracker.viewers(&channel.tenant, &channel.id)
}

/// What went through the edges in each of the last hours, of all channels or of one.
pub(super) async fn served(app: &App, channel: Option<&str>) -> Result<Vec<(u64, Served)>, StoreError> {
    let to = now_ms() / HOUR_MS + 1;
    let from = to.saturating_sub(HOURS);
    let query = LedgerQuery {
        from_hour: Some(from),
        to_hour: Some(to),
        channel: channel.map(str::to_owned),
        group: vec![Group::Hour, Group::Kind],
        limit: MAX_SUMS,
        ..LedgerQuery::default()
    };
    let rows = app.db(move |store| store.ledger(&query)).await?;
    let mut hours: BTreeMap<u64, Served> = (from..to).map(|hour| (hour, Served::default())).collect();
    for row in &rows {
        if let Some(served) = row.hour.and_then(|hour| hours.get_mut(&hour)) {
            served.add(row);
        }
    }
    Ok(hours.into_iter().collect())
}

async fn top_channels(app: &App) -> Result<Vec<(String, Served)>, StoreError> {
    let to = now_ms() / HOUR_MS + 1;
    let query = LedgerQuery {
        from_hour: Some(to.saturating_sub(HOURS)),
        group: vec![Group::Channel, Group::Kind],
        limit: MAX_CHANNELS * 4,
        ..LedgerQuery::default()
    };
    let rows = app.db(move |store| store.ledger(&query)).await?;
    let mut channels: BTreeMap<String, Served> = BTreeMap::new();
    for row in &rows {
        // What is relayed belongs to no channel.
        let Some(channel) = row.channel.clone().filter(|channel| !channel.is_empty()) else { continue };
        channels.entry(channel).or_default().add(row);
    }
    let mut top: Vec<_> = channels.into_iter().collect();
    top.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.client));
    top.truncate(TOP);
    Ok(top)
}

fn alerts(nodes: &NodeList) -> Vec<Alert> {
    let mut alerts = Vec::new();
    if nodes.items.iter().all(|node| !node.connected) {
        let text = "No node is connected: what is changed here reaches nobody.".to_owned();
        alerts.push(Alert { bad: true, text, href: "/console/nodes".to_owned() });
    }
    for node in &nodes.items {
        let href = "/console/nodes".to_owned();
        let name = &node.node;
        if let Some(refused) = &node.refused {
            let text = format!("Node {name} does not take snapshot {}: {}", refused.version, refused.reason);
            alerts.push(Alert { bad: true, text, href: href.clone() });
        } else if !node.connected {
            alerts.push(Alert { bad: false, text: format!("Node {name} is not connected."), href: href.clone() });
        }
        if let Some(health) = &node.health {
            if health.health.draining {
                alerts.push(Alert { bad: false, text: format!("Node {name} drains."), href: href.clone() });
            }
            if health.health.busy_permille >= BUSY_PERMILLE {
                let text =
                    format!("Node {name} is busy: {:.0} % of a shard.", f64::from(health.health.busy_permille) / 10.0);
                alerts.push(Alert { bad: true, text, href });
            }
        }
    }
    alerts
}

/// A page of channels.
pub(super) async fn channels(
    app: &App,
    after: String,
    limit: u32,
) -> Result<(Vec<Channel>, Option<String>), StoreError> {
    let mut found = app.db(move |store| store.page::<Channel>(None, &after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if more { found.last().map(|stored| stored.document.id.clone()) } else { None };
    Ok((found.into_iter().map(|stored| stored.document).collect(), next))
}

/// A channel as stored.
pub(super) async fn channel(app: &App, id: &str) -> Result<Stored<Channel>, Problem> {
    let asked = id.to_owned();
    let found = app.db(move |store| store.find(&asked)).await?;
    found.ok_or_else(|| Problem::missing("channel", id))
}

/// Nodes, and the version that they should serve.
pub(super) async fn nodes(app: &App) -> Result<NodeList, Problem> {
    node_list(app).await
}

/// One node, or 404.
pub(super) async fn node(app: &App, name: &str) -> Result<NodeStatus, Problem> {
    let found = node_list(app).await?.items.into_iter().find(|node| node.node == name);
    found.ok_or_else(|| Problem::missing("node", name))
}

/// The peers of a channel that are registered for punching.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Swarm {
    pub(super) peers: usize,
    /// There are more than were looked at.
    pub(super) more: bool,
    /// How their NATs map, and how many.
    pub(super) mappings: Vec<(&'static str, usize)>,
    /// How they filter.
    pub(super) filterings: Vec<(&'static str, usize)>,
}

const BEHAVIOURS: [(Behaviour, &str); 4] = [
    (Behaviour::EndpointIndependent, "independent"),
    (Behaviour::AddressDependent, "by address"),
    (Behaviour::AddressAndPortDependent, "by address and port"),
    (Behaviour::Unknown, "unknown"),
];

pub(super) fn swarm(app: &App, channel: &Channel) -> Swarm {
    let found = app.peers.list(Instant::now(), &channel.tenant, &channel.id, None, MAX_PEERS + 1);
    let firsts: Vec<_> = found.iter().take(MAX_PEERS).filter_map(|peer| peer.registrations.first()).collect();
    let of = |pick: &dyn Fn(usize) -> Behaviour| {
        let count = |behaviour| (0..firsts.len()).filter(|at| pick(*at) == behaviour).count();
        BEHAVIOURS.map(|(behaviour, name)| (name, count(behaviour))).to_vec()
    };
    Swarm {
        peers: firsts.len(),
        more: found.len() > MAX_PEERS,
        mappings: of(&|at| firsts.get(at).map_or(Behaviour::Unknown, |first| first.mapping)),
        filterings: of(&|at| firsts.get(at).map_or(Behaviour::Unknown, |first| first.filtering)),
    }
}
