//! What requests and connections share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::geo::Places;
use crate::link::Hub;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::server::StartError;
use crate::store::{ChangeError, Store, StoreError, StoreErrorKind};
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
    /// Where addresses are.
    pub places: Places,
    /// Who is in which swarm.
    pub tracker: Tracker,
    /// The configuration.
    pub config: Config,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may use the admin API.
    pub token: Token,
    /// Whether the link listens.
    linked: AtomicBool,
}

impl App {
    /// Puts the parts together.
    pub fn new(store: Store, metrics: Arc<Metrics>, token: Token, config: Config) -> Result<Arc<Self>, StartError> {
        let hub = Hub::new(Arc::clone(&metrics));
        let peers = Peers::new(Arc::clone(&metrics));
        let places = Places::open(&config.geo)?;
        let tracker = Tracker::new(&config.tracker, metrics.registry())?;
        Ok(Arc::new(Self {
            store,
            hub,
            peers,
            places,
            tracker,
            config,
            metrics,
            token,
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
            Ok(_) => self.hub.changed(),
            Err(ChangeError::Store(error)) => self.count(error),
            Err(_) => {}
        }
        result
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
        let store = self.store.clone();
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
