//! Certificates made for tests, and what `--check` says of files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::certificates::Pair;
use super::*;
use crate::config::{CertificateFiles, Config};
use crate::settings::Machine;
use crate::testing::{Folder, folder};

/// An authority that tests trust.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a test's certificate is valid, in days from now.
pub(crate) const NOW: (i64, i64) = (-1, 90);

impl Authority {
    pub(crate) fn new() -> Authority {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", NEXT.fetch_add(1, Relaxed)));
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes `name.pem` and `name.key` for `names`.
    pub(crate) fn issue(&self, folder: &Folder, name: &str, names: &[&str], days: (i64, i64)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = SystemTime::now();
        let at = |days: i64| match days {
            0.. => now + Duration::from_secs(days.unsigned_abs() * 86_400),
            _ => now - Duration::from_secs(days.unsigned_abs() * 86_400),
        };
        (params.not_before, params.not_after) = (at(days.0).into(), at(days.1).into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        write(folder, &format!("{name}.pem"), &certificate.pem());
        write(folder, &format!("{name}.key"), &key.serialize_pem());
        Pair { certificate: folder.path().join(format!("{name}.pem")), key: folder.path().join(format!("{name}.key")) }
    }
}

pub(super) fn write(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// What loading a node says that serves `pairs` and trusts `roots`.
fn load(folder: &Folder, pairs: &[Pair], roots: &str) -> Result<Loaded, String> {
    let mut config = Config::default();
    config.node.state_dir = folder.path().display().to_string();
    config.tls.listen = vec!["127.0.0.1:0".to_owned()];
    let files = |pair: &Pair| CertificateFiles {
        certificate: pair.certificate.display().to_string(),
        key: pair.key.display().to_string(),
    };
    config.tls.certificates = pairs.iter().map(files).collect();
    config.upstream.roots = roots.to_owned();
    Tls::load(&config.validate_on(&Machine::this()).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn good_files_are_taken_and_old_ones_too_with_a_word_about_them() {
    let (folder, authority) = (folder(), Authority::new());
    let pairs = [
        authority.issue(&folder, "good", &["a.test"], NOW),
        authority.issue(&folder, "old", &["b.test"], (-90, -1)),
        authority.issue(&folder, "new", &["c.test"], (1, 90)),
        authority.issue(&folder, "soon", &["d.test"], (-90, 3)),
    ];
    let roots = write(&folder, "roots.pem", &authority.pem());
    let loaded = load(&folder, &pairs, &roots.display().to_string()).unwrap();
    assert!(loaded.tls.server.is_some() && loaded.files.is_some());
    let [old, new, soon] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(
        old.starts_with("tls.certificates[1]: ") && old.contains("old.pem") && old.contains("has expired"),
        "{old}"
    );
    assert!(new.starts_with("tls.certificates[2]: ") && new.contains("not valid before"), "{new}");
    assert!(soon.starts_with("tls.certificates[3]: ") && soon.contains("expires soon"), "{soon}");
}

#[test]
fn the_relay_has_them_without_a_listener_for_viewers() {
    let (folder, authority) = (folder(), Authority::new());
    let pair = authority.issue(&folder, "a", &["a.test"], NOW);
    let load = |tcp, certificates: &[&Pair]| {
        let mut config = Config::default();
        config.node.state_dir = folder.path().display().to_string();
        config.udp.addresses = vec!["127.0.0.1".to_owned()];
        config.turn.relay_addresses = vec!["127.0.0.1".to_owned()];
        config.turn.tcp = tcp;
        let files = |pair: &&Pair| CertificateFiles {
            certificate: pair.certificate.display().to_string(),
            key: pair.key.display().to_string(),
        };
        config.tls.certificates = certificates.iter().map(files).collect();
        let Loaded { tls, files, .. } = Tls::load(&config.validate_on(&Machine::this()).unwrap()).unwrap();
        (tls.server.is_some(), tls.turn.is_some(), files.is_some())
    };
    assert_eq!(load(true, &[&pair]), (false, true, true));
    assert_eq!(load(true, &[]), (false, false, false));
    assert_eq!(load(false, &[&pair]), (false, false, false));
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let (folder, authority) = (folder(), Authority::new());
    let good = authority.issue(&folder, "good", &["a.test"], NOW);
    let other = authority.issue(&folder, "other", &["a.test"], NOW);
    let text = write(&folder, "text.pem", "nothing of the kind\n");
    let torn = write(&folder, "torn.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let no_certificate = write(&folder, "bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let gone = folder.path().join("gone.pem");
    let with = |certificate: &PathBuf, key: &PathBuf| Pair { certificate: certificate.clone(), key: key.clone() };
    for (pair, said) in [
        (with(&gone, &good.key), "gone.pem: No such file"),
        (with(&good.certificate, &gone), "gone.pem: No such file"),
        (with(&text, &good.key), "text.pem has no certificate"),
        (with(&torn, &good.key), "torn.pem has no certificate"),
        (with(&no_certificate, &good.key), "bad.pem with"),
        (with(&good.certificate, &text), "text.pem has no private key"),
        (with(&good.certificate, &good.certificate), "good.pem has no private key"),
        (with(&good.certificate, &other.key), "is not that of the first certificate"),
    ] {
        let error = load(&folder, &[good.clone(), pair], "").unwrap_err();
        assert!(error.starts_with("tls.certificates[1]: ") && error.contains(said), "{error} lacks {said}");
    }
    for (roots, said) in [(&gone, "cannot read it"), (&text, "no certificate in it"), (&no_certificate, "must hold")] {
        let error = load(&folder, std::slice::from_ref(&good), &roots.display().to_string()).unwrap_err();
        assert!(error.starts_with("upstream.roots = ") && error.contains(said), "{error} lacks {said}");
    }
}
