//! What the layer below the tables promises, on each engine.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::super::testing::{self, PASSWORD};
use super::*;

fn table(store: &Store) {
    store
        .write(|tx| {
            tx.script(
                "CREATE TABLE things (name TEXT NOT NULL PRIMARY KEY, n INTEGER, x REAL, bytes BLOB, note TEXT) STRICT;",
            )
        })
        .unwrap();
}

fn values_of_every_type_come_back(db: &TestDb) {
    let store = db.open();
    table(&store);
    let insert = "INSERT INTO things (note, bytes, x, n, name) VALUES ($5, $4, $3, $2, $1)";
    let name = "z\u{e9}b\0ra'; DROP TABLE things; --";
    store
        .write(|tx| {
            tx.execute(insert, &values![name, u64::MAX, 0.25, vec![0_u8, 255], None::<&str>])?;
            tx.execute(insert, &values!["Zebra", None::<i64>, -1.0, Vec::new(), "$1"])?;
            tx.execute(insert, &values!["aardvark", i64::MIN, 1e300, None::<Vec<u8>>, ""])
        })
        .unwrap();
    let rows = store.read(|tx| tx.query("SELECT name, n, x, bytes, note FROM things ORDER BY name", &[])).unwrap();
    // By bytes: capitals come first.
    let expected = [
        values!["Zebra", None::<i64>, -1.0, Vec::<u8>::new(), "$1"],
        values!["aardvark", i64::MIN, 1e300, None::<Vec<u8>>, ""],
        values![name, u64::MAX, 0.25, vec![0_u8, 255], None::<&str>],
    ];
    let rows: Vec<Vec<Value>> = rows.into_iter().map(engine::Row::into_values).collect();
    assert_eq!(rows, expected);
    let sums = store
        .read(|tx| {
            let sql =
                "SELECT sum(n), count(*), avg(x), max(name), EXISTS (SELECT 1 FROM things), sum(x), '$1', $2 || name
                       FROM things WHERE n > $1 GROUP BY name";
            tx.query_one("SELECT sum(n) FROM things WHERE n > $1", &values![5])?.unwrap().get::<Option<i64>>(0)?;
            tx.query_one(sql, &values![-2, "x"])
        })
        .unwrap()
        .unwrap();
    assert_eq!((sums.get::<i64>(0).unwrap(), sums.get::<u32>(1).unwrap(), sums.get::<f64>(2).unwrap()), (-1, 1, 0.25));
    assert_eq!((sums.get::<bool>(4).unwrap(), sums.get::<f64>(5).unwrap()), (true, 0.25));
    assert_eq!(sums.get::<String>(6).unwrap(), "$1");
    assert!(sums.get::<i64>(3).is_err() && sums.get::<String>(7).unwrap().starts_with("xz\u{e9}b\u{FFFD}"));
}

