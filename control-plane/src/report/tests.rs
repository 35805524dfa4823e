//! Reports from the record to the sums, with two instances on one store, kills, resending and clocks that step.

use std::collections::{BTreeMap, HashMap};

use shoal_report::batch::Report;

use super::spool::tests::{Folder, Random};
use super::*;
use crate::store::tests::{TestDb, on_each_engine};
use crate::store::{ReportGroup, ReportQuery, ReportRow, ReportStep};

const NOW: u64 = 1_700_000_000_000;

/// Runs of the simulation.
const SEEDS: u64 = 10;

struct Bench {
    tenant: Arc<str>,
    folder: Folder,
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(db: &TestDb) -> Self {
        let folder = Folder::new();
        let store = db.open();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { tenant: "acme".into(), folder, store, runtime }
    }

    fn open(&self, instance: &str) -> Reports {
        let config = Reporting {
            spool_dir: self.folder.path().join(instance),
            parquet_dir: self.folder.path().join("parquet"),
            segment_mib: 1,
            ..Reporting::default()
        };
        Reports::open(&config, self.folder.path(), &self.store, &prometheus::Registry::new()).unwrap()
    }

    fn accept(&self, reports: &Reports, entry: &Entry) {
        let entry = Entry { tenant: Arc::clone(&self.tenant), ..entry.clone() };
        self.runtime.block_on(reports.accept(&entry)).unwrap();
    }

    fn roll_up(&self, reports: &Reports) {
        while reports.roll_up(&self.store).unwrap() {}
    }

    fn sums(&self, step: ReportStep, group: &[ReportGroup]) -> Vec<ReportRow> {
        let query = ReportQuery {
            step,
            to_s: 1 << 40,
            filters: vec![(ReportGroup::Tenant, self.tenant.to_string())],
            group: group.to_vec(),
            limit: 10_000,
            ..ReportQuery::default()
        };
        self.store.reports(&query).unwrap()
    }

    /// Reports and edge bytes in all, which must be the same by every step.
    fn totals(&self) -> (u64, u64) {
        let of = |step| {
            let rows = self.sums(step, &[]);
            rows.first().map_or((0, 0), |row| (row.sums.reports, row.sums.edge_bytes))
        };
        let totals = ReportStep::ALL.map(of);
        assert!(totals.iter().all(|other| *other == totals[0]), "{totals:?}");
        totals[0]
    }
}

fn bytes(session: u64, seq: u64) -> u64 {
    session * 10_007 + seq * 31
}

fn entry(session: u64, seqs: impl IntoIterator<Item = u64>, received_ms: u64) -> Entry {
    let report = |seq| Report { seq, edge_bytes: bytes(session, seq), playing_ms: 16_000, ..Report::default() };
    Entry {
        received_ms,
        tenant: "acme".into(),
        channel: if session.is_multiple_of(3) { "one" } else { "two" }.into(),
        session: format!("s{session}").into(),
        region: if session.is_multiple_of(2) { "DE-BE" } else { "CN-BJ" }.into(),
        sdk: format!("js/{}", session % 4),
        reports: seqs.into_iter().map(report).collect(),
        ..Entry::default()
    }
}

