//! nginx's access logs (`ngx_http_log_module`), in the format `combined` or a `log_format` of one's own.
//!
//! A format is text with variables in it. A variable's value goes up to the text that follows it: with nginx's escaping (`default`, where a
//! quote is `\x22`) that is where it ends.

use super::time::{self, Zone};
use super::{Entry, Measure, Reason, hit, number, present, status, target};

/// nginx's own predefined format.
const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// Longest format.
const MAX_FORMAT: usize = 4096;
/// Most variables in it.
const MAX_VARIABLES: usize = 64;

/// A format that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is too long.
    #[error("the format has more than {MAX_FORMAT} bytes or {MAX_VARIABLES} variables")]
    Long,
    /// Where one value ends and the next begins could not be told.
    #[error(
        "nothing stands between `${0}` and the variable after it, so nobody can tell where the one ends; put a space there"
    )]
    Adjacent(String),
    /// `$` without a name.
    #[error("at byte {0}: a `$` without a name; write $name or ${{name}}")]
    Name(usize),
    /// Something that must be there is not.
    #[error("the format has no {0}")]
    Missing(&'static str),
}

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFormat {
    /// What comes before the first variable.
    start: String,
    parts: Vec<Part>,
    measure: Measure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    variable: Variable,
    /// What follows it; empty only behind the last one.
    until: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    TimeLocal,
    TimeIso,
    Msec,
    Host,
    Request,
    /// Path and query.
    RequestUri,
    Uri,
    Args,
    Status,
    BodyBytes,
    Bytes,
    Client,
    Cache,
    Other,
}

impl Variable {
    fn named(name: &str) -> Self {
        match name {
            "time_local" => Self::TimeLocal,
            "time_iso8601" => Self::TimeIso,
            "msec" => Self::Msec,
            "host" | "http_host" | "server_name" => Self::Host,
            "request" => Self::Request,
            "request_uri" => Self::RequestUri,
            "uri" | "document_uri" => Self::Uri,
            "args" | "query_string" => Self::Args,
            "status" => Self::Status,
            "body_bytes_sent" => Self::BodyBytes,
            "bytes_sent" => Self::Bytes,
            "remote_addr" | "realip_remote_addr" => Self::Client,
            "upstream_cache_status" => Self::Cache,
            _ => Self::Other,
        }
    }
}

impl Default for LogFormat {
    /// `combined`. It has no host: what is asked for must be told otherwise.
    fn default() -> Self {
        Self::compile(COMBINED).unwrap_or(Self { start: String::new(), parts: Vec::new(), measure: Measure::Body })
    }
}

