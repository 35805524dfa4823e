//! Announces and scrapes by HTTP. The query of a classic one is read in place, and its answer written into one buffer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use shoal_swarm::query::{self, Event};
use shoal_swarm::swarms::{Announce, Count, Done, Key, Refusal};
use shoal_swarm::{InfoHash, Nat, PeerId, Transport, Transports, bencode, form};

use super::metrics::{Door, Outcome};
use super::{ANSWER, Denied, Tracker, Viewer, place, registered, socket};
use crate::app::App;
use crate::field::FieldError;
use crate::rest::input;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::rest::{client, no_route};
use crate::store::now_ms;

/// Peers in an answer to who does not say how many it would like.
const USUAL_WANT: u32 = 30;
/// Bytes of a classic answer, more or less.
const ANSWER_BYTES: usize = 512;

/// Where announces with a pass come in; behind it comes the pass.
const WITH_PASS: &str = "/v1/tracker/";
/// What is in the document of routes that classic clients use.
const CLASSIC: &str = "text/plain";

/// Adds the tracker's routes. They count for themselves, and cost nothing else.
pub(crate) fn add(routes: Routes) -> Routes {
    let classic = |path, id, summary| {
        Operation::new(Method::GET, path, id, summary)
            .open()
            .gives_as::<String>(200, CLASSIC, "Bencoded; what is refused has a `failure reason`.")
            .gives_nothing(101, "The request was to upgrade to a WebSocket: the WebTorrent protocol begins.")
            .fails(&[
                (400, "The upgrade is malformed."),
                (404, "This path is for WebSockets alone."),
                (426, "The connection cannot be upgraded: use HTTP/1.1."),
                (503, "There are as many WebSockets as there may be."),
            ])
    };
    let scrape = |path, id, summary| {
        Operation::new(Method::GET, path, id, summary).open().gives_as::<String>(
            200,
            CLASSIC,
            "Bencoded; what is refused has a `failure reason`.",
        )
    };
    let json = |path, id, summary| {
        Operation::new(Method::POST, path, id, summary)
            .open()
            .body::<form::Announce>()
            .gives::<form::Reply<'static>>(200, "The peer is in the swarm, or has left it.")
            .fails(&[
                (403, "The pass is not accepted; the detail says why."),
                (404, "Nobody may announce without a pass."),
                (408, "The body did not arrive in time."),
                (409, "The peer id is another viewer's, or the viewer has too many peers."),
                (503, "There is no room; the detail says where."),
            ])
    };
    routes
        .add_bare(classic("/v1/tracker/{pass}/announce", "announce", "Announces a peer, as BitTorrent does."), get)
        .add_bare(
            json("/v1/tracker/{pass}/announce", "announceJson", "Announces a peer, with all that shoal knows."),
            post,
        )
        .add_bare(scrape("/v1/tracker/{pass}/scrape", "scrape", "Counts the peers of swarms."), get_scrape)
        .add_bare(classic("/v1/tracker/{pass}", "webtorrent", "Upgrades to the WebTorrent protocol."), get)
        .add_bare(
            classic("/announce", "openAnnounce", "Announces a peer without a pass, where that is configured."),
            get,
        )
        .add_bare(json("/announce", "openAnnounceJson", "The same with all that shoal knows."), post)
        .add_bare(scrape("/scrape", "openScrape", "Counts the peers of swarms without a pass."), get_scrape)
        .add_bare(classic("/", "openWebtorrent", "Upgrades to the WebTorrent protocol without a pass."), get)
}

/// Whose request it is.
fn viewer(app: &App, path: &str) -> Result<Viewer, Denied> {
    match path.strip_prefix(WITH_PASS) {
        Some(behind) => {
            let pass = behind.split('/').next().unwrap_or_default();
            app.tracker.viewer(&app.passes(), pass, now_ms() / 1000)
        }
        None => app.tracker.anybody(),
    }
}

fn address(app: &App, request: &Request) -> Option<IpAddr> {
    client::address(request.extensions(), request.headers(), &app.config.public.trusted_proxies)
}