fn whatever_is_killed_and_sent_again_counts_once(db: &TestDb) {
    for seed in 0..SEEDS {
        // A tenant of its own for each: they share the database.
        let bench = Bench { tenant: format!("acme-{seed}").into(), ..Bench::new(db) };
        let mut random = Random(seed);
        let mut instances = [bench.open("a"), bench.open("b")].map(Some);
        // What each session has sent, and how far it knows it was taken.
        let mut sessions: HashMap<u64, (u64, u64)> = HashMap::new();
        for moment in 0..300 {
            let session = random.below(20);
            let instance = random.below(2) as usize;
            let reports = instances[instance].as_ref().unwrap();
            let (sent, known) = sessions.entry(session).or_default();
            *sent += random.below(4);
            let batch = entry(session, *known + 1..=*sent, NOW + moment * 1000);
            if !batch.reports.is_empty() {
                bench.accept(reports, &batch);
                // The answer may not arrive; then all of it comes again, also to the other instance.
                if random.below(3) > 0 {
                    *known = *sent;
                }
            }
            match random.below(12) {
                0 => bench.roll_up(reports),
                1 => {
                    // A kill: the position that it had in mind is gone.
                    instances[instance] = None;
                    instances[instance] = Some(bench.open(["a", "b"][instance]));
                }
                2 => {
                    reports.roll_up(&bench.store).unwrap();
                    reports.tidy();
                }
                _ => {}
            }
        }
        // The rest, and everything that the window reaches once more.
        for (session, (sent, _)) in &sessions {
            bench.accept(instances[0].as_ref().unwrap(), &entry(*session, 1..=*sent, NOW + 400_000));
        }
        instances.iter().flatten().for_each(|reports| bench.roll_up(reports));
        let count: u64 = sessions.values().map(|(sent, _)| sent).sum();
        let expected: u64 =
            sessions.iter().flat_map(|(session, (sent, _))| (1..=*sent).map(|seq| bytes(*session, seq))).sum();
        assert_eq!(bench.totals(), (count, expected), "seed {seed}");
        let usage: u64 = ["one", "two"]
            .iter()
            .flat_map(|channel| {
                bench.store.reported_usage((0, u64::MAX >> 1), &bench.tenant, channel, (0, 1000)).unwrap()
            })
            .map(|usage| usage.edge_bytes)
            .sum();
        assert_eq!(usage, expected, "seed {seed}: by session");
        let viewers = bench.sums(ReportStep::Day, &[])[0].sums.viewers;
        let reported = sessions.values().filter(|(sent, _)| *sent > 0).count() as u64;
        assert_eq!(viewers, reported, "seed {seed}: each session is one viewer of the day");
    }
}

fn a_clock_that_steps_adds_to_other_buckets_and_neither_loses_nor_doubles(db: &TestDb) {
    const YEAR: u64 = 365 * 86_400_000;
    let bench = Bench::new(db);
    let reports = bench.open("a");
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    // Forward a year, back, back an hour as at the end of summer time, over the hour, over midnight, to 1970.
    const HOUR: u64 = 3_600_000;
    let steps = [0, YEAR, 10, 0_u64.wrapping_sub(HOUR), 0, HOUR, 2 * HOUR, 24 * HOUR, 0_u64.wrapping_sub(NOW), 20];
    for (seq, step) in steps.into_iter().enumerate() {
        let now = NOW.wrapping_add(step);
        let seq = seq as u64 + 1;
        bench.accept(&reports, &entry(1, [seq], now));
        bench.accept(&reports, &entry(1, [seq], now + 60_000));
        *expected.entry(now / 60_000 * 60).or_default() += bytes(1, seq);
        bench.roll_up(&reports);
    }
    let rows = bench.sums(ReportStep::Minute, &[ReportGroup::Time]);
    let found: BTreeMap<u64, u64> = rows.iter().map(|row| (row.time_s.unwrap(), row.sums.edge_bytes)).collect();
    assert_eq!(found, expected);
    assert_eq!(bench.totals(), (10, expected.values().sum()));
    // A few steps are remembered; after more of them a viewer may count again, in a minute that it comes back to.
    for row in &rows {
        let most = if row.time_s == Some(NOW / 60_000 * 60) { 2 } else { 1 };
        assert!((1..=most).contains(&row.sums.viewers), "{row:?}");
    }
}

fn what_is_old_is_forgotten_and_a_wrong_clock_forgets_nothing(db: &TestDb) {
    const DAY: u64 = 86_400_000;
    let bench = Bench::new(db);
    let reports = bench.open("a");
    for day in 0..=70 {
        bench.accept(&reports, &entry(day, [1], now_ms() - (70 - day) * DAY));
    }
    bench.roll_up(&reports);
    let buckets = |step| bench.sums(step, &[ReportGroup::Time]).len();
    assert_eq!([ReportStep::Minute, ReportStep::Hour, ReportStep::Day].map(buckets), [71; 3]);
    // Set forward by ten years: nothing goes.
    reports.forget(&bench.store, now_ms() + 3650 * DAY).unwrap();
    assert_eq!([ReportStep::Minute, ReportStep::Hour, ReportStep::Day].map(buckets), [71; 3]);
    // A new start with the right one.
    drop(reports);
    let reports = bench.open("a");
    reports.forget(&bench.store, now_ms()).unwrap();
    let left = [ReportStep::Minute, ReportStep::Hour, ReportStep::Day].map(buckets);
    assert!(matches!(left, [2..=3, 60..=61, 71]), "{left:?}");
    // Sessions of the last two days are still told from new ones, older ones no longer.
    bench.accept(&reports, &entry(70, [1], now_ms()));
    bench.accept(&reports, &entry(5, [1], now_ms()));
    bench.roll_up(&reports);
    let reports = bench.sums(ReportStep::Day, &[])[0].sums.reports;
    assert_eq!(reports, 72);
}

