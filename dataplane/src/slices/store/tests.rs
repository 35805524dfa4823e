//! Opening and fetching against origins that do as they are told.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use glommio::timer::sleep;
use serde_json::{Value, json};
use shoal_link::message::PurgeScope;
use shoal_sys::ring::{Ring, RingConfig};

use super::origin::{Asked, Gate, Origin, Reply, bytes};
use super::*;
use crate::testing::{Random, channel, folder, in_executor, store};

const BLOCK: u64 = 16 << 10;

/// Of most objects here: many blocks, the last one short.
const TOTAL: u64 = 20 * BLOCK + 1234;

/// A shard that is all store, with one channel.
struct Lab {
    store: Rc<Store>,
    channel: Arc<Channel>,
    stats: Arc<ShardStats>,
}

/// What a viewer got.
#[derive(Debug)]
struct Got {
    body: Vec<u8>,
    status: u16,
    cache: CacheResult,
}

/// Why a viewer got no more.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    Open(u16, &'static str),
    Block(BlockError),
}

impl Lab {
    /// With so many blocks of RAM. The ring is driven as the shard's driver does, but without its sleep.
    fn start(blocks: u64, origins: &[&Origin], cache: Value) -> Rc<Lab> {
        let origins = origins.iter().enumerate().map(|(at, origin)| (at, origin.url()));
        let origins: Vec<_> =
            origins.map(|(at, url)| json!({ "id": format!("o{at}"), "url": url, "order": at })).collect();
        Lab::with(blocks, json!({ "origins": origins, "cache": cache }))
    }

    fn with(blocks: u64, more: Value) -> Rc<Lab> {
        let ring = Ring::new(RingConfig { entries: 256, buffers: 64, buffer_bytes: 4096 }).unwrap();
        let stats = Arc::new(ShardStats::default());
        let store = store(&ring, &stats, (blocks * BLOCK) as usize, BLOCK as usize);
        glommio::spawn_local(async move {
            loop {
                match ring.turn().unwrap() {
                    0 => sleep(Duration::from_micros(100)).await,
                    _ => glommio::executor().yield_now().await,
                }
            }
        })
        .detach();
        let ticking = Rc::clone(&store);
        glommio::spawn_local(async move {
            loop {
                sleep(Duration::from_millis(5)).await;
                ticking.tick();
            }
        })
        .detach();
        Rc::new(Lab { store, channel: channel(more), stats })
    }

    fn request(&self, path: &str, want: Want) -> OpenRequest {
        let key = SliceKey::new(1, "a", path, "");
        OpenRequest {
            key,
            channel: Arc::clone(&self.channel),
            want,
            asked: None,
            revalidate: false,
            private: false,
            cdn_loop: None,
        }
    }

    async fn open(&self, path: &str) -> Result<Opened, Failed> {
        self.open_as(&self.request(path, WHOLE)).await
    }

    async fn open_as(&self, request: &OpenRequest) -> Result<Opened, Failed> {
        self.store.open(request).await.map_err(|error| Failed::Open(error.status, error.reason))
    }

    /// The bytes of `range` of what was opened, as they come.
    async fn read(&self, opened: &Opened, range: std::ops::Range<u64>) -> Result<Vec<u8>, Failed> {
        let (mut body, mut at) = (Vec::new(), range.start);
        let last = self.store.index_of(range.end.saturating_sub(1));
        while at < range.end {
            let index = self.store.index_of(at);
            let have = at - u64::from(index) * BLOCK;
            let block = self.store.block(&opened.version, index, have as usize, last).await.map_err(Failed::Block)?;
            let Some(block) = block else { break };
            let piece = &block.bytes()[have as usize..];
            let piece = &piece[..piece.len().min((range.end - at) as usize)];
            body.extend_from_slice(piece);
            at += piece.len() as u64;
        }
        Ok(body)
    }

    async fn get(&self, path: &str) -> Result<Got, Failed> {
        let opened = self.open(path).await?;
        let body = self.read(&opened, 0..u64::MAX).await?;
        Ok(Got { body, status: opened.version.status, cache: opened.cache })
    }

