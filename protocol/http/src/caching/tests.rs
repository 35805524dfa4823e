use super::*;

fn control(text: &str) -> CacheControl {
    CacheControl::parse([text.as_bytes()])
}

fn facts(status: u16, control: &CacheControl) -> Facts<'_> {
    Facts { status, control, expires: None, date: 1_000_000, last_modified: None }
}

const DEFAULTS: Defaults = Defaults { lifetime_ms: 5_000, heuristic_max_ms: 60_000 };

#[test]
fn what_must_not_be_stored() {
    for (text, status, authorized, barred) in [
        ("max-age=9", 200, false, None),
        ("no-store, max-age=9", 200, false, Some(Barred::NoStore)),
        ("private", 200, false, Some(Barred::Private)),
        ("private=\"x\"", 200, false, Some(Barred::Private)),
        ("no-store, must-understand", 200, false, None),
        ("no-store, must-understand", 599, false, Some(Barred::NotUnderstood)),
        ("max-age=9, must-understand", 299, false, Some(Barred::NotUnderstood)),
        ("max-age=9", 200, true, Some(Barred::Authorized)),
        ("", 200, true, Some(Barred::Authorized)),
        ("public", 200, true, None),
        ("s-maxage=1", 200, true, None),
        ("must-revalidate, max-age=1", 200, true, None),
        ("private, public", 200, true, Some(Barred::Private)),
    ] {
        assert_eq!(facts(status, &control(text)).barred(authorized), barred, "{text} {status} {authorized}");
    }
}

#[test]
fn lifetimes() {
    let lifetime = |text: &str, status| facts(status, &control(text)).lifetime_ms(&DEFAULTS);
    assert_eq!(lifetime("max-age=9, s-maxage=3", 200), 3_000);
    assert_eq!(lifetime("max-age=9, no-cache", 200), 0);
    assert_eq!(lifetime("max-age=9", 599), 9_000, "an explicit lifetime holds for any status");
    for status in [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(lifetime("", status), 5_000, "{status}");
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
        assert_eq!(lifetime("", status), 0, "{status}");
        assert_eq!(lifetime("public", status), 5_000, "{status}");
    }

    let none = control("");
    let expires = |value: &'static [u8]| Facts { expires: Some(value), ..facts(200, &none) }.lifetime_ms(&DEFAULTS);
    assert_eq!(expires(b"Mon, 12 Jan 1970 13:46:50 GMT"), 10_000);
    assert_eq!((expires(b"0"), expires(b"")), (0, 0));

    let modified = |age_s: u64| Facts { last_modified: Some(1_000_000 - age_s), ..facts(200, &none) };
    assert_eq!(modified(10).lifetime_ms(&DEFAULTS), 5_000, "not less than the default");
    assert_eq!(modified(100).lifetime_ms(&DEFAULTS), 10_000);
    assert_eq!(modified(100_000).lifetime_ms(&DEFAULTS), 60_000);
    assert_eq!(modified(100_000).lifetime_ms(&Defaults { lifetime_ms: 0, heuristic_max_ms: 0 }), 0);
    let future = Facts { last_modified: Some(2_000_000), ..facts(200, &none) };
    assert_eq!(future.lifetime_ms(&DEFAULTS), 5_000);
}

#[test]
fn staleness() {
    let staleness = |text: &str| {
        let Staleness { while_revalidate_ms, if_error_ms } = facts(200, &control(text)).staleness();
        (while_revalidate_ms, if_error_ms)
    };
    assert_eq!(staleness("max-age=1"), (0, None));
    assert_eq!(staleness("max-age=1, stale-while-revalidate=2, stale-if-error=3"), (2_000, Some(3_000)));
    for forbidding in ["must-revalidate", "proxy-revalidate", "no-cache"] {
        let text = format!("max-age=1, stale-while-revalidate=2, stale-if-error=3, {forbidding}");
        assert_eq!(staleness(&text), (0, Some(0)), "{forbidding}");
    }
    assert_eq!(staleness("s-maxage=1"), (0, Some(0)));
    assert_eq!(staleness("s-maxage=1, stale-while-revalidate=2"), (2_000, Some(0)));
    assert_eq!(staleness("s-maxage=1, stale-if-error=2"), (0, Some(2_000)));
}
