//! Apps, rules, switches, pass keys and parameters.

use shoal_conf::{App, Rule, Switch};

use super::*;

fn app(id: &str, tenant: &str) -> Valid<App> {
    let app = serde_json::json!({"id": id, "tenant": tenant, "keys": [{"id": "k", "secret": "sixteen letters!"}]});
    Valid::new(serde_json::from_value(app).unwrap()).unwrap()
}

fn rule(id: &str, percentage: f64) -> Valid<Rule> {
    let rule = serde_json::json!({"id": id, "tenant": "acme", "percentage": percentage});
    Valid::new(serde_json::from_value(rule).unwrap()).unwrap()
}

fn apps_and_rules_make_versions_of_their_own(db: &TestDb) {
    let store = db.open();
    let snapshot = store.snapshot_version().unwrap();
    let first = store.create(&app("b", "acme")).unwrap();
    assert_eq!(store.conf_version().unwrap(), first.revision);
    assert!(matches!(store.create(&app("b", "acme")), Err(ChangeError::Exists)));
    let second = store.create(&app("a", "other")).unwrap();
    let made = store.create(&rule("r", 12.34)).unwrap();
    assert!(first.revision < second.revision && second.revision < made.revision);
    assert!(matches!(store.replace(&rule("r", 1.0), Some(second.revision)), Err(ChangeError::Stale { .. })));
    store.replace(&rule("r", 0.5), Some(made.revision)).unwrap();
    assert_eq!(store.snapshot_version().unwrap(), snapshot, "nodes are told nothing");

    let page = |tenant, after, limit| -> Vec<String> {
        store.page::<App>(tenant, after, limit).unwrap().into_iter().map(|stored| stored.document.id).collect()
    };
    assert_eq!(page(None, "", 1), ["a"]);
    assert_eq!(page(None, "a", 9), ["b"]);
    assert_eq!(page(Some("acme"), "", 9), ["b"]);
    let again = db.open();
    let documents = again.conf_documents().unwrap();
    assert_eq!(documents.version, again.conf_version().unwrap());
    assert_eq!((documents.apps.len(), documents.rules[0].percentage), (2, Some(0.5)));
    store.delete::<Rule>("r", None).unwrap();
    assert!(again.conf_version().unwrap() > documents.version && again.conf_documents().unwrap().rules.is_empty());
}

fn switches_are_as_they_were_last_set(db: &TestDb) {
    let store = db.open();
    let switch =
        |channel: Option<&str>| Switch { tenant: "acme".to_owned(), channel: channel.map(str::to_owned), asset: None };
    for on in [false, false, true, true, false] {
        let before = store.conf_version().unwrap();
        assert!(store.switch(&switch(Some("room1")), on).unwrap());
        assert!(store.conf_version().unwrap() > before);
        assert_eq!(store.switches().unwrap().len(), usize::from(!on));
    }
    store.switch(&switch(None), false).unwrap();
    assert_eq!(store.conf_documents().unwrap().off, [switch(None), switch(Some("room1"))]);
}

fn pass_keys_are_made_once_and_rotate(db: &TestDb) {
    let (store, other) = (db.open(), db.open());
    store.ensure_pass_key(&[1; 32]).unwrap();
    other.ensure_pass_key(&[2; 32]).unwrap();
    let keys = other.conf_documents().unwrap().keys;
    assert_eq!((keys.len(), keys[0].number, keys[0].secret, keys[0].drop_ms), (1, 1, [1; 32], None));
    let made = store.rotate_pass_keys(&[3; 32], 1_000_000).unwrap();
    assert_eq!(made.number, 2);
    let keys = other.conf_documents().unwrap().keys;
    assert_eq!(keys.iter().map(|key| key.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(keys[1].drop_ms, Some(made.created_ms + 1_000_000));
    // What has no more overlap goes with the next rotation; the others keep theirs.
    store.rotate_pass_keys(&[4; 32], 0).unwrap();
    store.rotate_pass_keys(&[5; 32], 0).unwrap();
    let keys = other.conf_documents().unwrap().keys;
    assert_eq!(keys.iter().map(|key| key.number).collect::<Vec<_>>(), [4, 3, 1]);
}

fn parameters_are_found_by_their_digest(db: &TestDb) {
    let store = db.open();
    store.remember_parameters("d", "{\"a\":1}").unwrap();
    store.remember_parameters("d", "{\"a\":1}").unwrap();
    assert_eq!(db.open().parameters("d").unwrap().as_deref(), Some("{\"a\":1}"));
    assert_eq!(store.parameters("e").unwrap(), None);
}

on_each_engine!(
    apps_and_rules_make_versions_of_their_own,
    switches_are_as_they_were_last_set,
    pass_keys_are_made_once_and_rotate,
    parameters_are_found_by_their_digest,
);
