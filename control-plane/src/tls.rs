//! TLS of the public API: one certificate, read anew when its files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, version};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The certificate of the public API; none: plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// File (PEM) of the certificate and of those that lead from it to a root: the server's own first. Empty: plain HTTP, for
    /// behind a load balancer that has the certificate.
    pub certificate: PathBuf,
    /// File (PEM) of its private key.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two is missing.
    #[error("public.tls.{missing}: is empty; name certificate and key, or neither")]
    Half {
        /// Which key.
        missing: &'static str,
    },
    /// Not readable.
    #[error("public.tls.{key} {}: {source}; the file must be readable for this user", path.display())]
    Unreadable {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM.
    #[error("public.tls.{key} {}: {source}; PEM begins with -----BEGIN", path.display())]
    NotPem {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The two do not fit, or one of them cannot be used.
    #[error("public.tls: certificate {} with key {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl TlsError {
    fn unreadable(key: &'static str, path: &Path, source: pem::Error) -> Self {
        let path = path.to_owned();
        match source {
            pem::Error::Io(source) => Self::Unreadable { key, path, source },
            source => Self::NotPem { key, path, source },
        }
    }
}

/// The certificate in use.
pub(crate) struct Certificate {
    files: Tls,
    current: Mutex<(Arc<ServerConfig>, Stamps)>,
}

/// When the files were changed, as far as that can be told.
type Stamps = [Option<SystemTime>; 2];

impl Tls {
    /// Whether there is one.
    pub(crate) fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

impl Certificate {
    /// Reads the files; none when none are named.
    pub(crate) fn load(files: &Tls) -> Result<Option<Arc<Self>>, TlsError> {
        match (files.certificate.as_os_str().is_empty(), files.key.as_os_str().is_empty()) {
            (true, true) => return Ok(None),
            (true, false) => return Err(TlsError::Half { missing: "certificate" }),
            (false, true) => return Err(TlsError::Half { missing: "key" }),
            (false, false) => {}
        }
        // Stamps first: a change while the files are read is seen as one.
        let stamps = stamps(files);
        let current = Mutex::new((read(files)?, stamps));
        Ok(Some(Arc::new(Self { files: files.clone(), current })))
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).0))
    }

    /// Reads changed files until `stop`; what cannot be used is logged, and the certificate before it stays.
    pub(crate) async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let this = Arc::clone(&self);
            // Ends early only with the process.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    fn look(&self) {
        let found = stamps(&self.files);
        if found == self.current.lock().unwrap_or_else(PoisonError::into_inner).1 {
            return;
        }
        let read = read(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Said once for each change.
        current.1 = found;
        match read {
            Ok(config) => {
                current.0 = config;
                tracing::info!(certificate = %self.files.certificate.display(), "new certificate");
            }
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the one before it stays"),
        }
    }
}

fn stamps(files: &Tls) -> Stamps {
    [&files.certificate, &files.key].map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

fn read(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| TlsError::unreadable("certificate", &files.certificate, error))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::unreadable("key", &files.key, error))?;
    let unusable =
        |source| TlsError::Unusable { certificate: files.certificate.clone(), key: files.key.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    // WebSockets are asked for by HTTP/1.1: browsers do so where HTTP/2 does not offer them.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    fn files(dir: &TempDir) -> Tls {
        Tls { certificate: dir.path().join("certificate.pem"), key: dir.path().join("key.pem") }
    }

    fn write(files: &Tls, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    }

    fn said(files: &Tls) -> String {
        Certificate::load(files).err().unwrap().to_string()
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = TempDir::new();
        let files = files(&dir);
        assert!(Certificate::load(&Tls::default()).unwrap().is_none());
        let half = Tls { key: PathBuf::new(), ..files.clone() };
        assert!(said(&half).contains("public.tls.key"));
        assert!(said(&files).contains("certificate.pem"));
        write(&files, "a.example");
        fs::write(&files.key, "no key").unwrap();
        assert!(said(&files).contains("key.pem"), "{}", said(&files));
        let other = Tls { certificate: dir.path().join("other.pem"), key: files.key.clone() };
        write(&other, "b.example");
        assert!(said(&files).contains("public.tls: certificate"), "{}", said(&files));
    }

    #[test]
    fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = TempDir::new();
        let files = files(&dir);
        write(&files, "a.example");
        let certificate = Certificate::load(&files).unwrap().unwrap();
        let current = || Arc::as_ptr(&certificate.current.lock().unwrap().0);
        let first = current();
        certificate.look();
        assert_eq!(current(), first);
        // Times of files may be coarse: the change has to show.
        let touch = |seconds| {
            let later = SystemTime::now() + Duration::from_secs(seconds);
            fs::File::options().append(true).open(&files.key).unwrap().set_modified(later).unwrap();
        };
        write(&files, "b.example");
        touch(10);
        certificate.look();
        let second = current();
        assert_ne!(second, first);
        fs::write(&files.key, "no key").unwrap();
        touch(20);
        certificate.look();
        assert_eq!(current(), second);
    }
}
