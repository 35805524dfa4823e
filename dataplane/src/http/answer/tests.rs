use shoal_http::caching::Staleness;
use shoal_http::headers::Limits;
use shoal_http::request::parse_request;
use shoal_http::response::{BodyFraming, ResponseHead, parse_response};

use super::*;
use crate::slices::version::{VersionParts, VersionSlot};
use crate::testing::channel;
use crate::upstream::Validators;

/// Of the objects here.
const TOTAL: u64 = 1000;

/// Thu, 01 Jan 1970 00:16:40 GMT.
const MODIFIED: u64 = 1000;

fn parts() -> VersionParts {
    VersionParts {
        status: 200,
        total: Some(TOTAL),
        validators: Validators { etag: Some("\"v1\"".into()), last_modified: Some(MODIFIED), settled: true },
        relay: b"X-Origin: o1\r\n".as_slice().into(),
        version_lines: b"Last-Modified: Thu, 01 Jan 1970 00:16:40 GMT\r\nETag: \"v1\"\r\n".as_slice().into(),
        content_type: Some("video/mp2t".into()),
        cache_control: Some("max-age=60".into()),
        date_s: 1_000,
        born_ms: 1_000_000,
        fresh_until_ms: 1_060_000,
        exclusive: false,
        expires: None,
        selecting: Box::default(),
        stale: Staleness::default(),
        tags: Box::default(),
    }
}

fn version(parts: VersionParts) -> Arc<Version> {
    Arc::new(Version::new(VersionSlot { index: 0, generation: 0 }, parts))
}

/// Calls `then` with the head of a request for /a/x.ts with these lines.
fn request<T>(method: &str, http: &str, lines: &str, then: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let bytes = format!("{method} /a/x.ts HTTP/{http}\r\nHost: edge\r\n{lines}\r\n");
    let (head, _) = parse_request(bytes.as_bytes(), &Limits::default()).unwrap().unwrap();
    then(&head)
}

fn decided(method: &str, lines: &str, version: &Version) -> Result<Plan, Refusal> {
    request(method, "1.1", lines, |head| decide(head, version, asked_ranges(head, 4)?.as_ref(), None))
}

fn range(first: u64, last: u64) -> ByteRange {
    ByteRange { first, last }
}

fn whole() -> Plan {
    Plan { status: 200, selection: Selection::Whole, framing: Framing::Length, total: Some(TOTAL) }
}

fn one(first: u64, last: u64) -> Plan {
    Plan { status: 206, selection: Selection::One(range(first, last)), framing: Framing::Length, total: Some(TOTAL) }
}

fn not_modified() -> Plan {
    Plan { status: 304, selection: Selection::Nothing, framing: Framing::Length, total: Some(TOTAL) }
}

#[test]
fn a_request_wants_the_bytes_from_the_first_to_the_last_it_names() {
    let wants = |method: &str, lines: &str| {
        request(method, "1.1", lines, |head| want(head, asked_ranges(head, 4).unwrap().as_ref()))
    };
    let ranged = |first, last| Want { first, last, ranged: true };
    assert_eq!(wants("GET", ""), Want { first: 0, last: None, ranged: false });
    assert_eq!(wants("HEAD", ""), Want { first: 0, last: Some(0), ranged: false });
    assert_eq!(wants("HEAD", "Range: bytes=5-9\r\n"), wants("HEAD", ""), "a range counts with GET alone");
    assert_eq!(wants("GET", "Range: bytes=5-9\r\n"), ranged(5, Some(9)));
    assert_eq!(wants("GET", "Range: bytes=5-\r\n"), ranged(5, None));
    assert_eq!(wants("GET", "Range: bytes=-5\r\n"), ranged(0, Some(0)));
    assert_eq!(wants("GET", "Range: bytes=700-800,20-30\r\n"), ranged(20, Some(800)));
    assert_eq!(wants("GET", "Range: bytes=700-,20-30\r\n"), ranged(20, None));
    assert_eq!(wants("GET", "Range: bytes=20-30,-5\r\n"), ranged(0, Some(30)));
    for ignored in ["Range: bytes=9-5\r\n", "Range: lines=1-2\r\n", "Range: bytes=0-1\r\nRange: bytes=2-3\r\n"] {
        assert_eq!(wants("GET", ignored), wants("GET", ""), "{ignored}");
    }
    let refusal = request("GET", "1.1", "Range: bytes=0-0,2-2,4-4,6-6,8-8\r\n", |head| asked_ranges(head, 4));
    assert_eq!(refusal.map_err(|refusal| (refusal.status, refusal.reason)), Err((416, "too_many_ranges")));
}

