//! Tests of the store through its functions alone, on each engine.
//!
//! A test is a function of a [`TestDb`], and named in [`on_each_engine`] at the end of its file. Others' tests of their tables are
//! to be like these.

mod access;
mod backups;
mod conf;
mod engines;
mod reconciliation;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use shoal_link::ledger::{Batch, Entry, Kind};
use shoal_link::tenant::RelayPolicy;
use shoal_link::{Channel, Tenant};

use super::engine::{Value, values};
use super::*;
use crate::validate::Valid;

/// A folder that goes away with the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("shoal-control-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A database of a test's own, which can be opened as often as is wanted.
pub(crate) enum TestDb {
    /// In a folder.
    Sqlite(TempDir),
    /// By its URL.
    Postgres(String),
}

impl TestDb {
    /// An empty SQLite.
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::new())
    }

    /// An empty PostgreSQL; none where that is not installed, which is noted.
    pub(crate) fn postgres(test: &str) -> Option<Self> {
        testing::server(test).map(|server| Self::Postgres(server.database()))
    }

    /// What is configured.
    pub(crate) fn config(&self) -> Database {
        let url = match self {
            Self::Sqlite(_) => String::new(),
            Self::Postgres(url) => url.clone(),
        };
        Database { url, ..Database::default() }
    }

    /// Opens it, as another instance would.
    pub(crate) fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Store, StoreError> {
        Store::start(&self.config(), self.folder())
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Sqlite(dir) => dir.path(),
            Self::Postgres(_) => Path::new("/nowhere"),
        }
    }
}

/// Runs functions that take a `&TestDb` as tests, once on each engine.
macro_rules! on_each_engine {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $test() {
                super::$test(&$crate::store::tests::TestDb::sqlite());
            })*
        }

        mod postgres {
            $(#[test]
            fn $test() {
                if let Some(db) = $crate::store::tests::TestDb::postgres(concat!(module_path!(), "::", stringify!($test))) {
                    super::$test(&db);
                }
            })*
        }
    };
}
pub(crate) use on_each_engine;

/// The smallest channel.
pub(crate) fn channel(id: &str, prefix: &str) -> Channel {
    let origins = serde_json::json!([{"id": "main", "url": "http://origin.test/"}]);
    serde_json::from_value(serde_json::json!({"id": id, "prefix": prefix, "origins": origins})).unwrap()
}

fn valid(id: &str, prefix: &str, hosts: &[&str]) -> Valid<Channel> {
    let mut channel = channel(id, prefix);
    channel.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Valid::new(channel).unwrap()
}

fn batch(boot: u64, sequence: u64, hour: u64, entries: Vec<Entry>) -> Batch {
    Batch { boot, sequence, start_ms: hour * 3_600_000 + 7, end_ms: hour * 3_600_000 + 1007, entries }
}

fn entry(channel: &str, session: &str, kind: Kind, bytes: u64) -> Entry {
    let origin = if kind == Kind::Upstream { "main" } else { "" };
    Entry {
        tenant: "default".into(),
        channel: channel.into(),
        session: session.into(),
        kind,
        origin: origin.into(),
        requests: 1,
        body_bytes: bytes,
        wire_bytes: bytes + 100,
    }
}

fn all() -> LedgerQuery {
    LedgerQuery { limit: 1000, ..LedgerQuery::default() }
}

fn total(store: &Store) -> (u64, u64) {
    store.ledger(&all()).unwrap().first().map_or((0, 0), |sum| (sum.requests, sum.body_bytes))
}

