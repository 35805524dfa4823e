//! Start and stop.

use std::fs::{DirBuilder, File, TryLockError};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api;
use crate::app::App;
use crate::conf;
use crate::config::Config;
use crate::geo::{GeoError, Places};
use crate::http;
use crate::instances;
use crate::link::{self, BindError, Listener};
use crate::metrics::Metrics;
use crate::public;
use crate::recon;
use crate::report::{self, OpenError, Reports};
use crate::store::{Store, StoreError};
use crate::tls::{Certificate, TlsError};
use crate::token::{Token, TokenError};
use crate::tracker::{self, TrackerError};

/// Most data planes connected at a time.
const MAX_LINKS: usize = 4096;
/// Most connections to the admin API at a time.
const MAX_ADMIN_CONNECTIONS: usize = 512;
/// How long requests may go on after the signal to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the start broke.
    #[error("opening the database ended early: {0}; this is a defect of this release")]
    Task(String),
    /// The source of random numbers.
    #[error("/dev/urandom: {0}; check that it is there, and readable")]
    Random(io::Error),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The link's socket.
    #[error(transparent)]
    Link(#[from] BindError),
    /// The admin API's address.
    #[error("listen {address}: {source}; {}", listen_remedy(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The public API's address.
    #[error("public.listen {address}: {source}; {}", listen_remedy(source))]
    ListenPublic {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The public API's URL.
    #[error("public.url {0:?}: must be http:// or https:// with a host, and no query, such as https://api.example.com")]
    Url(String),
    /// The public API's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tracker.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// A file with places.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// What viewers report.
    #[error(transparent)]
    Reports(#[from] OpenError),
    /// Another control plane has the folder.
    #[error("state_dir {}: another shoal-control uses it; stop that one, or set another state_dir", .0.display())]
    StateInUse(PathBuf),
    /// The folder cannot be locked.
    #[error("{}: {source}; state_dir must be writable and on a file system with locks", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The metrics' table is wrong.
    #[error("metrics: {0}; this is a defect of this release")]
    Metrics(#[from] prometheus::Error),
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or set another `listen`",
        io::ErrorKind::PermissionDenied => "this user may not listen there: set a port above 1023",
        io::ErrorKind::AddrNotAvailable => "this host has no such address: set another `listen`",
        _ => "set another `listen`",
    }
}

/// What can be known of a configuration before anything is opened or made: URLs, and files that are only read.
///
/// # Errors
/// The first thing that is wrong, as it would keep the process from starting.
pub fn check(config: &Config) -> Result<(), StartError> {
    let url = &config.public.url;
    if !url.is_empty() && !shoal_config::is_base_url(url) {
        return Err(StartError::Url(url.clone()));
    }
    Store::check(&config.store)?;
    tracker::check(&config.tracker)?;
    Certificate::load(&config.public.tls)?;
    Places::open(&config.geo)?;
    Ok(())
}

/// A control plane that listens, and serves once [`Server::run`] is called.
pub struct Server {
    app: Arc<App>,
    admin: TcpListener,
    public: TcpListener,
    certificate: Option<Arc<Certificate>>,
    link: Listener,
    _lock: File,
}

impl Server {
    /// Opens everything. `inherited` is a listening socket from the service manager; it goes before `config.listen`.
    pub async fn start(config: &Config, state_dir: &Path, inherited: Option<StdListener>) -> Result<Self, StartError> {
        let (database, folder) = (config.store.clone(), state_dir.to_owned());
        let opened = tokio::task::spawn_blocking(move || Store::start(&database, &folder)).await;
        let store = opened.map_err(|error| StartError::Task(error.to_string()))??;
        let lock = lock(state_dir)?;
        let token = Token::load_or_create(&config.token_file(state_dir))?;
        let address = config.listen;
        let failed = |source| StartError::Listen { address, source };
        let admin = match inherited {
            Some(listener) => {
                listener.set_nonblocking(true).map_err(failed)?;
                TcpListener::from_std(listener).map_err(failed)?
            }
            None => TcpListener::bind(address).await.map_err(failed)?,
        };
        let certificate = Certificate::load(&config.public.tls)?;
        let address = config.public.listen;
        let failed = |source| StartError::ListenPublic { address, source };
        let public = TcpListener::bind(address).await.map_err(failed)?;
        let metrics = Arc::new(Metrics::new()?);
        let opening = (config.reports.clone(), state_dir.to_owned(), store.clone(), Arc::clone(&metrics));
        let opened = tokio::task::spawn_blocking(move || {
            let (reporting, folder, store, metrics) = opening;
            Reports::open(&reporting, &folder, &store, metrics.registry())
        });
        let reports = opened.await.map_err(|error| StartError::Task(error.to_string()))??;
        let app = App::new(store, reports, metrics, token, config.clone())?;
        // Before the link listens: the first node gets its snapshot at once.
        link::publish_now(&app).await?;
        conf::start(&app).await?;
        let link = Listener::bind(&config.link_socket)?;
        app.set_linked(true);
        Ok(Self { app, admin, public, certificate, link, _lock: lock })
    }

    /// Where the admin API listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Where the public API listens.
    pub fn public_address(&self) -> io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Serves until `stop` is ready, then ends what runs within a bound.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { app, admin, public, certificate, link, _lock } = self;
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(link::publish(Arc::clone(&app), stopped.clone()));
        tasks.spawn(recon::watch::run(Arc::clone(&app), stopped.clone()));
        tasks.spawn(conf::follow(Arc::clone(&app), stopped.clone()));
        tasks.spawn(instances::follow(Arc::clone(&app), stopped.clone()));
        tasks.spawn(report::follow(Arc::clone(&app), stopped.clone()));
        tasks.spawn(report::listen(Arc::clone(&app), stopped.clone()));
        tasks.spawn(accept_links(Arc::clone(&app), link, stopped.clone()));
        tasks.spawn(tracker::run(Arc::clone(&app), stopped.clone()));
        tasks.spawn(http::serve(admin, None, api::router(Arc::clone(&app)), MAX_ADMIN_CONNECTIONS, stopped.clone()));
        let connections = app.config.public.connections as usize;
        if let Some(certificate) = &certificate {
            tasks.spawn(Arc::clone(certificate).follow(stopped.clone()));
        }
        tasks.spawn(http::serve(public, certificate, public::router(Arc::clone(&app)), connections, stopped));
        stop.await;
        tracing::info!("stopping");
        // Fails only when every task has ended already.
        let _ = stopping.send(true);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WAIT, all).await.is_err() {
            tracing::warn!(seconds = STOP_WAIT.as_secs(), "requests still run; they end here");
        }
    }
}

/// Keeps `state_dir` for this process alone, as long as the file is open.
pub fn lock(state_dir: &Path) -> Result<File, StartError> {
    let path = state_dir.join("lock");
    let failed = |source| StartError::Lock { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::StateInUse(state_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn accept_links(app: Arc<App>, listener: Listener, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(MAX_LINKS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match (accepted, Arc::clone(&room).try_acquire_owned()) {
            (Ok(stream), Ok(place)) => {
                let connection = link::serve(Arc::clone(&app), stream, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            (Ok(_), Err(_)) => {
                tracing::warn!(most = MAX_LINKS, "too many data planes: one is turned away");
            }
            (Err(error), _) => {
                tracing::warn!(%error, "the link cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    app.set_linked(false);
    while connections.join_next().await.is_some() {}
}
