//! Common Media Client Data: CTA-5004 (version 1) and CTA-5004-B (version 2).
//!
//! On the wire it is a dictionary of structured fields (RFC 8941): `br=3200,bs,sid="6e2fb550"`, in version 2 also
//! `br=(3200;v 128;a)`. It comes as the query parameter `CMCD`, as four request headers, and in version 2 as events in the
//! body of a POST, one dictionary a line. Keys with a hyphen are anybody's own; they and those of versions to come are kept.

mod event;
mod json;
mod parse;
mod query;
mod value;

pub use event::{Event, MAX_EVENTS, events};
pub use parse::CmcdError;
pub use query::{HEADERS, PARAMETER};
pub use value::{Item, Value};

/// Media type of a body with events.
pub const MEDIA_TYPE: &str = "application/cmcd";
/// Most bytes of a dictionary.
pub const MAX_TEXT: usize = 8192;
/// Most keys of a dictionary.
pub const MAX_KEYS: usize = 96;
/// Most bytes of a key.
pub const MAX_KEY: usize = 64;
/// Most values in a list, and most parameters of a value.
pub const MAX_LIST: usize = 64;

/// A dictionary: keys in the order in which they came, each once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cmcd {
    keys: Vec<(String, Value)>,
}

/// What sort of value a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Boolean,
    Integer,
    Decimal,
    Token,
    Text,
    /// In version 1 an integer, in version 2 a list of integers with the object's type as parameter.
    Integers,
    /// In version 1 a string, in version 2 a list of strings.
    Texts,
}

/// The keys of both versions (CTA-5004 section 3, CTA-5004-B table 1) and their sorts.
const KEYS: &[(&str, Sort)] = &[
    ("ab", Sort::Integers),
    ("bg", Sort::Boolean),
    ("bl", Sort::Integers),
    ("br", Sort::Integers),
    ("bs", Sort::Boolean),
    ("bsa", Sort::Integers),
    ("bsd", Sort::Integers),
    ("bsda", Sort::Integers),
    ("cdn", Sort::Text),
    ("cen", Sort::Text),
    ("cid", Sort::Text),
    ("cmsdd", Sort::Text),
    ("cmsds", Sort::Text),
    ("cs", Sort::Text),
    ("d", Sort::Integer),
    ("dfa", Sort::Integer),
    ("dl", Sort::Integer),
    ("e", Sort::Token),
    ("ec", Sort::Texts),
    ("h", Sort::Text),
    ("lab", Sort::Integers),
    ("lb", Sort::Integers),
    ("ltc", Sort::Integer),
    ("msd", Sort::Integer),
    ("mtp", Sort::Integers),
    ("nor", Sort::Texts),
    ("nr", Sort::Boolean),
    ("nrr", Sort::Text),
    ("ot", Sort::Token),
    ("pb", Sort::Integers),
    ("pr", Sort::Decimal),
    ("pt", Sort::Integer),
    ("rc", Sort::Integer),
    ("rtp", Sort::Integer),
    ("sf", Sort::Token),
    ("sid", Sort::Text),
    ("smrt", Sort::Text),
    ("sn", Sort::Integer),
    ("st", Sort::Token),
    ("sta", Sort::Token),
    ("su", Sort::Boolean),
    ("tab", Sort::Integers),
    ("tb", Sort::Integers),
    ("tbl", Sort::Integers),
    ("tpb", Sort::Integers),
    ("ts", Sort::Integer),
    ("ttfb", Sort::Integer),
    ("ttfbb", Sort::Integer),
    ("ttlb", Sort::Integer),
    ("url", Sort::Text),
    ("v", Sort::Integer),
];

impl Cmcd {
    /// The value of a key, whatever its sort.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Every key and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The version that it is written in; without one, 1 (CTA-5004-B, key `v`).
    pub fn version(&self) -> i64 {
        self.integer("v").unwrap_or(1)
    }

