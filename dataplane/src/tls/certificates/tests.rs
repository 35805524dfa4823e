//! Which certificate a name gets.

use super::*;
use crate::testing::folder;
use crate::tls::tests::{Authority, NOW};

#[test]
fn names_find_their_certificate_and_all_others_the_first() {
    let (folder, authority) = (folder(), Authority::new());
    let certificates: Vec<Certificate> =
        [("first", &["a.test"][..]), ("second", &["B.test", "*.b.test"]), ("third", &["x.b.test", "c.test"])]
            .into_iter()
            .map(|(name, names)| authority.issue(&folder, name, names, NOW).load().unwrap())
            .collect();
    let table = Certificates::new(&certificates).table();
    for (name, expected) in [
        (Some("a.test"), 0),
        (Some("b.test"), 1),
        (Some("y.b.test"), 1),
        (Some("x.b.test"), 2),
        (Some("c.test"), 2),
        (Some("y.y.b.test"), 0),
        (Some("test"), 0),
        (Some(""), 0),
        (None, 0),
    ] {
        assert!(Arc::ptr_eq(&table.find(name)[0], &certificates[expected].key), "{name:?}");
    }
}

#[test]
fn the_period_of_validity_is_that_of_the_certificate() {
    let (folder, authority) = (folder(), Authority::new());
    let certificate = authority.issue(&folder, "a", &["a.test"], (-10, 20)).load().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let day = Duration::from_secs(86_400);
    let near = |time: Duration, expected: Duration| time.abs_diff(expected) < Duration::from_secs(600);
    assert!(near(certificate.validity.0, now - 10 * day) && near(certificate.validity.1, now + 20 * day));
    assert_eq!(certificate.warning(SystemTime::now()), None);
    assert!(certificate.warning(SystemTime::now() + 15 * day).is_some_and(|said| said.contains("expires soon")));
}
