//! Anti-leech, end to end: tickets and signed URLs of every form, lists of names and addresses, key rotation; and the
//! cache never learns of any of it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use shoal_tests::client::{self, Conn, Request, Response};
use shoal_tests::lab::{self, Lab, Settings};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::verdict::assert_one_line;
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    tickets,
    third_party_signatures,
    names_and_addresses,
    keys_are_rotated,
    playlists_carry_the_ticket,
    a_trusted_proxy_speaks_for_its_viewers,
);

const KEY: &str = "a secret of at least sixteen bytes";
const SIZE: u64 = 100_000;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn protected(id: &str, origins: &[&Origin], profiles: &Value) -> Value {
    let mut channel = lab::channel(id, origins);
    channel["access"] = json!({"ticket": {
        "profiles": profiles, "keys": [{"id": "k1", "secret": KEY}], "ttl_s": 600, "skew_s": 1
    }});
    channel
}

fn get(lab: &Lab, target: &str) -> Response {
    client::expect(lab.http(), &Request::get(target))
}

/// The path and query of a URL.
fn target(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

fn assert_refused(answer: &Response, what: &str) {
    assert_eq!(answer.status(), 403, "{what}: {:?}", answer.head);
    let line = assert_one_line(answer);
    assert!(!line.contains(KEY), "{what}: a refusal tells no secret");
    let cache = answer.header("cache-control").unwrap_or("no-store");
    assert!(cache.contains("no-store") || cache.contains("no-cache") || cache.contains("private"), "{what}: {cache}");
}

fn tickets(shards: u32) {
    let origin = Origin::start();
    for path in ["/a.mp4", "/b.mp4", "/sub/c.mp4"] {
        origin.put(Object::new(path, SIZE));
    }
    let lab = Lab::start(shards);
    lab.put_channel(&protected("vod", &[&origin], &json!([])));
    lab.put_channel(&protected("other", &[&origin], &json!([])));

    assert_refused(&get(&lab, "/vod/a.mp4"), "no ticket");
    let ticket = lab.admin().ticket("vod", &json!({"path": "a.mp4", "session": "viewer-1"}));
    let by_query = format!("/vod/a.mp4?ticket={ticket}");
    let answer = get(&lab, &by_query);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(Object::new("/a.mp4", SIZE).is_right(0, 0, &answer.body));
    let by_cookie = Request::get("/vod/a.mp4").header("Cookie", &format!("a=b; ticket={ticket}; c=d"));
    assert_eq!(client::expect(lab.http(), &by_cookie).status(), 200);
    let by_header = Request::get("/vod/a.mp4").header("X-Shoal-Ticket", &ticket);
    assert_eq!(client::expect(lab.http(), &by_header).status(), 200);
    let head = Request::new("HEAD", &by_query);
    assert_eq!(client::expect(lab.http(), &head).status(), 200);
    // A preflight has no credentials (Fetch standard), so it must pass without.
    let preflight = Request::new("OPTIONS", "/vod/a.mp4")
        .header("Origin", "https://player.example")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "x-shoal-ticket");
    assert!(matches!(client::expect(lab.http(), &preflight).status(), 200 | 204));
    // Browsers must be able to read why they were refused.
    let refused = client::expect(lab.http(), &Request::get("/vod/a.mp4").header("Origin", "https://player.example"));
    assert_eq!((refused.status(), refused.header("access-control-allow-origin")), (403, Some("*")));

    assert_refused(&get(&lab, &format!("/other/a.mp4?ticket={ticket}")), "another channel's ticket");
    let narrow = lab.admin().ticket("vod", &json!({"path": "sub/c.mp4"}));
    assert_eq!(get(&lab, &format!("/vod/sub/c.mp4?ticket={narrow}")).status(), 200);
    for path in ["/vod/a.mp4", "/vod/sub/../a.mp4", "/vod/sub/%2e%2e/a.mp4"] {
        let answer = get(&lab, &format!("{path}?ticket={narrow}"));
        assert!(matches!(answer.status(), 400 | 403 | 404), "a ticket for a folder opens {path}");
    }
    let away = lab.admin().ticket("vod", &json!({"path": "a.mp4", "network": "192.0.2.0/24"}));
    assert_refused(&get(&lab, &format!("/vod/a.mp4?ticket={away}")), "another network's ticket");
    let here = lab.admin().ticket("vod", &json!({"path": "a.mp4", "network": "127.0.0.0/8"}));
    assert_eq!(get(&lab, &format!("/vod/a.mp4?ticket={here}")).status(), 200);
    for at in [0, ticket.len() / 2, ticket.len() - 2] {
        let mut bytes = ticket.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(bytes).expect("a ticket is ASCII");
        assert_refused(&get(&lab, &format!("/vod/a.mp4?ticket={tampered}")), "a tampered ticket");
    }
    for broken in ["", "x", &ticket[..ticket.len() - 1], &ticket.repeat(20)] {
        assert_refused(&get(&lab, &format!("/vod/a.mp4?ticket={broken}")), "a broken ticket");
    }
    let expired = lab.admin().ticket("vod", &json!({"path": "a.mp4", "ttl_s": 1}));
    std::thread::sleep(std::time::Duration::from_millis(3200));
    assert_refused(&get(&lab, &format!("/vod/a.mp4?ticket={expired}")), "an expired ticket");

    // Two viewers, one fetch; and the origin never saw a ticket.
    let other = lab.admin().ticket("vod", &json!({"path": "a.mp4", "session": "viewer-2"}));
    assert_ne!(ticket, other);
    assert_eq!(get(&lab, &format!("/vod/a.mp4?ticket={other}")).status(), 200);
    assert!(origin.requests("/a.mp4") <= 2, "two viewers cost one fetch of two blocks at most");
    for seen in origin.seen() {
        assert!(!format!("{seen:?}").contains("ticket"), "the origin saw {seen:?}");
    }
    let metrics = lab.metrics();
    assert!(metrics.sum("shoal_http_requests_total", &[("status", "403")]) >= 9.0);
    lab.report_handovers("tickets");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn md5(text: &str) -> String {
    hex(&Md5::digest(text))
}

/// Unix seconds as `YYYYMMDDHHMM` in UTC+8.
fn minute(unix: u64) -> String {
    let date = shoal_tests::origin::http_date(unix + 8 * 3600);
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == words[2]).map_or(0, |at| at + 1);
    format!("{}{month:02}{}{}{}", words[3], words[1], words[4], words[5])
}

