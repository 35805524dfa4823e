//! Which database, in the configuration file.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the control plane keeps what it must remember.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// Empty: SQLite in `state_dir`. Several instances share one PostgreSQL: `postgres://user:password@host:port/database`, with
    /// percent-encoding for what a URL may not hold. `?sslmode=require` demands TLS and a certificate that names the host;
    /// otherwise the connection is in the clear.
    #[schemars(extend("writeOnly" = true))]
    pub url: String,
    /// File with the password, in place of one in `url`.
    pub password_file: PathBuf,
    /// File with the certificates (PEM) that PostgreSQL's may be signed by. Empty: the system's.
    pub ca_file: PathBuf,
    /// Connections to PostgreSQL at once, from 2 to 100; two more are for reports.
    pub connections: u32,
}

/// Without the password.
impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = if self.url.is_empty() { "" } else { "***" };
        out.debug_struct("Database").field("url", &url).field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Default for Database {
    fn default() -> Self {
        Self { url: String::new(), password_file: PathBuf::new(), ca_file: PathBuf::new(), connections: 8 }
    }
}