fn a_transaction_is_kept_whole_or_not_at_all(db: &TestDb) {
    let store = db.open();
    table(&store);
    let names = || -> Vec<String> {
        let rows = store.read(|tx| tx.query("SELECT name FROM things ORDER BY name", &[])).unwrap();
        rows.iter().map(|row| row.get(0).unwrap()).collect()
    };
    let add = |tx: &mut Tx<'_>, name: &str| tx.execute("INSERT INTO things (name) VALUES ($1)", &values![name]);
    let own = store.write(|tx| {
        add(tx, "a")?;
        Err::<(), _>(ChangeError::Missing)
    });
    assert!(matches!(own, Err(ChangeError::Missing)) && names().is_empty());
    // A statement's failure counts although it was not passed on.
    let swallowed = store.merge(|tx| {
        add(tx, "a")?;
        let _ = add(tx, "a");
        Ok::<_, StoreError>(())
    });
    assert!(swallowed.is_err() && names().is_empty(), "{swallowed:?}");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write(|tx| -> Result<(), StoreError> {
            add(tx, "a")?;
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err() && names().is_empty());
    store.write(|tx| add(tx, "a")).unwrap();
    assert_eq!(names(), ["a"]);
    let seen = store.each_of("SELECT name FROM things");
    assert_eq!(seen, 1);
    assert!(store.read(|tx| tx.query("SELECT nothing FROM nowhere", &[])).is_err());
    assert!(store.view(|tx| tx.execute("DELETE FROM things", &[])).is_err(), "a view is for reading");
    assert_eq!(names(), ["a"]);
}

impl Store {
    /// How many rows there are before work says stop, and after.
    fn each_of(&self, sql: &str) -> u32 {
        let mut seen = 0;
        let stopped = self.report(|tx| {
            tx.each(sql, &[], |_| {
                seen += 1;
                Err(self.corrupt("enough".to_owned()))
            })
        });
        assert!(stopped.unwrap_err().to_string().contains("enough"));
        seen
    }
}

fn many_rows_go_in_at_once(db: &TestDb) {
    let store = db.open();
    table(&store);
    let head = "INSERT INTO things (name, n) VALUES";
    let tail = "ON CONFLICT (name) DO UPDATE SET n = things.n + excluded.n";
    let rows: Vec<Value> = (0..3_333_i64).flat_map(|n| values![format!("name-{n}"), n]).collect();
    for round in 1..=2 {
        assert_eq!(store.merge(|tx| tx.batch(head, 2, tail, &rows)).unwrap(), 3_333, "{round}");
    }
    let sums = store.read(|tx| tx.query_one("SELECT count(*), sum(n) FROM things", &[])).unwrap().unwrap();
    assert_eq!((sums.get::<i64>(0).unwrap(), sums.get::<i64>(1).unwrap()), (3_333, 2 * 3_333 * 3_332 / 2));
    assert_eq!(store.merge(|tx| tx.batch(head, 2, tail, &[])).unwrap(), 0);
    let mut visited = 0;
    store
        .report(|tx| {
            visited = 0;
            tx.each("SELECT n FROM things", &[], |row| row.get::<i64>(0).map(|_| visited += 1))
        })
        .unwrap();
    assert_eq!(visited, 3_333);
}

fn a_view_is_of_one_moment(db: &TestDb) {
    let (store, other) = (db.open(), db.open());
    let version = |tx: &mut Tx<'_>| -> Result<u64, StoreError> {
        tx.query_one("SELECT value FROM settings WHERE name = 'snapshot_version'", &[])?.unwrap().get(0)
    };
    let mut round = 0;
    store
        .view(|tx| {
            round += 1;
            let before = version(tx)?;
            let id = format!("c{round}");
            other.create(&valid(&id, &format!("/{id}/"), &[])).unwrap();
            assert_eq!(version(tx)?, before);
            Ok(())
        })
        .unwrap();
    assert!(store.snapshot_version().unwrap() > 0);
}

/// Several instances, each with threads, change the same things: nothing is lost, nothing done twice, and no two are given one
/// version.
fn instances_change_the_same_as_if_one_after_the_other(db: &TestDb) {
    const THREADS: u32 = 4;
    const CHANGES: u32 = 12;
    let stores: Vec<Store> = match db {
        // SQLite has one instance.
        TestDb::Sqlite(_) => vec![db.open()],
        TestDb::Postgres(_) => vec![db.open(), db.open()],
    };
    stores[0].create(&valid("shared", "/s/", &[])).unwrap();
    let created = AtomicU32::new(0);
    let stale = AtomicU32::new(0);
    let mut versions: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (stores, created, stale) = (&stores, &created, &stale);
                scope.spawn(move || {
                    let store = &stores[thread as usize % stores.len()];
                    let mut versions = Vec::new();
                    for change in 0..CHANGES {
                        // All race to create the same one.
                        match store.create(&valid(&format!("c{change}"), &format!("/c{change}/"), &[])) {
                            Ok(stored) => {
                                created.fetch_add(1, Ordering::Relaxed);
                                versions.push(stored.revision);
                            }
                            Err(ChangeError::Exists) => {}
                            Err(error) => panic!("{error}"),
                        }
                        // And to change one that they have read.
                        loop {
                            let read = store.find::<Channel>("shared").unwrap().unwrap();
                            let mut changed = read.document.clone();
                            let count = changed.hosts.len();
                            changed.hosts.push(format!("h{count}.test"));
                            match store.replace(&Valid::new(changed).unwrap(), Some(read.revision)) {
                                Ok(stored) => break versions.push(stored.revision),
                                Err(ChangeError::Stale { .. }) => stale.fetch_add(1, Ordering::Relaxed),
                                Err(error) => panic!("{error}"),
                            };
                        }
                    }
                    versions
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(created.load(Ordering::Relaxed), CHANGES);
    let hosts = stores[0].find::<Channel>("shared").unwrap().unwrap().document.hosts.len() as u32;
    assert_eq!(hosts, THREADS * CHANGES, "stale {}", stale.load(Ordering::Relaxed));
    let all = versions.len();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), all);
    assert_eq!(stores[0].snapshot_version().unwrap(), versions[all - 1]);
}

