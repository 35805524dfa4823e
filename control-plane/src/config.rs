//! The configuration file of `shoal-control`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::AccessConfig;
use crate::conf::ConfSettings;
use crate::geo::Geo;
use crate::public::Public;
use crate::report::Reporting;
use crate::store::Database;
use crate::tracker::Tracking;

/// Port of the admin API unless configured.
pub const DEFAULT_PORT: u16 = 9091;

/// State folder when neither the configuration nor systemd names one.
pub const STATE_DIR: &str = "/var/lib/shoal/control";

/// Configuration of shoal-control. Every key has a default; relative paths start at the working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port of the admin API, /metrics, /healthz and /readyz. Keep it off public networks: it has no TLS.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Folder of the lock, the token and SQLite's database; created when missing, for this user only. Empty: the folder systemd gives
    /// (`STATE_DIRECTORY`), else `/var/lib/shoal/control`.
    pub state_dir: PathBuf,
    /// Unix socket that data planes connect to (their `link.control`).
    pub link_socket: PathBuf,
    /// File with the operator's token; created with a random one when missing, for this user only. Empty: `token` in
    /// `state_dir`.
    pub token_file: PathBuf,
    /// The API for players, SDKs and CDNs.
    pub public: Public,
    /// Who may use the console, and for how long.
    pub access: AccessConfig,
    /// Passes and signed requests of SDKs.
    pub conf: ConfSettings,
    /// What viewers report.
    pub reports: Reporting,
    /// Where viewers and nodes are.
    pub geo: Geo,
    /// Where what must be remembered is.
    pub store: Database,
    /// The tracker: who is told of whom.
    pub tracker: Tracking,
    /// What is logged, and how.
    pub log: Log,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`; or a filter such as `info,shoal_control::link=debug`.
    pub level: String,
    /// `text` or `json`, to standard error.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Where the database is. `systemd` is what `STATE_DIRECTORY` says.
    pub fn state_dir(&self, systemd: Option<PathBuf>) -> PathBuf {
        if !self.state_dir.as_os_str().is_empty() {
            return self.state_dir.clone();
        }
        systemd.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from(STATE_DIR))
    }

    /// Where the token is, given the state folder.
    pub fn token_file(&self, state_dir: &Path) -> PathBuf {
        if self.token_file.as_os_str().is_empty() { state_dir.join("token") } else { self.token_file.clone() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            state_dir: PathBuf::new(),
            link_socket: PathBuf::from("/run/shoal/control.sock"),
            token_file: PathBuf::new(),
            public: Public::default(),
            access: AccessConfig::default(),
            conf: ConfSettings::default(),
            reports: Reporting::default(),
            geo: Geo::default(),
            store: Database::default(),
            tracker: Tracking::default(),
            log: Log::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_loads_to_the_defaults() {
        let sample = shoal_config::sample::<Config>();
        assert_eq!(shoal_config::load::<Config>(&sample, "sample").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest() {
        let error = shoal_config::load::<Config>("state_dri = \"x\"", "control.toml").unwrap_err().to_string();
        assert!(
            error.contains("control.toml:1") && error.contains("state_dri") && error.contains("state_dir"),
            "{error}"
        );
    }

    #[test]
    fn the_configuration_goes_before_systemd_and_both_before_the_default() {
        let mut config = Config::default();
        assert_eq!(config.state_dir(None), PathBuf::from(STATE_DIR));
        assert_eq!(config.state_dir(Some("/given".into())), PathBuf::from("/given"));
        assert_eq!(config.token_file(Path::new("/given")), PathBuf::from("/given/token"));
        config.state_dir = "mine".into();
        config.token_file = "/etc/token".into();
        assert_eq!(config.state_dir(Some("/given".into())), PathBuf::from("mine"));
        assert_eq!(config.token_file(Path::new("/given")), PathBuf::from("/etc/token"));
    }
}
