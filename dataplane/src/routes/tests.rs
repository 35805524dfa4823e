use shoal_link::channel::Origin;
use shoal_ticket::{Key, Presented, Profile, TicketPolicy};

use super::*;

fn channel(id: &str, prefix: &str) -> shoal_link::Channel {
    shoal_link::Channel {
        id: id.to_owned(),
        tenant: "default".to_owned(),
        hosts: Vec::new(),
        prefix: prefix.to_owned(),
        origins: vec![origin("main", "http://origin.test/")],
        cache: Default::default(),
        forward: Default::default(),
        limits: Default::default(),
        cors: Default::default(),
        access: Default::default(),
        telemetry: Default::default(),
        enabled: true,
    }
}

fn origin(id: &str, url: &str) -> Origin {
    Origin {
        id: id.to_owned(),
        url: url.to_owned(),
        order: 0,
        weight: 1,
        host: None,
        range: true,
        health_path: None,
        health_interval_ms: 5000,
    }
}

fn ticket(profiles: Vec<Profile>) -> TicketPolicy {
    let key = Key { id: "k1".to_owned(), secret: "0123456789abcdef0123456789abcdef".to_owned() };
    TicketPolicy { profiles, keys: vec![key], skew_s: 5, ttl_s: 300, rewrite_playlists: true }
}

fn compile(channels: Vec<shoal_link::Channel>) -> Result<Routes, RoutesError> {
    Routes::compile(&Snapshot { version: 7, channels, ..Snapshot::default() }, None)
}

fn ids<'r>(routes: &'r Routes, host: Option<&str>, path: &'static str) -> Option<(&'r str, &'static str, bool)> {
    let found = routes.find(host, path)?;
    Some((&found.channel.id, found.rest, found.signature.is_some()))
}

#[test]
fn channels_share_what_they_have_in_common() {
    let mut other = channel("c", "/c/");
    other.cache.default_ttl_ms += 1;
    other.access.user_agent.deny = vec!["bot".to_owned()];
    let routes = compile(vec![channel("a", "/a/"), channel("b", "/b/"), other]).unwrap();
    let shared = |one: &str, two: &str| {
        let [one, two] = [one, two].map(|id| routes.channel(id).unwrap());
        let rules = Arc::ptr_eq(&one.forward, &two.forward) && Arc::ptr_eq(&one.cors, &two.cors);
        assert!(rules && Arc::ptr_eq(&one.tenant, &two.tenant));
        (Arc::ptr_eq(&one.cache, &two.cache), Arc::ptr_eq(&one.access, &two.access))
    };
    assert_eq!((shared("a", "b"), shared("a", "c")), ((true, true), (false, false)));
}

#[test]
fn requests_find_their_channel() {
    let mut hosted = channel("hosted", "/live/");
    hosted.hosts = vec!["edge.test".to_owned(), "[2001:db8::1]".to_owned()];
    let routes = compile(vec![channel("a", "/live/"), channel("b", "/live/room/"), hosted]).unwrap();
    assert_eq!(ids(&routes, None, "/live/x.ts"), Some(("a", "x.ts", false)));
    assert_eq!(ids(&routes, Some("other"), "/live/room/x.ts"), Some(("b", "x.ts", false)));
    assert_eq!(ids(&routes, Some("EDGE.test.:8080"), "/live/room/x.ts"), Some(("hosted", "room/x.ts", false)));
    assert_eq!(ids(&routes, Some("[2001:DB8::1]:80"), "/live/x.ts"), Some(("hosted", "x.ts", false)));
    assert_eq!(ids(&routes, Some("edge.test"), "/vod/x.ts"), None);
    assert_eq!(routes.channel("b").map(|channel| &*channel.prefix), Some("/live/room/"));
    assert_eq!((routes.channels().len(), routes.version()), (3, 7));
}

const DATED: &str = "/202607011200/0123456789abcdef0123456789abcdef/live/x.ts";
const HEX: &str = "/0123456789abcdef0123456789abcdef/65000000/live/x.ts";

#[test]
fn a_signature_in_front_of_the_path_is_left_out() {
    let routes = compile(vec![channel("open", "/live/")]).unwrap();
    for path in [DATED, HEX] {
        assert_eq!(ids(&routes, None, path), Some(("open", "x.ts", true)));
    }
    assert_eq!(ids(&routes, None, "/202607011200/live/x.ts"), None);

    // Beside a channel for everything else it depends on whether tickets are asked for.
    let mut signed = channel("signed", "/live/");
    signed.access.ticket = Some(ticket(Vec::new()));
    let routes = compile(vec![signed, channel("rest", "/")]).unwrap();
    assert_eq!(ids(&routes, None, HEX), Some(("signed", "x.ts", true)));
    let routes = compile(vec![channel("open", "/live/"), channel("rest", "/")]).unwrap();
    assert_eq!(ids(&routes, None, HEX), Some(("rest", &HEX[1..], false)));
}

#[test]
fn what_the_verifier_lets_pass_is_below_the_channel() {
    let mut signed = channel("signed", "/live/");
    let profile = Profile::TencentC { order: Default::default(), time: Default::default(), ttl_s: None };
    signed.access.ticket = Some(ticket(vec![profile]));
    let routes = compile(vec![signed]).unwrap();
    let found = routes.find(None, HEX).unwrap();
    let verifier = found.channel.verifier.as_ref().unwrap();
    let client = "192.0.2.1".parse().unwrap();
    let presented = Presented { path: HEX, query: None, cookie: None, header: None, client, now: 0x6500_0000 };
    assert_eq!(verifier.verify(&presented).unwrap_err().reason(), "signature");
    assert_eq!(found.channel.below("/live/x.ts"), Some("x.ts"));
    assert_eq!(found.channel.below(HEX), None);
}