/// A node moves from one instance to another and back while its batches are on their way, and some come twice, at both at once.
fn a_batch_counts_once_also_when_two_instances_get_it(db: &TestDb) {
    const BATCHES: u64 = 60;
    let stores = [db.open(), db.open()];
    let batches: Vec<Batch> = (1..=BATCHES)
        .map(|n| batch(7, n, 100, vec![entry("a", "s", Kind::Client, n), entry("b", "s", Kind::Client, 1)]))
        .collect();
    let counted: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (store, batches) = (&stores[thread % 2], &batches);
                scope.spawn(move || {
                    let chunks = batches.chunks(3 + thread);
                    chunks.map(|some| store.apply_ledger("n", some).unwrap().counted).sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // A faster thread's later batches make a slower one's earlier ones repeated: counted before, so the sums are whole.
    assert_eq!(counted, BATCHES);
    assert_eq!(total(&stores[0]), (2 * BATCHES, BATCHES * (BATCHES + 1) / 2 + BATCHES));
}

fn instances_that_start_together_migrate_once(db: &TestDb) {
    let many = match db {
        TestDb::Sqlite(_) => 2,
        TestDb::Postgres(_) => 6,
    };
    thread::scope(|scope| {
        for _ in 0..many {
            scope.spawn(|| db.open().ping().unwrap());
        }
    });
    let store = db.open();
    let rows = store.read(|tx| tx.query("SELECT number FROM migrations ORDER BY number", &[])).unwrap();
    let numbers: Vec<u32> = rows.iter().map(|row| row.get(0).unwrap()).collect();
    assert!(numbers.starts_with(&[1, 2, 3]) && *numbers.last().unwrap() == migrate::newest(), "{numbers:?}");
    // All that a backup would take is there.
    for table in migrate::tables(&migrate::numbers()) {
        store.read(|tx| tx.query_one(&format!("SELECT count(*) FROM {table}"), &[])).unwrap();
    }
}

on_each_engine!(
    values_of_every_type_come_back,
    a_transaction_is_kept_whole_or_not_at_all,
    many_rows_go_in_at_once,
    a_view_is_of_one_moment,
    instances_change_the_same_as_if_one_after_the_other,
    a_batch_counts_once_also_when_two_instances_get_it,
    instances_that_start_together_migrate_once,
);

/// Ends every other connection to a database.
fn cut_connections(server: &testing::Server, url: &str) {
    let database = url.rsplit('/').next().unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()";
    server.admin().query(sql, &[&database]).unwrap();
}

#[test]
fn dead_connections_are_replaced_and_nothing_is_done_twice() {
    let Some(server) = testing::server("store::tests::engines::dead_connections") else { return };
    let url = server.database();
    let store = TestDb::Postgres(url.clone()).open();
    table(&store);
    store.ping().unwrap();
    cut_connections(server, &url);
    store.ping().unwrap();
    cut_connections(server, &url);
    let mut runs = 0;
    store
        .write(|tx| {
            runs += 1;
            tx.execute("INSERT INTO things (name, n) VALUES ($1, 1)", &values![format!("run {runs}")])?;
            if runs == 1 {
                cut_connections(server, &url);
            }
            tx.execute("UPDATE things SET n = 2", &[])
        })
        .unwrap();
    let rows = store.read(|tx| tx.query("SELECT name FROM things", &[])).unwrap();
    assert_eq!((rows.len(), runs), (1, 2));
}

#[test]
fn work_that_finds_all_connections_in_use_waits_and_then_says_so() {
    let Some(server) = testing::server("store::tests::engines::all_in_use") else { return };
    let config = Database { url: server.database(), connections: 2, ..Database::default() };
    let store = Store::start(&config, Path::new("/nowhere")).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| store.read(|tx| tx.query_one("SELECT CAST(pg_sleep(6.5) AS TEXT)", &[])).unwrap());
        }
        thread::sleep(Duration::from_millis(300));
        let error = store.ping().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Busy);
        assert!(error.to_string().contains("all 2 connections"), "{error}");
        // Reports have their own.
        store.report(|tx| tx.query_one("SELECT 1", &[])).unwrap();
    });
    store.ping().unwrap();
}

