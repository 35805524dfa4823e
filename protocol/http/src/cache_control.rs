//! Freshness (RFC 9111 section 4.2) from Cache-Control, Expires, Date and Age. Pragma is not looked at.

use crate::{
    date,
    grammar::{decimal_saturating, trim},
};

/// Response directives of Cache-Control. Times are seconds. A number that cannot be read counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `no-store`
    pub no_store: bool,
    /// `no-cache`, also with field names
    pub no_cache: bool,
    /// `private`, also with field names
    pub private: bool,
    /// `public`
    pub public: bool,
    /// `max-age`; the smallest if repeated
    pub max_age: Option<u64>,
    /// `s-maxage`; the smallest if repeated
    pub s_maxage: Option<u64>,
    /// `must-revalidate`
    pub must_revalidate: bool,
    /// `proxy-revalidate`
    pub proxy_revalidate: bool,
    /// `must-understand`
    pub must_understand: bool,
    /// `no-transform`
    pub no_transform: bool,
    /// `immutable` (RFC 8246)
    pub immutable: bool,
    /// `stale-if-error` (RFC 5861)
    pub stale_if_error: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861)
    pub stale_while_revalidate: Option<u64>,
}

/// What a number too large to hold is read as (RFC 9111 section 1.2.2).
const MAX_SECONDS: u64 = 1 << 31;

impl CacheControl {
    /// Reads the values of all Cache-Control lines.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for line in lines {
            let mut rest = line;
            while !rest.is_empty() {
                let (directive, after) = take_directive(rest);
                rest = after;
                control.apply(directive);
            }
        }
        control
    }

    fn apply(&mut self, directive: &[u8]) {
        let (name, argument) = match directive.iter().position(|&byte| byte == b'=') {
            Some(equals) => (directive.get(..equals), directive.get(equals + 1..)),
            None => (Some(directive), None),
        };
        let name = trim(name.unwrap_or_default());
        let flag = match name.len() {
            6 if name.eq_ignore_ascii_case(b"public") => &mut self.public,
            7 if name.eq_ignore_ascii_case(b"private") => &mut self.private,
            8 if name.eq_ignore_ascii_case(b"no-store") => &mut self.no_store,
            8 if name.eq_ignore_ascii_case(b"no-cache") => &mut self.no_cache,
            9 if name.eq_ignore_ascii_case(b"immutable") => &mut self.immutable,
            12 if name.eq_ignore_ascii_case(b"no-transform") => &mut self.no_transform,
            15 if name.eq_ignore_ascii_case(b"must-revalidate") => &mut self.must_revalidate,
            15 if name.eq_ignore_ascii_case(b"must-understand") => &mut self.must_understand,
            16 if name.eq_ignore_ascii_case(b"proxy-revalidate") => &mut self.proxy_revalidate,
            _ => return self.apply_seconds(name, argument),
        };
        *flag = true;
    }

    fn apply_seconds(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let seconds = match name.len() {
            7 if name.eq_ignore_ascii_case(b"max-age") => &mut self.max_age,
            8 if name.eq_ignore_ascii_case(b"s-maxage") => &mut self.s_maxage,
            14 if name.eq_ignore_ascii_case(b"stale-if-error") => &mut self.stale_if_error,
            22 if name.eq_ignore_ascii_case(b"stale-while-revalidate") => &mut self.stale_while_revalidate,
            _ => return,
        };
        let argument = trim(argument.unwrap_or_default());
        let digits = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
        // RFC 9111 section 4.2.1: what cannot be understood is stale, and of two the more restrictive counts.
        let number = parse_seconds(digits).unwrap_or(0);
        *seconds = Some(seconds.map_or(number, |earlier| earlier.min(number)));
    }
}

/// Splits off the text in front of the next comma that is not inside a quoted string.
fn take_directive(text: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.iter().position(|&byte| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted && !was_escaped => escaped = true,
            b'"' if !was_escaped => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    });
    match end {
        Some(end) => (text.get(..end).unwrap_or_default(), text.get(end + 1..).unwrap_or_default()),
        None => (text, &[]),
    }
}

/// Explicit freshness lifetime in seconds for a shared cache: s-maxage, else max-age, else Expires minus Date. `None` when
/// the response says nothing. `date` is the Date header, or the time of receipt without one; a malformed Expires is 0.
#[must_use]
pub fn freshness_lifetime(control: &CacheControl, expires: Option<&[u8]>, date: u64) -> Option<u64> {
    control
        .s_maxage
        .or(control.max_age)
        .or_else(|| expires.map(|expires| date::parse(expires).map_or(0, |expires| expires.saturating_sub(date))))
}

