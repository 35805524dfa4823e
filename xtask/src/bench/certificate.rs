//! A certificate for both servers, made when it is needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::workspace;

/// A certificate for 127.0.0.1 that is its own root, and its key.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// The files in `dir`, whether or not they are there yet.
    pub(crate) fn within(dir: &Path) -> Self {
        Self { certificate: dir.join("tls.pem"), key: dir.join("tls.key") }
    }

    /// Writes them; P-256, as most servers have.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-subj", "/CN=shoal bench", "-addext", "subjectAltName=IP:127.0.0.1"]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        command.arg("-keyout").arg(&self.key).arg("-out").arg(&self.certificate);
        workspace::run(command.stderr(Stdio::null()))
    }
}
