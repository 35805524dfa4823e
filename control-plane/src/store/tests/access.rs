//! Users, tokens, sessions and the audit log, on each engine.

use std::sync::Arc;

use super::*;
use crate::access::audit::{Outcome, Slot};
use crate::access::{self, Actor, Role};

fn user(name: &str, role: Role) -> Actor {
    Actor { kind: access::Kind::User, name: name.into(), role }
}

fn slot() -> Arc<Slot> {
    Slot::new(&user("alice", Role::Operator), Some("192.0.2.1".parse().unwrap()), "patchChannel", "PATCH /x")
}

fn every() -> AuditQuery {
    AuditQuery { limit: 100, ..AuditQuery::default() }
}

fn the_last_admin_stays(db: &TestDb) {
    let store = db.open();
    store.create_user("alice", Role::Admin, "hash-a").unwrap();
    assert!(matches!(store.create_user("alice", Role::Viewer, "x"), Err(AccessError::Exists)));
    assert!(matches!(store.delete_user("alice"), Err(AccessError::LastAdmin)));
    assert!(matches!(store.change_user("alice", Some(Role::Viewer), None), Err(AccessError::LastAdmin)));
    store.change_user("alice", Some(Role::Admin), Some("hash-b")).unwrap();
    store.create_user("bob", Role::Viewer, "hash").unwrap();
    assert!(matches!(store.delete_user("alice"), Err(AccessError::LastAdmin)), "a viewer is none");
    store.change_user("bob", Some(Role::Admin), None).unwrap();
    store.change_user("alice", Some(Role::Operator), None).unwrap();
    let (row, hash) = db.open().user_with_password("alice").unwrap().unwrap();
    assert_eq!((row.role, &*hash, row.last_used_ms), (Role::Operator, "hash-b", None));
    store.delete_user("alice").unwrap();
    assert!(matches!(store.delete_user("alice"), Err(AccessError::Missing)));
    assert!(matches!(store.change_user("alice", None, None), Err(AccessError::Missing)));
    let names: Vec<String> = store.users("", 10).unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!((names, store.users("bob", 10).unwrap().len()), (vec!["bob".to_owned()], 0));
}

fn two_instances_cannot_take_the_last_two_admins_away_at_once(db: &TestDb) {
    let store = db.open();
    for round in 0..5 {
        let names = [format!("a{round}"), format!("b{round}")];
        for name in &names {
            store.create_user(name, Role::Admin, "hash").unwrap();
        }
        if round > 0 {
            // Whoever stayed of the round before.
            for row in store.users("", 100).unwrap() {
                if !names.contains(&row.name) {
                    store.delete_user(&row.name).unwrap();
                }
            }
        }
        let others = [db.open(), db.open()];
        std::thread::scope(|scope| {
            for (name, other) in names.iter().zip(&others) {
                scope.spawn(move || other.delete_user(name));
            }
        });
        let admins = store.users("", 100).unwrap().iter().filter(|row| row.role == Role::Admin).count();
        assert_eq!(admins, 1, "round {round}");
    }
}

fn tokens_and_their_sessions_end_together(db: &TestDb) {
    let store = db.open();
    let row = TokenRow {
        name: "robot".into(),
        role: Role::Operator,
        created_by: "alice".into(),
        created_ms: 5,
        expires_ms: Some(1_000),
        last_used_ms: None,
    };
    store.create_token(&row, "h1").unwrap();
    assert!(matches!(store.create_token(&row, "h2"), Err(AccessError::Exists)));
    store.token_used("robot", 77).unwrap();
    let found = db.open().token_of("h1").unwrap().unwrap();
    assert_eq!(found, TokenRow { last_used_ms: Some(77), ..row.clone() });
    assert_eq!((store.token_of("h2").unwrap(), store.tokens("", 9).unwrap()), (None, vec![found]));
    store.begin_session("s1", access::Kind::Token, "robot", 10, 5_000).unwrap();
    let session = store.session("s1").unwrap().unwrap();
    assert_eq!((session.role, session.expires_ms, session.used_ms), (Some(Role::Operator), 1_000, 10));
    store.delete_token("robot").unwrap();
    assert!(matches!(store.delete_token("robot"), Err(AccessError::Missing)));
    assert_eq!((store.session("s1").unwrap(), store.token_of("h1").unwrap()), (None, None));
}

