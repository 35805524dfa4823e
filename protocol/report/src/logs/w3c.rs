//! W3C extended log files (working draft WD-logfile-960323): directives begin with `#`; `#Fields` names the fields of the lines below it,
//! and `#Date` the day where no field does. Times are GMT, as the draft has it.

use super::line::Fields;
use super::time;
use super::{Entry, Reason, hit, number, present, status, target};

/// Fields of a line; more are not looked at.
const MAX_FIELDS: usize = 128;

/// What the directives have said.
#[derive(Debug, Clone, Default)]
pub(super) struct Directives {
    fields: Vec<Field>,
    /// Days since 1970.
    day: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Date,
    Time,
    Host,
    /// Path and query together, perhaps with the host.
    Uri,
    Stem,
    Query,
    Status,
    Bytes,
    Client,
    Cache,
    Other,
}

impl Field {
    /// Of the draft, and of CloudFront, IIS and Azure.
    fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "date" => Self::Date,
            "time" => Self::Time,
            // CloudFront's cs(Host) is its own name; x-host-header is what the viewer asked for.
            "cs-host" | "cs(host)" | "x-host-header" => Self::Host,
            "cs-uri" => Self::Uri,
            "cs-uri-stem" => Self::Stem,
            "cs-uri-query" => Self::Query,
            "sc-status" => Self::Status,
            "sc-bytes" => Self::Bytes,
            "c-ip" => Self::Client,
            "x-edge-result-type" | "x-cache" | "s-cache" | "cs-cache" | "sc-cache" => Self::Cache,
            _ => Self::Other,
        }
    }
}

impl Directives {
    /// Takes a line that begins with `#`.
    pub(super) fn read(&mut self, line: &str) {
        let Some((name, value)) = line.trim_start_matches('#').split_once(':') else { return };
        if name.trim().eq_ignore_ascii_case("fields") {
            self.fields = value.split_ascii_whitespace().take(MAX_FIELDS).map(Field::named).collect();
        } else if name.trim().eq_ignore_ascii_case("date") {
            self.day = value.trim().get(..10).and_then(time::dashed).or(self.day);
        }
    }

    pub(super) fn entry<'a>(&self, line: &'a str) -> Result<Entry<'a>, Reason> {
        if self.fields.is_empty() {
            return Err("no #Fields has come before it");
        }
        let (mut day, mut clock, mut host, mut asked) = (self.day, None, None, None);
        let (mut query, mut code, mut bytes, mut client, mut cache) = (None, None, None, None, None);
        let mut values = Fields::new(line);
        for field in &self.fields {
            let value = values.next().ok_or("it has fewer fields than #Fields names")?;
            match field {
                Field::Date => day = Some(time::dashed(value).ok_or("its date is not as in 2001-11-12")?),
                Field::Time => clock = Some(value),
                Field::Host => host = present(value).or(host),
                Field::Uri | Field::Stem => asked = Some(value),
                Field::Query => query = present(value),
                Field::Status => code = Some(status(value)?),
                Field::Bytes => bytes = Some(number(value, "its sc-bytes are no number")?),
                Field::Client => client = value.parse().ok(),
                Field::Cache => cache = hit(value).or(cache),
                Field::Other => {}
            }
        }
        let day = day.ok_or("no day: neither a field `date` nor #Date says it")?;
        let clock = clock.ok_or("#Fields has no `time`")?;
        let asked = asked.ok_or("#Fields has neither `cs-uri-stem` nor `cs-uri`")?;
        let (in_uri, path, own_query) = target(asked).ok_or("its URI is none")?;
        Ok(Entry {
            time: time::at(day, clock).ok_or("its time is not as in 12:34:56")?,
            host: in_uri.or(host),
            path,
            query: own_query.or(query),
            status: code.unwrap_or(0),
            bytes: bytes.ok_or("#Fields has no `sc-bytes`")?,
            client,
            hit: cache,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Directives {
        let mut directives = Directives::default();
        lines.iter().for_each(|line| directives.read(line));
        directives
    }

    #[test]
    fn cloudfront_by_tabs() {
        // Fields and values as in its developer guide, "Standard logging".
        let fields = "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) \
                      cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol";
        let line = "2019-12-04\t21:02:31\tLAX1\t392\t192.0.2.100\tGET\td111111abcdef8.cloudfront.net\t/index.html\t200\t-\t\
                    Mozilla/5.0%20(Windows)\t-\t-\tHit\tSOX4xwn4XV6Q4rgb7XiVGOHms_BGlTAC4KyHmureZmBNrjGdRLiNIQ==\tcdn.example.com\thttps";
        let entry = read(&["#Version: 1.0", fields]).entry(line).unwrap();
        let expected = Entry {
            time: 1_575_493_351,
            host: Some("cdn.example.com"),
            path: "/index.html",
            query: None,
            status: 200,
            bytes: 392,
            client: Some("192.0.2.100".parse().unwrap()),
            hit: Some(true),
        };
        assert_eq!(entry, expected);
    }

    #[test]
    fn the_drafts_own_example_and_its_day() {
        let with_bytes = ["#Version: 1.0", "#Date: 1996-01-12 00:00:00", "#Fields: time cs-method cs-uri sc-bytes"];
        let entry = read(&with_bytes).entry("00:34:23 GET /foo/bar.html 2000").unwrap();
        assert_eq!((entry.time, entry.path, entry.bytes, entry.status), (821_406_863, "/foo/bar.html", 2000, 0));
        let by_url = read(&with_bytes).entry("12:21 GET http://h/a?b 1").unwrap();
        assert_eq!((by_url.host, by_url.path, by_url.query), (Some("h"), "/a", Some("b")));
    }

    #[test]
    fn what_is_missing_is_named() {
        let of = |fields: &str, line: &'static str| read(&[fields]).entry(line).unwrap_err();
        assert!(of("", "a").contains("#Fields"));
        assert!(of("#Fields: time cs-uri sc-bytes", "12:00:00 / 1").contains("day"));
        assert!(of("#Fields: date cs-uri sc-bytes", "2020-01-01 / 1").contains("time"));
        assert!(of("#Fields: date time sc-bytes", "2020-01-01 12:00:00 1").contains("cs-uri"));
        assert!(of("#Fields: date time cs-uri", "2020-01-01 12:00:00 /").contains("sc-bytes"));
        assert!(of("#Fields: date time cs-uri sc-bytes", "2020-01-01 12:00:00 /").contains("fewer"));
    }
}
