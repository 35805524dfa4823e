//! A shared cache by RFC 9111: what is kept for whom, what a 304 changes, what throws things away.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_tests::client::{self, Request, Response};
use shoal_tests::lab::{self, Lab, until};
use shoal_tests::origin::{Fault, Object, Origin, When};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    variants_are_kept_apart,
    a_304_brings_new_fields,
    unsafe_methods_pass_where_they_may_and_throw_away_what_they_change,
    a_stale_answer_is_served_while_a_new_one_is_fetched,
    a_tag_takes_all_that_have_it,
    redirects_are_followed_within_the_channel,
    viewers_may_ask_for_validation_where_they_are_allowed_to,
    cookies_and_authorized_answers_are_for_one_viewer,
    an_unusually_slow_origin_is_outrun_by_the_next,
);

const SIZE: u64 = 50_000;

/// Longer than the one second for which things are fresh here.
const STALE: Duration = Duration::from_millis(2200);

fn get(lab: &Lab, path: &str) -> Response {
    client::expect(lab.http(), &Request::get(path))
}

fn get_with(lab: &Lab, path: &str, name: &str, value: &str) -> Response {
    client::expect(lab.http(), &Request::get(path).header(name, value))
}

/// A lab with the channel `vod`, and what `more` says of it.
fn lab(shards: u32, origins: &[&Origin], more: &Value) -> Lab {
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", origins);
    for (name, value) in more.as_object().expect("an object") {
        channel[name] = value.clone();
    }
    lab.put_channel(&channel);
    lab
}

fn variants_are_kept_apart(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", SIZE).header("Vary", "Accept-Language, X-Unseen"));
    origin.put(Object::new("/star", SIZE).header("Vary", "*"));
    let lab = lab(shards, &[&origin], &json!({"forward": {"headers": ["accept-language"]}}));
    let version = |language: &str| {
        let answer = get_with(&lab, "/vod/a", "Accept-Language", language);
        assert!(answer.field("vary").contains("Accept-Language"));
        let version: u32 = answer.field("etag").trim_matches(['"', 'v']).parse().expect("our own tag");
        assert!(Object::new("/a", SIZE).is_right(version, 0, &answer.body), "{language}");
        version
    };
    assert_eq!(version("en"), 0);
    origin.bump("/a");
    assert_eq!((version("de"), version("en")), (1, 0));
    origin.bump("/a");
    assert_eq!(version("en, de"), 2, "one more");
    assert_eq!((version("de"), version("en"), version("en ,de")), (1, 0, 2));
    let seen = origin.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].header("accept-language"), Some("de"));
    // What the origin cannot see it cannot choose by.
    for value in ["1", "2"] {
        let request = Request::get("/vod/a").header("Accept-Language", "en").header("X-Unseen", value);
        assert!(client::expect(lab.http(), &request).field("cache-status").contains("hit"));
    }
    let miss = get_with(&lab, "/vod/a", "Accept-Language", "fr");
    assert!(miss.field("cache-status").contains("fwd=vary-miss"), "{}", miss.field("cache-status"));

    for wanted in 0..3 {
        assert_eq!(get(&lab, "/vod/star").field("etag"), format!("\"v{wanted}\""));
        origin.bump("/star");
    }
    // A crowd that asks for all variants at once gets what each asked for.
    thread::scope(|scope| {
        for nth in 0..24 {
            let (lab, origin) = (&lab, &origin);
            scope.spawn(move || {
                let language = format!("x-{}", nth % 6);
                let answer = get_with(lab, "/vod/a", "Accept-Language", &language);
                assert_eq!(answer.body.len() as u64, SIZE);
                assert!(origin.requests("/a") > 0);
            });
        }
    });
}

