//! Every status and feature of the HTTP side, asked for with the real curl.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;
use shoal_tests::client::{End, Head, Response, parts};
use shoal_tests::lab::{self, Lab, Settings};
use shoal_tests::origin::{Etag, Fault, Object, Origin, When};
use shoal_tests::verdict::{assert_one_line, one_line};
use shoal_tests::{tool, with_one_and_four_shards};

with_one_and_four_shards!(ranges, conditionals, cors_and_fields, refusals, origin_failures, types);

const SIZE: usize = 200_000;

/// Runs curl and takes its output apart; `None` when there is no curl.
fn curl(args: &[&str]) -> Option<Response> {
    let curl = tool::need("curl", "curl")?;
    let mut command = Command::new(curl);
    command.args(["--silent", "--include", "--http1.1", "--max-time", "20", "--noproxy", "*"]).args(args);
    let output = tool::run(&mut command);
    let out = output.stdout;
    let Some(at) = out.windows(4).position(|four| four == b"\r\n\r\n") else {
        panic!("curl {args:?} got no answer (exit {:?}): {:?}", output.status.code(), String::from_utf8_lossy(&out));
    };
    let head = Head::parse(&out[..at + 4]).unwrap_or_else(|what| panic!("curl {args:?}: {what}"));
    // 18 and 56 are how curl reports a body that breaks off.
    let end = match output.status.code() {
        Some(0) => End::Complete,
        Some(18 | 56) => End::Short(None),
        code => panic!("curl {args:?} ended with {code:?} after {head:?}"),
    };
    let zero = Duration::ZERO;
    Some(Response {
        head,
        body: out[at + 4..].to_vec(),
        end,
        head_after: zero,
        first_byte_after: None,
        done_after: zero,
    })
}

fn start(shards: u32) -> (Lab, Origin, Vec<u8>) {
    let origin = Origin::start();
    let object = Object::new("/a.mp4", SIZE as u64);
    let truth = object.bytes(0);
    origin.put(object);
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    (lab, origin, truth)
}

/// The answer to curl with these arguments; the whole test ends here where there is no curl.
macro_rules! answer {
    ($($arg:expr),* $(,)?) => {
        match curl(&[$($arg),*]) {
            Some(answer) => answer,
            None => return,
        }
    };
}

fn ranges(shards: u32) {
    let (lab, _origin, truth) = start(shards);
    let url = &lab.url("/vod/a.mp4");

    let whole = answer!(url);
    assert_eq!((whole.status(), whole.body == truth), (200, true));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-length"), Some("200000"));

    let checks: [(&str, usize, usize); 5] = [
        ("0-0", 0, 1),
        ("65535-65536", 65_535, 2),
        ("100-", 100, SIZE - 100),
        ("-100", SIZE - 100, 100),
        ("199000-300000", 199_000, 1000),
    ];
    for (range, first, len) in checks {
        let part = answer!("-r", range, url);
        assert_eq!(part.status(), 206, "{range}");
        assert_eq!(part.header("content-range"), Some(&*format!("bytes {first}-{}/{SIZE}", first + len - 1)));
        assert!(part.body == truth[first..first + len], "{range}");
    }

    let several = answer!("-r", "0-9,65530-65545,-5", url);
    assert_eq!(several.status(), 206);
    assert_eq!(several.header("content-range"), None, "a multipart answer has it in its parts only");
    let parts = parts(several.field("content-type"), &several.body).expect("a well-formed multipart body");
    let spans: Vec<_> = parts.iter().map(|part| (part.first as usize, part.last as usize)).collect();
    assert_eq!(spans, [(0, 9), (65_530, 65_545), (SIZE - 5, SIZE - 1)]);
    assert!(parts.iter().all(|part| part.body == truth[part.first as usize..=part.last as usize]));

    let beyond = answer!("-r", "200000-", url);
    assert_eq!((beyond.status(), beyond.header("content-range")), (416, Some("bytes */200000")));
    assert_one_line(&beyond);

    // Overlapping and abusive sets are bounded (RFC 9110 section 14.2): never more than the object and some framing.
    let many: Vec<String> = (0..200).map(|nth| format!("{nth}-")).collect();
    let abusive = answer!("-r", &many.join(","), url);
    assert!(abusive.body.len() < 2 * SIZE, "{} bytes for 200 overlapping ranges", abusive.body.len());
    let unknown = answer!("-H", "Range: lines=0-9", url);
    assert_eq!(unknown.status(), 200, "an unknown unit is ignored");
    let nonsense = answer!("-H", "Range: bytes=9-0", url);
    assert_eq!(nonsense.status(), 200, "an invalid set is ignored");

    let head = answer!("-I", url);
    assert_eq!((head.status(), head.header("content-length"), head.body.len()), (200, Some("200000"), 0));
    let old = answer!("--http1.0", url);
    assert_eq!((old.status(), old.body == truth), (200, true));
    lab.report_handovers("curl ranges");
}

