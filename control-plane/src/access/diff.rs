//! What changed between two JSON documents, for people, without secrets and within a bound.

use serde_json::{Map, Value, json};

/// What stands in place of a secret.
const HIDDEN: &str = "***";
/// Most fields that are told apart; what else changed is told by number.
const MAX_FIELDS: usize = 50;
/// Most characters of a value.
const MAX_VALUE: usize = 256;
/// Deepest nesting that is looked into.
const MAX_DEPTH: usize = 16;

/// Every field that differs, with the value before and after; a field that was or is not there has none.
pub(super) fn diff(before: Option<&Value>, after: Option<&Value>) -> Value {
    let mut found = Found { list: Vec::new(), more: 0 };
    compare("", before, after, 0, &mut found);
    if found.more > 0 {
        found.list.push(json!({"more": found.more}));
    }
    Value::Array(found.list)
}

/// A document with its secrets hidden and its long values cut.
pub(super) fn redacted(value: &Value) -> Value {
    let mut room = MAX_FIELDS;
    copy("", value, 0, &mut room)
}

struct Found {
    list: Vec<Value>,
    more: usize,
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, depth: usize, found: &mut Found) {
    if before == after {
        return;
    }
    let empty_map = Map::new();
    let empty_list = Vec::new();
    let (old, new) = (before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null));
    match (old, new) {
        (Value::Object(_), Value::Object(_) | Value::Null) | (Value::Null, Value::Object(_)) if depth < MAX_DEPTH => {
            let (old, new) = (old.as_object().unwrap_or(&empty_map), new.as_object().unwrap_or(&empty_map));
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, old.get(name), new.get(name), depth + 1, found);
            }
        }
        (Value::Array(_), Value::Array(_) | Value::Null) | (Value::Null, Value::Array(_)) if depth < MAX_DEPTH => {
            let (old, new) = (old.as_array().unwrap_or(&empty_list), new.as_array().unwrap_or(&empty_list));
            for at in 0..old.len().max(new.len()) {
                compare(&format!("{path}[{at}]"), old.get(at), new.get(at), depth + 1, found);
            }
        }
        _ if found.list.len() >= MAX_FIELDS => found.more += 1,
        _ => {
            let mut line = Map::from_iter([("field".to_owned(), json!(path))]);
            let mut room = MAX_FIELDS;
            for (name, value) in [("from", before), ("to", after)] {
                if let Some(value) = value {
                    line.insert(name.to_owned(), copy(path, value, depth, &mut room));
                }
            }
            found.list.push(Value::Object(line));
        }
    }
}

fn copy(path: &str, value: &Value, depth: usize, room: &mut usize) -> Value {
    if depth > MAX_DEPTH || *room == 0 {
        return json!("…");
    }
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let copied = copy(name, value, depth + 1, room);
                *room = room.saturating_sub(1);
                (name.clone(), copied)
            })
            .take(MAX_FIELDS)
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| {
                let copied = copy(path, item, depth + 1, room);
                *room = room.saturating_sub(1);
                copied
            })
            .take(MAX_FIELDS)
            .collect(),
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(_) | Value::String(_) if is_secret(path) => json!(HIDDEN),
        Value::Number(_) => value.clone(),
        Value::String(text) => json!(shorten(text)),
    }
}

/// Whether a field of this name holds something that must not be told.
fn is_secret(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let name = name.split('[').next().unwrap_or_default();
    ["secret", "password", "credential"].iter().any(|word| name.contains(word))
        || ["token", "key", "ticket", "pass", "cookie", "authorization"].contains(&name)
}

/// A viewer's URL may carry a ticket in its query.
fn shorten(text: &str) -> String {
    let is_url = ["http://", "https://", "/"].iter().any(|start| text.starts_with(start));
    let (kept, end) = match text.split_once('?') {
        Some((path, _)) if is_url => (path, format!("?{HIDDEN}")),
        _ => (text, String::new()),
    };
    match kept.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}…", kept.get(..at).unwrap_or_default()),
        None => format!("{kept}{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let before = json!({"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": true});
        let after = json!({"a": 1, "b": {"c": [1, 3, 4], "d": "x"}, "new": null});
        assert_eq!(
            diff(Some(&before), Some(&after)),
            json!([
                {"field": "b.c[1]", "from": 2, "to": 3},
                {"field": "b.c[2]", "to": 4},
                {"field": "gone", "from": true},
                {"field": "new", "to": null},
            ])
        );
        assert_eq!(diff(Some(&before), Some(&before)), json!([]));
        assert_eq!(diff(None, Some(&json!({"id": "x"}))), json!([{"field": "id", "to": "x"}]));
        assert_eq!(diff(Some(&json!({"id": "x"})), None), json!([{"field": "id", "from": "x"}]));
    }

    #[test]
    fn secrets_are_never_told() {
        let with = |secret: &str| {
            json!({
                "keys": [{"id": "k1", "secret": secret}], "password": secret, "turn_secret": secret, "token": secret,
                "url": format!("http://a.test/x?ticket={secret}"), "headers": {"authorization": secret}, "key": secret,
                "pass": {"password": secret, "deep": [{"old_password": secret}]},
            })
        };
        let texts = [
            diff(Some(&with("swordfish")), Some(&with("Swordfish2"))),
            diff(None, Some(&with("swordfish"))),
            redacted(&with("swordfish")),
        ];
        for text in texts.map(|value| value.to_string()) {
            assert!(!text.to_lowercase().contains("swordfish"), "{text}");
            assert!(text.contains("http://a.test/x?***"), "{text}");
        }
        assert_eq!(redacted(&json!({"id": "k1", "ttl_s": 5})), json!({"id": "k1", "ttl_s": 5}));
    }

    #[test]
    fn however_large_the_documents_the_result_is_small() {
        let list = |text: &str| Value::Array((0..5_000).map(|nth| json!({"n": nth, "t": text.repeat(999)})).collect());
        let told = diff(Some(&list("a")), Some(&list("ü")));
        assert_eq!(told.as_array().unwrap().len(), MAX_FIELDS + 1);
        assert_eq!(told[MAX_FIELDS], json!({"more": 5_000 - MAX_FIELDS}));
        assert!(told.to_string().len() < 100_000 && redacted(&list("a")).to_string().len() < 100_000);
        let deep = (0..1_000).fold(json!(1), |inner, _| json!([inner]));
        assert!(redacted(&deep).to_string().len() < 100);
        let wide = json!([list("a"), list("b"), list("c")]);
        assert!(redacted(&json!({"a": wide, "b": wide, "c": wide})).to_string().len() < 100_000);
    }
}