fn sessions_are_known_to_all_and_have_bounds(db: &TestDb) {
    let (store, other) = (db.open(), db.open());
    store.create_user("alice", Role::Viewer, "hash").unwrap();
    store.begin_session("s0", access::Kind::User, "alice", 1, 100).unwrap();
    assert_eq!(other.session("s0").unwrap().unwrap().role, Some(Role::Viewer));
    assert_eq!(other.users("", 1).unwrap()[0].last_used_ms, Some(1));
    other.session_used("s0", 50).unwrap();
    for nth in 1..=MAX_SESSIONS {
        store.begin_session(&format!("s{nth}"), access::Kind::User, "alice", 1 + u64::from(nth), 1_000).unwrap();
    }
    assert!(store.session("s0").unwrap().is_some(), "it was used lately");
    assert!(store.session("s1").unwrap().is_none(), "the longest unused");
    store.begin_session("file", access::Kind::TokenFile, "hash", 100, 1_000).unwrap();
    assert!(store.session("s0").unwrap().is_none(), "its time is over");
    assert_eq!(store.session("file").unwrap().unwrap().role, Some(Role::Admin));
    other.change_user("alice", Some(Role::Operator), None).unwrap();
    assert_eq!(store.session("s9").unwrap().unwrap().role, Some(Role::Operator), "at once");
    store.end_session("s9").unwrap();
    assert!(other.session("s9").unwrap().is_none() && other.session("s8").unwrap().is_some());
    other.change_user("alice", None, Some("another")).unwrap();
    assert!(store.session("s8").unwrap().is_none() && store.session("file").unwrap().is_some());
}

fn a_change_and_its_entry_are_one(db: &TestDb) {
    let store = db.open();
    let slot = slot();
    let mine = store.audited(Arc::clone(&slot));
    assert!(matches!(mine.delete::<Channel>("a", None), Err(ChangeError::Missing)));
    assert_eq!(store.audit(&every()).unwrap(), [], "nothing changed");
    mine.create(&valid("a", "/a/", &[])).unwrap();
    assert!(slot.pending().is_none());
    mine.create(&valid("b", "/b/", &[])).unwrap();
    let log = store.audit(&every()).unwrap();
    assert_eq!(log.len(), 1, "one entry for a request");
    let entry = &log[0].entry;
    assert_eq!(
        (&*entry.actor, entry.role, entry.outcome, entry.status),
        ("alice", Some(Role::Operator), Outcome::Done, None)
    );
    assert_eq!(entry.address.unwrap().to_string(), "192.0.2.1");
    // Without its entry there is no change.
    store.write(|tx| tx.execute("DROP TABLE audit", &[])).unwrap();
    let mine = store.audited(self::slot());
    assert!(matches!(mine.create(&valid("c", "/c/", &[])), Err(ChangeError::Store(_))));
    assert!(store.find::<Channel>("c").unwrap().is_none());
    store.create(&valid("d", "/d/", &[])).unwrap();
}

fn the_log_is_numbered_without_gaps_and_filtered(db: &TestDb) {
    let store = db.open();
    let entry = slot().pending().unwrap();
    for nth in 0..20_u64 {
        let outcome = if nth % 4 == 0 { Outcome::Refused } else { Outcome::Done };
        let actor = format!("user-{}", nth % 2);
        let change = Some(format!("{{\"n\": {nth}}}"));
        let added = crate::access::audit::Entry {
            at_ms: 1_000 + nth,
            outcome,
            actor,
            change,
            status: Some(403),
            ..entry.clone()
        };
        store.add_audit(&added).unwrap();
    }
    let ids = |query: AuditQuery| -> Vec<u64> { store.audit(&query).unwrap().into_iter().map(|row| row.id).collect() };
    assert_eq!(ids(every()), (1..=20).rev().collect::<Vec<_>>());
    assert_eq!(ids(AuditQuery { limit: 2, before: Some(5), ..every() }), [4, 3]);
    assert_eq!(ids(AuditQuery { outcome: Some(Outcome::Refused), ..every() }), [17, 13, 9, 5, 1]);
    assert_eq!(ids(AuditQuery { actor: Some("user-1".into()), to_ms: Some(1_004), ..every() }), [4, 2]);
    assert_eq!(ids(AuditQuery { from_ms: Some(1_018), ..every() }), [20, 19]);
    assert_eq!(ids(AuditQuery { action: Some("other".into()), ..every() }), [] as [u64; 0]);
    assert_eq!(ids(AuditQuery { from_ms: Some(u64::MAX), ..every() }), [] as [u64; 0]);
    // Old entries go, the newest stay: the time of all of these is long past.
    for _ in 20..256 {
        store.add_audit(&crate::access::audit::Entry { at_ms: now_ms(), ..entry.clone() }).unwrap();
    }
    let left = store.audit(&AuditQuery { limit: 1_000, ..every() }).unwrap();
    assert_eq!((left.len(), left.last().unwrap().id), (236, 21));
}

on_each_engine!(
    the_last_admin_stays,
    two_instances_cannot_take_the_last_two_admins_away_at_once,
    tokens_and_their_sessions_end_together,
    sessions_are_known_to_all_and_have_bounds,
    a_change_and_its_entry_are_one,
    the_log_is_numbered_without_gaps_and_filtered,
);