fn channels_are_created_replaced_listed_and_deleted(db: &TestDb) {
    let store = db.open();
    let made = store.create(&valid("b", "/b/", &[])).unwrap();
    assert!(matches!(store.create(&valid("b", "/c/", &[])), Err(ChangeError::Exists)));
    store.create(&valid("a", "/a/", &[])).unwrap();
    let changed = store.replace(&valid("b", "/bb/", &[]), Some(made.revision)).unwrap();
    assert!(changed.revision > made.revision);
    assert_eq!(store.find::<Channel>("b").unwrap(), Some(changed.clone()));
    let stale = store.replace(&valid("b", "/b/", &[]), Some(made.revision));
    assert!(matches!(stale, Err(ChangeError::Stale { current }) if current == changed.revision));
    assert!(matches!(store.delete::<Channel>("b", Some(made.revision)), Err(ChangeError::Stale { .. })));

    let ids = |after: &str, limit| -> Vec<String> {
        store.page::<Channel>(None, after, limit).unwrap().into_iter().map(|stored| stored.document.id).collect()
    };
    assert_eq!(
        (ids("", 10), ids("a", 10), ids("", 1)),
        (vec!["a".into(), "b".into()], vec!["b".into()], vec!["a".into()])
    );
    assert!(store.page::<Channel>(Some("other"), "", 10).unwrap().is_empty());

    store.delete::<Channel>("b", Some(changed.revision)).unwrap();
    assert!(matches!(store.delete::<Channel>("b", None), Err(ChangeError::Missing)));
    assert!(matches!(store.replace(&valid("b", "/b/", &[]), None), Err(ChangeError::Missing)));
    assert_eq!(store.find::<Channel>("b").unwrap(), None);
    store.create(&valid("c", "/bb/", &[])).unwrap();
}

