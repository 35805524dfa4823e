//! What requests and connections share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use crate::access::Access;
use crate::access::audit::{self, Entry};
use crate::conf::{self, Conf};
use crate::config::Config;
use crate::geo::Places;
use crate::instances::{self, Instances};
use crate::link::{Hub, Live, PlaybackFeed};
use crate::metrics::Metrics;
use crate::pass::PassKeys;
use crate::peers::Peers;
use crate::recon;
use crate::report::Reports;
use crate::server::StartError;
use crate::store::{AccessError, ChangeError, Store, StoreError, StoreErrorKind};
use crate::token::Token;
use crate::tracker::Tracker;

/// The control plane's parts; shared by reference.
pub struct App {
    /// The database. From async code use [`App::db`] and [`App::change`]: it blocks.
    store: Store,
    /// The data planes connected.
    pub hub: Hub,
    /// The peers registered at them.
    pub peers: Peers,
    /// What nodes tell of playback.
    pub playback: PlaybackFeed,
    /// What SDKs are told.
    pub conf: Conf,
    /// The other instances.
    pub instances: Instances,
    /// What viewers report.
    pub reports: Reports,
    /// Where addresses are.
    pub places: Places,
    /// Who is in which swarm.
    pub tracker: Tracker,
    /// The configuration.
    pub config: Config,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The operator's own token.
    pub token: Token,
    /// Attempts to use the admin API and the console.
    pub access: Access,
    /// Imports of CDNs' logs at once.
    pub imports: Semaphore,
    /// Whether the link listens.
    linked: AtomicBool,
}

impl App {
    /// Puts the parts together.
    pub fn new(
        store: Store,
        reports: Reports,
        metrics: Arc<Metrics>,
        token: Token,
        config: Config,
    ) -> Result<Arc<Self>, StartError> {
        let hub = Hub::new(Arc::clone(&metrics));
        let peers = Peers::new(Arc::clone(&metrics));
        let playback = PlaybackFeed::new(Arc::clone(&metrics));
        let conf = Conf::new(&config.conf);
        let places = Places::open(&config.geo)?;
        let tracker = Tracker::new(&config.tracker, metrics.registry())?;
        let instances = Instances::new().map_err(StartError::Random)?;
        Ok(Arc::new(Self {
            store,
            hub,
            peers,
            playback,
            conf,
            reports,
            places,
            tracker,
            instances,
            config,
            metrics,
            token,
            access: Access::new(),
            imports: Semaphore::new(recon::import::AT_ONCE),
            linked: AtomicBool::new(false),
        }))
    }

    /// Runs what can only fail with the database, off the async threads.
    pub async fn db<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let result = self.blocking(work).await.and_then(|result| result);
        result.inspect_err(|error| self.count(error))
    }

    /// Runs a change of channels or tenants off the async threads, and has the new snapshot published.
    pub async fn change<T, F>(&self, work: F) -> Result<T, ChangeError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, ChangeError> + Send + 'static,
    {
        let result = self.blocking(work).await.map_err(ChangeError::from).and_then(|result| result);
        match &result {
            Ok(_) => {
                self.hub.changed();
                // What was changed holds here before it is answered. The change is made, whatever this says; it was counted.
                let _ = conf::refresh(self).await;
            }
            Err(ChangeError::Store(error)) => self.count(error),
            Err(_) => {}
        }
        result
    }

    /// Runs a change of users or tokens off the async threads.
    pub(crate) async fn change_access<T, F>(&self, work: F) -> Result<T, AccessError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, AccessError> + Send + 'static,
    {
        let result = self.blocking(work).await.map_err(AccessError::from).and_then(|result| result);
        if let Err(AccessError::Store(error)) = &result {
            self.count(error);
        }
        result
    }

    /// Writes an entry of the audit log by itself. What fails is the caller's to count.
    pub(crate) async fn note(&self, entry: Entry) -> Result<(), StoreError> {
        self.blocking(move |store| store.add_audit(&entry)).await.and_then(|result| result)
    }

    /// A failure that is no database's, told as one: the request may be tried again.
    pub(crate) fn store_error(&self, message: String) -> StoreError {
        StoreError { kind: StoreErrorKind::Io, path: self.store.name().to_owned(), message }
    }

    /// The keys of viewers' passes.
    pub fn passes(&self) -> PassKeys {
        self.conf.passes()
    }

    /// Whether other instances may use the same database.
    pub fn shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Every node that is connected, to this instance or to another, by name.
    pub fn nodes(&self) -> BTreeMap<String, Live> {
        let mut nodes = self.hub.nodes();
        for (node, elsewhere) in &*self.instances.others() {
            nodes.entry(node.clone()).or_insert_with(|| elsewhere.live.clone());
        }
        nodes
    }

    /// Writes down that a node connected. A failure is counted and logged; the node is served all the same.
    pub(crate) async fn joined(&self, node: &str, live: &Live) {
        let (instance, seen) = (self.instances.id.clone(), instances::seen(node, live));
        if let Ok(number) = self.db(move |store| store.node_joined(&instance, &seen)).await {
            self.hub.joined(node, live, number);
        }
    }

    /// Writes down that a node has gone. A failure is counted and logged, and costs only the time of the good-bye.
    pub(crate) async fn left(&self, node: &str, live: &Live) {
        let Some(number) = live.joined else { return };
        let (name, instance, snapshot) = (node.to_owned(), self.instances.id.clone(), live.snapshot);
        let _ = self.db(move |store| store.node_gone(&name, &instance, number, snapshot)).await;
    }

    /// Says that the link listens, or no longer does.
    pub fn set_linked(&self, linked: bool) {
        self.linked.store(linked, Ordering::Relaxed);
    }

    /// Whether the link listens.
    pub fn linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> T + Send + 'static,
    {
        let store = match audit::current() {
            Some(slot) => self.store.audited(slot),
            None => self.store.clone(),
        };
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|error| StoreError {
            kind: StoreErrorKind::Io,
            path: self.store.name().to_owned(),
            message: format!("its task ended early: {error}"),
        })
    }

    fn count(&self, error: &StoreError) {
        self.metrics.db_error(error);
        tracing::error!(%error, "database");
    }
}
