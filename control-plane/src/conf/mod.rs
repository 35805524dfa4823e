//! Conf: what an SDK is told, and why; in whose name it may ask; the passes that it gets.
//!
//! | Module | Holds |
//! |---|---|
//! | `request` | what is asked, as query or JSON |
//! | [`answer`] | what is told, its ETag, and what of it is personal |
//! | `public` | the public routes |
//! | [`nodes`] | which nodes a viewer is sent to |
//! | `directory` | channels and tenants of the newest snapshot |
//! | `renew` | passes and tickets that are renewed on the tracker's heartbeat |
//! | `credentials` | TURN names and passwords |
//! | [`refusals`] | what was refused lately |
//!
//! The rules themselves are the crate `shoal_conf`'s: pure, and without a clock. Here they are compiled from the store into a state
//! that never changes and is replaced whole: at once at the instance where a change is made, within a second at the others.

pub mod answer;
pub(crate) mod credentials;
pub(crate) mod directory;
pub mod nodes;
pub(crate) mod public;
pub mod refusals;
mod renew;
pub(crate) mod request;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_conf::nonces::Nonces;
use shoal_conf::{AppRules, Code, Engine};
use tokio::sync::watch;

use crate::app::App;
use crate::link::{Live, Published};
use crate::pass::{KEY_BYTES, PassKeys};
use crate::server::StartError;
use crate::store::{ConfDocuments, PassKey, StoreError, now_ms};
use crate::token::random_hex;

pub use renew::RenewedTicket;

use directory::Directory;
use nodes::NodeView;
use refusals::Refusals;

/// How often an instance looks whether another one has changed something.
const POLL: Duration = Duration::from_secs(1);
/// A key signs only when every instance has had time to learn it.
const KEY_SETTLE_MS: u64 = 3_000;
/// What a key outlives the last pass that it may have signed.
const KEY_GRACE_MS: u64 = 60_000;
/// Longest life of a pass.
pub const MAX_PASS_TTL_S: u32 = 86_400;
/// Digests of parameters that are known to be in the store.
const MAX_KNOWN_PARAMETERS: usize = 10_000;

/// Conf: passes and signed requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfSettings {
    /// Seconds that a viewer's pass and TURN credentials live, from 60 to 86400. The tracker renews passes with each announce, so
    /// this is how long a viewer that was shut out can go on at most.
    pub pass_ttl_s: u32,
    /// Most signed requests of one app that are remembered against replay at a time; beyond them signed requests are refused.
    pub nonces_per_app: u32,
}

impl Default for ConfSettings {
    fn default() -> Self {
        Self { pass_ttl_s: 3_600, nonces_per_app: 200_000 }
    }
}

impl ConfSettings {
    /// Within its bounds.
    pub fn pass_ttl_s(&self) -> u64 {
        u64::from(self.pass_ttl_s.clamp(60, MAX_PASS_TTL_S))
    }
}

/// All that conf knows.
pub struct Conf {
    compiled: RwLock<Arc<Compiled>>,
    directory: RwLock<Arc<Directory>>,
    nodes: RwLock<Arc<Vec<NodeView>>>,
    keys: RwLock<PassKeys>,
    nonces: Mutex<Nonces>,
    known_parameters: Mutex<HashSet<String>>,
    /// What was refused lately.
    pub refusals: Refusals,
}

/// Apps and rules, prepared; replaced whole.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Of the store's documents.
    pub version: Option<u64>,
    /// The rules.
    pub engine: Engine,
    apps: HashMap<Arc<str>, Arc<AppRules>>,
    keys: Vec<PassKey>,
}

impl Compiled {
    fn new(documents: &ConfDocuments) -> Self {
        let apps = documents.apps.iter().filter_map(AppRules::new).map(|app| (Arc::clone(&app.id), Arc::new(app)));
        Self {
            version: Some(documents.version),
            engine: Engine::new(&documents.rules, documents.off.iter().cloned()),
            apps: apps.collect(),
            keys: documents.keys.clone(),
        }
    }

    /// An app.
    pub fn app(&self, id: &str) -> Option<&Arc<AppRules>> {
        self.apps.get(id)
    }
}