#[test]
fn once_the_length_is_known_a_request_wants_what_its_ranges_come_to() {
    let resolved = |lines: &str, total| {
        request("GET", "1.1", lines, |head| {
            let ranges = asked_ranges(head, 4).unwrap();
            resolved_want(want(head, ranges.as_ref()), ranges.as_ref(), total)
        })
    };
    let ranged = |first, last| Want { first, last, ranged: true };
    assert_eq!(resolved("Range: bytes=-5\r\n", Some(TOTAL)), ranged(995, Some(999)));
    assert_eq!(resolved("Range: bytes=5-\r\n", Some(TOTAL)), ranged(5, Some(999)));
    assert_eq!(resolved("Range: bytes=900-909,-5,20-30\r\n", Some(TOTAL)), ranged(20, Some(999)));
    assert_eq!(resolved("Range: bytes=2000-\r\n", Some(TOTAL)), ranged(2000, None));
    assert_eq!(resolved("Range: bytes=-5\r\n", None), ranged(0, Some(0)));
    assert_eq!(resolved("", Some(TOTAL)), Want { first: 0, last: None, ranged: false });
}

#[test]
fn ranges_are_served_where_they_lie_in_the_object() {
    let version = version(parts());
    for (lines, plan) in [
        ("", whole()),
        ("Range: bytes=0-0\r\n", one(0, 0)),
        ("Range: bytes=5-9\r\n", one(5, 9)),
        ("Range: bytes=990-\r\n", one(990, 999)),
        ("Range: bytes=990-5000\r\n", one(990, 999)),
        ("Range: bytes=-1\r\n", one(999, 999)),
        ("Range: bytes=-5000\r\n", one(0, 999)),
        ("Range: bytes=0-9,5-20\r\n", one(0, 20)),
        ("Range: bytes=2000-,5-9\r\n", one(5, 9)),
    ] {
        assert_eq!(decided("GET", lines, &version), Ok(plan), "{lines}");
    }
    let many = decided("GET", "Range: bytes=900-909,0-9\r\n", &version).unwrap();
    assert_eq!((many.status, many.selection), (206, Selection::Many(vec![range(900, 909), range(0, 9)])));
    for lines in ["Range: bytes=1000-\r\n", "Range: bytes=1000-2000,5000-\r\n", "Range: bytes=-0\r\n"] {
        let refusal = decided("GET", lines, &version).unwrap_err();
        assert_eq!((refusal.status, refusal.reason, refusal.close), (416, "range", false), "{lines}");
        assert_eq!(refusal.header, Some(("Content-Range", "bytes */1000".to_owned())), "{lines}");
    }
    let head = Plan { selection: Selection::Nothing, ..whole() };
    assert_eq!(decided("HEAD", "Range: bytes=5-9\r\n", &version), Ok(head));
}

