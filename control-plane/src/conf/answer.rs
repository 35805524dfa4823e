//! What an SDK is told.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shoal_conf::engine::Reason;
use shoal_conf::{Decision, Settled};
use shoal_link::{Channel, Tenant};
use shoal_ticket::{Claims, PARAMETER, SignError, mint};

use super::credentials;
use super::nodes::NodeView;
use crate::pass::{Pass, PassKeys};

/// Stands for the pass in what is not personal.
const PASS: &str = "{pass}";
/// Bytes of a hash that are kept in digests and tags: enough that two documents never share one.
const DIGEST_BYTES: usize = 18;
/// Most relay URIs that an SDK is told.
const MAX_RELAYS: usize = 8;

/// What conf tells an SDK. `session`, `pass`, `ticket` and `turn` are the viewer's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfAnswer {
    /// Whether to use P2P. Playback from the edge goes on either way.
    pub p2p: bool,
    /// What decided that.
    pub reason: Reason,
    /// The rule that did, if it was one.
    pub rule: Option<String>,
    /// App id.
    pub app: String,
    /// Channel id.
    pub channel: String,
    /// Path below the channel's prefix, if one was asked for.
    pub asset: Option<String>,
    /// Seconds after which to ask again; also in `parameters`.
    pub interval_s: u32,
    /// Every P2P parameter.
    pub parameters: Settled,
    /// Where the same parameters are, for ever: `GET /v1/parameters/{digest}`.
    pub parameters_digest: String,
    /// Whom to ask for what.
    pub endpoints: Endpoints,
    /// Session id: in tickets, passes and reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What the tracker and reports are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// Unix seconds at which pass, ticket and TURN password end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// For slices, where the channel asks for a ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// For the relay, where the tenant has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnUser>,
}

/// Whom to ask for what; nearest first. What there is none of is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Endpoints {
    /// Where slices are: the URLs of the channel's folder.
    pub slices: Vec<Slice>,
    /// The tracker; none when P2P is off.
    pub tracker: Option<Tracker>,
    /// Nodes that introduce peers and tell the type of a NAT: `host:port`, UDP.
    pub punch: Vec<String>,
    /// Relays (RFC 7065), as an RTCPeerConnection's `urls` takes them.
    pub relay: Vec<String>,
    /// Where reports are posted, with the pass as `Authorization: Bearer`.
    pub report: Option<String>,
}

/// A node that has the channel's slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slice {
    /// The node.
    pub node: String,
    /// The channel's folder there; ends with a slash.
    pub url: String,
}

/// The tracker. `{pass}` stands for the pass in answers that are nobody's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tracker {
    /// HTTP announces.
    pub http: String,
    /// The WebTorrent WebSocket protocol.
    pub websocket: String,
}

/// A ticket for slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ticket {
    /// Name of the query parameter: `ticket`.
    pub parameter: String,
    /// Its value.
    pub value: String,
    /// The ready-made URL of the asset at the nearest node; without an asset, or a node, none.
    pub url: Option<String>,
}

/// A TURN user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnUser {
    /// Name.
    pub username: String,
    /// Password.
    pub credential: String,
}

impl std::fmt::Debug for TurnUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnUser").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What an answer is made of.
pub(super) struct Facts<'a> {
    pub(super) app: &'a str,
    pub(super) channel: &'a Channel,
    pub(super) tenant: Option<&'a Tenant>,
    pub(super) asset: Option<&'a str>,
    pub(super) decision: Decision,
    /// The best first.
    pub(super) nodes: Vec<&'a NodeView>,
    /// Base URL of the public API, if it is known.
    pub(super) base: Option<&'a str>,
}

/// Who gets an answer of its own.
pub(super) struct Viewer<'a> {
    pub(super) session: &'a str,
    pub(super) expires: u64,
    pub(super) keys: &'a PassKeys,
}

impl ConfAnswer {
    /// What is nobody's own.
    pub(super) fn shared(facts: &Facts<'_>) -> Self {
        let Facts { app, channel, tenant, asset, decision, nodes, base } = facts;
        let mut parameters = decision.parameters.clone();
        let tenant_relays = tenant.is_some_and(|tenant| !tenant.relay.secrets.is_empty());
        parameters.relay_only |= tenant.is_some_and(|tenant| tenant.relay.only);
        parameters.relay_allowed &= tenant_relays;
        let (p2p, relayed) = (decision.p2p, decision.p2p && parameters.relay_allowed);
        let secure = base.is_some_and(|base| base.starts_with("https://"));
        let slices = nodes.iter().filter_map(|node| {
            let mut urls = node.urls.iter().filter(|url| answers_at(channel, url));
            // A page that came by TLS may ask for nothing without it.
            let first = urls.clone().next()?;
            let url = urls.find(|url| !secure || url.starts_with("https://")).unwrap_or(first);
            Some(Slice { node: node.name.clone(), url: format!("{url}{}", channel.prefix) })
        });
        let of_nodes = |list: fn(&NodeView) -> &Vec<String>, wanted: bool| -> Vec<String> {
            nodes.iter().filter(|_| wanted).flat_map(|node| list(node).clone()).take(MAX_RELAYS).collect()
        };
        let announce = |base: &str| format!("{base}/v1/tracker/{PASS}/announce");
        let tracker = base.filter(|_| p2p).map(|base| Tracker {
            http: announce(base),
            // `http` becomes `ws`, and `https` becomes `wss`.
            websocket: announce(&base.replacen("http", "ws", 1)),
        });
        Self {
            p2p,
            reason: decision.reason,
            rule: decision.rule.as_deref().map(str::to_owned),
            app: (*app).to_owned(),
            channel: channel.id.clone(),
            asset: asset.map(str::to_owned),
            interval_s: parameters.interval_s,
            parameters_digest: digest(&parameters),
            parameters,
            endpoints: Endpoints {
                slices: slices.collect(),
                tracker,
                punch: of_nodes(|node| &node.punch, p2p),
                relay: of_nodes(|node| &node.relay, relayed),
                report: base.map(|base| format!("{base}/v1/reports")),
            },
            session: None,
            pass: None,
            expires: None,
            ticket: None,
            turn: None,
        }
    }