impl Conf {
    /// Nothing known yet: [`refresh`] comes before the first request.
    pub fn new(settings: &ConfSettings) -> Self {
        let nothing = Published { snapshot: Default::default(), frame: Default::default() };
        Self {
            compiled: RwLock::default(),
            directory: RwLock::new(Arc::new(Directory::new(Arc::new(nothing)))),
            nodes: RwLock::default(),
            keys: RwLock::new(PassKeys::new(Vec::new())),
            nonces: Mutex::new(Nonces::new(settings.nonces_per_app as usize)),
            known_parameters: Mutex::default(),
            refusals: Refusals::default(),
        }
    }

    /// Apps and rules as they are now.
    pub fn compiled(&self) -> Arc<Compiled> {
        Arc::clone(&self.compiled.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Channels and tenants as they are now.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nodes as they were heard of.
    pub fn nodes(&self) -> Arc<Vec<NodeView>> {
        Arc::clone(&self.nodes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys of passes.
    pub fn passes(&self) -> PassKeys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_nonce(&self, app: &str, nonce: &str, until: u64, now: u64) -> Result<(), Code> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).take(app, nonce, until, now)
    }

    /// Takes in what the store says; an older version than the one at hand came late.
    fn replace(&self, compiled: Compiled) {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.retain(|app| compiled.app(app).is_some());
        drop(nonces);
        let mut current = self.compiled.write().unwrap_or_else(PoisonError::into_inner);
        if compiled.version > current.version {
            *current = Arc::new(compiled);
        }
    }

    /// As if store and snapshot said so: the app `player` of the tenant `acme` and channels of it, with these keys of passes.
    #[cfg(test)]
    pub(crate) fn pretend(&self, keys: PassKeys, channels: &[&str]) {
        use serde_json::json;

        let app = serde_json::from_value(json!({"id": "player", "tenant": "acme"})).unwrap();
        let documents =
            ConfDocuments { version: 0, apps: vec![app], rules: Vec::new(), off: Vec::new(), keys: Vec::new() };
        self.replace(Compiled::new(&documents));
        let channel = |id: &&str| {
            let origins = json!([{"id": "o", "url": "http://origin.test/"}]);
            let channel = json!({"id": id, "tenant": "acme", "prefix": format!("/{id}/"), "origins": origins});
            serde_json::from_value(channel).unwrap()
        };
        let channels = channels.iter().map(channel).collect();
        let snapshot = shoal_link::Snapshot { version: 1, channels, ..Default::default() };
        let directory = Directory::new(Arc::new(Published::new(snapshot).unwrap()));
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// In place of those that are connected.
    #[cfg(test)]
    pub(crate) fn set_nodes(&self, nodes: Vec<NodeView>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(nodes);
    }

    /// Which key signs changes with time, so this is done each second.
    fn set_keys(&self, now_ms: u64) {
        let order = signing_order(&self.compiled().keys, now_ms);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = PassKeys::new(order);
    }

    /// Whether a document of parameters was put into the store by this instance.
    fn knows_parameters(&self, digest: &str) -> bool {
        self.known_parameters.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn learn_parameters(&self, digest: &str) {
        let mut known = self.known_parameters.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN_PARAMETERS {
            known.clear();
        }
        known.insert(digest.to_owned());
    }
}

/// The keys that are accepted: first the newest that every instance knows by now, or the oldest where there is none.
fn signing_order(keys: &[PassKey], now_ms: u64) -> Vec<(u32, [u8; KEY_BYTES])> {
    let accepted = || keys.iter().filter(|key| key.drop_ms.is_none_or(|drop| drop > now_ms));
    let settled = accepted().find(|key| key.created_ms + KEY_SETTLE_MS <= now_ms);
    let signing = settled.or_else(|| accepted().next_back()).map(|key| key.number);
    let mut order: Vec<_> = accepted().map(|key| (key.number, key.secret)).collect();
    order.sort_by_key(|(number, _)| Some(*number) != signing);
    order
}

/// How long keys are accepted after a newer one was made.
pub(crate) fn key_overlap_ms(settings: &ConfSettings) -> u64 {
    // Passes of an earlier, longer setting may still be about.
    settings.pass_ttl_s().max(u64::from(MAX_PASS_TTL_S)) * 1_000 + KEY_GRACE_MS
}

/// A random key.
pub(crate) fn random_key() -> std::io::Result<[u8; KEY_BYTES]> {
    let digits = random_hex()?;
    let mut key = [0; KEY_BYTES];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        *byte = pair.iter().fold(0, |sum, next| sum << 4 | digit(*next));
    }
    Ok(key)
}

/// Makes what has to be there before the first request, and reads everything.
pub(crate) async fn start(app: &App) -> Result<(), StartError> {
    let key = random_key().map_err(StartError::Random)?;
    app.db(move |store| store.ensure_pass_key(&key)).await?;
    refresh(app).await?;
    Ok(())
}

/// Takes in what has changed since the last time.
pub(crate) async fn refresh(app: &App) -> Result<(), StoreError> {
    let known = app.conf.compiled().version;
    let changed = app
        .db(move |store| {
            // Most often nothing has changed: then this is all that is asked.
            if Some(store.conf_version()?) == known {
                return Ok(None);
            }
            store.conf_documents().map(|documents| Some(Compiled::new(&documents)))
        })
        .await?;
    if let Some(compiled) = changed {
        app.conf.replace(compiled);
    }
    app.conf.set_keys(now_ms());
    refresh_directory(app).await;
    let nodes = app.nodes().into_iter().map(|(name, live)| view(app, name, live)).collect();
    *app.conf.nodes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(nodes);
    Ok(())
}

async fn refresh_directory(app: &App) {
    let newest = app.hub.newest();
    let known = app.conf.directory().version();
    if newest.snapshot.version == known {
        return;
    }
    // Many channels take long to sort.
    let made = tokio::task::spawn_blocking(move || Directory::new(newest)).await;
    if let Ok(directory) = made {
        *app.conf.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
    }
}

/// Follows the store, the snapshot and the nodes, until `stop`.
pub(crate) async fn follow(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // What is known holds on; the failure was counted and logged.
        let _ = refresh(&app).await;
    }
}

/// A node as conf sees it.
fn view(app: &App, name: String, live: Live) -> NodeView {
    let mut urls: Vec<String> = Vec::new();
    for url in live.public_url.iter().chain(&live.endpoints.https) {
        let url = url.trim_end_matches('/').to_owned();
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    let address = urls.iter().find_map(|url| {
        let (authority, _) = request::split_url(url)?;
        let bare = shoal_link::access::names::bare_host(authority);
        bare.trim_start_matches('[').trim_end_matches(']').parse().ok()
    });
    let place = address.map(|address| app.places.place(address)).unwrap_or_default();
    // What the node says of itself goes before what its address says.
    let region = live.region.unwrap_or_else(|| place.region.to_string());
    NodeView {
        name,
        country: region.split('-').next().unwrap_or_default().to_owned(),
        region,
        point: place.point,
        urls,
        punch: live.endpoints.udp.iter().map(ToString::to_string).collect(),
        relay: live.endpoints.turn_urls(),
        busy_permille: live.health.as_ref().map_or(0, |seen| seen.health.busy_permille),
        draining: live.health.as_ref().is_some_and(|seen| seen.health.draining),
        alive: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_signs_when_all_instances_know_it_and_an_old_one_is_accepted_until_its_passes_are_over() {
        let key = |number, created_ms, drop_ms| PassKey { number, secret: [number as u8; 32], created_ms, drop_ms };
        let numbers = |keys: &[PassKey], now| -> Vec<u32> {
            signing_order(keys, now).into_iter().map(|(number, _)| number).collect()
        };
        let first = [key(1, 0, None)];
        assert_eq!(numbers(&first, 0), [1]);
        let both = [key(2, 10_000, None), key(1, 0, Some(100_000))];
        assert_eq!(numbers(&both, 10_000), [1, 2]);
        assert_eq!(numbers(&both, 10_000 + KEY_SETTLE_MS), [2, 1]);
        assert_eq!(numbers(&both, 100_000), [2]);
        assert_eq!(numbers(&[], 0), Vec::<u32>::new());
        let settings = ConfSettings { pass_ttl_s: 5, ..ConfSettings::default() };
        assert_eq!(settings.pass_ttl_s(), 60);
        assert!(key_overlap_ms(&settings) > u64::from(MAX_PASS_TTL_S) * 1_000);
    }

    #[test]
    fn random_keys_differ() {
        let (one, other) = (random_key().unwrap(), random_key().unwrap());
        assert!(one != other && one != [0; KEY_BYTES]);
    }
}