fn two_channels_never_answer_to_the_same_urls(db: &TestDb) {
    let store = db.open();
    store.create(&valid("any", "/p/", &[])).unwrap();
    store.create(&valid("named", "/p/", &["a.test", "b.test"])).unwrap();
    let version = store.snapshot().unwrap().version;
    for (hosts, host) in [(&["c.test", "b.test"][..], "b.test"), (&[], "")] {
        match store.create(&valid("late", "/p/", hosts)) {
            Err(ChangeError::Taken(Taken { host: taken, prefix, .. })) => {
                assert_eq!((taken.as_str(), &*prefix), (host, "/p/"))
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(store.replace(&valid("named", "/p/", &[]), None).is_err());
    // What failed left nothing behind, not even a version.
    assert_eq!(store.snapshot().unwrap().version, version);
    store.create(&valid("late", "/p/", &["c.test"])).unwrap();
    // A channel may keep what it has.
    store.replace(&valid("named", "/p/", &["b.test"]), None).unwrap();
    store.create(&valid("free", "/p/", &["a.test"])).unwrap();
}

fn a_url_leads_to_the_channel_that_the_edge_would_take(db: &TestDb) {
    let store = db.open();
    for (id, prefix, hosts) in [
        ("root", "/", &[][..]),
        ("outer", "/p/", &[]),
        ("inner", "/p/q/", &[]),
        ("named", "/p/", &["a.test", "b.test"]),
        ("alone", "/only/here/", &["c.test"]),
    ] {
        store.create(&valid(id, prefix, hosts)).unwrap();
    }
    let at = |host, path| store.channel_at(host, path).unwrap().map(|stored| stored.document.id);
    for (host, path, id) in [
        (Some("x.test"), "/p/q/a", "inner"),
        (Some("x.test"), "/p/q", "outer"),
        (Some("b.test"), "/p/q/a", "named"),
        (Some("b.test"), "/other", "root"),
        (Some("x.test"), "/only/here/a", "root"),
        (None, "/only/here/a", "alone"),
        (None, "/px/", "root"),
    ] {
        assert_eq!(at(host, path).as_deref(), Some(id), "{host:?} {path}");
    }
    store.delete::<Channel>("root", None).unwrap();
    assert_eq!(at(Some("x.test"), "/other"), None);
    assert_eq!(at(None, "no-slash"), None);
    assert_eq!(at(None, &"/a".repeat(100_000)), None);
}

fn tenants_are_kept_as_channels_are_and_make_versions(db: &TestDb) {
    let store = db.open();
    let tenant = |id: &str, allocations| {
        let relay = RelayPolicy { allocations, ..RelayPolicy::default() };
        Valid::new(Tenant { id: id.to_owned(), relay }).unwrap()
    };
    let channel = store.create(&valid("a", "/a/", &[])).unwrap();
    // A tenant and a channel may have one id.
    let made = store.create(&tenant("a", 1)).unwrap();
    assert!(made.revision > channel.revision);
    assert!(matches!(store.create(&tenant("a", 2)), Err(ChangeError::Exists)));
    let changed = store.replace(&tenant("a", 2), Some(made.revision)).unwrap();
    let stale = store.replace(&tenant("a", 3), Some(made.revision));
    assert!(matches!(stale, Err(ChangeError::Stale { current }) if current == changed.revision));
    store.create(&tenant("b", 0)).unwrap();
    assert_eq!(store.find::<Tenant>("a").unwrap(), Some(changed));
    let ids = |after: &str, limit| -> Vec<String> {
        store.page::<Tenant>(None, after, limit).unwrap().into_iter().map(|stored| stored.document.id).collect()
    };
    assert_eq!((ids("", 1), ids("a", 9), ids("b", 9)), (vec!["a".into()], vec!["b".into()], vec![]));

    let before = store.snapshot().unwrap();
    assert_eq!((before.channels.len(), before.tenants.len()), (1, 2));
    assert_eq!(before.tenants[0].relay.allocations, 2);
    store.delete::<Tenant>("a", None).unwrap();
    assert!(matches!(store.delete::<Tenant>("a", None), Err(ChangeError::Missing)));
    drop(store);
    let after = db.open().snapshot().unwrap();
    assert!(after.version > before.version);
    assert_eq!((after.channels.len(), after.tenants.len(), &*after.tenants[0].id), (1, 1, "b"));
}

#[test]
fn a_database_of_the_first_release_is_brought_up_to_this_one() {
    let dir = TempDir::new();
    let old = rusqlite::Connection::open(dir.path().join(FILE_NAME)).unwrap();
    old.execute_batch(include_str!("0001_initial.sql")).unwrap();
    let document = serde_json::to_string(&channel("a", "/a/")).unwrap();
    old.execute("INSERT INTO channels VALUES ('a', 'default', 7, 7, ?1)", [document]).unwrap();
    old.execute("UPDATE settings SET value = 7", []).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let store = Store::open(dir.path()).unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!((snapshot.version, &*snapshot.channels[0].id, snapshot.tenants.len()), (7, "a", 0));
    let tenant = Tenant { id: "acme".to_owned(), relay: RelayPolicy::default() };
    assert!(store.create(&Valid::new(tenant).unwrap()).unwrap().revision > 7);
}

fn blocks_end_by_themselves_and_have_bounds(db: &TestDb) {
    let store = db.open();
    let now = now_ms() / 1_000;
    let block = |network: &str, until| shoal_link::Block {
        network: network.parse().unwrap(),
        until,
        reason: String::new(),
        since: now,
    };
    assert!(store.block(&block("192.0.2.0/24", Some(now))).unwrap());
    assert!(store.block(&block("192.0.2.1/32", Some(now + 100))).unwrap());
    assert!(store.block(&block("2001:db8::/32", None)).unwrap());
    assert_eq!(store.blocks().unwrap().len(), 2, "one has ended");
    assert_eq!(store.snapshot().unwrap().blocks, store.blocks().unwrap());
    // Filled by hand: so many changes, each synced, would take a minute.
    store
        .write(|tx| {
            let text = serde_json::to_string(&block("10.0.0.0/32", None)).unwrap();
            let rows = (1..shoal_link::block::BLOCKS_MAX).flat_map(|nth| values![nth.to_string(), false, &text]);
            let rows: Vec<Value> = rows.collect();
            tx.batch("INSERT INTO blocks (network, ipv6, document) VALUES", 3, "", &rows)
        })
        .unwrap();
    assert!(!store.block(&block("192.0.2.2/32", None)).unwrap(), "one more than there is room for");
    assert!(store.block(&block("192.0.2.1/32", None)).unwrap(), "it is there already");
    assert!(store.block(&block("2001:db8:1::/48", None)).unwrap(), "the other family has room");
    store.unblock("192.0.2.1/32".parse().unwrap()).unwrap();
    assert!(matches!(store.unblock("192.0.2.1/32".parse().unwrap()), Err(ChangeError::Missing)));
    assert!(store.block(&block("192.0.2.2/32", None)).unwrap());
}

fn versions_only_grow_also_over_restarts(db: &TestDb) {
    let mut last = 0;
    for round in 0..5 {
        let store = db.open();
        assert_eq!(store.snapshot().unwrap().version, last);
        for change in 0..5 {
            let id = format!("c{round}-{change}");
            let revision = store.create(&valid(&id, &format!("/{id}/"), &[])).unwrap().revision;
            assert!(revision > last);
            last = revision;
        }
    }
    let snapshot = db.open().snapshot().unwrap();
    assert_eq!((snapshot.version, snapshot.channels.len()), (last, 25));
}

fn a_batch_counts_once_whatever_comes_again(db: &TestDb) {
    let store = db.open();
    let batches: Vec<Batch> = (1..=4).map(|n| batch(7, n, 100, vec![entry("a", "s", Kind::Client, n)])).collect();
    let applied = store.apply_ledger("n1", &batches[..3]).unwrap();
    assert_eq!((applied.counted, applied.repeated, applied.body_bytes[0]), (3, 0, 6));
    // The acknowledgements were lost: all come again, with a new one behind them.
    let applied = store.apply_ledger("n1", &batches).unwrap();
    assert_eq!((applied.counted, applied.repeated, applied.skipped), (1, 3, 0));
    assert_eq!(total(&store), (4, 10));
    // Another boot, another node: other batches.
    store.apply_ledger("n1", &[batch(8, 1, 100, vec![entry("a", "s", Kind::Client, 100)])]).unwrap();
    store.apply_ledger("n2", &batches[..1]).unwrap();
    assert_eq!(total(&store), (6, 111));
    // And after a restart.
    drop(store);
    let store = db.open();
    assert_eq!(store.apply_ledger("n1", &batches).unwrap().counted, 0);
    let skipped = store.apply_ledger("n1", &[batch(7, 9, 100, vec![entry("a", "s", Kind::Client, 1)])]).unwrap();
    assert_eq!((skipped.counted, skipped.skipped), (1, 4));
    // A boot is 64 random bits.
    let high = [batch(u64::MAX, 1, 100, vec![entry("a", "s", Kind::Client, 1)])];
    assert_eq!(store.apply_ledger("n1", &high).unwrap().counted, 1);
    assert_eq!(store.apply_ledger("n1", &high).unwrap().repeated, 1);
}

fn sums_are_grouped_and_filtered(db: &TestDb) {
    let store = db.open();
    let batches = [
        batch(1, 1, 100, vec![entry("a", "s1", Kind::Client, 10), entry("a", "s1", Kind::Upstream, 7)]),
        batch(1, 2, 100, vec![entry("a", "s1", Kind::Client, 5), entry("b", "s2", Kind::Client, 3)]),
        batch(1, 3, 101, vec![entry("a", "s1", Kind::Client, 1)]),
    ];
    store.apply_ledger("n", &batches).unwrap();
    let bytes = |query: LedgerQuery| -> Vec<u64> {
        store.ledger(&query).unwrap().into_iter().map(|sum| sum.body_bytes).collect()
    };
    assert_eq!(bytes(all()), [26]);
    assert_eq!(bytes(LedgerQuery { group: vec![Group::Channel, Group::Kind], ..all() }), [16, 7, 3]);
    assert_eq!(bytes(LedgerQuery { group: vec![Group::Hour], ..all() }), [25, 1]);
    assert_eq!(bytes(LedgerQuery { from_hour: Some(101), ..all() }), [1]);
    assert_eq!(bytes(LedgerQuery { to_hour: Some(101), channel: Some("a".into()), ..all() }), [22]);
    assert_eq!(bytes(LedgerQuery { kind: Some(Kind::Upstream), ..all() }), [7]);
    assert_eq!(bytes(LedgerQuery { session: Some("s2".into()), tenant: Some("default".into()), ..all() }), [3]);
    assert!(bytes(LedgerQuery { channel: Some("' OR 1".into()), ..all() }).is_empty());
    let every = LedgerQuery { group: Group::ALL.to_vec(), limit: 2, offset: 1, ..all() };
    let rows = store.ledger(&every).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].kind.as_deref(), rows[0].origin.as_deref()), (Some("upstream"), Some("main")));
    assert_eq!((rows[0].requests, rows[0].wire_bytes, rows[0].hour), (1, 107, Some(100)));
}

