use serde_json::{Value, json};

use super::*;
use crate::store::tests::channel;

/// The fields that are wrong after `pointer` is set to `value` in a good channel.
fn wrong(pointer: &str, value: Value) -> Vec<String> {
    let mut document = serde_json::to_value(channel("a", "/a/")).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[key] = value;
    match Valid::<Channel>::new(serde_json::from_value(document).unwrap()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.field).collect(),
    }
}

#[test]
fn good_values_pass() {
    for (pointer, values) in [
        ("/id", vec![json!("a"), json!("room-1_x.y"), json!("a".repeat(64))]),
        ("/hosts", vec![json!([]), json!(["cdn.example.com", "192.0.2.1", "[2001:db8::1]", "localhost", "a_b.test"])]),
        ("/prefix", vec![json!("/"), json!("/a/"), json!("/a/b.c/d~e/"), json!("/@user:1/")]),
        (
            "/origins/0/url",
            vec![
                json!("http://h"),
                json!("http://h/"),
                json!("http://h:1/base/"),
                json!("https://h"),
                json!("https://[::1]:8443/base/"),
                json!("http://[::1]:80/"),
                json!("file:/srv/video"),
                json!("file:/"),
            ],
        ),
        ("/origins/0/host", vec![json!("vod.test"), json!("vod.test:8080"), json!("[::1]")]),
        ("/origins/0/health_path", vec![json!("health"), json!("a/b?c=d"), json!("")]),
        (
            "/cors/allow_origins",
            vec![json!(["*"]), json!(["https://a.test:8443", "https://*.a.test", "http://[::1]:1"])],
        ),
        ("/cors/allow_headers", vec![json!(["*"]), json!(["X-Any"])]),
        ("/cache/query_allow", vec![json!(["v", "x-y"]), json!(["*"])]),
        ("/forward/headers", vec![json!(["Accept-Language", "*"])]),
        (
            "/limits",
            vec![
                json!({"requests_per_second": 1, "bytes_per_second": 16_384}),
                json!({"response_bytes_per_second": 1_u64 << 40, "response_burst_bytes": 1}),
            ],
        ),
        ("/access/referer/allow", vec![json!(["a.test", "*.a.test"])]),
        ("/access/user_agent/deny", vec![json!(["curl/", "Mozilla/5.0 (X11"])]),
        ("/access/address/deny", vec![json!(["10.0.0.0/8", "::/0", "192.0.2.1/32"])]),
    ] {
        for value in values {
            assert_eq!(wrong(pointer, value.clone()), Vec::<String>::new(), "{pointer} {value}");
        }
    }
}

