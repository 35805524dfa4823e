//! The control plane's process.

#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use listenfd::ListenFd;
use shoal_control::config::{Config, LogFormat};
use shoal_control::server::{self, Server};
use shoal_control::store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Longest time for work on the database to end after everything else has.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// The control plane of shoal: channels, keys, snapshots, ledger, admin API.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// TOML file; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Write all that the database has to a file and exit; instances may be running.
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Put what a backup has in place of all that the database has and exit; no instance may be running. SQLite's go into
    /// PostgreSQL, and back.
    #[arg(long, value_name = "FILE", conflicts_with = "backup")]
    restore: Option<PathBuf>,
    /// Print a configuration file with every key at its default and exit.
    #[arg(long)]
    print_sample_config: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.print_sample_config {
        print!("{}", shoal_config::sample::<Config>());
        return Ok(());
    }
    let config = match &arguments.config {
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--config {name}: give a file that this user can read"))?;
            shoal_config::load(&text, &name)?
        }
        None => Config::default(),
    };
    let filter = EnvFilter::try_new(&config.log.level).with_context(|| {
        format!("log.level `{}`: use error, warn, info, debug, trace or a filter of them", config.log.level)
    })?;
    server::check(&config)?;
    if arguments.check {
        println!("the configuration is valid");
        return Ok(());
    }
    let state_dir = state_dir(&config);
    if let Some(file) = &arguments.backup {
        let done = Store::backup(&config.store, &state_dir, file)?;
        println!("{} rows of {} tables are in {}", done.rows, done.tables, file.display());
        return Ok(());
    }
    if let Some(file) = &arguments.restore {
        let _lock = server::lock(&state_dir)?;
        let done = Store::restore(&config.store, &state_dir, file)?;
        println!("{} rows of {} tables were restored", done.rows, done.tables);
        return Ok(());
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    let inherited = inherited()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let result = runtime.block_on(serve(&config, &state_dir, inherited));
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

async fn serve(config: &Config, state_dir: &Path, inherited: Option<TcpListener>) -> Result<()> {
    // Before anything listens: whoever sees the process may signal it.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let server = Server::start(config, state_dir, inherited).await?;
    let address = server.address().context("the admin API's own address")?;
    tracing::info!(
        %address,
        public = %server.public_address().context("the public API's own address")?,
        link_socket = %config.link_socket.display(),
        token_file = %config.token_file(state_dir).display(),
        "ready"
    );
    notify(sd_notify::NotifyState::Ready);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(sd_notify::NotifyState::Stopping);
    };
    server.run(stop).await;
    Ok(())
}

fn state_dir(config: &Config) -> PathBuf {
    // systemd separates several folders by colons; ours is the first.
    let systemd = std::env::var_os("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next());
    config.state_dir(systemd)
}

/// A socket from the service manager (LISTEN_FDS), if it gave one.
fn inherited() -> Result<Option<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        return Ok(None);
    }
    sockets.take_tcp_listener(0).context("LISTEN_FDS: the first socket must be a listening TCP socket")
}

/// Tells the service manager, if there is one.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