impl LogFormat {
    /// Reads a format as it stands in `log_format`, without the quotes around it.
    ///
    /// # Errors
    /// What is wrong with it, or missing.
    pub fn compile(format: &str) -> Result<Self, FormatError> {
        if format.len() > MAX_FORMAT {
            return Err(FormatError::Long);
        }
        let mut pieces = format.split('$');
        let start = pieces.next().unwrap_or_default().to_owned();
        let mut at = start.len();
        let mut parts: Vec<Part> = Vec::new();
        let mut last = "";
        for piece in pieces {
            let braced = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let (name, until) = braced.unwrap_or_else(|| {
                let end = piece.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'_'));
                piece.split_at(end.unwrap_or(piece.len()))
            });
            if name.is_empty() {
                return Err(FormatError::Name(at));
            }
            at += piece.len() + 1;
            if parts.last().is_some_and(|part| part.until.is_empty()) {
                return Err(FormatError::Adjacent(last.to_owned()));
            }
            last = name;
            parts.push(Part { variable: Variable::named(name), until: until.to_owned() });
        }
        if parts.len() > MAX_VARIABLES {
            return Err(FormatError::Long);
        }
        let has = |any: &[Variable]| parts.iter().any(|part| any.contains(&part.variable));
        if !has(&[Variable::TimeLocal, Variable::TimeIso, Variable::Msec]) {
            return Err(FormatError::Missing("$time_local, $time_iso8601 or $msec"));
        }
        if !has(&[Variable::Request, Variable::RequestUri, Variable::Uri]) {
            return Err(FormatError::Missing("$request, $request_uri or $uri"));
        }
        if !has(&[Variable::BodyBytes, Variable::Bytes]) {
            return Err(FormatError::Missing("$body_bytes_sent or $bytes_sent"));
        }
        // Where both are there, what players count goes first.
        let measure = if has(&[Variable::BodyBytes]) { Measure::Body } else { Measure::Wire };
        Ok(Self { start, parts, measure })
    }

    /// What its bytes are of.
    pub(super) fn measure(&self) -> Measure {
        self.measure
    }

    pub(super) fn entry<'a>(&self, line: &'a str, zone: Zone) -> Result<Entry<'a>, Reason> {
        const OTHER: Reason = "it is not of the format";
        let mut rest = line.strip_prefix(&*self.start).ok_or(OTHER)?;
        let (mut time, mut host, mut asked, mut query) = (None, None, None, None);
        let (mut code, mut bytes, mut client, mut cache) = (0, None, None, None);
        for Part { variable, until } in &self.parts {
            let (value, after) = if until.is_empty() { (rest, "") } else { rest.split_once(&**until).ok_or(OTHER)? };
            rest = after;
            match variable {
                Variable::TimeLocal => time = Some(time::local(value)?),
                Variable::TimeIso => time = Some(time::iso(value, zone)?),
                Variable::Msec => time = Some(time::seconds(value)?),
                Variable::Host => host = present(value).or(host),
                Variable::Request => {
                    let (_method, target) = value.split_once(' ').ok_or("its request is no request line")?;
                    asked = Some(target.split(' ').next().unwrap_or_default());
                }
                Variable::RequestUri => asked = Some(value),
                Variable::Uri => asked = asked.or(Some(value)),
                Variable::Args => query = present(value),
                Variable::Status => code = status(value)?,
                Variable::BodyBytes if self.measure == Measure::Body => bytes = Some(value),
                Variable::Bytes if self.measure == Measure::Wire => bytes = Some(value),
                Variable::Client => client = value.parse().ok(),
                Variable::Cache => cache = hit(value),
                Variable::BodyBytes | Variable::Bytes | Variable::Other => {}
            }
        }
        let (in_target, path, own_query) = asked.and_then(target).ok_or("its path does not begin with /")?;
        Ok(Entry {
            time: time.ok_or(OTHER)?,
            host: in_target.or(host),
            path,
            query: own_query.or(query),
            status: code,
            bytes: number(bytes.ok_or(OTHER)?, "its bytes are no number")?,
            client,
            hit: cache,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combined() {
        // Apache's documentation has this line for the format that nginx calls combined.
        let line = "127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] \"GET /apache_pb.gif HTTP/1.0\" 200 2326 \
                    \"http://www.example.com/start.html\" \"Mozilla/4.08 [en] (Win98; I ;Nav)\"";
        let expected = Entry {
            time: 971_211_336,
            host: None,
            path: "/apache_pb.gif",
            query: None,
            status: 200,
            bytes: 2326,
            client: Some("127.0.0.1".parse().unwrap()),
            hit: None,
        };
        let format = LogFormat::default();
        assert_eq!((format.entry(line, Zone::UTC), format.measure()), (Ok(expected), Measure::Body));
        // A quote is escaped by nginx, so it ends nothing.
        let escaped = line.replace("apache_pb.gif", "a\\x22b?q=\\x22");
        let entry = format.entry(&escaped, Zone::UTC).unwrap();
        assert_eq!((entry.path, entry.query), ("/a\\x22b", Some("q=\\x22")));
    }

    #[test]
    fn a_format_of_ones_own() {
        let format = "$http_x_forwarded_for|${remote_addr}|$time_iso8601|$host|$request_method $uri?$args|$status|$bytes_sent|\
                      $upstream_cache_status";
        let format = LogFormat::compile(format).unwrap();
        assert_eq!(format.measure(), Measure::Wire);
        let line = "-|2001:db8::1|2018-05-01T10:00:00+08:00|cdn.example.com|GET /a/b.ts?k=v|206|1234|HIT";
        let entry = format.entry(line, Zone::UTC).unwrap();
        assert_eq!((entry.time, entry.host, entry.path), (1_525_140_000, Some("cdn.example.com"), "/a/b.ts"));
        assert_eq!((entry.query, entry.status, entry.bytes, entry.hit), (Some("k=v"), 206, 1234, Some(true)));
        assert_eq!(entry.client, Some("2001:db8::1".parse().unwrap()));
        let both = LogFormat::compile("$msec $host $request_uri $bytes_sent $body_bytes_sent").unwrap();
        let entry = both.entry("1525140000.500 h /a?b 200 100", Zone::UTC).unwrap();
        assert_eq!((entry.time, entry.bytes, entry.query), (1_525_140_000, 100, Some("b")));
    }

    #[test]
    fn formats_that_cannot_be_used_say_why() {
        let refused = |format: &str| LogFormat::compile(format).unwrap_err().to_string();
        assert!(refused("$time_local$request $bytes_sent").contains("$time_local"));
        assert!(refused("$time_local $ $bytes_sent").contains("at byte 12"));
        assert!(refused("$request $bytes_sent").contains("$time_iso8601"));
        assert!(refused("$msec $bytes_sent").contains("$request_uri"));
        assert!(refused("$msec $request").contains("$body_bytes_sent"));
        assert!(refused(&"x".repeat(5000)).contains("4096"));
    }

    #[test]
    fn lines_of_another_format_are_bad() {
        let format = LogFormat::default();
        for bad in [
            "",
            "-",
            "127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"-\" 400 0 \"-\" \"-\"",
            "a - b [c] \"d e\" 200 1 \"\" \"\"",
        ] {
            assert!(format.entry(bad, Zone::UTC).is_err(), "{bad}");
        }
    }
}