/// Age in seconds that a response has when it arrives (RFC 9111 section 4.2.3, `corrected_initial_age`). `age` and
/// `date` are the headers' values; the other two are Unix seconds of sending the request and of receiving the head.
#[must_use]
pub fn initial_age(age: Option<u64>, date: Option<u64>, request_time: u64, response_time: u64) -> u64 {
    let apparent_age = date.map_or(0, |date| response_time.saturating_sub(date));
    let response_delay = response_time.saturating_sub(request_time);
    apparent_age.max(age.unwrap_or(0).saturating_add(response_delay))
}

/// Reads an Age header. Of a list the first member counts, as of several lines the first should (RFC 9111 section 5.1).
#[must_use]
pub fn parse_age(value: &[u8]) -> Option<u64> {
    parse_seconds(trim(value.split(|&byte| byte == b',').next()?))
}

/// Reads `delta-seconds`; a number too large is 2^31 (RFC 9111 section 1.2.2).
#[must_use]
pub fn parse_seconds(value: &[u8]) -> Option<u64> {
    decimal_saturating(value).map(|seconds| seconds.min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> CacheControl {
        CacheControl::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn directives_over_several_lines() {
        let control = parse(&["public, Max-Age=60 ,, immutable", "S-MAXAGE=\"10\", stale-if-error=300"]);
        let expected = CacheControl {
            public: true,
            max_age: Some(60),
            immutable: true,
            s_maxage: Some(10),
            stale_if_error: Some(300),
            ..CacheControl::default()
        };
        assert_eq!(control, expected);
        let control = parse(&["no-store,no-cache,private,must-revalidate,proxy-revalidate,no-transform"]);
        assert!(control.no_store && control.no_cache && control.private && control.no_transform);
        assert!(control.must_revalidate && control.proxy_revalidate && !control.must_understand);
        assert!(parse(&["must-understand"]).must_understand);
        assert_eq!(parse(&["stale-while-revalidate=5"]).stale_while_revalidate, Some(5));
        assert_eq!(parse(&[]), CacheControl::default());
    }

    #[test]
    fn the_cautious_reading_wins() {
        assert_eq!(parse(&["max-age=60, max-age=5"]).max_age, Some(5));
        for text in ["max-age=-1", "max-age=abc", "max-age", "max-age=", "max-age=1.5", "max-age=60, max-age=x"] {
            assert_eq!(parse(&[text]).max_age, Some(0), "{text}");
        }
        assert_eq!(parse(&["max-age=99999999999999999999999"]).max_age, Some(MAX_SECONDS));
        // Qualified forms count as unqualified ones, and hide nothing behind their quotes.
        let control = parse(&["private=\"a, max-age=1\", no-cache=\"b\\\", public\", s-maxage=7"]);
        assert!(control.private && control.no_cache && !control.public);
        assert_eq!((control.max_age, control.s_maxage), (None, Some(7)));
        assert!(!parse(&["xno-store"]).no_store);
    }

    #[test]
    fn lifetimes() {
        let date = 784_111_777;
        let expires = Some(b"Sun, 06 Nov 1994 08:50:37 GMT".as_slice());
        assert_eq!(freshness_lifetime(&parse(&["max-age=5, s-maxage=9"]), expires, date), Some(9));
        assert_eq!(freshness_lifetime(&parse(&["max-age=5"]), expires, date), Some(5));
        assert_eq!(freshness_lifetime(&parse(&[]), expires, date), Some(60));
        assert_eq!(freshness_lifetime(&parse(&[]), expires, date + 61), Some(0));
        assert_eq!(freshness_lifetime(&parse(&[]), Some(b"0"), date), Some(0));
        assert_eq!(freshness_lifetime(&parse(&["public"]), None, date), None);
    }

    #[test]
    fn ages() {
        assert_eq!(initial_age(None, None, 100, 100), 0);
        assert_eq!(initial_age(None, Some(90), 100, 101), 11);
        assert_eq!(initial_age(Some(30), Some(90), 100, 102), 32);
        // A Date from a clock ahead of ours, and a clock of ours that was set back.
        assert_eq!(initial_age(Some(3), Some(500), 100, 100), 3);
        assert_eq!(initial_age(Some(u64::MAX), None, 100, 200), u64::MAX);
        assert_eq!(initial_age(None, None, 200, 100), 0);
        assert_eq!(parse_seconds(b"12"), Some(12));
        assert_eq!(parse_seconds(b"-1"), None);
        for (value, age) in
            [("7", Some(7)), ("7200, 0", Some(7200)), ("0,7200", Some(0)), ("7;a=b", None), ("1.0", None)]
        {
            assert_eq!(parse_age(value.as_bytes()), age, "{value}");
        }
        assert_eq!(parse_age(b"99999999999"), Some(MAX_SECONDS));
    }
}