#[test]
fn conditions_are_judged_before_ranges() {
    let version = version(parts());
    let date = |text: &str| format!("{text}\r\n");
    let (before, at) = (date("Thu, 01 Jan 1970 00:16:39 GMT"), date("Thu, 01 Jan 1970 00:16:40 GMT"));
    for (lines, plan) in [
        ("If-None-Match: \"v1\"\r\nRange: bytes=5-9\r\n".to_owned(), not_modified()),
        ("If-None-Match: W/\"v1\"\r\n".to_owned(), not_modified()),
        ("If-None-Match: *\r\n".to_owned(), not_modified()),
        ("If-None-Match: \"v0\", \"v1\"\r\n".to_owned(), not_modified()),
        ("If-None-Match: \"v0\"\r\nRange: bytes=5-9\r\n".to_owned(), one(5, 9)),
        (format!("If-None-Match: \"v0\"\r\nIf-Modified-Since: {at}"), whole()),
        (format!("If-Modified-Since: {at}"), not_modified()),
        (format!("If-Modified-Since: {before}"), whole()),
        (format!("If-Unmodified-Since: {at}"), whole()),
        ("If-Match: \"v1\"\r\n".to_owned(), whole()),
        ("If-Match: *\r\n".to_owned(), whole()),
        ("If-Range: \"v1\"\r\nRange: bytes=5-9\r\n".to_owned(), one(5, 9)),
        ("If-Range: \"v0\"\r\nRange: bytes=5-9\r\n".to_owned(), whole()),
        ("If-Range: W/\"v1\"\r\nRange: bytes=5-9\r\n".to_owned(), whole()),
        ("If-Range: \"v0\"\r\nRange: bytes=5000-\r\n".to_owned(), whole()),
        (format!("If-Range: {at}Range: bytes=5-9\r\n"), one(5, 9)),
        (format!("If-Range: {before}Range: bytes=5-9\r\n"), whole()),
    ] {
        assert_eq!(decided("GET", &lines, &version), Ok(plan), "{lines}");
    }
    for lines in [
        "If-Match: \"v0\"\r\n".to_owned(),
        "If-Match: W/\"v1\"\r\n".to_owned(),
        format!("If-Unmodified-Since: {before}"),
    ] {
        let refusal = decided("GET", &lines, &version).unwrap_err();
        assert_eq!((refusal.status, refusal.reason), (412, "precondition"), "{lines}");
    }
    // A date that may stand for two versions does not hold a range together.
    let mut unsettled = parts();
    unsettled.validators.settled = false;
    let unsettled = self::version(unsettled);
    assert_eq!(decided("GET", &format!("If-Range: {at}Range: bytes=5-9\r\n"), &unsettled), Ok(whole()));
    assert_eq!(decided("GET", &format!("If-Modified-Since: {at}"), &unsettled), Ok(not_modified()));
}

#[test]
fn what_is_no_200_and_what_has_no_length_is_sent_as_it_is() {
    let lines = "Range: bytes=5-9\r\nIf-None-Match: \"v1\"\r\nIf-Match: \"v0\"\r\n";
    let missing = version(VersionParts { status: 404, ..parts() });
    assert_eq!(decided("GET", lines, &missing), Ok(Plan { status: 404, ..whole() }));

    let growing = version(VersionParts { total: None, ..parts() });
    let ranged = "Range: bytes=5-9\r\n";
    let plan = |framing| Plan { framing, total: None, ..whole() };
    assert_eq!(decided("GET", ranged, &growing), Ok(plan(Framing::Chunked)));
    let old =
        request("GET", "1.0", ranged, |head| decide(head, &growing, asked_ranges(head, 4).unwrap().as_ref(), None));
    assert_eq!(old, Ok(plan(Framing::Close)));
    growing.set_total(7);
    assert_eq!(decided("GET", ranged, &growing), Ok(Plan { total: Some(7), ..one(5, 6) }), "its end was seen");
}

#[test]
fn a_rewritten_playlist_has_its_own_tag_and_no_ranges() {
    let version = version(parts());
    let etag = rewritten_etag(&version, "ticket=a").unwrap();
    assert!(etag.starts_with("\"v1-") && etag.ends_with('"'), "{etag}");
    assert_ne!(rewritten_etag(&version, "ticket=b"), Some(etag.clone()));
    let weak = Validators { etag: Some("W/\"v1\"".into()), ..Validators::default() };
    let weak = self::version(VersionParts { validators: weak, ..parts() });
    assert!(rewritten_etag(&weak, "t").unwrap().starts_with("W/\"v1-"));
    assert_eq!(
        rewritten_etag(&self::version(VersionParts { validators: Validators::default(), ..parts() }), "t"),
        None
    );

    let decided = |lines: &str| {
        request("GET", "1.1", lines, |head| {
            decide(head, &version, asked_ranges(head, 4).unwrap().as_ref(), Some(Some(&etag)))
        })
    };
    assert_eq!(decided("Range: bytes=5-9\r\n"), Ok(whole()));
    assert_eq!(decided("Range: bytes=5000-\r\n"), Ok(whole()));
    assert_eq!(decided("If-None-Match: \"v1\"\r\n"), Ok(whole()), "that is the tag of what was not sent");
    assert_eq!(decided(&format!("If-None-Match: {etag}\r\n")), Ok(not_modified()));
    assert_eq!(decided("If-Modified-Since: Thu, 01 Jan 1970 00:16:40 GMT\r\n"), Ok(whole()));
}

