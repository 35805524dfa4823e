//! Swarms of the tracker, for the operator. Addresses of viewers are personal data: only this API tells them, and only of the
//! swarm that is asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_swarm::swarms::{Key, PeerInfo, Supply, SwarmInfo};
use shoal_swarm::{Nat, Transport};

use super::documents;
use crate::access::Role;
use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::tracker::Tracker;

/// One page of swarms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmPage {
    /// In no order that means anything. Swarms that begin or end meanwhile may be left out.
    pub items: Vec<SwarmView>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

/// A swarm with at least one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmView {
    /// Its id: tenant, channel and info hash.
    pub id: String,
    /// Tenant id.
    pub tenant: String,
    /// Channel id.
    pub channel: String,
    /// Which of the channel's swarms: 40 hexadecimal digits.
    pub info_hash: String,
    /// Peers that have all there is.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// How often a peer said that it had completed.
    pub downloaded: u32,
    /// Of how many peers the counts below are: of a large swarm, a part.
    pub counted: u32,
    /// Of those, known from other instances.
    pub remote: u32,
    /// By transport; a peer may have several.
    pub transports: Vec<Counted>,
    /// By type of NAT.
    pub nats: Vec<Counted>,
    /// By region; an empty name where it is not known.
    pub regions: Vec<Counted>,
}

/// How many are of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// The kind.
    pub name: String,
    /// How many.
    pub peers: u32,
}

/// One page of a swarm's peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmPeerPage {
    /// In no order that means anything. Peers that come or go meanwhile may be left out.
    pub items: Vec<SwarmPeer>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

/// A peer of a swarm. Its address is personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmPeer {
    /// 40 hexadecimal digits.
    pub peer: String,
    /// Where it is, and the port that it listens on; 0: none. Personal data: do not keep it.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// Over what it can be reached.
    pub transports: Vec<Transport>,
    /// The NAT in front of it.
    pub nat: Nat,
    /// Autonomous system; 0: not known.
    pub asn: u32,
    /// Provider; empty: not known.
    pub isp: String,
    /// Region; empty: not known.
    pub region: String,
    /// What it has to give.
    pub supply: Supply,
    /// Whether it has all there is.
    pub complete: bool,
    /// No address of it is told to other viewers.
    pub relay_only: bool,
    /// Known from another instance.
    pub remote: bool,
    /// Milliseconds since its last announce.
    pub silent_ms: u64,
    /// How often others were told of it since then.
    pub told: u16,
    /// How many peers it has reported as failed.
    pub reported: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SwarmParams {
    /// Most swarms to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default)]
    after: Option<String>,
    /// Only this tenant's.
    #[serde(default)]
    tenant: Option<String>,
    /// Only this channel's.
    #[serde(default)]
    channel: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PeerParams {
    /// Most peers to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default)]
    after: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/swarms", "listSwarms", "Lists the swarms of this instance's tracker.")
                .query::<SwarmParams>()
                .gives::<SwarmPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/swarms/{id}", "readSwarm", "Counts the peers of a swarm by kind.")
                .gives::<SwarmView>(200, "The swarm.")
                .fails(&[(404, "There is no such swarm.")]),
            read,
        )
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/swarms/{id}/peers",
                "listSwarmPeers",
                "Lists the peers of a swarm, with their addresses: personal data.",
            )
            .role(Role::Operator)
            .query::<PeerParams>()
            .gives::<SwarmPeerPage>(200, "One page.")
            .fails(&[(404, "There is no such swarm.")]),
            peers,
        )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<SwarmParams>) -> Result<Json<SwarmPage>, Problem> {
    let SwarmParams { limit, after, tenant, channel } = params;
    swarm_page(&app, limit, after.as_deref(), tenant.as_deref(), channel.as_deref()).await.map(Json)
}

