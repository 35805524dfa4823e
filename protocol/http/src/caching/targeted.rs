//! CDN-Cache-Control (RFC 9213): a dictionary of structured fields (RFC 9651), whose directives mean what those of
//! Cache-Control do, for this cache alone.

use crate::cache_control::CacheControl;

/// Most that the value may have; a longer one is ignored.
const VALUE_MAX: usize = 4096;

/// Names that mean something here.
const DIRECTIVES: [&[u8]; 13] = [
    b"no-store",
    b"no-cache",
    b"private",
    b"public",
    b"must-revalidate",
    b"proxy-revalidate",
    b"must-understand",
    b"no-transform",
    b"immutable",
    b"max-age",
    b"s-maxage",
    b"stale-if-error",
    b"stale-while-revalidate",
];

/// Digits of an integer (RFC 9651 section 3.3.1).
const INTEGER_DIGITS: usize = 15;

/// Reads the values of all CDN-Cache-Control lines. `None` when there is no line, no member, or the value is no dictionary:
/// then it is ignored (RFC 9213 section 2.1). So it is when a directive has a value of the wrong type: what was meant is
/// not known, and Cache-Control is.
pub fn parse_targeted<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<CacheControl> {
    let value = lines.into_iter().collect::<Vec<_>>().join(&b", "[..]);
    if value.len() > VALUE_MAX {
        return None;
    }
    let mut scan = Scan { rest: value.trim_ascii() };
    let mut control = CacheControl::default();
    let mut members = 0;
    while !scan.rest.is_empty() {
        let key = scan.key()?;
        let item = if scan.take(b'=') { scan.item_or_list()? } else { Item::Boolean(true) };
        scan.parameters()?;
        apply(&mut control, key, item)?;
        members += 1;
        scan.spaces();
        if scan.rest.is_empty() {
            break;
        }
        if !scan.take(b',') {
            return None;
        }
        scan.spaces();
        // A comma at the end is an error.
        if scan.rest.is_empty() {
            return None;
        }
    }
    (members > 0).then_some(control)
}

/// `None`: a value of the wrong type for its directive.
fn apply(control: &mut CacheControl, key: &[u8], item: Item) -> Option<()> {
    // Of two members with one key the last counts.
    match (key, item) {
        (b"no-store", Item::Boolean(set)) => control.no_store = set,
        (b"no-cache", Item::Boolean(set)) => control.no_cache = set,
        (b"private", Item::Boolean(set)) => control.private = set,
        (b"public", Item::Boolean(set)) => control.public = set,
        (b"must-revalidate", Item::Boolean(set)) => control.must_revalidate = set,
        (b"proxy-revalidate", Item::Boolean(set)) => control.proxy_revalidate = set,
        (b"must-understand", Item::Boolean(set)) => control.must_understand = set,
        (b"no-transform", Item::Boolean(set)) => control.no_transform = set,
        (b"immutable", Item::Boolean(set)) => control.immutable = set,
        (b"max-age", Item::Integer(seconds)) => control.max_age = Some(seconds),
        (b"s-maxage", Item::Integer(seconds)) => control.s_maxage = Some(seconds),
        (b"stale-if-error", Item::Integer(seconds)) => control.stale_if_error = Some(seconds),
        (b"stale-while-revalidate", Item::Integer(seconds)) => control.stale_while_revalidate = Some(seconds),
        // The qualified forms count as unqualified ones.
        (b"no-cache", Item::String) => control.no_cache = true,
        (b"private", Item::String) => control.private = true,
        _ if DIRECTIVES.contains(&key) => return None,
        _ => {}
    }
    Some(())
}

