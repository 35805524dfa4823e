//! Vary (RFC 9111 section 4.1): which request headers select among stored responses.

use crate::grammar::{elements, trim};

/// Names that a response may vary on; one with more varies on everything.
const NAMES_MAX: usize = 16;

/// What a response varies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// Nothing in the request.
    Nothing,
    /// These request headers: lower case, sorted, each once.
    On(Vec<String>),
    /// Things that no header tells: it answers no other request.
    Everything,
}

impl Vary {
    /// Reads the values of all Vary lines.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vary {
        let mut names = Vec::new();
        for element in lines.into_iter().flat_map(elements) {
            // A name that is no UTF-8 is no header's name either: nothing is known of such a response.
            match std::str::from_utf8(element) {
                Ok("*") | Err(_) => return Vary::Everything,
                Ok(name) => names.push(name.to_ascii_lowercase()),
            }
        }
        names.sort_unstable();
        names.dedup();
        match names.len() {
            0 => Vary::Nothing,
            1..=NAMES_MAX => Vary::On(names),
            _ => Vary::Everything,
        }
    }
}

/// The value of a header with these lines in the form in which two requests are compared: joined, without the white space
/// around list elements, and of Accept-Encoding only what origins choose by. `None` without a line.
pub fn normal_value<'a>(name: &str, lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut lines = lines.into_iter().peekable();
    lines.peek()?;
    if name.eq_ignore_ascii_case("accept-encoding") {
        return Some(encodings(lines).as_bytes().to_vec());
    }
    let mut value = Vec::new();
    for (nth, element) in lines.flat_map(|line| line.split(|&byte| byte == b',')).enumerate() {
        if nth > 0 {
            value.push(b',');
        }
        value.extend_from_slice(trim(element));
    }
    Some(value)
}

/// Every client lists its codings differently; origins choose among these.
fn encodings<'a>(lines: impl Iterator<Item = &'a [u8]>) -> &'static str {
    let (mut brotli, mut gzip) = (false, false);
    for element in lines.flat_map(elements) {
        let mut parts = element.split(|&byte| byte == b';').map(trim);
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let weight = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| {
                matches!(weight, [b'0'] | [b'0', b'.', ..]) && !weight.iter().any(|b| (b'1'..=b'9').contains(b))
            })
        });
        if coding.eq_ignore_ascii_case(b"br") {
            brotli = !refused;
        } else if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip = !refused;
        }
    }
    match (brotli, gzip) {
        (true, true) => "br, gzip",
        (true, false) => "br",
        (false, true) => "gzip",
        (false, false) => "identity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vary(lines: &[&str]) -> Vary {
        Vary::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn names_over_several_lines() {
        assert_eq!(vary(&["Foo, bar", " ,BAR"]), Vary::On(vec!["bar".to_owned(), "foo".to_owned()]));
        assert_eq!(vary(&[]), Vary::Nothing);
        assert_eq!(vary(&["", " , "]), Vary::Nothing);
        for star in [&["*"][..], &["*, *"], &["a", ", *"], &["*, foo"], &["foo, *"]] {
            assert_eq!(vary(star), Vary::Everything, "{star:?}");
        }
        assert_eq!(Vary::parse([b"\xff".as_slice()]), Vary::Everything);
        let many: Vec<String> = (0..=NAMES_MAX).map(|nth| format!("x-{nth}")).collect();
        assert!(matches!(vary(&[&many[1..].join(",")]), Vary::On(names) if names.len() == NAMES_MAX));
        assert_eq!(vary(&[&many.join(",")]), Vary::Everything);
    }

    fn normal(name: &str, lines: &[&str]) -> Option<String> {
        let value = normal_value(name, lines.iter().map(|line| line.as_bytes()));
        value.map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn values_are_compared_without_their_spelling() {
        assert_eq!(normal("foo", &[]), None);
        assert_eq!(normal("foo", &[""]).as_deref(), Some(""));
        assert_eq!(normal("foo", &["1 ,  2", "3"]), normal("foo", &["1,2,3"]));
        assert_ne!(normal("foo", &["1,2"]), normal("foo", &["2,1"]));
        assert_ne!(normal("foo", &["a"]), normal("foo", &["A"]));
    }

    #[test]
    fn codings_are_few() {
        for (lines, wanted) in [
            (&["gzip, deflate, br"][..], "br, gzip"),
            (&["br;q=1.0", "GZIP;q=0.5"], "br, gzip"),
            (&["gzip;q=0, br"], "br"),
            (&["x-gzip;q=0.001"], "gzip"),
            (&["gzip; q=0.000"], "identity"),
            (&["deflate, zstd"], "identity"),
            (&[""], "identity"),
        ] {
            assert_eq!(normal("Accept-Encoding", lines).as_deref(), Some(wanted), "{lines:?}");
        }
    }
}