    /// The entity tag of what is nobody's own (RFC 9110 section 8.8.3).
    pub(super) fn tag(&self) -> String {
        format!("\"{}\"", digest(self))
    }

    /// Adds what is the viewer's own.
    ///
    /// # Errors
    /// A path that no ticket can be made for.
    pub(super) fn personal(mut self, facts: &Facts<'_>, viewer: &Viewer<'_>) -> Result<Self, SignError> {
        let Viewer { session, expires, keys } = *viewer;
        let channel = facts.channel;
        let pass = keys.mint(&Pass {
            tenant: channel.tenant.as_str().into(),
            app: facts.app.into(),
            channel: channel.id.as_str().into(),
            session: session.into(),
            expires,
            relay_only: self.parameters.relay_only,
        });
        if let (Some(tracker), Some(pass)) = (&mut self.endpoints.tracker, &pass) {
            tracker.http = tracker.http.replacen(PASS, pass, 1);
            tracker.websocket = tracker.websocket.replacen(PASS, pass, 1);
        }
        if let Some(key) = channel.access.ticket.as_ref().and_then(|policy| policy.keys.first()) {
            let path = format!("{}{}", channel.prefix, facts.asset.unwrap_or_default());
            // An asset's ticket opens its folder, so that its playlists and segments are in it.
            let path_prefix = path.get(..=path.rfind('/').unwrap_or(0)).unwrap_or("/");
            let claims = Claims { channel: &channel.id, path_prefix, expires, session, network: None };
            let value = mint(key, &claims)?;
            let first = self.endpoints.slices.first();
            let url = facts.asset.zip(first).map(|(asset, slice)| format!("{}{asset}?{PARAMETER}={value}", slice.url));
            self.ticket = Some(Ticket { parameter: PARAMETER.to_owned(), value, url });
        }
        let secret = facts.tenant.and_then(|tenant| tenant.relay.secrets.first());
        if let Some(secret) = secret.filter(|_| self.p2p && self.parameters.relay_allowed) {
            // A session has no character that a name may not have.
            if let Ok((username, credential)) = credentials::turn(expires, &channel.tenant, session, &secret.secret) {
                self.turn = Some(TurnUser { username, credential });
            }
        }
        self.session = Some(session.to_owned());
        self.expires = Some(expires);
        self.pass = pass;
        Ok(self)
    }
}

/// Whether the channel answers at a node's base URL.
pub(crate) fn answers_at(channel: &Channel, url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, authority)| authority);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    channel.hosts.is_empty() || channel.hosts.iter().any(|name| name == host || name == authority)
}

/// The start of the SHA-256 of a document's JSON, in base64url.
pub(super) fn digest<T: Serialize>(document: &T) -> String {
    let text = serde_json::to_vec(document).unwrap_or_default();
    let hash = Sha256::digest(text);
    URL_SAFE_NO_PAD.encode(hash.get(..DIGEST_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_conf::{Engine, Subject};

    use super::*;

    #[test]
    fn slices_are_asked_by_tls_where_the_api_is() {
        let channel: Channel = serde_json::from_value(json!({"id": "room1", "prefix": "/room1/", "hosts": ["e.test"],
            "origins": [{"id": "o", "url": "http://origin.test/"}]}))
        .unwrap();
        let subject = Subject {
            tenant: "default",
            app: "player",
            channel: "room1",
            asset: None,
            platform: None,
            sdk: None,
            country: "",
            region: "",
            address: None,
            viewer: None,
            viewers: None,
            now: None,
        };
        let urls = ["http://other.test", "http://e.test:8080", "https://e.test"].map(str::to_owned).to_vec();
        let node = NodeView { name: "edge".to_owned(), urls, ..NodeView::default() };
        let slices = |base, urls: &[String]| -> Vec<String> {
            let node = NodeView { urls: urls.to_vec(), ..node.clone() };
            let facts = Facts {
                app: "player",
                channel: &channel,
                tenant: None,
                asset: None,
                decision: Engine::default().decide(&subject),
                nodes: vec![&node],
                base: Some(base),
            };
            ConfAnswer::shared(&facts).endpoints.slices.into_iter().map(|slice| slice.url).collect()
        };
        assert_eq!(slices("http://api.test", &node.urls), ["http://e.test:8080/room1/"]);
        assert_eq!(slices("https://api.test", &node.urls), ["https://e.test/room1/"]);
        assert_eq!(slices("https://api.test", &node.urls[..2]), ["http://e.test:8080/room1/"]);
        assert!(slices("https://api.test", &node.urls[..1]).is_empty(), "the channel does not answer there");
    }
}
