use std::rc::Rc;

use serde_json::{Value, json};
use shoal_http::headers::Limits;
use shoal_http::request::parse_request;
use shoal_link::Snapshot;
use shoal_sys::doorbell::Doorbell;
use shoal_sys::ring::{Ring, RingConfig};
use shoal_ticket::{Profile, SignRequest, TicketPolicy, sign_url};

use super::*;
use crate::http::addresses::AddressCounts;
use crate::http::context::ContextParts;
use crate::ledger::Recorder;
use crate::routes::{Published, Routes};
use crate::shard::mesh::{Fabric, Mesh};
use crate::slices::Slices;
use crate::telemetry::stats::ShardStats;
use crate::testing::{folder, shared, store};

/// A shard's side of HTTP that serves `channels`, or that has never had a snapshot.
fn context(channels: Option<Value>) -> Context {
    let ring = Ring::new(RingConfig { entries: 8, buffers: 4, buffer_bytes: 1024 }).unwrap();
    let stats = Arc::new(ShardStats::default());
    let store = store(&ring, &stats, 1 << 20, 4096);
    let mesh = Mesh::new(Arc::new(Fabric::new(1)), 0, Doorbell::new(&ring).unwrap());
    let clock = store.clock().clone();
    let published = Arc::new(Published::default());
    if let Some(channels) = channels {
        let snapshot: Snapshot = serde_json::from_value(json!({ "version": 3, "channels": channels })).unwrap();
        published.publish(Routes::compile(&snapshot, None).unwrap());
    }
    Context::new(ContextParts {
        node: "shoal-n1".into(),
        shard: 0,
        ring,
        slices: Slices::new(0, 1, store, Rc::new(mesh), 0, Arc::clone(&stats)),
        clock,
        stats,
        ledger: Rc::new(Recorder::new(crate::ledger::queue(1).0).into()),
        access_log: None,
        settings: shared(&folder(), 1).settings.http.clone(),
        key_seed: 7,
        addresses: Arc::new(AddressCounts::new(7)),
        all_connections: Arc::default(),
        published,
    })
}

#[test]
fn cmcd_is_no_part_of_a_key() {
    let ctx = context(Some(open_channel(json!({ "cache": { "query_allow": ["*"] } }))));
    let cmcd = "CMCD=br%3D3200%2Csid%3D%22s%22";
    assert_eq!(path(&ctx, &format!("/open/a.m4s?{cmcd}"), ""), "a.m4s");
    assert_eq!(path(&ctx, &format!("/open/a.m4s?v=1&{cmcd}&w=2"), ""), "a.m4s?v=1&w=2");
    // However it is spelled.
    assert_eq!(path(&ctx, "/open/a.m4s?%43MCD=x&v=1", "CMCD-Request: bl=1\r\n"), "a.m4s?v=1");
    let ctx = context(Some(open_channel(json!({ "cache": { "query_allow": ["CMCD"] } }))));
    assert_eq!(path(&ctx, "/open/a.m4s?CMCD=x&v=1", ""), "a.m4s?CMCD=x");
}

fn origins() -> Value {
    json!([{ "id": "main", "url": "http://origin.test/" }])
}

fn open_channel(more: Value) -> Value {
    let mut channel = json!({ "id": "open", "prefix": "/open/", "origins": origins() });
    channel.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([channel])
}

fn with_head<T>(request_line: &str, lines: &str, then: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let bytes = format!("{request_line} HTTP/1.1\r\nHost: edge\r\n{lines}\r\n");
    let (head, _) = parse_request(bytes.as_bytes(), &Limits::default()).unwrap().unwrap();
    then(&head)
}

fn admitted(ctx: &Context, target: &str, lines: &str) -> Result<Admitted, Denial> {
    with_head(&format!("GET {target}"), lines, |head| {
        admit(ctx, head, "192.0.2.9".parse().unwrap(), false, &mut Memory::default())
    })
}

/// The object that a request is given.
#[track_caller]
fn path(ctx: &Context, target: &str, lines: &str) -> String {
    match admitted(ctx, target, lines) {
        Ok(admitted) => String::from_utf8(admitted.key.path().to_vec()).unwrap(),
        Err(denial) => panic!("{target} is refused: {}", denial.refusal.message),
    }
}

/// Status, label and channel of a request that is refused.
#[track_caller]
fn refused(ctx: &Context, target: &str, lines: &str) -> (u16, &'static str, Option<String>) {
    let Err(denial) = admitted(ctx, target, lines) else { panic!("{target} is admitted") };
    (denial.refusal.status, denial.refusal.reason, denial.channel.map(|channel| channel.id.to_string()))
}

#[test]
fn methods_that_change_something_are_told_what_would_do() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(with_head(&format!("{method} /"), "", |head| check_method(head, false)), Ok(()));
    }
    for (method, status) in [("POST", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("BREW", 501), ("get", 501)]
    {
        let refusal = with_head(&format!("{method} /"), "", |head| check_method(head, false)).unwrap_err();
        assert_eq!(with_head(&format!("{method} /"), "", |head| check_method(head, true)), Ok(()));
        assert_eq!((refusal.status, refusal.close), (status, false), "{method}");
        assert!(refusal.message.contains(ALLOW), "{method}");
        assert_eq!(refusal.header, (status == 405).then(|| ("Allow", ALLOW.to_owned())), "{method}");
    }
}