#[test]
fn a_server_that_does_not_let_us_in_is_named_without_the_password() {
    let Some(server) = testing::server("store::tests::engines::password") else { return };
    let database = server.database().rsplit('/').next().unwrap().to_owned();
    let start = |user: &str, database: &str| {
        let config = Database { url: server.url(user, database), ..Database::default() };
        Store::start(&config, Path::new("/nowhere"))
    };
    server.admin().batch_execute(&format!("ALTER DATABASE {database} OWNER TO guarded")).unwrap();
    start(&format!("guarded:{}", PASSWORD.replace(' ', "%20")), &database).unwrap().ping().unwrap();
    let dir = TempDir::new();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let config = Database { url: server.url("guarded", &database), password_file, ..Database::default() };
    Store::start(&config, Path::new("/nowhere")).unwrap();
    for (user, database, kind) in [
        ("guarded:barley", &*database, StoreErrorKind::Login),
        ("guarded", &database, StoreErrorKind::Login),
        ("guarded:open%20sesame", "absent", StoreErrorKind::Login),
        // It may log in, and not make tables.
        ("guarded:open%20sesame", "postgres", StoreErrorKind::Login),
    ] {
        let error = start(user, database).err().unwrap();
        assert_eq!(error.kind, kind, "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("barley") && !text.contains("sesame") && text.contains("guarded@"), "{text}");
    }
}

#[test]
fn tls_is_with_a_server_that_is_known() {
    let Some(server) = testing::server("store::tests::engines::tls") else { return };
    let url = format!("{}?sslmode=require", server.database());
    let config = Database { url, ca_file: server.certificate.clone(), ..Database::default() };
    let store = Store::start(&config, Path::new("/nowhere")).unwrap();
    let encrypted = store
        .read(|tx| tx.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]))
        .unwrap()
        .unwrap();
    assert!(encrypted.get::<bool>(0).unwrap());
    let start = |config: &Database| Store::start(config, Path::new("/nowhere")).err().unwrap();
    // Nobody whom we trust has signed it.
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = TempDir::new();
    let other = dir.path().join("other.pem");
    std::fs::write(&other, made.cert.pem()).unwrap();
    let error = start(&Database { ca_file: other, ..config.clone() });
    assert!(error.kind == StoreErrorKind::Unreachable && error.to_string().contains("certificate"), "{error}");
    // It is for another address.
    let other = config.url.replace("127.0.0.1", "127.0.0.2");
    let error = start(&Database { url: other, ..config.clone() });
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = start(&Database { ca_file: dir.path().join("absent.pem"), ..config });
    assert!(error.kind == StoreErrorKind::Settings && error.to_string().contains("absent.pem"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_told_fast_and_found_when_it_is() {
    // A port that nobody has: it is bound, but nobody listens.
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let config = Database { url: format!("postgres://u:sesame@127.0.0.1:{port}/d"), ..Database::default() };
    let error = Store::start(&config, Path::new("/nowhere")).err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("store.url") && !error.to_string().contains("sesame"), "{error}");
}