fn a_session_that_makes_things_up_stops_nobody(db: &TestDb) {
    let bench = Bench::new(db);
    let reports = bench.open("a");
    let mut liar = entry(1, 1..=256, NOW);
    liar.reports.iter_mut().for_each(|report| report.edge_bytes = shoal_report::batch::MAX_BYTES);
    for run in 0..60 {
        // Every name is another: they are folded.
        let run = format!("run {run}");
        bench.accept(&reports, &Entry { sdk: run.clone(), stream: run, ..liar.clone() });
    }
    // More than ever passes the bounds, again and again.
    liar.reports.iter_mut().for_each(|report| report.edge_bytes = u64::MAX / 8);
    for session in 10..16 {
        bench.accept(&reports, &Entry { session: format!("{session}").into(), ..liar.clone() });
        bench.roll_up(&reports);
    }
    bench.accept(&reports, &entry(2, [1], NOW));
    bench.roll_up(&reports);
    let rows = bench.sums(ReportStep::Hour, &[ReportGroup::Region]);
    assert_eq!(rows.iter().find(|row| row.names[0].1 == "DE-BE").unwrap().sums.edge_bytes, bytes(2, 1));
}

fn finished_segments_are_exported_and_then_deleted(db: &TestDb) {
    let bench = Bench::new(db);
    let reports = bench.open("a");
    let big = |session| {
        let mut entry = entry(session, 1..=200, NOW);
        entry.reports.iter_mut().for_each(|report| report.unknown = format!("{{\"x\":\"{}\"}}", "y".repeat(3000)));
        entry
    };
    for session in 0..6 {
        bench.accept(&reports, &big(session));
    }
    assert!(reports.spool.finished().len() >= 2);
    reports.tidy();
    assert!(!bench.folder.path().join("parquet").exists(), "not before its position is known");
    bench.roll_up(&reports);
    reports.tidy();
    reports.tidy();
    assert_eq!(reports.spool.finished().len(), 0, "{:?}", reports.spool.finished());
    let files = std::fs::read_dir(bench.folder.path().join("parquet/date=2023-11-14/hour=22")).unwrap().count();
    assert!(files >= 2);
    assert_eq!(bench.totals().0, 1200);
}

fn what_nodes_observe_is_counted_apart_and_lost_where_it_does_not_fit(db: &TestDb) {
    let bench = Bench::new(db);
    let reports = bench.open("a");
    let seen = |starved: u64| -> Playback {
        serde_json::from_value(serde_json::json!({
            "tenant": "acme", "channel": "one", "session": "", "sid": "a", "cid": null, "sf": null, "st": null,
            "start_ms": NOW, "end_ms": NOW, "requests": 9, "bytes": 1000, "starved": starved, "startup": 0,
            "buffer_min_ms": null, "bitrate_sum_kbps": 0, "bitrate_count": 0, "bitrate_max_kbps": 0,
            "throughput_kbps": null,
        }))
        .unwrap()
    };
    reports.observed(vec![seen(3), seen(0)]);
    bench.accept(&reports, &entry(3, [1], NOW));
    bench.roll_up(&reports);
    let rows = bench.sums(ReportStep::Day, &[ReportGroup::Sdk]);
    let cmcd = rows.iter().find(|row| row.names[0].1 == "cmcd-1").unwrap();
    let sums = &cmcd.sums;
    assert_eq!((sums.reports, sums.stalls, sums.viewers, sums.edge_bytes), (2, 3, 0, 0));
}

on_each_engine!(
    whatever_is_killed_and_sent_again_counts_once,
    a_clock_that_steps_adds_to_other_buckets_and_neither_loses_nor_doubles,
    what_is_old_is_forgotten_and_a_wrong_clock_forgets_nothing,
    a_session_that_makes_things_up_stops_nobody,
    finished_segments_are_exported_and_then_deleted,
    what_nodes_observe_is_counted_apart_and_lost_where_it_does_not_fit,
);