fn a_304_brings_new_fields(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", SIZE).header("Cache-Control", "max-age=1").header("X-Kept", "1").header("X-New", "1"));
    let lab = lab(shards, &[&origin], &json!({}));
    assert_eq!(get(&lab, "/vod/a").field("x-new"), "1");
    origin.alter("/a", |object| {
        *object = object.clone().header("X-New", "2").header("Cache-Control", "max-age=1000").without("X-Kept");
    });
    thread::sleep(STALE);
    let before = origin.body_bytes();
    let answer = get(&lab, "/vod/a");
    assert!(answer.field("cache-status").contains("fwd-status=304"), "{}", answer.field("cache-status"));
    for answer in [answer, get(&lab, "/vod/a"), get(&lab, "/vod/a")] {
        assert_eq!((answer.field("x-new"), answer.field("x-kept")), ("2", "1"));
        assert_eq!(answer.field("cache-control"), "max-age=1000");
        assert!(Object::new("/a", SIZE).is_right(0, 0, &answer.body));
    }
    assert_eq!(origin.body_bytes(), before, "nothing was fetched again");
    assert_eq!(origin.requests("/a"), 2);
}

fn unsafe_methods_pass_where_they_may_and_throw_away_what_they_change(shards: u32) {
    let origin = Origin::start();
    for path in ["/a", "/b", "/c"] {
        origin.put(Object::new(path, SIZE));
    }
    origin.put(Object { status: 500, ..Object::new("/broken", 10) });
    let lab = lab(shards, &[&origin], &json!({"forward": {"unsafe_methods": true, "body_bytes_max": 1000}}));
    lab.channel("fixed", &[&origin]);
    let refused = client::expect(lab.http(), &Request::new("POST", "/fixed/a"));
    assert_eq!((refused.status(), refused.field("allow")), (405, "GET, HEAD, OPTIONS"));

    let mut conn = client::connect(lab.http());
    let mut post = |method: &str, path: &str, lines: &str, body: &str| {
        conn.send(format!("{method} {path} HTTP/1.1\r\nHost: edge.test\r\n{lines}\r\n{body}").as_bytes());
        conn.expect_response()
    };
    let fill = || ["/a", "/b", "/c"].map(|path| get(&lab, &format!("/vod{path}")).field("etag").to_owned());
    let bump = || ["/a", "/b", "/c"].iter().for_each(|path| origin.bump(path));
    assert_eq!(fill(), ["\"v0\"", "\"v0\"", "\"v0\""]);
    bump();
    assert_eq!(fill(), ["\"v0\"", "\"v0\"", "\"v0\""]);

    let answer = post("POST", "/vod/a", "Content-Length: 5\r\nContent-Type: text/x\r\n", "hello");
    assert_eq!(answer.status(), 200);
    assert!(answer.field("cache-status").contains("fwd=method"));
    let seen = origin.seen().pop().expect("it was passed");
    assert_eq!((&*seen.method, &*seen.body, seen.header("content-type")), ("POST", &b"hello"[..], Some("text/x")));
    assert_eq!(fill(), ["\"v1\"", "\"v0\"", "\"v0\""], "only what was posted to");

    origin.alter("/c", |object| *object = object.clone().header("Content-Location", "/b"));
    let answer = post("M-SEARCH", "/vod/c", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.seen().pop().expect("it was passed").body, b"abcde");
    assert_eq!(fill(), ["\"v1\"", "\"v1\"", "\"v1\""], "and what the answer says it is");

    bump();
    assert!(post("PUT", "/vod/broken", "Content-Length: 1\r\n", "x").status() == 500);
    let too_long = post("POST", "/vod/a", "Content-Length: 1001\r\n", "");
    assert_eq!(too_long.status(), 413);
    assert_eq!(fill(), ["\"v1\"", "\"v1\"", "\"v1\""], "a failure changes nothing");
    let mut conn = client::connect(lab.http());
    conn.send(b"POST /vod/a HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(conn.read_head().expect("100").status, 100);
    conn.send(b"ok");
    assert_eq!(conn.expect_response().status(), 200);
    lab.report_handovers("unsafe methods");
}

fn a_stale_answer_is_served_while_a_new_one_is_fetched(shards: u32) {
    let origin = Origin::start();
    let slow = Duration::from_secs(1);
    let object = |path| Object::new(path, SIZE).fault(When::Always, Fault::SlowHead(slow));
    origin.put(object("/a").header("Cache-Control", "max-age=1, stale-while-revalidate=60"));
    origin.put(object("/strict").header("Cache-Control", "max-age=1, stale-while-revalidate=60, must-revalidate"));
    let lab = lab(shards, &[&origin], &json!({}));
    for path in ["/a", "/strict"] {
        get(&lab, &format!("/vod{path}"));
        origin.bump(path);
    }
    origin.alter("/a", |object| *object = object.clone().header("Cache-Control", "max-age=100"));
    thread::sleep(STALE);
    let started = Instant::now();
    for _ in 0..5 {
        let answer = get(&lab, "/vod/a");
        assert_eq!(answer.field("etag"), "\"v0\"");
        assert!(answer.field("cache-status").contains("detail=stale-while-revalidate"), "{:?}", answer.head);
    }
    assert!(started.elapsed() < slow, "nobody waits for the origin");
    until("the new one is there", Duration::from_secs(10), || get(&lab, "/vod/a").field("etag") == "\"v1\"");
    assert_eq!(origin.requests("/a"), 2, "asked once for all");
    assert_eq!(get(&lab, "/vod/strict").field("etag"), "\"v1\"");
}

fn a_tag_takes_all_that_have_it(shards: u32) {
    let origin = Origin::start();
    let paths: Vec<String> = (0..8).map(|nth| format!("/{nth}.ts")).collect();
    for (nth, path) in paths.iter().enumerate() {
        let (name, value) = match nth % 2 {
            0 => ("Surrogate-Key", "even all"),
            _ => ("Cache-Tag", "odd, all"),
        };
        origin.put(Object::new(path, SIZE).header(name, value));
    }
    let lab = lab(shards, &[&origin], &json!({}));
    let fetched = |newest: u32| {
        paths.iter().filter(|path| get(&lab, &format!("/vod{path}")).field("etag") == format!("\"v{newest}\"")).count()
    };
    assert_eq!(fetched(0), 8);
    let answer = get(&lab, "/vod/0.ts");
    assert!(answer.header("surrogate-key").is_none() && get(&lab, "/vod/1.ts").header("cache-tag").is_none());
    for (newest, tag, taken) in [(1, "even", 4), (2, "all", 8), (3, "al", 0), (4, "odd", 4)] {
        paths.iter().for_each(|path| origin.bump(path));
        let report = lab.admin().purge(&json!({"scope": "tag", "channel": "vod", "tag": tag}));
        assert_eq!(fetched(newest), taken, "{tag}: {report}");
    }
    let refused =
        lab.admin().send("POST", "/api/v1/purge", Some(&json!({"scope": "tag", "channel": "vod", "tag": "a,b"})));
    assert_eq!(refused.status(), 422, "{}", refused.text());
}

fn redirects_are_followed_within_the_channel(shards: u32) {
    let (origin, other, foreign) = (Origin::start(), Origin::start(), Origin::start());
    let to = |path: &str, location: &str| Object { status: 302, ..Object::new(path, 0) }.header("Location", location);
    origin
        .put(Object::new("/real.ts", SIZE))
        .put(to("/relative.ts", "real.ts"))
        .put(to("/twice.ts", "/relative.ts"))
        .put(to("/circle.ts", "/circle.ts"))
        .put(to("/other.ts", &format!("{}deep/x.ts", other.url())))
        .put(to("/foreign.ts", &format!("{}x.ts", foreign.url())));
    other.put(Object::new("/deep/x.ts", SIZE));
    foreign.put(Object::new("/x.ts", SIZE));
    let lab = lab(shards, &[&origin, &other], &json!({"forward": {"redirects": 3}}));
    lab.channel("plain", &[&origin]);
    for (path, truth) in [("relative", "/real.ts"), ("twice", "/real.ts"), ("other", "/deep/x.ts")] {
        for wanted in ["fwd=uri-miss", "hit"] {
            let answer = get(&lab, &format!("/vod/{path}.ts"));
            assert_eq!(answer.status(), 200, "{path}: {:?}", answer.head);
            assert!(Object::new(truth, SIZE).is_right(0, 0, &answer.body), "{path}");
            assert!(answer.field("cache-status").contains(wanted), "{path}: {}", answer.field("cache-status"));
        }
    }
    let mut alone = lab::channel("alone", &[&origin]);
    alone["forward"] = json!({"redirects": 3});
    lab.put_channel(&alone);
    assert_eq!(get(&lab, "/alone/circle.ts").status(), 502);
    let foreign_answer = get(&lab, "/vod/foreign.ts");
    assert_eq!(foreign_answer.status(), 302, "it is the viewer's to follow");
    assert_eq!(foreign_answer.field("location"), format!("{}x.ts", foreign.url()));
    assert!(foreign.seen().is_empty());
    assert_eq!(get(&lab, "/plain/relative.ts").field("location"), "real.ts");
}

fn viewers_may_ask_for_validation_where_they_are_allowed_to(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", SIZE));
    let lab = lab(shards, &[&origin], &json!({"cache": {"client_revalidation": true}}));
    lab.channel("fixed", &[&origin]);
    let tag = |path: &str, name: &str, value: &str| get_with(&lab, path, name, value).field("etag").to_owned();
    for path in ["/vod/a", "/fixed/a"] {
        assert_eq!(tag(path, "X", "1"), "\"v0\"");
    }
    let mut newest = 0;
    for (name, value) in [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=0"), ("Pragma", "no-cache")] {
        origin.bump("/a");
        newest += 1;
        assert_eq!(tag("/vod/a", name, value), format!("\"v{newest}\""), "{name}: {value}");
        assert_eq!(tag("/vod/a", "X", "1"), format!("\"v{newest}\""), "and it is kept");
        assert_eq!(tag("/fixed/a", name, value), "\"v0\"");
    }
}

fn cookies_and_authorized_answers_are_for_one_viewer(shards: u32) {
    let origin = Origin::start();
    origin
        .put(Object::new("/cookie", SIZE).header("Set-Cookie", "a=b"))
        .put(Object::new("/public", SIZE).header("Set-Cookie", "a=b").header("Cache-Control", "public, max-age=60"))
        .put(Object::new("/secret", SIZE))
        .put(Object::new("/shared", SIZE).header("Cache-Control", "max-age=60, must-revalidate"));
    let lab = lab(shards, &[&origin], &json!({"forward": {"headers": ["Authorization"]}}));
    let twice = |path: &str| {
        let ask = || get_with(&lab, &format!("/vod{path}"), "Authorization", "Basic eDp5");
        [ask(), ask()].map(|answer| (answer.field("etag").to_owned(), answer.header("set-cookie").map(str::to_owned)))
    };
    let ask = |path: &str| {
        origin.bump(path);
        let [first, second] = twice(path);
        (first.0 == second.0, second.1)
    };
    for path in ["/cookie", "/public", "/secret", "/shared"] {
        ask(path);
        ask(path);
    }
    let asked = |path: &str| origin.requests(path);
    assert_eq!((asked("/cookie"), asked("/secret")), (4, 4), "each viewer has its own");
    assert_eq!((asked("/public"), asked("/shared")), (1, 1), "the origin allows to share it");
    assert_eq!(ask("/cookie").1.as_deref(), Some("a=b"));
    assert_eq!(ask("/public").1, None, "nobody gets another viewer's cookie");
    assert_eq!(origin.seen()[0].header("authorization"), Some("Basic eDp5"));
}

fn an_unusually_slow_origin_is_outrun_by_the_next(shards: u32) {
    let (first, second) = (Origin::start(), Origin::start());
    let slow = Duration::from_secs(5);
    let usual: Vec<String> = (0..200).map(|nth| format!("/{nth}.ts")).collect();
    for path in &usual {
        first.put(Object::new(path, 100));
        second.put(Object::new(path, 100));
    }
    first.put(Object::new("/slow.ts", SIZE).fault(When::Always, Fault::SlowHead(slow)));
    second.put(Object::new("/slow.ts", SIZE));
    let policy = json!({"forward": {"hedge_percentile": 95, "hedge_budget_percent": 20}});
    let lab = lab(shards, &[&first, &second], &policy);
    for path in &usual {
        assert_eq!(get(&lab, &format!("/vod{path}")).status(), 200);
    }
    let started = Instant::now();
    let answer = get(&lab, "/vod/slow.ts");
    assert!(Object::new("/slow.ts", SIZE).is_right(0, 0, &answer.body) && answer.body.len() as u64 == SIZE);
    assert!(started.elapsed() < slow / 2, "{:?}", started.elapsed());
    assert_eq!((first.requests("/slow.ts"), second.requests("/slow.ts")), (1, 1));
    let hedges = lab.metrics().sum("shoal_upstream_hedges_total", &[]);
    println!("{hedges} of 201 questions were asked twice");
    assert!((1.0..=41.0).contains(&hedges), "{hedges} hedges with a budget of a fifth");
}
