//! Imported logs and the figures of both sides, on each engine.

use std::collections::BTreeMap;

use shoal_link::ledger::Kind;
use shoal_report::logs::Measure;

use super::*;
use crate::recon::import::{ImportReport, Imported, Key, Sums};
use crate::recon::{Pair, Provider, Settings};

const HOUR: u64 = 490_000;

fn imported(digest: &str, edge: bool, session: &str, bytes: u64, before: u64) -> Imported {
    let report = ImportReport {
        provider: "cdn".to_owned(),
        digest: digest.to_owned(),
        imported_ms: 1,
        repeated: false,
        lines: 1,
        counted: 1,
        counted_before: 0,
        unmapped: 0,
        bad: 0,
        first_bad: Vec::new(),
        bytes,
        first: HOUR * 3600,
        last: HOUR * 3600,
    };
    let key = Key { hour: HOUR, tenant: "default".into(), channel: "a".into(), edge, session: session.into() };
    Imported {
        report,
        measure: Measure::Wire,
        rows: BTreeMap::from([(key, Sums { requests: 1, bytes, hits: 1 })]),
        seen: BTreeMap::from([(HOUR, vec![bytes, bytes + 1])]),
        before: BTreeMap::from([(HOUR, before)]),
    }
}

/// Tables of reports, where the release has none yet.
fn reported(store: &Store, session: &str, edge: u64, direct: u64) {
    let tables = [
        "CREATE TABLE IF NOT EXISTS report_usage (hour BIGINT, tenant TEXT, channel TEXT, session TEXT, edge_bytes BIGINT,
         direct_bytes BIGINT, p2p_in_bytes BIGINT)",
        "CREATE TABLE IF NOT EXISTS report_providers (hour BIGINT, tenant TEXT, channel TEXT, provider TEXT, direct_bytes BIGINT)",
    ];
    let write = |tx: &mut Tx<'_>| {
        for table in tables {
            tx.execute(table, &[])?;
        }
        tx.execute(
            "INSERT INTO report_usage (hour, tenant, channel, session, edge_bytes, direct_bytes, p2p_in_bytes)
             VALUES ($1, 'default', 'a', $2, $3, $4, 0)",
            &values![HOUR, session, edge, direct],
        )?;
        tx.execute(
            "INSERT INTO report_providers (hour, tenant, channel, provider, direct_bytes) VALUES ($1, 'default', 'a', 'cdn', $2)",
            &values![HOUR, direct],
        )
    };
    store.write(write).unwrap();
}

fn figures_of_both_sides_meet(db: &TestDb) {
    let store = db.open();
    reported(&store, "s", 700, 90);
    let provider = Provider { id: "cdn".to_owned(), origins: vec!["main".to_owned()], ..Provider::default() };
    assert!(store.recon_put_provider(&provider, 1).unwrap());
    assert!(store.recon_put_provider(&provider, 1).unwrap(), "itself it may replace");
    let other = Provider { id: "other".to_owned(), ..Provider::default() };
    assert!(!store.recon_put_provider(&other, 1).unwrap());
    let entries = vec![entry("a", "s", Kind::Client, 1000), entry("a", "", Kind::Upstream, 500)];
    store.apply_ledger("edge", &[batch(1, 1, HOUR, entries)]).unwrap();

    let query = FiguresQuery { from_hour: HOUR, to_hour: HOUR + 1, ..FiguresQuery::default() };
    let figures = || -> Vec<(Pair, String, u64, u64)> {
        let all = store.recon_figures(&query).unwrap();
        all.into_iter().map(|one| (one.pair, one.provider, one.delivered, one.counted)).collect()
    };
    // Without a log there is nothing to hold against it.
    assert_eq!(figures(), [(Pair::Edge, String::new(), 1000, 700)]);
    assert_eq!(store.recon_import(&imported("d1", true, "", 600, 0)).unwrap(), StoredImport::New);
    assert_eq!(store.recon_import(&imported("d2", false, "s", 100, 1)).unwrap(), StoredImport::New);
    let wire = entry("a", "", Kind::Upstream, 500).wire_bytes;
    let cdn = || "cdn".to_owned();
    let expected =
        [(Pair::Upstream, cdn(), 600, wire), (Pair::Direct, cdn(), 100, 90), (Pair::Edge, String::new(), 1000, 700)];
    assert_eq!(figures(), expected);
    let elsewhere = FiguresQuery { channel: Some("b".to_owned()), ..query.clone() };
    assert!(store.recon_figures(&elsewhere).unwrap().is_empty());
    let sessions = |pair| store.recon_sessions(pair, "cdn", "a", HOUR).unwrap();
    assert_eq!(sessions(Pair::Edge)["s"], [1000, 700]);
    assert_eq!(sessions(Pair::Direct)["s"], [100, 90]);
    assert_eq!(sessions(Pair::Upstream)[""], [600, 0]);
}

fn imports_count_once_and_can_be_taken_back(db: &TestDb) {
    let store = db.open();
    assert_eq!(store.recon_import(&imported("d1", true, "", 600, 0)).unwrap(), StoredImport::New);
    let StoredImport::Before(report) = store.recon_import(&imported("d1", true, "", 999, 0)).unwrap() else {
        panic!("it was imported before");
    };
    assert!(report.repeated && report.bytes == 600);
    // One that has not seen what was counted meanwhile.
    assert_eq!(store.recon_import(&imported("d2", true, "", 1, 0)).unwrap(), StoredImport::Raced);
    let seen = store.recon_seen("cdn", HOUR).unwrap();
    assert_eq!((seen.parts, seen.hashes.len(), seen.hashes.contains(&601)), (1, 2, true));
    assert_eq!(store.recon_seen("other", HOUR).unwrap().parts, 0);
    let another = db.open();
    assert_eq!(another.recon_imports(Some("cdn"), 10).unwrap().len(), 1);
    assert!(another.recon_delete_import("cdn", "d1").unwrap() && !another.recon_delete_import("cdn", "d1").unwrap());
    assert_eq!(store.recon_import(&imported("d1", true, "", 600, 0)).unwrap(), StoredImport::New);
    assert_eq!((store.recon_forget(HOUR).unwrap(), store.recon_forget(HOUR + 1).unwrap()), (0, 1));
    let stricter = Settings { alert_percent: 1.5, min_bytes: 7 };
    assert_eq!(store.recon_settings("t").unwrap(), Settings::default());
    store.recon_set("t", &stricter).unwrap();
    assert_eq!(another.recon_all_settings().unwrap()["t"], stricter);
}

on_each_engine!(figures_of_both_sides_meet, imports_count_once_and_can_be_taken_back);