#[test]
fn bad_values_are_named() {
    let long = "a".repeat(65);
    for (pointer, field, values) in [
        ("/id", "id", vec![json!(""), json!("A"), json!("a b"), json!("ü"), json!(".."), json!(long)]),
        (
            "/limits/bytes_per_second",
            "limits.bytes_per_second",
            vec![json!(1), json!(16_383), json!((1_u64 << 40) + 1)],
        ),
        ("/limits/response_bytes_per_second", "limits.response_bytes_per_second", vec![json!(1), json!(u64::MAX)]),
        ("/limits/response_burst_bytes", "limits.response_burst_bytes", vec![json!(1)]),
        ("/tenant", "tenant", vec![json!(""), json!("T")]),
        (
            "/hosts",
            "hosts[0]",
            vec![json!(["A.test"]), json!(["a.test:80"]), json!([""]), json!(["*.a.test"]), json!(["a..b"])],
        ),
        ("/hosts", "hosts[1]", vec![json!(["a.test", "a.test"]), json!(["a.test", "-a"]), json!(["a", "[::g]"])]),
        (
            "/prefix",
            "prefix",
            vec![
                json!(""),
                json!("a/"),
                json!("/a"),
                json!("//"),
                json!("/a//b/"),
                json!("/../"),
                json!("/./"),
                json!("/a?b/"),
                json!("/a b/"),
                json!("/%41/"),
                json!(format!("/{}/", "a".repeat(511))),
            ],
        ),
        ("/origins", "origins", vec![json!([])]),
        ("/origins/0/id", "origins[0].id", vec![json!(""), json!("O")]),
        (
            "/origins/0/url",
            "origins[0].url",
            vec![
                json!(""),
                json!("https://"),
                json!("ftp://h/"),
                json!("h/"),
                json!("http://"),
                json!("http:///"),
                json!("http://h/base"),
                json!("http://h/?q/"),
                json!("http://h/#f/"),
                json!("http://h/a\\b/"),
                json!("http://u:p@h/"),
                json!("http://h:0/"),
                json!("http://h:99999/"),
                json!("http://h:x/"),
                json!("http://h/a b/"),
                json!("http://h/../"),
                json!("file:relative"),
                json!("file:///srv"),
                json!("file:/srv/../etc"),
            ],
        ),
        (
            "/origins/0/host",
            "origins[0].host",
            vec![json!(""), json!("a b"), json!("a:"), json!("a:0"), json!("http://a")],
        ),
        ("/origins/0/health_path", "origins[0].health_path", vec![json!("/a"), json!("a b"), json!("a#b")]),
        ("/origins/0/health_interval_ms", "origins[0].health_interval_ms", vec![json!(0), json!(99), json!(3_600_001)]),
        ("/origins/0/weight", "origins", vec![json!(0)]),
        (
            "/cors/allow_origins",
            "cors.allow_origins[0]",
            vec![
                json!(["a.test"]),
                json!(["https://a.test/"]),
                json!(["https://A.test"]),
                json!(["*.a.test"]),
                json!([""]),
            ],
        ),
        ("/cors/allow_credentials", "cors.allow_credentials", vec![json!(true)]),
        ("/cors/expose_headers", "cors.expose_headers[0]", vec![json!(["a b"]), json!([""]), json!(["a:"])]),
        ("/forward/headers", "forward.headers[0]", vec![json!(["a b"]), json!([""]), json!(["a:"])]),
        ("/forward/redirects", "forward.redirects", vec![json!(11)]),
        ("/forward/hedge_percentile", "forward.hedge_percentile", vec![json!(101)]),
        ("/forward/hedge_budget_percent", "forward.hedge_budget_percent", vec![json!(101)]),
        ("/forward/body_bytes_max", "forward.body_bytes_max", vec![json!(1_000_000_000)]),
        ("/cache/query_allow", "cache.query_allow[0]", vec![json!([""]), json!(["a=b"]), json!(["a&b"])]),
        ("/access/referer/deny", "access.referer.deny[0]", vec![json!(["http://a"]), json!(["*"]), json!(["a/b"])]),
        ("/access/user_agent/allow", "access.user_agent.allow[0]", vec![json!([""]), json!(["a\nb"])]),
        ("/access/address/allow", "access.address.allow[0]", vec![json!(["10.0.0.1/8"]), json!(["2001:db8::1/32"])]),
        ("/access/ticket", "access.ticket.keys", vec![json!({"keys": []})]),
        ("/access/ticket", "access.ticket.keys[0].secret", vec![json!({"keys": [{"id": "a", "secret": ""}]})]),
    ] {
        for value in values {
            assert_eq!(wrong(pointer, value.clone()), [field], "{pointer} {value}");
        }
    }
}

#[test]
fn every_wrong_field_is_told_at_once() {
    let mut bad = channel("A", "a");
    bad.tenant.clear();
    bad.origins.push(bad.origins[0].clone());
    let fields: Vec<String> = Valid::<Channel>::new(bad).unwrap_err().into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["id", "tenant", "prefix", "origins[1].id"]);
}

#[test]
fn lists_are_bounded() {
    assert_eq!(wrong("/hosts", json!(vec!["a.test"; 257])), ["hosts"]);
    assert_eq!(wrong("/access/address/deny", json!(vec!["::/0"; 4097])), ["access.address.deny"]);
    let origin = json!({"id": "o", "url": "http://h/"});
    assert_eq!(wrong("/origins", json!(vec![origin; 33])), ["origins"]);
}

#[test]
fn a_secret_is_never_repeated() {
    let mut bad = channel("a", "/a/");
    let ticket = json!({"keys": [{"id": "a", "secret": "tiny-secret"}, {"id": "a", "secret": "another-long-secret"}]});
    bad.access.ticket = Some(serde_json::from_value(ticket).unwrap());
    let errors = Valid::<Channel>::new(bad).unwrap_err();
    assert!(!errors.is_empty());
    let text = serde_json::to_string(&errors).unwrap();
    assert!(!text.contains("tiny-secret") && !text.contains("another-long-secret"), "{text}");
}
