//! Which server, and how to get there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::{Config, NoTls};

use super::session::{Session, store_error};
use crate::store::config::Database;
use crate::store::engine::tls::Tls;
use crate::store::{StoreError, StoreErrorKind};

/// For each address of the host.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A peer that does not acknowledge for so long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// When a silent connection is first asked, and then again.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(3);
const KEEPALIVE_ATTEMPTS: u32 = 3;
/// Most connections that may be configured.
const MAX_CONNECTIONS: u32 = 100;

/// Checked settings.
pub(super) struct Target {
    config: Config,
    tls: Option<Tls>,
    /// The URL without the password.
    pub(super) name: Arc<str>,
}

impl Target {
    /// `application` is what the server calls the connections.
    pub(super) fn new(settings: &Database, application: &str) -> Result<Self, StoreError> {
        let url = &settings.url;
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("store.url", "it must begin with postgres://, or be empty for SQLite".to_owned()));
        }
        // The parser's own words may hold a piece of the password.
        let mut config: Config = url.parse().map_err(|_| {
            let expected = "postgres://user:password@host:port/database?sslmode=disable|require";
            let message =
                format!("it is not understood; expected {expected}, with %XX for characters that a URL may not hold");
            wrong("store.url", message)
        })?;
        let name: Arc<str> = name(&config).into();
        if config.get_hosts().is_empty() || config.get_user().is_none_or(str::is_empty) || config.get_dbname().is_none()
        {
            return Err(wrong(&name, "store.url must name user, host and database".to_owned()));
        }
        if !(2..=MAX_CONNECTIONS).contains(&settings.connections) {
            let message =
                format!("store.connections is {}; it must be from 2 to {MAX_CONNECTIONS}", settings.connections);
            return Err(wrong(&name, message));
        }
        if let Some(password) = password(&settings.password_file).map_err(|message| wrong(&name, message))? {
            config.password(password);
        }
        let tls = match config.get_ssl_mode() {
            // Also where nothing was said: a certificate that nobody can check protects from nobody.
            SslMode::Require => Some(Tls::new(&settings.ca_file).map_err(|message| wrong(&name, message))?),
            _ => {
                config.ssl_mode(SslMode::Disable);
                None
            }
        };
        config
            .application_name(application)
            .connect_timeout(CONNECT_WAIT)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE_AGAIN)
            .keepalives_retries(KEEPALIVE_ATTEMPTS);
        Ok(Self { config, tls, name })
    }

    pub(super) fn connect(&self, statement_timeout: &str) -> Result<Session, StoreError> {
        let connected = match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        };
        let mut client = connected.map_err(|error| store_error(&self.name, &error))?;
        // An instance that hangs inside a transaction does not hold up the others for ever.
        let settings = format!(
            "SET statement_timeout = '{statement_timeout}'; SET idle_in_transaction_session_timeout = '60s';
             SET client_min_messages = 'warning'"
        );
        client.batch_execute(&settings).map_err(|error| store_error(&self.name, &error))?;
        Ok(Session::new(client))
    }
}

fn wrong(name: &str, message: String) -> StoreError {
    StoreError { kind: StoreErrorKind::Settings, path: name.to_owned(), message }
}

fn name(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]"),
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().map(|port| format!(":{port}")).unwrap_or_default();
    let (user, database) = (config.get_user().unwrap_or_default(), config.get_dbname().unwrap_or_default());
    format!("postgres://{user}@{host}{port}/{database}")
}

fn password(file: &Path) -> Result<Option<String>, String> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("store.password_file {}: {error}", file.display()))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(database: Database) -> String {
        let error = Target::new(&database, "test").err().unwrap_or_else(|| panic!("{} is taken", database.url));
        assert_eq!(error.kind, StoreErrorKind::Settings);
        error.to_string()
    }

    #[test]
    fn a_password_never_shows() {
        let url = "postgres://shoal:sesame%20open@db.test:5433/control";
        let database = Database { url: url.to_owned(), ..Database::default() };
        assert_eq!(&*Target::new(&database, "test").unwrap().name, "postgres://shoal@db.test:5433/control");
        assert!(!format!("{database:?}").contains("sesame"));
        for url in [
            "postgres://shoal:sesame@db.test/control?sesame=x",
            "postgres://shoal:sesame open@db.test:sesame/control",
            "postgres://shoal:sesame@db.test:sesame/control",
            "postgres://shoal:sesame@db.test",
            "postgres://shoal:sesame@db.test/control?sslmode=sesame",
            "postgres://:sesame@db.test/control",
            "shoal:sesame@db.test/control",
            "host=db.test password=sesame",
        ] {
            let error = refused(Database { url: url.to_owned(), ..Database::default() });
            assert!(!error.contains("sesame") && error.contains("store.url"), "{error}");
        }
        let error = refused(Database { connections: 1, ..database.clone() });
        assert!(error.contains("store.connections") && !error.contains("sesame"), "{error}");
        let error = refused(Database { password_file: "/nowhere/password".into(), ..database });
        assert!(error.contains("/nowhere/password"), "{error}");
    }
}
