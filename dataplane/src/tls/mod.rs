//! TLS: to viewers with certificates from files, to origins with verification.
//!
//! [`certificates`] reads and finds them, [`reload`] notices that files have changed, [`session`] is one connection.

pub mod certificates;
pub mod reload;
pub mod session;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, Ticketer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::config::TlsVersion;
use crate::settings::Settings;
use certificates::PairError;
use reload::Files;

/// The only protocol spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The same where TURN is served (RFC 7443). A browser that was lured there for HTTP is refused.
const TURN_ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// Sessions a shard remembers to resume at origins.
const ORIGIN_SESSIONS: usize = 1024;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A pair of `tls.certificates`.
    #[error("tls.certificates[{index}]: {error}")]
    Pair {
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        error: PairError,
    },
    /// The file of `upstream.roots`.
    #[error("upstream.roots = {file:?}: {problem}; it must hold certificates of authorities in PEM")]
    Roots {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// rustls.
    #[error("cannot set TLS up: {0}")]
    Setup(#[from] rustls::Error),
}

/// TLS of the whole process: what all shards share.
#[derive(Debug)]
pub struct Tls {
    /// For viewers, if any listener speaks TLS.
    pub server: Option<Arc<ServerConfig>>,
    /// For clients of the relay, if it is served by TCP and there are certificates.
    pub turn: Option<Arc<ServerConfig>>,
    /// DNS names in the certificates, as they were at the start.
    pub names: Vec<String>,
    /// For origins; each shard takes its own by [`Tls::client`].
    client: ClientConfig,
}

/// What was read from files.
#[derive(Debug)]
pub struct Loaded {
    /// The configurations.
    pub tls: Tls,
    /// The files to watch, if there are any.
    pub files: Option<Files>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Tls {
    /// Reads all files that `settings` name.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn load(settings: &Settings) -> Result<Loaded, TlsError> {
        let mut warnings = Vec::new();
        let client = client(settings.upstream.roots.as_deref(), &mut warnings)?;
        let viewers = !settings.tls.listen.is_empty();
        let relay = settings.turn_streams().next().is_some() && !settings.tls.certificates.is_empty();
        if !viewers && !relay {
            return Ok(Loaded {
                tls: Tls { server: None, turn: None, names: Vec::new(), client },
                files: None,
                warnings,
            });
        }
        let files =
            Files::load(settings.tls.certificates.clone()).map_err(|(index, error)| TlsError::Pair { index, error })?;
        warnings.extend(files.warnings(SystemTime::now()));
        let certificates = files.resolver();
        let versions = versions(settings.tls.min_version);
        let serving = |protocols: &[&[u8]]| {
            let mut server = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(versions)?
                .with_no_client_auth()
                .with_cert_resolver(certificates.clone());
            server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            // Sessions live in tickets that the clients keep; every shard has the keys, and they change every six hours.
            server.ticketer = Ticketer::new()?;
            server.session_storage = Arc::new(NoServerSessionStorage {});
            Ok::<_, rustls::Error>(Arc::new(server))
        };
        let server = viewers.then(|| serving(&[ALPN])).transpose()?;
        let turn = relay.then(|| serving(&TURN_ALPN)).transpose()?;
        Ok(Loaded { tls: Tls { server, turn, names: files.names(), client }, files: Some(files), warnings })
    }

    /// For one shard's requests to origins, with a memory of its own for sessions to resume.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut client = self.client.clone();
        client.resumption = Resumption::in_memory_sessions(ORIGIN_SESSIONS);
        Arc::new(client)
    }
}

/// The cryptography in use (ARCHITECTURE.md says why ring).
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why a handshake failed, for people.
pub fn describe(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else { return error.to_string() };
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
        Bad::UnknownIssuer => {
            "its certificate was issued by an authority that is not trusted here (upstream.roots)".to_owned()
        }
        Bad::NotValidForNameContext { presented, .. } => {
            format!("its certificate is for other names: {}", presented.join(", "))
        }
        Bad::NotValidForName => "its certificate is for other names".to_owned(),
        other => format!("its certificate cannot be accepted: {other}"),
    }
}

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match least {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => &TLS13,
    }
}

fn client(roots: Option<&Path>, warnings: &mut Vec<String>) -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let fail = |problem: String| TlsError::Roots { file: path.display().to_string(), problem };
            let read = std::fs::read(path).map_err(|error| fail(format!("cannot read it: {error}")))?;
            for certificate in CertificateDer::pem_slice_iter(&read) {
                let certificate = certificate.map_err(|error| fail(error.to_string()))?;
                store.add(certificate).map_err(|error| fail(error.to_string()))?;
            }
            if store.is_empty() {
                return Err(fail("there is no certificate in it".to_owned()));
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(system.certs);
            if store.is_empty() {
                let warning = "no root certificates were found on this system: https:// origins will be refused; \
                               install ca-certificates, or name roots in upstream.roots";
                warnings.push(warning.to_owned());
            }
        }
    }
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(client)
}

#[cfg(test)]
pub(crate) mod tests;