fn conditionals(shards: u32) {
    let (lab, origin, truth) = start(shards);
    origin.put(Object { etag: Etag::Weak, ..Object::new("/weak.mp4", 1000) });
    let url = &lab.url("/vod/a.mp4");
    let first = answer!(url);
    let tag = first.header("etag").expect("a strong tag passes through").to_owned();
    let date = first.header("last-modified").expect("a date passes through").to_owned();
    let field = |name: &str, value: &str| format!("{name}: {value}");
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    let new = "Thu, 31 Dec 2099 23:59:59 GMT";

    let cases = [
        (field("If-None-Match", &tag), 304),
        (field("If-None-Match", &format!("\"x\", W/{tag}")), 304),
        (field("If-None-Match", "*"), 304),
        (field("If-None-Match", "\"x\""), 200),
        (field("If-Modified-Since", &date), 304),
        (field("If-Modified-Since", new), 304),
        (field("If-Modified-Since", old), 200),
        (field("If-Modified-Since", "yesterday"), 200),
        (field("If-Match", &tag), 200),
        (field("If-Match", "*"), 200),
        (field("If-Match", "\"x\""), 412),
        (field("If-Match", &format!("W/{tag}")), 412),
        (field("If-Unmodified-Since", &date), 200),
        (field("If-Unmodified-Since", old), 412),
    ];
    for (field, status) in &cases {
        let answer = answer!("-H", field, url);
        assert_eq!(answer.status(), *status, "{field}");
        match status {
            304 => {
                assert!(answer.body.is_empty(), "{field}");
                assert_eq!(answer.header("etag"), Some(&*tag), "{field}");
            }
            412 => drop(assert_one_line(&answer)),
            _ => assert!(answer.body == truth, "{field}"),
        }
    }

    let if_range = [(&*tag, 206), (&*date, 206), ("\"x\"", 200), (old, 200)];
    for (validator, status) in if_range {
        let answer = answer!("-r", "5-9", "-H", &field("If-Range", validator), url);
        assert_eq!(answer.status(), status, "{validator}");
        assert!(answer.body == if status == 206 { &truth[5..10] } else { &truth[..] }, "{validator}");
    }
    let weak = answer!("-r", "5-9", "-H", "If-Range: W/\"v0\"", &lab.url("/vod/weak.mp4"));
    assert_eq!(weak.status(), 200, "a weak tag never joins ranges");
    // If-None-Match comes before Range (RFC 9110 section 13.2.2).
    let both = answer!("-r", "5-9", "-H", &field("If-None-Match", &tag), url);
    assert_eq!(both.status(), 304);
}

