//! Files that change, well and badly.

use super::*;
use crate::testing::folder;
use crate::tls::tests::{Authority, NOW, write};

#[test]
fn changes_are_served_once_they_rest_and_bad_ones_never() {
    let (folder, authority, stats) = (folder(), Authority::new(), NodeStats::default());
    let pair = authority.issue(&folder, "a", &["a.test"], NOW);
    let other = authority.issue(&folder, "b", &["b.test"], NOW);
    let mut files = Files::load(vec![pair.clone(), other.clone()]).unwrap();
    let counts = |stats: &NodeStats| (stats.get(Node::TlsReloaded), stats.get(Node::TlsReloadFailed));
    let first = files.watched[0].certificate.validity.1;
    files.round(&stats);
    assert_eq!(counts(&stats), (0, 0));
    assert_eq!(stats.get(Node::TlsExpiry), first.as_micros() as u64);

    // Chain and key of another certificate, one round after the other: the mixture is never read.
    let newer = authority.issue(&folder, "new", &["a.test"], (-1, 40));
    std::fs::copy(&newer.certificate, &pair.certificate).unwrap();
    files.round(&stats);
    std::fs::copy(&newer.key, &pair.key).unwrap();
    files.round(&stats);
    assert_eq!(counts(&stats), (0, 0), "it does not rest yet");
    files.round(&stats);
    assert_eq!(counts(&stats), (1, 0));
    let second = files.watched[0].certificate.validity.1;
    assert!(second < first);
    assert_eq!(stats.get(Node::TlsExpiry), second.as_micros() as u64);

    // A bad one is reported once, and the other pair goes on by itself.
    write(&folder, "a.pem", "no certificate\n");
    std::fs::remove_file(&other.key).unwrap();
    (0..5).for_each(|_| files.round(&stats));
    assert_eq!(counts(&stats), (1, 2));
    assert_eq!(files.watched[0].certificate.validity.1, second);

    std::fs::copy(&newer.certificate, &pair.certificate).unwrap();
    (0..5).for_each(|_| files.round(&stats));
    assert_eq!(counts(&stats), (2, 2));
}