    /// A whole number: `sn`, `ts`, `msd`, `d`, `rtp` and their like.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// A number with or without a fraction: `pr`.
    pub fn decimal(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Integer(number) => Some(*number as f64),
            Value::Decimal(thousandths) => Some(*thousandths as f64 / 1000.0),
            _ => None,
        }
    }

    /// A boolean: `bs`, `su`, `bg`, `nr`. Absent is false.
    pub fn is(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::Boolean(true))
    }

    /// A string or a token: `sid`, `cid`, `sta`, `ot` and their like. Senders quote where they should not, and the reverse.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) | Value::Token(text) => Some(text),
            _ => None,
        }
    }

    /// Whole numbers with the type of object that each is of, if told: `br`, `bl`, `mtp`, `bsd` and their like. One number
    /// (version 1) is a list of one.
    pub fn integers(&self, key: &str) -> Vec<(i64, Option<&str>)> {
        let number = |item: &'_ Item| match item.value {
            Value::Integer(number) => Some(number),
            _ => None,
        };
        match self.get(key) {
            Some(Value::Integer(number)) => vec![(*number, None)],
            Some(Value::List(items)) => {
                items.iter().filter_map(|item| Some((number(item)?, item.object_type()))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How many strings: `ec`, `nor`. One string (version 1) is a list of one.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let text = |value: &'_ Value| matches!(value, Value::Text(_) | Value::Token(_));
        match self.get(key) {
            Some(Value::Text(text) | Value::Token(text)) => vec![text],
            Some(Value::List(items)) => items
                .iter()
                .filter(|item| text(&item.value))
                .filter_map(|item| match &item.value {
                    Value::Text(text) | Value::Token(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Known keys whose value is of another sort than the standard says: kept, and not understood.
    pub fn odd(&self) -> impl Iterator<Item = &str> {
        self.iter().filter(|(key, value)| sort(key).is_some_and(|sort| !sort.fits(value))).map(|(key, _)| key)
    }

    /// Whether the key is in the standard.
    pub fn is_known(key: &str) -> bool {
        sort(key).is_some()
    }

    /// Adds a key that is not there yet; the first one counts. False: no more keys fit.
    fn insert(&mut self, key: String, value: Value) -> bool {
        if self.keys.iter().any(|(name, _)| *name == key) {
            return true;
        }
        let fits = self.keys.len() < MAX_KEYS;
        if fits {
            self.keys.push((key, value));
        }
        fits
    }
}

fn sort(key: &str) -> Option<Sort> {
    let found = KEYS.binary_search_by_key(&key, |(name, _)| name).ok()?;
    KEYS.get(found).map(|(_, sort)| *sort)
}

impl Sort {
    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Boolean, Value::Boolean(_))
            | (Self::Integer | Self::Integers | Self::Decimal, Value::Integer(_))
            | (Self::Decimal, Value::Decimal(_))
            | (Self::Token, Value::Token(_))
            | (Self::Text | Self::Texts, Value::Text(_)) => true,
            (Self::Integers, Value::List(items)) => items.iter().all(|item| matches!(item.value, Value::Integer(_))),
            (Self::Texts, Value::List(items)) => items.iter().all(|item| matches!(item.value, Value::Text(_))),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_the_keys_of_version_1() {
        assert!(KEYS.is_sorted_by_key(|(key, _)| *key));
        for key in "bl br bs cid d dl mtp nor nrr ot pr rtp sf sid st su tb v".split(' ') {
            assert!(Cmcd::is_known(key), "{key}");
        }
        assert!(!Cmcd::is_known("com.example-key"));
    }

    #[test]
    fn a_known_key_with_another_sort_of_value_is_odd_and_not_understood() {
        let cmcd: Cmcd = r#"br="fast",sn=2.5,bs=?0,sid=abc,ot=v,pr=1,com.example-x=(1 2)"#.parse().unwrap();
        assert_eq!(cmcd.odd().collect::<Vec<_>>(), ["br", "sn", "sid"]);
        assert_eq!((cmcd.integers("br"), cmcd.integer("sn"), cmcd.is("bs")), (vec![], None, false));
        assert_eq!((cmcd.text("sid"), cmcd.decimal("pr")), (Some("abc"), Some(1.0)));
    }
}