fn cors_and_fields(shards: u32) {
    let (lab, origin, _truth) = start(shards);
    let url = &lab.url("/vod/a.mp4");

    let first = answer!("-H", "Origin: https://player.example", url);
    assert_eq!(first.header("access-control-allow-origin"), Some("*"));
    let exposed = first.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
    for name in ["content-length", "content-range", "age", "date", "etag"] {
        assert!(exposed.contains(name), "{name} in {exposed}");
    }
    assert_eq!(first.header("timing-allow-origin"), Some("*"));
    let status = first.header("cache-status").expect("RFC 9211").to_owned();
    assert!(status.contains("fwd="), "a miss says why it went forward: {status}");

    // Age counts on while the object rests.
    thread::sleep(Duration::from_millis(1200));
    let second = answer!(url);
    assert!(second.header("cache-status").is_some_and(|status| status.contains("hit")), "{:?}", second.head);
    let age: u64 = second.header("age").and_then(|age| age.parse().ok()).expect("a cached answer has an Age");
    assert!((1..=20).contains(&age), "Age {age}");
    assert!(second.header("date").is_some());

    let preflight = answer!(
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://player.example",
        "-H",
        "Access-Control-Request-Method: GET",
        "-H",
        "Access-Control-Request-Headers: range,x-own",
        url
    );
    assert!(matches!(preflight.status(), 200 | 204), "{:?}", preflight.head);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let methods = preflight.header("access-control-allow-methods").unwrap_or_default();
    assert!(methods.contains("GET") && methods.contains("HEAD"), "{methods}");
    let allowed = preflight.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(allowed == "*" || allowed.contains("range") && allowed.contains("x-own"), "{allowed}");
    assert_eq!(preflight.header("access-control-max-age"), Some("86400"));
    let plain = answer!("-X", "OPTIONS", url);
    assert!(plain.header("allow").is_some_and(|allow| allow.contains("GET")), "{:?}", plain.head);

    let mut strict = lab::channel("strict", &[&origin]);
    strict["cors"] = json!({
        "allow_origins": ["https://*.example.com"], "allow_credentials": true, "max_age_s": 60, "timing": false,
        "expose_headers": ["ETag"], "allow_headers": ["Range"]
    });
    lab.put_channel(&strict);
    let url = &lab.url("/strict/a.mp4");
    let friend = answer!("-H", "Origin: https://tv.example.com", url);
    assert_eq!(friend.header("access-control-allow-origin"), Some("https://tv.example.com"));
    assert_eq!(friend.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(friend.header("access-control-expose-headers"), Some("ETag"));
    assert_eq!(friend.header("timing-allow-origin"), None);
    assert!(
        friend.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin")),
        "{:?}",
        friend.head
    );
    let stranger = answer!("-H", "Origin: https://example.org", url);
    assert_eq!((stranger.status(), stranger.header("access-control-allow-origin")), (200, None));

    let mut off = lab::channel("off", &[&origin]);
    off["cors"] = json!({"enabled": false});
    lab.put_channel(&off);
    let silent = answer!("-H", "Origin: https://tv.example.com", &lab.url("/off/a.mp4"));
    assert!(!silent.head.headers.iter().any(|(name, _)| name.starts_with("access-control-")), "{:?}", silent.head);
}

fn refusals(shards: u32) {
    let (lab, origin, _truth) = start(shards);
    let mut off = lab::channel("off", &[&origin]);
    off["enabled"] = json!(false);
    lab.put_channel(&off);
    let url = &lab.url("/vod/a.mp4");
    let long = &format!("{url}?{}", "x".repeat(9000));
    let large = &format!("X-Large: {}", "x".repeat(20_000));
    let many: Vec<String> = (0..120).flat_map(|nth| ["-H".to_owned(), format!("X-{nth}: x")]).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push(url);
    let (missing, nowhere, off, nul) =
        (&lab.url("/vod/missing.mp4"), &lab.url("/nowhere/a.mp4"), &lab.url("/off/a.mp4"), &lab.url("/vod/%00"));
    let cases: [(&[&str], u16); 12] = [
        (&[nul], 400),
        (&["-H", "Host: a b", url], 400),
        (&[off], 403),
        (&[missing], 404),
        (&[nowhere], 404),
        (&["-X", "POST", "-d", "x=1", url], 405),
        (&["-X", "DELETE", url], 405),
        (&[long], 414),
        (&["-r", "999999-", url], 416),
        (&["-H", large, url], 431),
        (&many, 431),
        (&["-X", "BREW", url], 501),
    ];
    for (args, status) in cases {
        let shown: Vec<String> = args.iter().map(|arg| arg.chars().take(60).collect()).collect();
        let Some(answer) = curl(args) else { return };
        assert_eq!(answer.status(), status, "{shown:?}: {}", answer.text());
        one_line(&answer).unwrap_or_else(|what| panic!("{shown:?}: {what}"));
        assert_eq!(answer.end, End::Complete, "{shown:?}");
        if status == 405 {
            let allow = answer.header("allow").unwrap_or_default();
            assert!(["GET", "HEAD", "OPTIONS"].iter().all(|method| allow.contains(method)), "Allow: {allow}");
        }
    }

    // curl's gopher sends what it is given: a version that HTTP/1 has not, and a head that never ends.
    let said = gopher(&lab, "GET / HTTP/3.0\r\nHost: a\r\n");
    assert!(said.starts_with("HTTP/1.1 505 "), "{said}");
    let quick = Settings::new(shards).set("http.head_timeout_ms", "500").start();
    let said = gopher(&quick, "GET / HTTP/1.1\r\nHost: a");
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
}

/// Sends `text` and a line end, and returns what comes until the server closes.
fn gopher(lab: &Lab, text: &str) -> String {
    let Some(curl) = tool::find("curl") else { return String::new() };
    let text: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!("gopher://{}/_{text}", lab.http());
    tool::stdout(&tool::run(Command::new(curl).args(["--silent", "--max-time", "10", "--noproxy", "*", &url])))
}

fn origin_failures(shards: u32) {
    let origin = Origin::start();
    let stall = Duration::from_secs(5);
    for (path, fault) in [
        ("/garbage", Fault::Garbage),
        ("/mute", Fault::NoAnswer),
        ("/fails", Fault::Status(500)),
        ("/late", Fault::SlowHead(stall)),
    ] {
        origin.put(Object::new(path, 1000).fault(When::Always, fault));
    }
    let lab = Settings::new(shards).set("upstream.response_timeout_ms", "300").set("upstream.retries", "1").start();
    // A channel each, for one object's failures say nothing about another origin.
    for (id, path, status) in [
        ("c1", "/garbage", &[502][..]),
        ("c2", "/mute", &[502]),
        ("c3", "/fails", &[500, 502]),
        ("c4", "/late", &[504]),
    ] {
        lab.channel(id, &[&origin]);
        let answer = answer!(&lab.url(&format!("/{id}{path}")));
        assert!(status.contains(&answer.status()), "{path}: {:?} {}", answer.head, answer.text());
        one_line(&answer).unwrap_or_else(|what| panic!("{path}: {what}"));
    }

    let mut gone = Origin::start();
    gone.put(Object::new("/a", 10));
    lab.channel("gone", &[&gone]);
    gone.kill();
    let answer = answer!(&lab.url("/gone/a"));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert_one_line(&answer);

    // A node without any channel was not told yet, which is not the viewer's mistake.
    let answer = answer!(&Lab::start(shards).url("/vod/a"));
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert_one_line(&answer);
}

fn types(shards: u32) {
    let origin = Origin::start();
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    for (name, kinds) in [
        ("a.m3u8", &["application/vnd.apple.mpegurl"][..]),
        ("a.mpd", &["application/dash+xml"]),
        ("a.ts", &["video/mp2t"]),
        ("a.m4s", &["video/iso.segment", "video/mp4"]),
        ("a.mp4", &["video/mp4"]),
        ("a.flv", &["video/x-flv"]),
        ("a.vtt", &["text/vtt", "text/vtt; charset=utf-8"]),
    ] {
        origin.put(Object::literal(&format!("/{name}"), "#EXTM3U\n"));
        let answer = answer!(&lab.url(&format!("/vod/{name}")));
        assert_eq!(answer.status(), 200);
        let kind = answer.header("content-type").unwrap_or_default().to_ascii_lowercase();
        assert!(kinds.contains(&&*kind), "{name}: {kind}");
    }
}