fn what_is_relayed_is_summed_by_tenant_and_user(db: &TestDb) {
    let store = db.open();
    let relayed =
        |tenant: &str, user: &str, bytes| Entry { tenant: tenant.into(), ..entry("", user, Kind::Relay, bytes) };
    let entries = vec![
        relayed("acme", "alice", 100),
        relayed("acme", "bob", 20),
        relayed("other", "alice", 3),
        entry("a", "alice", Kind::Client, 1000),
    ];
    let applied = store.apply_ledger("n", &[batch(1, 1, 100, entries.clone()), batch(1, 2, 101, entries)]).unwrap();
    assert_eq!(applied.body_bytes, [2000, 0, 0, 246]);
    let rows = |query: LedgerQuery| store.ledger(&query).unwrap();
    let text = |text: &str| Some(text.to_owned());
    let row = |tenant: &str, user: &str, body_bytes| LedgerRow {
        tenant: text(tenant),
        channel: text(""),
        session: text(user),
        requests: 2,
        body_bytes,
        wire_bytes: body_bytes + 200,
        ..LedgerRow::default()
    };
    let group = vec![Group::Tenant, Group::Channel, Group::Session];
    assert_eq!(
        rows(LedgerQuery { group, kind: Some(Kind::Relay), ..all() }),
        [row("acme", "alice", 200), row("acme", "bob", 40), row("other", "alice", 6)]
    );
    assert_eq!(rows(LedgerQuery { tenant: text("acme"), ..all() })[0].body_bytes, 240);
    assert_eq!(rows(LedgerQuery { channel: text(""), session: text("alice"), ..all() })[0].body_bytes, 206);
}

