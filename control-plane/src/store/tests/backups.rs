//! Backup and restore, within an engine and from one to the other.

use super::*;

/// Something in every table that this file can fill.
fn filled(db: &TestDb) -> Store {
    let store = db.open();
    for n in 0..300 {
        store
            .merge(|tx| tx.execute("INSERT INTO settings (name, value) VALUES ($1, $2)", &values![format!("s{n}"), n]))
            .unwrap();
    }
    store.create(&valid("a", "/a/", &["a.test", "b.test"])).unwrap();
    store.create(&Valid::new(Tenant { id: "acme".to_owned(), relay: RelayPolicy::default() }).unwrap()).unwrap();
    store.apply_ledger("n", &[batch(u64::MAX, 1, 100, vec![entry("a", "s\0\n", Kind::Client, 1 << 50)])]).unwrap();
    let seen = NodeSeen { node: "edge".to_owned(), live: "{\"a\": [1, null]}".to_owned(), ..NodeSeen::default() };
    store.node_joined("i", &seen).unwrap();
    store
}

/// The rows of every table in a backup, but for the versions, which grow when it is restored, and the head.
fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .skip(1)
        .filter(|line| !line.contains("_version\"") && !line.contains("sha256"))
        .map(str::to_owned)
        .collect();
    lines.sort_unstable();
    lines
}

fn backup(db: &TestDb, file: &Path) -> Result<Summary, BackupError> {
    Store::backup(&db.config(), db.folder(), file)
}

fn restore(db: &TestDb, file: &Path) -> Result<Summary, BackupError> {
    Store::restore(&db.config(), db.folder(), file)
}