/// One page of swarms; also for the console.
pub(crate) async fn swarm_page(
    app: &App,
    limit: Option<u32>,
    after: Option<&str>,
    tenant: Option<&str>,
    channel: Option<&str>,
) -> Result<SwarmPage, Problem> {
    let limit = documents::page(limit)? as usize;
    let mut place = match after {
        None => (0, 0),
        Some(after) => {
            let numbers = after.split_once('.').and_then(|(shard, at)| Some((shard.parse().ok()?, at.parse().ok()?)));
            numbers.ok_or_else(|| wrong_after(after))?
        }
    };
    let mut items = Vec::new();
    let next = loop {
        let (found, next) = app.tracker.swarm_from(place, tenant, channel);
        items.extend(found.map(|found| view(&app.tracker, &found)));
        match next {
            None => break None,
            Some(next) if items.len() >= limit => break Some(format!("{}.{}", next.0, next.1)),
            Some(next) => place = next,
        }
        // Many swarms are looked through for few of one channel; others have their turn.
        tokio::task::yield_now().await;
    };
    Ok(SwarmPage { items, next })
}

async fn read(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<SwarmView>, Problem> {
    let found = key(&id).and_then(|key| app.tracker.swarm(key));
    Ok(Json(view(&app.tracker, &found.ok_or_else(|| missing(&id))?)))
}

async fn peers(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Params(params): Params<PeerParams>,
) -> Result<Json<SwarmPeerPage>, Problem> {
    let limit = documents::page(params.limit)? as usize;
    let from = match &params.after {
        None => 0,
        Some(after) => after.parse().map_err(|_| wrong_after(after))?,
    };
    let found = key(&id).and_then(|key| app.tracker.peers_of(key, from, limit + 1));
    let mut found = found.ok_or_else(|| missing(&id))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let now_ms = app.tracker.now_ms();
    let items = found.into_iter().map(|peer| peer_view(&app.tracker, now_ms, peer)).collect();
    Ok(Json(SwarmPeerPage { items, next: more.then(|| (from + limit).to_string()) }))
}

fn wrong_after(after: &str) -> Problem {
    Problem::parameter(FieldError::new("after", after, "must be the `next` of the page before"))
}

fn missing(id: &str) -> Problem {
    let detail = format!("there is no swarm `{id}` with a peer at this instance; GET /api/v1/swarms lists them");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// `tenant:channel:info_hash`; ids have no colon.
fn key(id: &str) -> Option<Key<'_>> {
    let (tenant, rest) = id.split_once(':')?;
    let (channel, info_hash) = rest.split_once(':')?;
    Some(Key { tenant, channel, info_hash: info_hash.parse().ok()? })
}

fn view(tracker: &Tracker, info: &SwarmInfo) -> SwarmView {
    let SwarmInfo { tenant, channel, info_hash, count, breakdown } = info;
    let counted = |name: &str, peers: u32| Counted { name: name.to_owned(), peers };
    let transports = Transport::ALL.into_iter().zip(breakdown.transports);
    SwarmView {
        id: format!("{tenant}:{channel}:{info_hash}"),
        tenant: tenant.as_ref().to_owned(),
        channel: channel.as_ref().to_owned(),
        info_hash: info_hash.to_string(),
        complete: count.complete,
        incomplete: count.incomplete,
        downloaded: count.downloaded,
        counted: breakdown.counted,
        remote: breakdown.remote,
        transports: transports.map(|(transport, peers)| counted(transport.name(), peers)).collect(),
        nats: breakdown.nats.iter().map(|(name, peers)| counted(name, *peers)).collect(),
        regions: breakdown.regions.iter().map(|(number, peers)| counted(&tracker.region(*number), *peers)).collect(),
    }
}

fn peer_view(tracker: &Tracker, now_ms: u64, peer: PeerInfo) -> SwarmPeer {
    SwarmPeer {
        peer: peer.id.to_string(),
        address: peer.address,
        transports: peer.transports.iter().collect(),
        nat: peer.nat,
        asn: peer.place.asn,
        isp: tracker.provider(peer.place.isp).as_ref().to_owned(),
        region: tracker.region(peer.place.region).as_ref().to_owned(),
        supply: peer.supply,
        complete: peer.complete,
        relay_only: peer.relay_only,
        remote: peer.remote,
        silent_ms: now_ms.saturating_sub(peer.seen_ms),
        told: peer.told,
        reported: peer.reported as u32,
    }
}