/// A signed URL for `path` with `key` at the time `t` (issued or expiry, as the profile has it).
type Sign = fn(path: &str, key: &str, t: u64) -> String;

fn third_party_signatures(shards: u32) {
    let issued = 0;
    let in_an_hour = 3600;
    let expression = "$secure_link_expires$uri $secret";
    let profiles: [(&str, Value, u64, Sign); 10] = [
        ("tencent-live", json!({"profile": "tencent-live"}), in_an_hour, |path, key, t| {
            let stream = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
            format!("{path}?txSecret={}&txTime={t:X}", md5(&format!("{key}{stream}{t:X}")))
        }),
        ("tencent-a", json!({"profile": "tencent-a"}), issued, |path, key, t| {
            format!("{path}?sign={t}-r4nd-0-{}", md5(&format!("{path}-{t}-r4nd-0-{key}")))
        }),
        ("tencent-b", json!({"profile": "tencent-b"}), issued, |path, key, t| {
            format!("/{}/{}{path}", minute(t), md5(&format!("{key}{}{path}", minute(t))))
        }),
        ("tencent-c", json!({"profile": "tencent-c"}), issued, |path, key, t| {
            format!("/{}/{t:x}{path}", md5(&format!("{key}{path}{t:x}")))
        }),
        ("tencent-d", json!({"profile": "tencent-d"}), issued, |path, key, t| {
            format!("{path}?sign={}&t={t}", md5(&format!("{key}{path}{t}")))
        }),
        ("tencent-d-hex", json!({"profile": "tencent-d", "time_format": "hex"}), issued, |path, key, t| {
            format!("{path}?sign={}&t={t:x}", md5(&format!("{key}{path}{t:x}")))
        }),
        ("aliyun-a", json!({"profile": "aliyun-a"}), issued, |path, key, t| {
            format!("{path}?auth_key={t}-0-0-{}", md5(&format!("{path}-{t}-0-0-{key}")))
        }),
        ("aliyun-b", json!({"profile": "aliyun-b"}), issued, |path, key, t| {
            format!("/{}/{}{path}", minute(t), md5(&format!("{key}{}{path}", minute(t))))
        }),
        ("aliyun-c", json!({"profile": "aliyun-c"}), issued, |path, key, t| {
            format!("{path}?KEY1={}&KEY2={t:x}", md5(&format!("{key}{path}{t:x}")))
        }),
        ("nginx", json!({"profile": "nginx-secure-link", "expression": expression}), in_an_hour, |path, key, t| {
            let digest = Md5::digest(format!("{t}{path} {key}"));
            format!("{path}?md5={}&expires={t}", BASE64_URL_SAFE_NO_PAD.encode(digest))
        }),
    ];
    let origin = Origin::start();
    origin.put(Object::new("/room.ts", SIZE));
    let lab = Lab::start(shards);
    for (id, profile, offset, sign) in &profiles {
        lab.put_channel(&protected(id, &[&origin], &json!([profile])));
        let path = format!("/{id}/room.ts");
        let good = sign(&path, KEY, now() + offset);
        let fetched = origin.requests("/room.ts");
        let answer = get(&lab, &good);
        assert_eq!(answer.status(), 200, "{good}: {}", answer.text());
        assert!(Object::new("/room.ts", SIZE).is_right(0, 0, &answer.body), "{id}");
        let cost = origin.requests("/room.ts") - fetched;
        // Another signature for the same thing is the same object.
        let again = get(&lab, &sign(&path, KEY, now() + offset - 61));
        assert_eq!(again.status(), 200, "{id}: {}", again.text());
        assert_eq!(origin.requests("/room.ts") - fetched, cost, "{id}: a second viewer costs no fetch");

        // What the control plane signs, the edge lets pass: shoal's own form and this one.
        let minted = lab.admin().mint(id, &json!({"path": "room.ts"}));
        let urls: Vec<&str> =
            minted["urls"].as_array().into_iter().flatten().filter_map(|url| url["url"].as_str()).collect();
        assert_eq!(urls.len(), 2, "{minted}");
        for url in urls {
            assert_eq!(get(&lab, target(url)).status(), 200, "{url}");
        }

        assert_refused(&get(&lab, &path), &format!("{id}: unsigned"));
        assert_refused(&get(&lab, &sign(&path, "another secret", now() + offset)), &format!("{id}: another key"));
        assert_refused(&get(&lab, &sign(&path, KEY, now() + offset - 7200)), &format!("{id}: expired"));
        let elsewhere = sign("/elsewhere/room2.ts", KEY, now() + offset).replace("/elsewhere/room2.ts", &path);
        assert_refused(&get(&lab, &elsewhere), &format!("{id}: another path's signature"));
        // A digit of the digest changed.
        let tampered = flip_digest(&good);
        assert_refused(&get(&lab, &tampered), &format!("{id}: tampered"));
    }
    for seen in origin.seen() {
        assert_eq!(seen.target, "/room.ts", "the origin sees no signature");
    }
}