async fn get(State(app): State<Arc<App>>, request: Request) -> Response {
    let path = request.uri().path();
    let viewer = viewer(&app, path);
    let Some(address) = address(&app, &request) else { return no_address() };
    if is_upgrade(request.headers()) {
        return socket::upgrade(app, viewer, address, request).await;
    }
    if !path.ends_with("/announce") {
        return no_route(&request, "/v1/openapi.json");
    }
    let query = request.uri().query().unwrap_or_default();
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let outcome = classic(&app, viewer, address, query, &mut out);
    app.tracker.counters.announced(Door::Http, outcome);
    bencoded(out)
}

fn classic(app: &App, viewer: Result<Viewer, Denied>, address: IpAddr, query: &str, out: &mut Vec<u8>) -> Outcome {
    let viewer = match viewer {
        Ok(viewer) => viewer,
        Err(denied) => {
            bencode::failure(&denied.to_string(), out);
            return denied.outcome();
        }
    };
    let found = match query::announce(query) {
        Ok(found) => found,
        Err(error) => {
            bencode::failure(&error.to_string(), out);
            return Outcome::Malformed;
        }
    };
    let announce = Announce {
        key: Key { tenant: &viewer.tenant, channel: &viewer.channel, info_hash: found.info_hash },
        peer_id: found.peer_id,
        session: app.tracker.session(&viewer, found.peer_id, found.key),
        address,
        port: found.port,
        transports: Transports::NONE.with(Transport::Tcp),
        connection: 0,
        nat: None,
        node: 0,
        supply: None,
        complete: found.left.map(|left| left == 0),
        event: found.event,
        failed: &[],
        want: found.numwant.unwrap_or(USUAL_WANT) as usize,
        relay_only: viewer.relay_only,
        remote: false,
        place: &|address| place(app, address),
    };
    ANSWER.with_borrow_mut(|answer| match app.tracker.announce(&announce, answer) {
        Ok(done) => {
            let form = match found.compact {
                true => bencode::Form::Compact,
                false => bencode::Form::Dictionaries { ids: !found.no_peer_id },
            };
            bencode::announce(answer, form, out);
            Outcome::Done(done)
        }
        Err(refusal) => {
            bencode::failure(&refusal.to_string(), out);
            Outcome::Refused(refusal)
        }
    })
}

async fn get_scrape(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let found = viewer(&app, request.uri().path()).map_err(|denied| denied.to_string()).and_then(|viewer| {
        let hashes = query::scrape(request.uri().query().unwrap_or_default()).map_err(|error| error.to_string())?;
        Ok(counts(&app.tracker, &viewer, hashes))
    });
    match found {
        Ok(counts) => bencode::scrape(&counts, &mut out),
        Err(reason) => bencode::failure(&reason, &mut out),
    }
    app.tracker.counters.scraped(Door::Http);
    bencoded(out)
}

pub(super) fn counts(tracker: &Tracker, viewer: &Viewer, hashes: Vec<InfoHash>) -> Vec<(InfoHash, Count)> {
    let key = |info_hash| Key { tenant: &viewer.tenant, channel: &viewer.channel, info_hash };
    hashes.into_iter().map(|info_hash| (info_hash, tracker.scrape(key(info_hash)))).collect()
}

async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let counters = &app.tracker.counters;
    let viewer = match viewer(&app, request.uri().path()) {
        Ok(viewer) => viewer,
        Err(denied) => {
            counters.announced(Door::Json, denied.outcome());
            return denied.problem().into_response();
        }
    };
    let Some(address) = address(&app, &request) else { return no_address() };
    let announce = match read(request).await {
        Ok(announce) => announce,
        Err(problem) => {
            counters.announced(Door::Json, Outcome::Malformed);
            return problem.into_response();
        }
    };
    match json(&app, &viewer, address, &announce) {
        Ok((out, done)) => {
            counters.announced(Door::Json, Outcome::Done(done));
            respond(out, HeaderValue::from_static("application/json"))
        }
        Err(refusal) => {
            counters.announced(Door::Json, Outcome::Refused(refusal));
            let status = if refusal.passes() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CONFLICT };
            Problem::new(status, refusal.to_string()).into_response()
        }
    }
}

