//! Files and times that the operator gives.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::Failure;

/// The text of a file; `-` is standard input.
pub(crate) fn text(file: &Path) -> Result<String, Failure> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Failure::Usage(format!("{}: {error}; give a file that can be read, or -", file.display())))
}

/// A JSON or TOML document.
pub(crate) fn document(file: &Path) -> Result<Value, Failure> {
    let text = text(file)?;
    let name = file.display();
    // No TOML document begins like a JSON object; a list of JSON objects begins like a TOML header, but with `[{`.
    let begin: String = text.chars().filter(|character| !character.is_whitespace()).take(2).collect();
    if begin.starts_with('{') || begin == "[{" || begin == "[]" {
        serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{name}: not valid JSON: {error}")))
    } else {
        toml::from_str(&text).map_err(|error| Failure::Usage(format!("{name}: not valid TOML: {error}")))
    }
}

/// The channels or tenants (`nouns`) of a document, with their ids: itself, its items, or those under their key.
pub(crate) fn list(file: &Path, nouns: &str) -> Result<Vec<(String, Value)>, Failure> {
    let wrong = |message: String| Failure::Usage(format!("{}: {message}", file.display()));
    let with_id = |item: Value| {
        let id = item.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        if id.is_empty() { Err(wrong(format!("one of the {nouns} has no `id`; give it one"))) } else { Ok((id, item)) }
    };
    items_of(document(file)?, nouns).map_err(wrong)?.into_iter().map(with_id).collect()
}

fn items_of(document: Value, nouns: &str) -> Result<Vec<Value>, String> {
    let list = match document {
        Value::Array(items) => items,
        Value::Object(mut fields) => match fields.remove(nouns) {
            Some(Value::Array(items)) => items,
            Some(_) => return Err(format!("`{nouns}` must be a list")),
            None => vec![Value::Object(fields)],
        },
        _ => return Err(format!("give an object, a list, or a list under `{nouns}`")),
    };
    if list.is_empty() { Err(format!("there are no {nouns} in this list")) } else { Ok(list) }
}

/// Items to fetch: a path in each line, and a range behind it or none. Empty lines and those that start with `#` are none.
pub(crate) fn items(text: &str) -> Result<Vec<Value>, Failure> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let item = |line: &str| {
        let Some((path, range)) = line.split_once(char::is_whitespace) else { return Ok(json!({ "path": line })) };
        let wrong = || Failure::Usage(format!("{line}: give a path, or a path and a range as in `a.mp4 0-1048575`"));
        let (first, last) = range.trim().split_once('-').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        Ok(json!({ "path": path, "first": number(first)?, "last": last }))
    };
    lines.map(item).collect()
}

/// Name and value of a header line.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("give a name, a colon and a value, as in `Range: bytes=0-99`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Unix seconds, or an age such as `90m`, `24h`, `7d`, as Unix seconds.
pub(crate) fn time(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let age = span(text).map_err(|_| "give Unix seconds, or an age such as 90m, 24h or 7d".to_owned())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(now.saturating_sub(age))
}

/// A time such as `90m`, `24h`, `7d`, in seconds.
pub(crate) fn span(text: &str) -> Result<u64, String> {
    let wrong = || "give a number and s, m, h or d, such as 90m, 24h or 7d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text.get(..text.len() - 1).and_then(|count| count.parse().ok()).ok_or_else(wrong)?;
    count.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_second_or_an_age() {
        assert_eq!(time("1700000000"), Ok(1_700_000_000));
        let now = time("0s").unwrap();
        assert!((now - 7200..=now).contains(&time("2h").unwrap()));
        for wrong in ["", "h", "-1h", "2w", "99999999999999999999d", "18446744073709551615d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn items_have_a_range_or_none() {
        let found = items("# a list\n\na.ts\n b.mp4  10-19 \nc.mp4 5-\n").unwrap();
        let expected = [
            json!({ "path": "a.ts" }),
            json!({ "path": "b.mp4", "first": 10, "last": 19 }),
            json!({ "path": "c.mp4", "first": 5, "last": null }),
        ];
        assert_eq!(found, expected);
        for wrong in ["a b", "a 1", "a x-2", "a 1-x", "a 1-2 3"] {
            assert!(items(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn documents_come_alone_in_a_list_or_under_their_key() {
        let one = json!({"id": "a"});
        for document in [one.clone(), json!([one]), json!({"version": 1, "channels": [one]})] {
            assert_eq!(items_of(document, "channels"), Ok(vec![one.clone()]));
        }
        for wrong in [json!([]), json!({"channels": 1}), json!(1)] {
            assert!(items_of(wrong, "channels").unwrap_err().contains("list"));
        }
    }
}