#[test]
fn a_backup_goes_from_sqlite_to_postgres_and_back() {
    let Some(other) = TestDb::postgres("store::tests::backups::sqlite_to_postgres") else { return };
    let (first, last) = (TestDb::sqlite(), TestDb::sqlite());
    let dir = TempDir::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
    let store = filled(&first);
    // While it is at work.
    let summary = backup(&first, &a).unwrap();
    let version = store.snapshot_version().unwrap();
    assert!(summary.rows > 300 && summary.tables >= 7, "{summary:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&a).unwrap().permissions().mode() & 0o777, 0o600);
    // Into one that has had something else.
    other.open().create(&valid("old", "/a/", &["a.test"])).unwrap();
    assert_eq!(restore(&other, &a).unwrap(), summary);
    assert_eq!(backup(&other, &b).unwrap(), summary);
    assert_eq!(restore(&last, &b).unwrap(), summary);
    assert_eq!(backup(&last, &c).unwrap(), summary);
    assert_eq!(lines(&a), lines(&b));
    assert_eq!(lines(&a), lines(&c));
    for db in [&other, &last] {
        let restored = db.open();
        let snapshot = restored.snapshot().unwrap();
        assert_eq!(snapshot.channels, store.snapshot().unwrap().channels);
        // Nodes that had the old one are told of it, and what was counted is counted.
        assert!(snapshot.version > version);
        let again = [batch(u64::MAX, 1, 100, vec![entry("a", "s", Kind::Client, 1)])];
        assert_eq!(restored.apply_ledger("n", &again).unwrap().repeated, 1);
    }
}

fn what_is_no_whole_backup_changes_nothing(db: &TestDb) {
    let dir = TempDir::new();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    let store = filled(db);
    backup(db, &good).unwrap();
    store.create(&valid("later", "/later/", &[])).unwrap();
    let version = store.snapshot_version().unwrap();
    drop(store);
    let text = std::fs::read_to_string(&good).unwrap();
    let cut = |at: usize| text.get(..at).unwrap_or_default().to_owned();
    let last = text.trim_end().rfind('\n').unwrap();
    let head = text.find('\n').unwrap() + 1;
    let newer = text.replacen("\"migrations\":[1,", "\"migrations\":[1000,1,", 1);
    for (content, words) in [
        (String::new(), "no backup"),
        ("SQLite format 3\0 and more\n".to_owned(), "no backup"),
        ("{\"a\": 1}\n".repeat(10), "no backup"),
        (cut(head), "ends early"),
        (cut(text.len() - 1), "ends early"),
        (cut(last), "ends early"),
        (cut(last + 1), "ends early"),
        (cut(text.len() / 2), "ends early"),
        (text.replacen("a.test", "c.test", 1), "the sums differ"),
        (format!("{text}{{}}\n"), "follows the end"),
        (text.replacen("\"table\":\"routes\"", "\"table\":\"sqlite_master\"", 1), "no table"),
        (text.replacen("[\"id\",", "[\"id) --\",", 1), "no table"),
        (text.replacen("[\"s7\",7]", "[\"s7\"]", 1), "no row"),
        (text.replacen("[\"s7\",7]", "[\"s7\",1.5]", 1), "no row"),
        (newer, "later release"),
    ] {
        std::fs::write(&bad, &content).unwrap();
        let error = restore(db, &bad).unwrap_err();
        assert!(
            error.to_string().contains(words) && error.to_string().contains("nothing was restored"),
            "{words}: {error}"
        );
    }
    assert!(matches!(restore(db, &dir.path().join("absent")), Err(BackupError::File { .. })));
    assert!(matches!(backup(db, &dir.path().join("absent/file")), Err(BackupError::File { .. })));
    // A file that is whole, and does not fit the tables.
    let twice = text.replacen("[\"s7\",7]", "[\"s8\",7]", 1);
    let body = &twice[..twice.trim_end().rfind('\n').unwrap() + 1];
    let sum: String = {
        use sha2::Digest;
        sha2::Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let rows = text.trim_end().lines().last().unwrap();
    let rows: serde_json::Value = serde_json::from_str(rows).unwrap();
    std::fs::write(&bad, format!("{body}{{\"end\":true,\"rows\":{},\"sha256\":\"{sum}\"}}\n", rows["rows"])).unwrap();
    assert!(matches!(restore(db, &bad), Err(BackupError::Store(_))));
    let store = db.open();
    assert_eq!(store.snapshot_version().unwrap(), version);
    assert!(store.find::<Channel>("later").unwrap().is_some());
    drop(store);
    restore(db, &good).unwrap();
    assert!(db.open().find::<Channel>("later").unwrap().is_none());
}

on_each_engine!(what_is_no_whole_backup_changes_nothing);

#[test]
fn nothing_is_restored_under_a_running_instance() {
    let Some(db) = TestDb::postgres("store::tests::backups::running") else { return };
    let dir = TempDir::new();
    let file = dir.path().join("file");
    let store = filled(&db);
    backup(&db, &file).unwrap();
    assert!(matches!(restore(&db, &file), Err(BackupError::InUse(_))));
    drop(store);
    // Its connections close in their own time.
    let start = std::time::Instant::now();
    while let Err(error) = restore(&db, &file) {
        assert!(matches!(error, BackupError::InUse(_)) && start.elapsed().as_secs() < 10, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_backup_of_the_first_release_s_schema_is_brought_up_to_this_one() {
    let dir = TempDir::new();
    let old = rusqlite::Connection::open(dir.path().join(FILE_NAME)).unwrap();
    old.execute_batch(include_str!("../0001_initial.sql")).unwrap();
    let document = serde_json::to_string(&channel("a", "/a/")).unwrap();
    old.execute("INSERT INTO channels VALUES ('a', 'default', 7, 7, ?1)", [document]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    let file = dir.path().join("file");
    Store::backup(&Database::default(), dir.path(), &file).unwrap();
    let version: u32 = old.query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1, "a backup leaves the schema alone");
    let db = TestDb::sqlite();
    restore(&db, &file).unwrap();
    assert_eq!(db.open().snapshot().unwrap().channels.len(), 1);
}