/// Changes one character of the longest word, which is the digest.
fn flip_digest(url: &str) -> String {
    let words = url.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let digest = words.max_by_key(|word| word.len()).unwrap_or_default();
    let other = if digest.starts_with('0') { "1" } else { "0" };
    url.replace(digest, &format!("{other}{}", &digest[1..]))
}

fn names_and_addresses(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 10));
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", &[&origin]);
    channel["access"] = json!({
        "referer": {"allow": ["*.example.com", "example.com"], "deny": ["bad.example.com"], "allow_missing": false},
        "user_agent": {"deny": ["wget"]},
        "address": {"allow": ["127.0.0.0/8"], "deny": ["127.0.0.2/32"]}
    });
    lab.put_channel(&channel);
    let good = || Request::get("/vod/a").header("Referer", "https://www.example.com/page?x=1");
    for (what, request, status) in [
        ("a good one", good(), 200),
        ("the domain itself", good().header("Referer", "http://example.com:8080/"), 200),
        ("upper case", good().header("Referer", "https://WWW.Example.COM/"), 200),
        ("a denied referer", good().header("Referer", "https://bad.example.com/"), 403),
        ("a stranger", good().header("Referer", "https://example.org/"), 403),
        ("a name that only ends alike", good().header("Referer", "https://notexample.com/"), 403),
        ("the name in the wrong place", good().header("Referer", "https://evil.org/?www.example.com"), 403),
        ("the name as user", good().header("Referer", "https://www.example.com@evil.org/"), 403),
        ("no referer", Request::get("/vod/a"), 403),
        ("an Origin instead", Request::get("/vod/a").header("Origin", "https://tv.example.com"), 200),
        ("a bad Origin instead", Request::get("/vod/a").header("Origin", "https://example.org"), 403),
        ("a denied agent", good().header("User-Agent", "Wget/1.21"), 403),
        ("another agent", good().header("User-Agent", "Mozilla/5.0"), 200),
    ] {
        let answer = client::expect(lab.http(), &request);
        assert_eq!(answer.status(), status, "{what}: {}", answer.text());
        if status == 403 {
            assert_refused(&answer, what);
        }
    }
    let from = |address: &str| {
        let from = format!("{address}:0").parse().expect("an address");
        let mut conn = Conn::open_from(lab.http(), Some(from), None).expect("loopback addresses are all ours");
        conn.expect(&good())
    };
    assert_eq!(from("127.0.0.3").status(), 200);
    assert_refused(&from("127.0.0.2"), "a denied address");
    // Nobody may speak for others unless trusted.
    let claimed = good().header("X-Forwarded-For", "127.0.0.2");
    assert_eq!(client::expect(lab.http(), &claimed).status(), 200);
}