/// How a head is to be written.
struct Case {
    plan: Plan,
    version: Arc<Version>,
    path: &'static str,
    cache: CacheResult,
    forwarded: Option<Forwarded>,
    keep_alive: bool,
    http: HttpVersion,
    child: bool,
    rewritten: Option<(u64, Option<&'static str>)>,
    origin: Option<&'static [u8]>,
    is_head: bool,
}

impl Case {
    fn of(plan: Plan) -> Case {
        Case {
            plan,
            version: version(parts()),
            path: "x.ts",
            cache: CacheResult::Hit,
            forwarded: None,
            keep_alive: true,
            http: HttpVersion::Http11,
            child: false,
            rewritten: None,
            origin: None,
            is_head: false,
        }
    }

    /// Writes the head at 1030 s, and reads it again.
    #[track_caller]
    fn read(self, then: impl FnOnce(&ResponseHead<'_>)) {
        let origins = serde_json::json!({ "origins": [{ "id": "main", "url": "http://origin.test/" }] });
        let mut out = b"before".to_vec();
        AnswerHead {
            plan: &self.plan,
            version: &self.version,
            channel: &channel(origins),
            path: self.path,
            cache: self.cache,
            forwarded: self.forwarded,
            now_ms: 1_030_500,
            origin: self.origin,
            rewritten: self.rewritten,
            keep_alive: self.keep_alive,
            http: self.http,
            child: self.child,
        }
        .write(&mut out);
        let bytes = out.strip_prefix(b"before").unwrap();
        let (head, used) = parse_response(bytes, &Limits::default(), self.is_head).unwrap().unwrap();
        assert_eq!(used, bytes.len(), "something follows the head");
        assert_eq!(head.status, self.plan.status);
        for name in head.headers.iter().map(|(name, _)| name) {
            assert_eq!(head.headers.get_all(name).count(), 1, "{name} comes twice");
        }
        then(&head);
    }
}

#[test]
fn the_head_of_a_whole_object_says_all_about_it() {
    Case { origin: Some(b"https://player.test"), ..Case::of(whole()) }.read(|head| {
        let header = |name| head.header_str(name);
        assert_eq!((head.body, head.keep_alive()), (BodyFraming::Length(TOTAL), true));
        for (name, value) in [
            ("Server", "shoal"),
            ("Content-Type", "video/mp2t"),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "max-age=60"),
            ("Age", "30"),
            ("Cache-Status", "shoal; hit; ttl=29"),
            ("Server-Timing", "cache;desc=hit"),
            ("ETag", "\"v1\""),
            ("Last-Modified", "Thu, 01 Jan 1970 00:16:40 GMT"),
            ("Date", "Thu, 01 Jan 1970 00:16:40 GMT"),
            ("X-Origin", "o1"),
            ("Access-Control-Allow-Origin", "*"),
            ("Timing-Allow-Origin", "*"),
        ] {
            assert_eq!(header(name), Some(value), "{name}");
        }
        assert_eq!((header("Content-Range"), header("Connection"), header("Transfer-Encoding")), (None, None, None));
    });
}

#[test]
fn lengths_and_framing_follow_from_what_is_sent() {
    Case::of(one(5, 9)).read(|head| {
        assert_eq!(head.body, BodyFraming::Length(5));
        assert_eq!(head.header_str("Content-Range"), Some("bytes 5-9/1000"));
    });
    let many = vec![range(900, 909), range(0, 9)];
    let layout_of = version(parts());
    let length = multipart(&layout_of, "x.ts", TOTAL).content_length(&many);
    let plan = Plan { status: 206, selection: Selection::Many(many), framing: Framing::Length, total: Some(TOTAL) };
    Case::of(plan).read(|head| {
        assert_eq!(head.body, BodyFraming::Length(length));
        assert_eq!(head.header_str("Content-Range"), None);
        let expected = format!("multipart/byteranges; boundary={BOUNDARY}");
        assert_eq!(head.header_str("Content-Type"), Some(&*expected));
    });
    Case::of(not_modified()).read(|head| {
        assert_eq!((head.body, head.content_length, head.header("Content-Type")), (BodyFraming::None, None, None));
        assert_eq!((head.header_str("ETag"), head.header_str("Age")), (Some("\"v1\""), Some("30")));
    });
    Case { is_head: true, ..Case::of(Plan { selection: Selection::Nothing, ..whole() }) }.read(|head| {
        assert_eq!((head.body, head.content_length), (BodyFraming::None, Some(TOTAL)));
    });
    let growing = || version(VersionParts { total: None, ..parts() });
    let plan = |framing| Plan { framing, total: None, ..whole() };
    Case { version: growing(), ..Case::of(plan(Framing::Chunked)) }.read(|head| {
        assert_eq!((head.body, head.keep_alive()), (BodyFraming::Chunked, true));
    });
    let case =
        Case { version: growing(), keep_alive: false, http: HttpVersion::Http10, ..Case::of(plan(Framing::Close)) };
    case.read(|head| {
        assert_eq!((head.body, head.keep_alive()), (BodyFraming::UntilClose, false));
    });
}

#[test]
fn an_end_seen_after_the_decision_changes_nothing() {
    let growing = version(VersionParts { total: None, ..parts() });
    let plan = decided("GET", "", &growing).unwrap();
    growing.set_total(7);
    Case { version: growing, ..Case::of(plan) }.read(|head| {
        assert_eq!((head.body, head.content_length), (BodyFraming::Chunked, None));
    });
}

#[test]
fn expires_is_told_again_where_the_origin_told_it() {
    let expires = Some("Thu, 01 Jan 1970 00:17:40 GMT".into());
    Case { version: version(VersionParts { expires, ..parts() }), ..Case::of(not_modified()) }.read(|head| {
        assert_eq!(head.header_str("Expires"), Some("Thu, 01 Jan 1970 00:17:40 GMT"));
    });
    Case::of(whole()).read(|head| assert_eq!(head.header("Expires"), None));
}

#[test]
fn no_content_has_no_length() {
    let empty = version(VersionParts { status: 204, total: Some(0), ..parts() });
    let plan = decided("GET", "", &empty).unwrap();
    Case { version: empty, ..Case::of(plan) }.read(|head| {
        assert_eq!((head.status, head.content_length), (204, None));
    });
}

#[test]
fn the_connection_is_named_where_it_does_not_go_without_saying() {
    for (keep_alive, http, connection) in [
        (true, HttpVersion::Http11, None),
        (false, HttpVersion::Http11, Some("close")),
        (true, HttpVersion::Http10, Some("keep-alive")),
        (false, HttpVersion::Http10, Some("close")),
    ] {
        Case { keep_alive, http, ..Case::of(whole()) }.read(|head| {
            assert_eq!(head.header_str("Connection"), connection);
        });
    }
}

#[test]
fn a_rewritten_playlist_is_for_one_viewer_alone() {
    let case = Case { rewritten: Some((77, Some("\"v1-9\""))), path: "x.m3u8", ..Case::of(whole()) };
    case.read(|head| {
        assert_eq!(head.body, BodyFraming::Length(77));
        assert_eq!(head.header_str("Cache-Control"), Some("private, max-age=29"));
        assert_eq!((head.header_str("ETag"), head.header("Last-Modified")), (Some("\"v1-9\""), None));
        assert_eq!((head.header("Age"), head.header("Accept-Ranges")), (None, None));
    });
    let old = version(VersionParts { fresh_until_ms: 5, ..parts() });
    Case { rewritten: Some((77, None)), version: old, ..Case::of(whole()) }.read(|head| {
        assert_eq!((head.header_str("Cache-Control"), head.header("ETag")), (Some("private, max-age=0"), None));
    });
    let exclusive = version(VersionParts { exclusive: true, ..parts() });
    Case { rewritten: Some((77, None)), version: exclusive, ..Case::of(whole()) }.read(|head| {
        assert_eq!(head.header_str("Cache-Control"), Some("private, no-store"));
    });
}

#[test]
fn media_have_their_right_type_whatever_the_origin_calls_them() {
    for (path, theirs, told) in [
        ("x.ts", Some("application/octet-stream"), Some("video/mp2t")),
        ("x.ts", Some("Text/Plain; charset=utf-8"), Some("video/mp2t")),
        ("x.ts", None, Some("video/mp2t")),
        ("x.mp4", Some("video/quicktime"), Some("video/quicktime")),
        ("x.unknown", Some("application/octet-stream"), Some("application/octet-stream")),
        ("x.unknown", None, None),
    ] {
        let version = version(VersionParts { content_type: theirs.map(Box::from), ..parts() });
        Case { version, path, ..Case::of(whole()) }.read(|head| {
            assert_eq!(head.header_str("Content-Type"), told, "{path} {theirs:?}");
        });
    }
    let missing = version(VersionParts { status: 404, content_type: Some("text/plain".into()), ..parts() });
    Case { version: missing, ..Case::of(Plan { status: 404, ..whole() }) }.read(|head| {
        assert_eq!((head.header_str("Content-Type"), head.header("Accept-Ranges")), (Some("text/plain"), None));
    });
}

#[test]
fn each_cache_result_is_told_as_rfc_9211_writes_it() {
    for &cache in CacheResult::ALL {
        Case { cache, ..Case::of(whole()) }.read(|head| {
            let status = head.header_str("Cache-Status").unwrap();
            let hit = matches!(cache, CacheResult::Hit | CacheResult::Disk | CacheResult::Stale);
            assert!(status.starts_with("shoal; hit") == hit && status.starts_with("shoal; fwd=") != hit, "{status}");
            let timing = format!("cache;desc={}", cache.label());
            assert_eq!(head.header_str("Server-Timing"), Some(&*timing));
        });
    }
}

#[test]
fn cache_status_says_why_and_for_how_long() {
    let forwarded = |why, status| Some(Forwarded { why, status });
    let stale = |while_revalidate_ms| VersionParts {
        fresh_until_ms: 1_027_000,
        stale: Staleness { while_revalidate_ms, if_error_ms: None },
        ..parts()
    };
    for (cache, forwarded, parts, wanted) in [
        (CacheResult::Hit, None, parts(), "shoal; hit; ttl=29"),
        (CacheResult::Stale, None, stale(60_000), "shoal; hit; ttl=-3; detail=stale-while-revalidate"),
        (CacheResult::Stale, None, stale(0), "shoal; hit; ttl=-3; detail=stale-if-error"),
        (CacheResult::Miss, None, parts(), "shoal; fwd=partial; stored; ttl=29"),
        (
            CacheResult::Miss,
            forwarded(Why::UriMiss, 206),
            parts(),
            "shoal; fwd=uri-miss; fwd-status=206; stored; ttl=29",
        ),
        (
            CacheResult::Miss,
            forwarded(Why::VaryMiss, 200),
            parts(),
            "shoal; fwd=vary-miss; fwd-status=200; stored; ttl=29",
        ),
        (
            CacheResult::Revalidated,
            forwarded(Why::Stale, 304),
            parts(),
            "shoal; fwd=stale; fwd-status=304; stored; ttl=29",
        ),
        (
            CacheResult::Revalidated,
            forwarded(Why::Request, 304),
            parts(),
            "shoal; fwd=request; fwd-status=304; stored; ttl=29",
        ),
        (CacheResult::Coalesced, None, parts(), "shoal; fwd=uri-miss; stored; ttl=29; collapsed"),
        (
            CacheResult::Bypass,
            forwarded(Why::Method, 201),
            VersionParts { exclusive: true, ..parts() },
            "shoal; fwd=method; fwd-status=201",
        ),
    ] {
        Case { cache, forwarded, version: version(parts), ..Case::of(whole()) }
            .read(|head| assert_eq!(head.header_str("Cache-Status"), Some(wanted)));
    }
}

#[test]
fn tags_are_told_to_other_nodes_and_to_no_viewer() {
    for (child, told) in [(false, None), (true, Some("news sport"))] {
        let tagged = version(VersionParts { tags: "news sport".into(), ..parts() });
        Case { child, version: tagged, ..Case::of(whole()) }
            .read(|head| assert_eq!(head.header_str("Surrogate-Key"), told));
    }
    Case { child: true, ..Case::of(whole()) }.read(|head| assert_eq!(head.header("Surrogate-Key"), None));
}