    fn spawn<T: 'static>(self: &Rc<Lab>, task: impl AsyncFnOnce(Rc<Lab>) -> T + 'static) -> glommio::Task<T> {
        let lab = Rc::clone(self);
        glommio::spawn_local(async move { task(lab).await })
    }

    /// Waits until nobody fetches.
    #[track_caller]
    fn quiet(&self) -> impl Future<Output = ()> {
        until("flights never end", || self.store.flights.get() == 0)
    }

    fn blocks(&self) -> usize {
        self.store.table.borrow().blocks()
    }

    /// What is purged when nobody uses it leaves nothing behind.
    async fn assert_nothing_is_left(&self) {
        self.quiet().await;
        self.store.purge(&PurgeScope::All, 1, async || ()).await;
        self.store.tick();
        self.store.table.borrow_mut().end_passes(u64::MAX);
        let table = self.store.table.borrow();
        assert_eq!((table.objects(), table.blocks(), table.evictable_bytes()), (0, 0, 0));
        self.store.arena.reclaim();
        assert_eq!(self.store.arena.in_use(), 0);
    }
}

const WHOLE: Want = Want { first: 0, last: None, ranged: false };

/// Waits until it is so, for ten seconds.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what} ({at})");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn whole() -> Vec<u8> {
    bytes(1, 0..TOTAL)
}