fn keys_are_rotated(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 10));
    let lab = Lab::start(shards);
    lab.put_channel(&protected("vod", &[&origin], &json!([])));
    let admin = lab.admin();
    let mint = || admin.ticket("vod", &json!({"path": "a"}));
    let status = |ticket: &str| get(&lab, &format!("/vod/a?ticket={ticket}")).status();
    let old = mint();
    assert_eq!(status(&old), 200);
    lab.change(|| admin.call("POST", "/api/v1/channels/vod/keys/rotate", Some(&json!({"id": "k2"}))));
    let new = mint();
    assert_eq!((status(&old), status(&new)), (200, 200), "both keys are good while players move over");
    lab.change(|| admin.call("DELETE", "/api/v1/channels/vod/keys/k1", None));
    assert_eq!((status(&old), status(&new)), (403, 200), "what the removed key signed is refused");
    let shown = admin.call("GET", "/api/v1/channels/vod", None).to_string();
    assert!(!shown.contains(KEY), "the admin API shows no secret");
}

fn playlists_carry_the_ticket(shards: u32) {
    let origin = Origin::start();
    let master = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"x\",URI=\"audio.m3u8\"\n\
                  #EXT-X-STREAM-INF:BANDWIDTH=1000000,AUDIO=\"a\"\nlow/index.m3u8\n";
    let media = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXT-X-KEY:METHOD=AES-128,\
                 URI=\"key.bin?x=1\"\n#EXTINF:4,\nseg-0.m4s\n#EXTINF:4,\n/vod/low/seg-1.m4s\n#EXT-X-ENDLIST\n";
    let mpd = "<?xml version=\"1.0\"?>\n<MPD><BaseURL>low/</BaseURL><Period><AdaptationSet>\
               <SegmentTemplate initialization=\"init.mp4\" media=\"seg-$Number$.m4s\"/></AdaptationSet></Period></MPD>\n";
    origin
        .put(Object::literal("/master.m3u8", master))
        .put(Object::literal("/low/index.m3u8", media))
        .put(Object::literal("/manifest.mpd", mpd))
        .put(Object::new("/low/seg-0.m4s", SIZE));
    let lab = Lab::start(shards);
    lab.put_channel(&protected("vod", &[&origin], &json!([{"profile": "tencent-a"}])));
    let (one, two) = (
        lab.admin().ticket("vod", &json!({"path": "master.m3u8", "session": "one"})),
        lab.admin().ticket("vod", &json!({"path": "master.m3u8", "session": "two"})),
    );
    for ticket in [&one, &two] {
        let answer = get(&lab, &format!("/vod/master.m3u8?ticket={ticket}"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
        let text = answer.text();
        assert!(text.contains(&format!("\nlow/index.m3u8?ticket={ticket}")), "{text}");
        assert!(text.contains(&format!("URI=\"audio.m3u8?ticket={ticket}\"")), "{text}");
        let text = get(&lab, &format!("/vod/low/index.m3u8?ticket={ticket}")).text();
        for line in [
            format!("URI=\"init.mp4?ticket={ticket}\""),
            format!("URI=\"key.bin?x=1&ticket={ticket}\""),
            format!("\nseg-0.m4s?ticket={ticket}\n"),
            format!("\n/vod/low/seg-1.m4s?ticket={ticket}\n"),
        ] {
            assert!(text.contains(&line), "no {line} in {text}");
        }
        let text = get(&lab, &format!("/vod/manifest.mpd?ticket={ticket}")).text();
        for part in ["init.mp4?ticket=", "seg-$Number$.m4s?ticket="] {
            assert!(text.contains(&format!("{part}{ticket}")), "no {part} in {text}");
        }
        let segment = get(&lab, &format!("/vod/low/seg-0.m4s?ticket={ticket}"));
        assert!(segment.status() == 200 && Object::new("/low/seg-0.m4s", SIZE).is_right(0, 0, &segment.body));
    }
    assert_eq!(origin.requests("/master.m3u8"), 1, "the cached copy is shared");

    // Signed by a third party's profile: what is in the playlist must be good as well.
    let path = "/vod/master.m3u8";
    let t = now();
    let signed = format!("{path}?sign={t}-r-0-{}", md5(&format!("{path}-{t}-r-0-{KEY}")));
    let text = get(&lab, &signed).text();
    let uri = text.lines().find(|line| line.starts_with("low/")).unwrap_or_else(|| panic!("no low/ in {text}"));
    let answer = get(&lab, &format!("/vod/{uri}"));
    assert_eq!(answer.status(), 200, "{uri}: {}", answer.text());

    // A HEAD tells the length that a GET has.
    let head = client::expect(lab.http(), &Request::new("HEAD", &format!("/vod/master.m3u8?ticket={one}")));
    let whole = get(&lab, &format!("/vod/master.m3u8?ticket={one}"));
    if let Some(length) = head.header("content-length") {
        assert_eq!(length, whole.body.len().to_string());
    }
}

fn a_trusted_proxy_speaks_for_its_viewers(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 10));
    let mut channel = lab::channel("vod", &[&origin]);
    channel["access"] = json!({"address": {"deny": ["192.0.2.0/24", "2001:db8::/32"]}});

    let lab = Settings::new(shards).set("http.trusted_proxies", "[\"127.0.0.0/8\"]").start();
    lab.put_channel(&channel);
    for (forwarded, status) in [
        ("192.0.2.7", 403),
        ("198.51.100.7", 200),
        ("192.0.2.7, 198.51.100.7", 200),
        ("198.51.100.7, 192.0.2.7", 403),
        ("198.51.100.7, 192.0.2.7, 127.0.0.9", 403),
        ("2001:db8::1", 403),
        ("2001:db9::1", 200),
    ] {
        let request = Request::get("/vod/a").header("X-Forwarded-For", forwarded);
        let answer = client::expect(lab.http(), &request);
        assert_eq!(answer.status(), status, "X-Forwarded-For: {forwarded}: {}", answer.text());
    }

    let lab = Settings::new(shards).set("http.proxy_protocol", "true").start();
    lab.put_channel(&channel);
    for (what, header, status) in [
        ("a denied IPv4 viewer", proxy_v2(1, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80]), 403),
        ("a good IPv4 viewer", proxy_v2(1, 0x11, &[198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80]), 200),
        ("a denied IPv6 viewer", proxy_v2(1, 0x21, &ipv6([0x20, 0x01, 0x0d, 0xb8])), 403),
        ("a good IPv6 viewer", proxy_v2(1, 0x21, &ipv6([0x20, 0x01, 0x0d, 0xb9])), 200),
        ("the proxy's own health check", proxy_v2(0, 0, &[]), 200),
    ] {
        let mut conn = client::connect(lab.http());
        conn.send(&header);
        let answer = conn.expect(&Request::get("/vod/a"));
        assert_eq!(answer.status(), status, "{what}: {}", answer.text());
        // It speaks for the whole connection.
        if status == 200 {
            assert_eq!(conn.expect(&Request::get("/vod/a")).status(), 200, "{what}, again");
        }
    }
    let mut conn = client::connect(lab.http());
    conn.send(&Request::get("/vod/a").bytes());
    let closed = conn.wait_for_close(std::time::Duration::from_secs(5));
    let said = closed.unwrap_or_else(|_| panic!("a connection without PROXY header stays open"));
    assert!(!String::from_utf8_lossy(&said).contains(" 200 "), "served without a PROXY header");
}

/// A PROXY v2 header: command, family and protocol, addresses.
fn proxy_v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend((addresses.len() as u16).to_be_bytes());
    bytes.extend(addresses);
    bytes
}

/// Source (beginning with `start`) and destination of an IPv6 connection.
fn ipv6(start: [u8; 4]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.extend([0; 12]);
    bytes.extend([0; 15]);
    bytes.push(1);
    bytes.extend([0x12, 0x34, 0, 80]);
    bytes
}