fn nodes_are_remembered(db: &TestDb) {
    let store = db.open();
    let seen = |boot, software: &str, snapshot, live: &str| NodeSeen {
        node: "edge".to_owned(),
        boot,
        software: software.to_owned(),
        public_url: Some("http://edge.test".to_owned()),
        snapshot,
        live: live.to_owned(),
    };
    assert_eq!(store.node_joined("i1", &seen(1, "shoal 1", None, "{}")).unwrap(), 1);
    store.node_gone("edge", "i1", 1, Some(5)).unwrap();
    let node = store.nodes().unwrap().remove(0);
    assert_eq!((node.snapshot, node.live, node.public_url.as_deref()), (Some(5), None, Some("http://edge.test")));
    let again = NodeSeen { public_url: None, ..seen(u64::MAX, "shoal 2", Some(6), "{\"a\":1}") };
    assert_eq!(store.node_joined("i1", &again).unwrap(), 2);
    drop(store);
    let nodes = db.open().nodes().unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!((nodes[0].boot, &*nodes[0].software, nodes[0].snapshot), (u64::MAX, "shoal 2", Some(6)));
    assert_eq!((&*nodes[0].instance, nodes[0].live.as_deref()), ("i1", Some("{\"a\":1}")));
    assert!(nodes[0].first_seen_ms <= nodes[0].last_seen_ms && nodes[0].public_url.is_none());
}