#[test]
fn a_hundred_viewers_are_one_request_and_none_waits_for_the_end() {
    let gate = Gate::default();
    let shut = gate.clone();
    let origin = Origin::start(move |_, asked| Reply {
        pause: Some((2 * BLOCK as usize + 10, shut.clone())),
        ..Reply::object(asked, 1, TOTAL, "")
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        let viewers: Vec<_> = (0..100)
            .map(|_| {
                lab.spawn(async |lab| {
                    let opened = lab.open("x.ts").await?;
                    let start = lab.read(&opened, 0..2 * BLOCK + 10).await?;
                    let rest = lab.spawn(async move |lab| {
                        lab.read(&opened, 2 * BLOCK + 10..TOTAL).await.map(|rest| (rest, opened.cache))
                    });
                    Ok::<_, Failed>((start, rest))
                })
            })
            .collect();
        let mut rests = Vec::new();
        for viewer in viewers {
            let (start, rest) = viewer.await.unwrap();
            assert!(start == bytes(1, 0..2 * BLOCK + 10));
            rests.push(rest);
        }
        gate.open();
        let mut caches = Vec::new();
        for rest in rests {
            let (rest, cache) = rest.await.unwrap();
            assert!(rest == bytes(1, 2 * BLOCK + 10..TOTAL));
            caches.push(cache);
        }
        let count = |cache| caches.iter().filter(|&&other| other == cache).count();
        assert_eq!((count(CacheResult::Miss), count(CacheResult::Coalesced)), (1, 99));
        assert_eq!(lab.stats.counter(Counter::FlightWaiters), 99);
        assert_eq!(origin.asked().len(), 1);
        assert_eq!(lab.get("x.ts").await.unwrap().cache, CacheResult::Hit);
        assert_eq!(origin.asked().len(), 1);
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn when_an_origin_breaks_off_the_next_goes_on_at_that_byte() {
    const CUT: u64 = 3 * BLOCK + 777;
    for ranges in [true, false] {
        let first = Origin::start(|_, asked| Reply { cut: Some(CUT as usize), ..Reply::object(asked, 1, TOTAL, "") });
        let second = Origin::start(|_, asked| Reply::object(asked, 1, TOTAL, ""));
        in_executor(move || async move {
            let lab = Lab::with(
                64,
                json!({ "origins": [
                    { "id": "first", "url": first.url() },
                    { "id": "second", "url": second.url(), "order": 1, "range": ranges },
                ] }),
            );
            assert!(lab.get("x.ts").await.unwrap().body == whole());
            assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
            let asked = &second.asked()[0];
            if ranges {
                assert_eq!(asked.range(TOTAL), Some((CUT, TOTAL)));
                assert_eq!(asked.header("If-Range"), Some("\"v1\""));
            } else {
                assert_eq!(asked.header("Range"), None);
            }
            lab.assert_nothing_is_left().await;
        });
    }
}

#[test]
fn two_versions_are_never_mixed() {
    let first = Origin::start(|before, asked| match before {
        0 => Reply { cut: Some(BLOCK as usize + 5), ..Reply::object(asked, 1, TOTAL, "") },
        _ => Reply::object(asked, 2, TOTAL, ""),
    });
    let second = Origin::start(|_, asked| Reply::object(asked, 2, TOTAL, ""));
    in_executor(move || async move {
        let lab = Lab::start(64, &[&first, &second], json!({}));
        let opened = lab.open("x.ts").await.unwrap();
        let error = lab.read(&opened, 0..TOTAL).await.unwrap_err();
        assert_eq!(error, Failed::Block(BlockError::Changed));
        assert!(opened.version.is_retired());
        // What is there of the old one may still be read, and nothing else.
        assert!(lab.read(&opened, 0..BLOCK).await.unwrap() == bytes(1, 0..BLOCK));
        assert!(lab.get("x.ts").await.unwrap().body == bytes(2, 0..TOTAL));
        assert_eq!(lab.read(&opened, BLOCK..TOTAL).await, Err(Failed::Block(BlockError::Changed)));
        drop(opened);
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_body_that_cannot_be_resumed_fails_and_is_not_kept() {
    let origin = Origin::start(|before, _| {
        let head = format!("HTTP/1.1 200 x\r\nContent-Length: {TOTAL}\r\n\r\n");
        Reply { head, body: whole(), cut: (before == 0).then_some(BLOCK as usize + 5), ..Reply::default() }
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        let opened = lab.open("x.ts").await.unwrap();
        let error = lab.read(&opened, 0..TOTAL).await.unwrap_err();
        assert!(matches!(&error, Failed::Block(BlockError::Failed(why)) if why.contains("early")), "{error:?}");
        assert!(opened.version.is_retired());
        drop(opened);
        assert!(lab.get("x.ts").await.unwrap().body == whole());
        assert_eq!(origin.asked().len(), 2);
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn what_is_not_to_be_shared_is_fetched_for_each() {
    let origin =
        Origin::start(|before, asked| Reply::object(asked, before as u64, TOTAL, "Cache-Control: no-store\r\n"));
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        let viewers: Vec<_> = (0..5).map(|_| lab.spawn(async |lab| lab.get("x.ts").await.unwrap())).collect();
        let mut seeds = Vec::new();
        for viewer in viewers {
            let got = viewer.await;
            assert_eq!(got.cache, CacheResult::Bypass);
            seeds.push((0..5).find(|&seed| got.body == bytes(seed, 0..TOTAL)).unwrap());
        }
        seeds.sort_unstable();
        assert_eq!(seeds, [0, 1, 2, 3, 4], "each has a response of its own");
        lab.quiet().await;
        lab.store.tick();
        assert_eq!(lab.blocks(), 0, "and nothing of it stays");
        assert_eq!(lab.store.table.borrow().objects(), 1, "but that it is so");
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_stale_object_is_asked_for_again_and_served_while_its_origin_fails() {
    let origin = Origin::start(|before, asked| {
        let must = if asked.path == "/strict.ts" { ", must-revalidate" } else { "" };
        match before {
            0 | 1 => Reply::object(asked, 1, TOTAL, &format!("Cache-Control: max-age=0{must}\r\n")),
            2 => Reply::status(304, "ETag: \"v1\"\r\nCache-Control: max-age=0\r\n"),
            3..7 => Reply::status(503, ""),
            _ => Reply::object(asked, 2, TOTAL, "Cache-Control: max-age=60\r\n"),
        }
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({ "stale_if_error_ms": 60_000 }));
        for path in ["x.ts", "strict.ts"] {
            assert!(lab.get(path).await.unwrap().body == whole());
        }
        let got = lab.get("x.ts").await.unwrap();
        assert!(got.cache == CacheResult::Revalidated && got.body == whole());
        assert_eq!(origin.asked()[2].header("If-None-Match"), Some("\"v1\""));
        // With three tries each, the origin's failures last for one question, and for one try of the next.
        let got = lab.get("x.ts").await.unwrap();
        assert!(got.cache == CacheResult::Stale && got.body == whole());
        assert_eq!(origin.asked().len(), 6, "all tries were used");
        assert_eq!(lab.get("x.ts").await.unwrap().cache, CacheResult::Stale);
        assert_eq!(origin.asked().len(), 6, "it is not asked for each viewer while it fails");
        let got = lab.get("strict.ts").await.unwrap();
        assert!(got.body == bytes(2, 0..TOTAL));
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_cache_in_between_with_an_older_version_confirms_nothing() {
    // Whole answers, without ETags: versions are told apart by Last-Modified.
    let dated = |seed: u64| {
        let lines =
            format!("Last-Modified: Tue, 14 Nov 2023 22:1{seed}:20 GMT\r\nDate: Tue, 14 Nov 2023 23:00:00 GMT\r\n");
        let head = format!("HTTP/1.1 200 x\r\nContent-Length: {TOTAL}\r\nCache-Control: max-age=0\r\n{lines}\r\n");
        Reply { head, body: bytes(seed, 0..TOTAL), ..Reply::default() }
    };
    let origin = Origin::start(move |before, asked| match (before, asked.header("If-Modified-Since")) {
        (0, _) => dated(4),
        // Its own is not newer than that, so this is its right (RFC 9110 section 13.1.3).
        (_, Some(_)) => Reply::status(
            304,
            "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\nDate: Tue, 14 Nov 2023 23:00:01 GMT\r\nCache-Control: max-age=0\r\n",
        ),
        (_, None) => dated(3),
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        assert!(lab.get("x.ts").await.unwrap().body == bytes(4, 0..TOTAL));
        let got = lab.get("x.ts").await.unwrap();
        let asked = origin.asked();
        assert_eq!(asked[1].header("If-Modified-Since"), Some("Tue, 14 Nov 2023 22:14:20 GMT"));
        assert!(asked.len() == 3 && asked[2].header("If-Modified-Since").is_none(), "it is asked without a condition");
        assert!(got.cache != CacheResult::Revalidated && got.body == bytes(3, 0..TOTAL));
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn what_must_be_validated_is_not_served_while_the_origin_fails() {
    let origin = Origin::start(|before, asked| match before {
        0 => Reply::object(asked, 1, TOTAL, "Cache-Control: max-age=0, must-revalidate\r\n"),
        _ => Reply::status(500, ""),
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        assert!(lab.get("x.ts").await.unwrap().body == whole());
        assert_eq!(lab.get("x.ts").await.unwrap_err(), Failed::Open(502, "status"));
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_range_fetches_its_blocks_and_whole_objects_are_completed_from_it() {
    let origin = Origin::start(|_, asked| Reply::object(asked, 1, TOTAL, ""));
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        let range = 5 * BLOCK + 3..7 * BLOCK + 9;
        let want = Want { first: range.start, last: Some(range.end - 1), ranged: true };
        let opened = lab.open_as(&lab.request("x.ts", want)).await.unwrap();
        assert_eq!(opened.version.total(), Some(TOTAL));
        assert!(lab.read(&opened, range.clone()).await.unwrap() == bytes(1, range));
        lab.quiet().await;
        assert_eq!(origin.asked()[0].range(TOTAL), Some((5 * BLOCK, 8 * BLOCK)), "whole blocks");
        assert_eq!(lab.blocks(), 3);
        assert!(lab.get("x.ts").await.unwrap().body == whole());
        lab.quiet().await;
        let ranges: Vec<_> = origin.asked()[1..].iter().map(|asked| asked.range(TOTAL).unwrap()).collect();
        assert_eq!(ranges, [(0, 5 * BLOCK), (8 * BLOCK, TOTAL)], "what was there is not fetched again");
        drop(opened);
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn nothing_is_fetched_that_nobody_wants_and_what_is_left_behind_ends() {
    let total = 200 * BLOCK;
    let origin = Origin::start(move |_, asked| {
        let lines = if asked.path == "/own.ts" { "Cache-Control: private\r\n" } else { "" };
        Reply::object(asked, 1, total, lines)
    });
    in_executor(move || async move {
        let lab = Lab::start(300, &[&origin], json!({}));
        let ahead = crate::testing::LIMITS.readahead_blocks as usize;
        let own = lab.open("own.ts").await.unwrap();
        assert!(lab.read(&own, 0..10).await.unwrap() == bytes(1, 0..10));
        let shared = lab.open("shared.ts").await.unwrap();
        assert!(lab.read(&shared, 0..BLOCK + 1).await.unwrap() == bytes(1, 0..BLOCK + 1));
        sleep(Duration::from_millis(200)).await;
        assert_eq!(lab.blocks(), 2 * ahead + 3, "each as far as its viewer, and a little ahead");
        assert_eq!(lab.store.flights.get(), 2);
        drop((own, shared));
        until("the one that nobody can have any more stays", || lab.blocks() == ahead + 2).await;
        assert_eq!(lab.store.flights.get(), 1);
        // The other might still be wanted by the next viewer; its connection is kept for five seconds.
        lab.quiet().await;
        assert_eq!(lab.blocks(), ahead + 2);
        assert!(lab.get("shared.ts").await.unwrap().body == bytes(1, 0..total), "it can be taken up again");
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_purge_while_the_question_is_under_way_keeps_the_answer_from_later_viewers() {
    let gate = Gate::default();
    let shut = gate.clone();
    let origin = Origin::start(move |before, asked| Reply {
        hold: (before == 0).then(|| shut.clone()),
        ..Reply::object(asked, 1 + before as u64, TOTAL, "")
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        let early = lab.spawn(async |lab| lab.get("x.ts").await.unwrap());
        until("the question never came", || origin.asked().len() == 1).await;
        lab.store.purge(&PurgeScope::All, 1, async || ()).await;
        let late = lab.spawn(async |lab| lab.get("x.ts").await.unwrap());
        sleep(Duration::from_millis(20)).await;
        gate.open();
        assert!(early.await.body == whole());
        assert!(late.await.body == bytes(2, 0..TOTAL));
        let got = lab.get("x.ts").await.unwrap();
        assert!(got.cache == CacheResult::Hit && got.body == bytes(2, 0..TOTAL));
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn objects_larger_than_memory_are_served_whole() {
    let total = 200 * BLOCK + 99;
    for lines in ["ETag: \"v1\"\r\n", ""] {
        let origin = Origin::start(move |_, asked| match lines {
            // Without a validator all of it has to come in one response.
            "" => Reply {
                head: format!("HTTP/1.1 200 x\r\nContent-Length: {total}\r\n\r\n"),
                body: bytes(1, 0..total),
                ..Reply::default()
            },
            _ => Reply::object(asked, 1, total, ""),
        });
        in_executor(move || async move {
            let lab = Lab::start(16, &[&origin], json!({}));
            let got = lab.get("x.ts").await.unwrap();
            assert!(got.body == bytes(1, 0..total), "{} bytes", got.body.len());
            assert!(lab.stats.counter(Counter::EvictedBlocks) > 100);
            assert!(lab.store.arena.in_use() <= lab.store.arena.capacity());
            lab.assert_nothing_is_left().await;
        });
    }
}

#[test]
fn a_fetch_waits_for_memory_that_readers_hold() {
    let origin = Origin::start(|_, asked| Reply::object(asked, 1, 16 * BLOCK, ""));
    in_executor(move || async move {
        let lab = Lab::start(16, &[&origin], json!({}));
        let opened = lab.open("a.ts").await.unwrap();
        lab.read(&opened, 0..16 * BLOCK).await.unwrap();
        let held: Vec<_> = (0..16).map(|index| lab.store.try_block(&opened.version, index, 0).unwrap()).collect();
        let other = lab.spawn(async |lab| lab.get("b.ts").await);
        let left = 16 / EVICTABLE_SHARE;
        until("nothing was evicted", || lab.blocks() == left).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(lab.blocks(), left, "memory that is being sent was given away, or all the rest evicted in vain");
        assert_eq!(held.iter().filter(|block| block.is_retired()).count(), 16 - left);
        assert!(held.iter().enumerate().all(|(index, block)| {
            let start = index as u64 * BLOCK;
            block.bytes() == bytes(1, start..start + BLOCK)
        }));
        assert_eq!(held[0].asked_below(), Some(lab.store.slow_bytes_per_s()), "slow readers are asked for it");
        drop((held, opened));
        assert!(other.await.unwrap().body == bytes(1, 0..16 * BLOCK));
        assert_eq!(lab.stats.counter(Counter::ArenaFailures), 0);
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn lengths_that_become_known_late_and_statuses_come_through() {
    let origin = Origin::start(|_, asked| {
        let (head, body) = match asked.path.as_str() {
            "/chunked.ts" => {
                let mut body = Vec::new();
                for piece in whole().chunks(10_000) {
                    body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    body.extend_from_slice(piece);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"0\r\n\r\n");
                ("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", body)
            }
            "/close.ts" => ("HTTP/1.1 200 x\r\n\r\n", whole()),
            "/empty.ts" => ("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", Vec::new()),
            _ => ("HTTP/1.1 404 x\r\nContent-Length: 4\r\n\r\n", b"gone".to_vec()),
        };
        let cut = (asked.path == "/close.ts").then_some(body.len());
        Reply { head: head.to_owned(), body, cut, ..Reply::default() }
    });
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({}));
        for (path, status, body) in [
            ("chunked.ts", 200, whole()),
            ("close.ts", 200, whole()),
            ("empty.ts", 200, Vec::new()),
            ("missing.ts", 404, b"gone".to_vec()),
        ] {
            for cache in [CacheResult::Miss, CacheResult::Hit] {
                let opened = lab.open(path).await.unwrap();
                assert!(lab.read(&opened, 0..u64::MAX).await.unwrap() == body, "{path}");
                assert_eq!(
                    (opened.version.status, opened.version.total()),
                    (status, Some(body.len() as u64)),
                    "{path}"
                );
                assert_eq!(opened.cache, cache, "{path}");
                lab.quiet().await;
            }
        }
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn folders_are_origins_too_and_a_changed_file_is_another_version() {
    let folder = folder();
    let path = folder.path().join("x.ts");
    std::fs::write(&path, whole()).unwrap();
    let url = format!("file:{}", folder.path().display());
    in_executor(move || async move {
        let lab = Lab::with(64, json!({ "origins": [{ "id": "disk", "url": url }], "cache": { "default_ttl_ms": 0 } }));
        let opened = lab.open("x.ts").await.unwrap();
        assert!(lab.read(&opened, 0..10).await.unwrap() == bytes(1, 0..10));
        sleep(Duration::from_millis(50)).await;
        std::fs::write(folder.path().join("new"), bytes(2, 0..TOTAL + 5)).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(lab.get("x.ts").await.unwrap().body == bytes(2, 0..TOTAL + 5));
        // The old file is still open for who began with it.
        assert!(lab.read(&opened, 0..TOTAL).await.unwrap() == whole());
        assert_eq!(lab.get("missing.ts").await.unwrap().status, 404);
        drop(opened);
        lab.assert_nothing_is_left().await;
    });
}

/// How requests ended.
#[derive(Debug, Default)]
struct Ends {
    whole: u32,
    left: u32,
    refused: u32,
    changed: u32,
    failed: u32,
}

/// Many viewers with seeded wishes, origins that break off and that change what they have, little memory, purges: what a
/// viewer gets is of one version, and right.
#[test]
fn random_viewers_of_unreliable_origins_never_get_a_wrong_byte() {
    const OBJECTS: u64 = 6;
    let answered = Arc::new(AtomicU64::new(0));
    let origins = [1, 2].map(|seed| {
        let answered = Arc::clone(&answered);
        Origin::start(move |before, asked: &Asked| {
            let mut random = Random(seed + before as u64 * 1000);
            // Both change what they have at the same time, over and over.
            let version = 1 + answered.fetch_add(1, Ordering::Relaxed) / 200;
            let reply = Reply::object(asked, version, TOTAL, "Cache-Control: max-age=1\r\n");
            match random.below(8) {
                0 => Reply::status(500, ""),
                1 | 2 => Reply { cut: Some(random.below(TOTAL) as usize), ..reply },
                _ => reply,
            }
        })
    });
    in_executor(move || async move {
        let lab = Lab::start(40, &[&origins[0], &origins[1]], json!({}));
        let viewers: Vec<_> = (0..24)
            .map(|viewer| {
                lab.spawn(async move |lab| {
                    let mut random = Random(viewer);
                    let mut ends = Ends::default();
                    for _ in 0..25 {
                        let path = format!("{}.ts", random.below(OBJECTS));
                        let first = random.below(TOTAL);
                        let end = first + 1 + random.below(TOTAL - first);
                        let (first, want) = match random.below(3) {
                            0 => (0, WHOLE),
                            _ => (first, Want { first, last: Some(end - 1), ranged: true }),
                        };
                        if random.below(40) == 0 {
                            let scope = PurgeScope::Object { channel: "a".to_owned(), path: path.clone() };
                            lab.store.purge(&scope, 1, async || ()).await;
                        }
                        let Ok(opened) = lab.open_as(&lab.request(&path, want)).await else {
                            ends.refused += 1;
                            continue;
                        };
                        let etag = opened.version.validators.etag.as_deref().unwrap();
                        let seed: u64 = etag.trim_matches('"').trim_start_matches('v').parse().unwrap();
                        let mut at = first;
                        let end = loop {
                            if at == end {
                                break &mut ends.whole;
                            }
                            if random.below(50) == 0 {
                                break &mut ends.left;
                            }
                            let until = end.min(at + 1 + random.below(3 * BLOCK));
                            match lab.read(&opened, at..until).await {
                                Ok(body) => assert!(body == bytes(seed, at..until), "{path} {at}-{until} of {seed}"),
                                Err(Failed::Block(BlockError::Changed)) => break &mut ends.changed,
                                Err(_) => break &mut ends.failed,
                            }
                            at = until;
                        };
                        *end += 1;
                    }
                    ends
                })
            })
            .collect();
        let mut sum = Ends::default();
        for viewer in viewers {
            let ends = viewer.await;
            sum.whole += ends.whole;
            sum.left += ends.left;
            sum.refused += ends.refused;
            sum.changed += ends.changed;
            sum.failed += ends.failed;
        }
        println!("{sum:?}, {} requests", answered.load(Ordering::Relaxed));
        assert!(sum.whole > 150 && sum.changed > 0 && lab.stats.counter(Counter::EvictedBlocks) > 0, "{sum:?}");
        lab.assert_nothing_is_left().await;
    });
}

#[test]
fn a_purge_of_many_lets_others_have_their_turns() {
    const OBJECTS: u64 = 5_000;
    let origin = Origin::start(|before, asked| Reply::object(asked, 1 + before as u64, 0, ""));
    in_executor(move || async move {
        let lab = Lab::start(64, &[&origin], json!({ "default_ttl_ms": 600_000 }));
        let parts = lab.open("known.ts").await.unwrap().version.parts();
        for n in 0..OBJECTS {
            let key = SliceKey::new(1, ["a", "b"][n as usize % 2], &format!("{n}.ts"), "");
            lab.store.table.borrow_mut().insert(&key, &lab.channel, None, parts.clone());
        }
        let pauses = Cell::new(0u64);
        let pause = async || pauses.set(pauses.get() + 1);
        let scope = PurgeScope::Channel { channel: "b".to_owned() };
        let (purged, _) = lab.store.purge(&scope, 1, pause).await;
        assert_eq!(purged, OBJECTS / 2);
        assert!(pauses.get() >= OBJECTS / 2 / 1024, "{} pauses", pauses.get());
        assert_eq!(lab.store.table.borrow().objects() as u64, OBJECTS / 2 + 1);
        assert_eq!(lab.store.purges.get(), 0);
        lab.assert_nothing_is_left().await;
    });
}
