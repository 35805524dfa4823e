//! Certificates for viewers: read from files, checked, and found by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};

use super::provider;

/// A file with a chain of certificates, the server's first, and one with its key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a pair cannot be used. Names the file, what is wrong and what helps.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file that is not there, or that this user may not read.
    #[error("cannot read {file}: {error}; it must exist and be readable by the user that runs shoal-dataplane")]
    Unreadable {
        /// Which one.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// No PEM, or none of the kind that belongs here.
    #[error("{file} has no {what} in PEM: {problem}; PEM begins with -----BEGIN")]
    NotPem {
        /// Which one.
        file: String,
        /// What was looked for.
        what: &'static str,
        /// What was found.
        problem: String,
    },
    /// The two do not belong together.
    #[error(
        "the key in {key} is not that of the first certificate in {certificate}; the server's own certificate must come first"
    )]
    Mismatch {
        /// The chain.
        certificate: String,
        /// The key.
        key: String,
    },
    /// A certificate or key that cannot be used.
    #[error("{certificate} with {key} cannot be used: {problem}")]
    Unusable {
        /// The chain.
        certificate: String,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

/// A pair that was read and fits together.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// Names in the certificate, lower case; `*.` in front of those that stand for one more label.
    names: Vec<String>,
    /// Valid from and until, Unix time.
    pub validity: (Duration, Duration),
}

impl Pair {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// What is wrong with them; that the certificate is not valid now is none.
    pub fn load(&self) -> Result<Certificate, PairError> {
        let certificates: Vec<_> = read(&self.certificate, "certificate", |bytes| {
            CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()
        })?;
        let unusable = |problem: String| PairError::Unusable {
            certificate: self.certificate.display().to_string(),
            key: self.key.display().to_string(),
            problem,
        };
        let Some(first) = certificates.first() else {
            let problem = "it holds nothing of that kind".to_owned();
            return Err(PairError::NotPem {
                file: self.certificate.display().to_string(),
                what: "certificate",
                problem,
            });
        };
        let key = read(&self.key, "private key", PrivateKeyDer::from_pem_slice)?;
        let parsed = EndEntityCert::try_from(first).map_err(|error| unusable(error.to_string()))?;
        let names = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let validity = validity(&parsed).ok_or_else(|| unusable("its period of validity cannot be read".to_owned()))?;
        let key = match CertifiedKey::from_der(certificates, key, &provider()) {
            Ok(key) => key,
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(PairError::Mismatch {
                    certificate: self.certificate.display().to_string(),
                    key: self.key.display().to_string(),
                });
            }
            Err(error) => return Err(unusable(error.to_string())),
        };
        Ok(Certificate { key: Arc::new(key), names, validity })
    }
}

impl Certificate {
    /// DNS names in it, lower case; `*.` in front of those that stand for one more label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What clients will say of it at `now`, if anything.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = |time: Duration| time.as_secs() / 86_400;
        match self.validity {
            (from, _) if now < from => Some(format!("it is not valid before {}", date(from))),
            (_, until) if now > until => Some(format!("it has expired, on {}", date(until))),
            (_, until) if days(until - now) < 7 => Some(format!("it expires soon, on {}", date(until))),
            _ => None,
        }
    }
}

/// As HTTP writes dates.
fn date(time: Duration) -> String {
    String::from_utf8_lossy(&shoal_http::date::format(time.as_secs())).into_owned()
}

fn read<T>(
    path: &Path,
    what: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, pem::Error>,
) -> Result<T, PairError> {
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes).map_err(|error| PairError::NotPem { file, what, problem: error.to_string() }),
        Err(error) => Err(PairError::Unreadable { file, error }),
    }
}

/// From when to when. webpki tells it only to those who ask at the wrong time.
fn validity(certificate: &EndEntityCert<'_>) -> Option<(Duration, Duration)> {
    let algorithms = provider().signature_verification_algorithms.all;
    let ask = |time: Duration| {
        let time = UnixTime::since_unix_epoch(time);
        certificate.verify_for_usage(algorithms, &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let since = |time: UnixTime| Duration::from_secs(time.as_secs());
    let until = match ask(Duration::from_secs(u64::from(u32::MAX) << 16))? {
        webpki::Error::CertExpired { not_after, .. } => since(not_after),
        _ => return None,
    };
    let from = match ask(Duration::ZERO)? {
        webpki::Error::CertNotValidYet { not_before, .. } => since(not_before),
        _ => Duration::ZERO,
    };
    Some((from, until))
}

/// All certificates of a node, replaced as one. Handshakes look here, requests never.
#[derive(Debug)]
pub struct Certificates {
    table: RwLock<Arc<Table>>,
}

#[derive(Debug)]
struct Table {
    /// Those for each name; a wildcard's under the name behind its asterisk, with the dot.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that name no host, or one that nobody has a certificate for.
    fallback: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// These; the first is for whoever asks for a name that none has.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Certificates {
        Certificates { table: RwLock::new(Arc::new(Table::new(certificates))) }
    }

    /// These from now on.
    pub fn replace<'a>(&self, certificates: impl IntoIterator<Item = &'a Certificate>) {
        let table = Arc::new(Table::new(certificates));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table();
        let candidates = table.find(hello.server_name());
        // With an RSA and an ECDSA certificate for one name: what the client can check.
        let fits = candidates.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        fits.or(candidates.first()).cloned()
    }
}

impl Table {
    fn new<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Table {
        let mut table = Table { names: HashMap::new(), fallback: Vec::new() };
        for certificate in certificates {
            for name in &certificate.names {
                let name = name.strip_prefix('*').unwrap_or(name);
                table.names.entry(name.to_owned()).or_default().push(Arc::clone(&certificate.key));
            }
            table.fallback.push(Arc::clone(&certificate.key));
        }
        table
    }

    /// The exact name, else the wildcard one label up (RFC 6125 section 6.4.3). rustls gives names in lower case.
    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let exact = name.and_then(|name| self.names.get(name));
        let wild = || name.and_then(|name| self.names.get(name.get(name.find('.')?..)?));
        exact.or_else(wild).unwrap_or(&self.fallback)
    }
}

#[cfg(test)]
mod tests;