fn a_node_is_where_it_connected_last(db: &TestDb) {
    let store = db.open();
    let seen = |live: &str| NodeSeen { node: "edge".to_owned(), live: live.to_owned(), ..NodeSeen::default() };
    let at = || {
        let node = store.nodes().unwrap().remove(0);
        (node.instance, node.live)
    };
    let first = store.node_joined("a", &seen("1")).unwrap();
    let second = store.node_joined("b", &seen("2")).unwrap();
    // The first instance has not noticed yet, and then it does.
    store.nodes_alive("a", &[(seen("3"), first)]).unwrap();
    assert_eq!(at(), ("b".to_owned(), Some("2".to_owned())));
    store.node_gone("edge", "a", first, Some(9)).unwrap();
    store.nodes_alive("b", &[(seen("4"), second)]).unwrap();
    assert_eq!(at(), ("b".to_owned(), Some("4".to_owned())));
    // Back and forth.
    let third = store.node_joined("a", &seen("5")).unwrap();
    store.nodes_alive("a", &[(seen("6"), first)]).unwrap();
    assert_eq!((third, at()), (3, ("a".to_owned(), Some("5".to_owned()))));
}

#[test]
fn a_full_disk_changes_nothing_and_heals() {
    let dir = TempDir::new();
    let store = Store::open(dir.path()).unwrap();
    store.create(&valid("a", "/a/", &[])).unwrap();
    store.fill_up();
    let entries = (0..2000).map(|n| entry("a", &format!("session-{n}"), Kind::Client, 1)).collect();
    let large = [batch(1, 1, 100, entries)];
    let error = store.apply_ledger("n", &large).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Full);
    assert!(error.to_string().contains("free some space") && error.to_string().contains(FILE_NAME), "{error}");
    assert_eq!(total(&store), (0, 0));
    assert_eq!(store.snapshot().unwrap().channels.len(), 1);
    store.empty_again();
    assert_eq!(store.apply_ledger("n", &large).unwrap().counted, 1);
    assert_eq!(total(&store), (2000, 2000));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = TempDir::new();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let error = Store::open(&file.join("below")).err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Permission);
    assert!(error.to_string().contains("file/below") && error.to_string().contains("state_dir"), "{error}");

    std::fs::write(dir.path().join(FILE_NAME), "this is no database; ".repeat(100)).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("backup"), "{error}");
}

fn a_later_release_s_database_is_left_alone(db: &TestDb) {
    let store = db.open();
    let newer = |tx: &mut Tx<'_>| tx.execute("INSERT INTO migrations (number, applied_ms) VALUES (1000, 0)", &[]);
    store.write(newer).unwrap();
    drop(store);
    let error = db.try_open().err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Newer);
    assert!(error.to_string().contains("1000"), "{error}");
}

#[test]
fn a_later_release_s_file_that_has_no_table_of_migrations_is_left_alone_too() {
    let dir = TempDir::new();
    Store::open(dir.path()).unwrap().pragma("user_version", 1_000);
    assert_eq!(Store::open(dir.path()).err().unwrap().kind, StoreErrorKind::Newer);
}

#[test]
fn the_database_is_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let state = dir.path().join("new/state");
    let store = Store::open(&state).unwrap();
    store.create(&valid("a", "/a/", &[])).unwrap();
    for entry in std::fs::read_dir(&state).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o077, 0);
}

on_each_engine!(
    channels_are_created_replaced_listed_and_deleted,
    two_channels_never_answer_to_the_same_urls,
    a_url_leads_to_the_channel_that_the_edge_would_take,
    tenants_are_kept_as_channels_are_and_make_versions,
    blocks_end_by_themselves_and_have_bounds,
    versions_only_grow_also_over_restarts,
    a_batch_counts_once_whatever_comes_again,
    sums_are_grouped_and_filtered,
    what_is_relayed_is_summed_by_tenant_and_user,
    nodes_are_remembered,
    a_node_is_where_it_connected_last,
    a_later_release_s_database_is_left_alone,
);