#[test]
fn health_is_carried_over_with_channel_id_and_url() {
    const NOW: u64 = 1_000_000;
    let mut before = channel("a", "/a/");
    before.origins.push(origin("second", "http://two.test/"));
    let first = compile(vec![before.clone()]).unwrap();
    for origin in &first.channel("a").unwrap().origins {
        origin.health.handle(HealthEvent::CheckFailed, NOW);
    }
    let up = |routes: &Routes| -> Vec<bool> {
        let channel = routes.channels().next().unwrap();
        channel.origins.iter().map(|origin| origin.health.is_up(NOW)).collect()
    };
    let again = |change: fn(&mut shoal_link::Channel)| {
        let mut channel = before.clone();
        change(&mut channel);
        up(&Routes::compile(&Snapshot { version: 8, channels: vec![channel], ..Snapshot::default() }, Some(&first))
            .unwrap())
    };
    assert_eq!(again(|_| {}), [false, false]);
    assert_eq!(again(|channel| channel.origins[0].weight = 9), [false, false]);
    assert_eq!(again(|channel| channel.origins.reverse()), [false, false]);
    assert_eq!(again(|channel| channel.origins[0].url = "http://new.test/".to_owned()), [true, false]);
    assert_eq!(again(|channel| channel.origins[1].id = "third".to_owned()), [false, true]);
    assert_eq!(again(|channel| channel.id = "b".to_owned()), [true, true]);
    // Another check cannot take back what the old one said.
    assert_eq!(again(|channel| channel.origins[0].health_path = Some("ok".to_owned())), [true, false]);
    assert_eq!(again(|_| {}), [false, false]);
}

#[test]
fn a_bad_snapshot_is_refused_by_channel_field_value_and_remedy() {
    type Change = fn(&mut shoal_link::Channel);
    let cases: &[(Change, &str, &str)] = &[
        (|c| c.id = "Room 1".to_owned(), "id", "Room 1"),
        (|c| c.tenant = String::new(), "tenant", ""),
        (|c| c.prefix = "a/".to_owned(), "prefix", "a/"),
        (|c| c.prefix = "/a".to_owned(), "prefix", "/a"),
        (|c| c.prefix = "/a//b/".to_owned(), "prefix", "/a//b/"),
        (|c| c.prefix = "/../".to_owned(), "prefix", "/../"),
        (|c| c.prefix = "/%61/".to_owned(), "prefix", "/%61/"),
        (|c| c.prefix = "/good/".to_owned(), "prefix", "/good/"),
        (|c| c.hosts.push("Edge.test:80".to_owned()), "hosts[0]", "Edge.test:80"),
        (|c| c.origins.clear(), "origins", "0"),
        (|c| c.origins.push(origin("main", "http://two.test/")), "origins[1].id", "main"),
        (|c| c.origins[0].id = "x y".to_owned(), "origins[0].id", "x y"),
        (|c| c.origins[0].url = "ftp://a/".to_owned(), "origins[0].url", "ftp://a/"),
        (|c| c.origins[0].host = Some("a b".to_owned()), "origins[0].host", "a b"),
        (|c| c.origins[0].health_path = Some("a b".to_owned()), "origins[0].health_path", "a b"),
        (|c| c.cors.allow_origins = vec!["x".to_owned()], "cors.allow_origins[0]", "x"),
        (|c| c.access.referer.deny.push("http://x".to_owned()), "access.referer.deny[0]", "http://x"),
    ];
    for (change, field, value) in cases {
        let mut bad = channel("bad", "/bad/");
        change(&mut bad);
        let id = bad.id.clone();
        let error = compile(vec![channel("good", "/good/"), bad]).unwrap_err();
        assert_eq!((&*error.id, &*error.field, &*error.value), (&*id, *field, *value));
        assert!(error.to_string().contains(field) && error.remedy.len() > 10, "{error}");
    }
    let error = compile(vec![channel("a", "/a/"), channel("a", "/b/")]).unwrap_err();
    assert_eq!((&*error.field, &*error.value), ("id", "a"));
}

#[test]
fn a_secret_is_not_in_the_error() {
    let mut bad = channel("bad", "/bad/");
    let mut policy = ticket(Vec::new());
    policy.keys[0].secret = "hunter2".to_owned();
    bad.access.ticket = Some(policy);
    let error = compile(vec![bad]).unwrap_err();
    assert_eq!(error.field, "access.ticket.keys[0].secret");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn published_replaces_all_at_once() {
    let published = Arc::new(Published::new(Routes::default()));
    assert_eq!((published.version(), published.current().version()), (0, 0));
    let writer = published.clone();
    let writing = std::thread::spawn(move || {
        for version in 1..=200 {
            let channels = (0..version % 7).map(|n| channel(&format!("c{n}"), &format!("/{n}/"))).collect();
            writer.publish(
                Routes::compile(&Snapshot { version, channels, ..Snapshot::default() }, Some(&writer.current()))
                    .unwrap(),
            );
        }
    });
    let mut seen = 0;
    while !writing.is_finished() {
        let version = published.version();
        let routes = published.current();
        assert!(routes.version() >= version && version >= seen);
        assert_eq!(routes.channels().len() as u64, routes.version() % 7);
        seen = version;
        std::thread::yield_now();
    }
    writing.join().unwrap();
    assert_eq!((published.version(), published.current().version()), (200, 200));
}