/// A value, as far as any directive cares.
#[derive(Debug, Clone, Copy)]
enum Item {
    Boolean(bool),
    /// A negative one counts as 0.
    Integer(u64),
    String,
    Other,
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| !belongs(byte)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    fn spaces(&mut self) {
        self.run(|byte| byte == b' ' || byte == b'\t');
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let starts = self.rest.first().is_some_and(|&byte| byte.is_ascii_lowercase() || byte == b'*');
        starts.then(|| self.run(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)))
    }

    fn item_or_list(&mut self) -> Option<Item> {
        if !self.take(b'(') {
            return self.item();
        }
        loop {
            self.run(|byte| byte == b' ');
            if self.take(b')') {
                return Some(Item::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest, [b' ' | b')', ..]) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.run(|byte| byte == b' ');
            self.key()?;
            if self.take(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Item> {
        match *self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => {
                self.take(b'?');
                let set = self.take(b'1');
                (set || self.take(b'0')).then_some(Item::Boolean(set))
            }
            b':' => {
                self.take(b':');
                self.run(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.take(b':').then_some(Item::Other)
            }
            b'@' => {
                self.take(b'@');
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Other)
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.run(|byte| crate::grammar::TOKEN.has(byte) || byte == b':' || byte == b'/');
                Some(Item::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.take(b'-');
        let digits = self.run(|byte| byte.is_ascii_digit());
        if self.take(b'.') {
            let fraction = self.run(|byte| byte.is_ascii_digit());
            return ((1..=12).contains(&digits.len()) && (1..=3).contains(&fraction.len())).then_some(Item::Other);
        }
        if !(1..=INTEGER_DIGITS).contains(&digits.len()) {
            return None;
        }
        let number = crate::grammar::decimal(digits)?;
        Some(Item::Integer(if negative { 0 } else { number }))
    }

    fn string(&mut self) -> Option<Item> {
        self.take(b'"');
        loop {
            self.run(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\');
            if self.take(b'"') {
                return Some(Item::String);
            }
            if !(self.take(b'\\') && (self.take(b'"') || self.take(b'\\'))) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Option<CacheControl> {
        parse_targeted(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn directives() {
        let control =
            parse(&["max-age=60, stale-while-revalidate=5;x=1", "no-cache, foobar=(1 \"a\";b=?0 tok), public=?0"]);
        let wanted = CacheControl {
            max_age: Some(60),
            stale_while_revalidate: Some(5),
            no_cache: true,
            ..CacheControl::default()
        };
        assert_eq!(control, Some(wanted));
        assert_eq!(parse(&["max-age=5, max-age=7"]).unwrap().max_age, Some(7));
        assert_eq!(parse(&["max-age=-5"]).unwrap().max_age, Some(0));
        assert!(parse(&["private=\"a\\\"b\""]).unwrap().private);
        assert!(parse(&["a=:YQ==:, b=1.5, c=@12, d=*x/y:z, no-store"]).unwrap().no_store);
    }

    #[test]
    fn a_value_of_another_type_spoils_it() {
        for text in ["max-age=\"60\"", "max-age=1.5", "max-age", "no-store=1", "max-age=(1)", "no-store, s-maxage=x"] {
            assert_eq!(parse(&[text]), None, "{text}");
        }
        assert_eq!(parse(&["foo, bar=1"]), Some(CacheControl::default()), "unknown ones do not");
    }

    #[test]
    fn what_is_no_dictionary_is_ignored() {
        for text in [
            "",
            " ",
            ",",
            "max-age=60,",
            "max-age=60, &&&",
            "max-age =60",
            "max-age= 60",
            "MAX-AGE=60",
            "max-age=60 no-store",
            "max-age=1234567890123456",
            "a=\"x",
            "a=\"\\n\"",
            "a=(1",
            "a=?2",
            "a=:x",
            "a=1.",
            "a=-",
            "a;",
            "a=1;=2",
            "a=(1\"a\")",
            "a=\u{e9}",
        ] {
            assert_eq!(parse(&[text]), None, "{text:?}");
        }
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[&format!("max-age=1, a=\"{}\"", "x".repeat(VALUE_MAX))]), None);
    }
}