#[test]
fn without_a_snapshot_a_viewer_is_to_come_again() {
    let ctx = context(None);
    let Err(Denial { refusal, channel: None }) = admitted(&ctx, "/open/x.ts", "") else { panic!("admitted") };
    assert_eq!((refusal.status, refusal.reason), (503, "no_snapshot"));
    assert_eq!(refusal.header, Some(("Retry-After", "1".to_owned())));
    assert_eq!(refused(&ctx, "/%zz", ""), (400, "bad_path", None));
}

#[test]
fn a_path_leads_to_its_channel_and_one_object_has_one_key() {
    let ctx = context(Some(open_channel(json!({}))));
    for target in
        ["/open/a/x.ts", "/open/./b/../a/x.ts", "/open/%61/x.ts", "http://edge/open/a/x.ts", "/open/a/x.ts?q=1"]
    {
        assert_eq!(path(&ctx, target, ""), "a/x.ts", "{target}");
    }
    assert_eq!(refused(&ctx, "/other/x.ts", ""), (404, "no_channel", None));
    assert_eq!(refused(&ctx, "/open/../other/x.ts", ""), (404, "no_channel", None));
    let found = |target: &str| with_head(&format!("GET {target}"), "", |head| find_channel(&ctx, head));
    assert_eq!(found("/open/x.ts").map(|channel| channel.id.to_string()), Some("open".to_owned()));
    assert!(found("/other/x.ts").is_none() && found("/%zz").is_none());
}

#[test]
fn only_listed_parameters_belong_to_the_key() {
    let ctx = context(Some(open_channel(json!({ "cache": { "query_allow": ["v", "part"] } }))));
    assert_eq!(path(&ctx, "/open/x.ts?CMCD=br%3D1&v=2&t=9&part=1", ""), "x.ts?v=2&part=1");
    assert_eq!(path(&ctx, "/open/x.ts?t=9", ""), "x.ts");
}

#[test]
fn rules_are_applied_and_a_refusal_names_its_channel() {
    let ctx = context(Some(open_channel(json!({ "enabled": false }))));
    assert_eq!(refused(&ctx, "/open/x.ts", ""), (403, "channel_off", Some("open".to_owned())));
    let rules = json!({ "access": {
        "referer": { "allow": ["*.site.test"], "allow_missing": true },
        "user_agent": { "deny": ["leech"] },
    } });
    let ctx = context(Some(open_channel(rules)));
    let of = |lines: &str| admitted(&ctx, "/open/x.ts", lines).map_err(|denial| denial.refusal.status).map(drop);
    assert_eq!(of(""), Ok(()));
    assert_eq!(of("Referer: https://www.site.test/page\r\nUser-Agent: player\r\n"), Ok(()));
    assert_eq!(of("Referer: https://other.test/\r\n"), Err(403));
    assert_eq!(of("Origin: https://other.test\r\n"), Err(403));
    assert_eq!(of("User-Agent: Leech/1\r\n"), Err(403));
}

#[test]
fn a_ticket_opens_its_folder_and_stays_out_of_the_key() {
    let policy: TicketPolicy =
        serde_json::from_value(json!({ "keys": [{ "id": "k", "secret": "0123456789abcdef" }] })).unwrap();
    let ctx = context(Some(open_channel(json!({
        "access": { "ticket": policy },
        "cache": { "query_allow": ["v", "ticket"] },
    }))));
    let sign = |path: &str, expires: u64| {
        let request = SignRequest {
            channel: "open",
            path,
            query: Some("v=1"),
            path_prefix: "/open/room/",
            expires,
            session: "viewer7",
            network: None,
            client: None,
            nonce: "0",
            uid: "0",
        };
        sign_url(&policy, &Profile::Shoal, &request).unwrap()
    };
    let soon = ctx.clock.unix_s() + 600;
    let signed = sign("/open/room/x.ts", soon);
    let ticket = signed.rsplit("ticket=").next().unwrap();

    let segment = admitted(&ctx, &signed, "").map_err(|denial| denial.refusal).unwrap();
    assert_eq!(segment.key.path(), b"room/x.ts?v=1");
    assert_eq!(segment.session.map(|session| session.as_str().to_owned()), Some("viewer7".to_owned()));
    assert_eq!(segment.playlist_ticket, None);
    let playlist = admitted(&ctx, &sign("/open/room/x.m3u8", soon), "").map_err(|denial| denial.refusal).unwrap();
    assert!(playlist.playlist_ticket.is_some_and(|ticket| ticket.starts_with("ticket=")));

    for lines in [format!("Cookie: a=b; ticket={ticket}\r\n"), format!("X-Shoal-Ticket: {ticket}\r\n")] {
        assert_eq!(path(&ctx, "/open/room/x.ts", &lines), "room/x.ts", "{lines}");
    }
    let status = |target: &str| refused(&ctx, target, "").0;
    assert_eq!(status("/open/room/x.ts"), 403);
    assert_eq!(status(&sign("/open/room/x.ts", ctx.clock.unix_s() - 600)), 403, "it has expired");
    assert_eq!(status(&format!("/open/other/x.ts?ticket={ticket}")), 403, "another folder");
    assert_eq!(status(&format!("/open/room/../other/x.ts?ticket={ticket}")), 403, "another folder, by a detour");
    assert_eq!(status(&format!("/open/room/x.ts?ticket={ticket}0")), 403, "not as it was signed");
}