async fn read(request: Request) -> Result<form::Announce, Problem> {
    let bytes = input::json_bytes(request, &()).await?;
    let announce = match serde_json::from_slice::<form::Announce>(&bytes) {
        Ok(announce) => announce,
        // Slower, and says which field is wrong.
        Err(_) => input::parse(&input::json::<Value>(&bytes)?)?,
    };
    announce
        .check()
        .map_err(|error| Problem::fields(vec![FieldError::new(error.field(), Value::Null, error.to_string())]))?;
    Ok(announce)
}

fn json(app: &App, viewer: &Viewer, address: IpAddr, found: &form::Announce) -> Result<(Vec<u8>, Done), Refusal> {
    let event = Event::from(found.event);
    let transports: Transports = found.transports.iter().copied().collect();
    let punches = transports.has(Transport::ShoalUdp) && event != Event::Stopped;
    let known = if punches { registered(app, viewer, found.peer_id) } else { None };
    let (nat, node) = known.unwrap_or((found.nat, 0));
    let announce = Announce {
        key: Key { tenant: &viewer.tenant, channel: &viewer.channel, info_hash: found.info_hash },
        peer_id: found.peer_id,
        session: app.tracker.session(viewer, found.peer_id, 0),
        address,
        port: found.port,
        transports,
        connection: 0,
        // A peer that knows nothing does not overrule what it said over another door.
        nat: (nat != Nat::default()).then_some(nat),
        node,
        supply: Some(found.supply),
        complete: (event == Event::Completed).then_some(true),
        event,
        failed: &found.failed,
        want: found.numwant.unwrap_or(USUAL_WANT) as usize,
        relay_only: viewer.relay_only,
        remote: false,
        place: &|address| place(app, address),
    };
    ANSWER.with_borrow_mut(|answer| {
        let done = app.tracker.announce(&announce, answer)?;
        let names: Vec<(u16, Arc<str>)> = nodes(&app.tracker, answer.peers.iter().map(|peer| peer.node));
        let name = |number: u16| names.iter().find(|(known, _)| *known == number).map_or("", |(_, name)| &**name);
        let now = now_ms() / 1000;
        let pass = viewer.pass.as_ref().and_then(|pass| app.conf.renew_in_time(&app.config.conf, pass, now));
        let shown = viewer.pass.as_ref().zip(found.ticket.as_deref());
        let ticket = shown.and_then(|(pass, ticket)| app.conf.renew_ticket(pass, ticket, address, now));
        let ticket = ticket.as_ref().map(|renewed| renewed.ticket.as_str());
        let mut out = Vec::with_capacity(ANSWER_BYTES + 256 * answer.peers.len());
        form::reply(answer, &name, form::Renewed { pass: pass.as_deref(), ticket }, &mut out);
        Ok((out, done))
    })
}

/// The names of the nodes of an answer's peers; few are different.
fn nodes(tracker: &Tracker, numbers: impl Iterator<Item = u16>) -> Vec<(u16, Arc<str>)> {
    let mut names: Vec<(u16, Arc<str>)> = Vec::new();
    for number in numbers.filter(|number| *number != 0) {
        if names.iter().all(|(known, _)| *known != number) {
            names.push((number, tracker.nodes.name(number)));
        }
    }
    names
}

/// The session of a peer that says nothing but its id.
pub(super) fn session_of(tracker: &Tracker, viewer: &Viewer, peer_id: PeerId) -> u64 {
    tracker.session(viewer, peer_id, 0)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn bencoded(out: Vec<u8>) -> Response {
    respond(out, HeaderValue::from_static(CLASSIC))
}

fn respond(out: Vec<u8>, media_type: HeaderValue) -> Response {
    let mut response = Response::new(Body::from(out));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Each connection has an address; one without was not made by this server.
fn no_address() -> Response {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the connection has no address").into_response()
}
