//! What to ask for, and what must come back.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;

/// Stands in a URL for a number of [`DIGITS`] digits.
pub const PLACEHOLDER: &str = "{}";

/// Digits of a number in a URL, leading zeros included.
pub const DIGITS: usize = 8;

/// One URL to ask for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole request, ready to send.
    pub request: Vec<u8>,
    /// The path and query, for messages.
    pub path: String,
    /// Where in the request a number is to be written, zeros until then.
    pub digits: Option<Range<usize>>,
}

/// Where to send the requests, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The server.
    pub server: SocketAddr,
    /// The server's host, where the URLs are `https:`.
    pub tls: Option<String>,
    /// Asked for in turn, by every connection.
    pub targets: Vec<Target>,
}

/// Why the arguments make no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Nothing to ask for.
    #[error("no URL was given; name at least one, like http://127.0.0.1:8080/demo/index.m3u8")]
    Empty,
    /// Not a URL this program can ask for.
    #[error("`{0}` is not a URL of the form http://host:port/path or https://host:port/path")]
    NotHttp(String),
    /// One run loads one server.
    #[error("`{other}` is another server than `{first}`; one run loads one server")]
    TwoServers {
        /// Authority of the first URL.
        first: String,
        /// The URL that differs.
        other: String,
    },
    /// The name of the server has no address.
    #[error("the server `{0}` has no address: {1}")]
    NoAddress(String, std::io::Error),
    /// A header to add is not `Name: value`.
    #[error("`{0}` is not a header of the form `Name: value`")]
    Header(String),
}

impl Plan {
    /// Makes a plan from URLs of one server and from headers to add to each request.
    pub fn new(urls: &[String], headers: &[String]) -> Result<Self, PlanError> {
        let mut extra = String::new();
        for header in headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                return Err(PlanError::Header(header.clone()));
            }
            extra.push_str(header);
            extra.push_str("\r\n");
        }
        let mut server: Option<(bool, &str)> = None;
        let mut targets = Vec::with_capacity(urls.len());
        for url in urls {
            let (tls, authority, path) = split(url).ok_or_else(|| PlanError::NotHttp(url.clone()))?;
            let first = *server.get_or_insert((tls, authority));
            if first != (tls, authority) {
                return Err(PlanError::TwoServers { first: first.1.to_owned(), other: url.clone() });
            }
            let digits = path.find(PLACEHOLDER).map(|at| ("GET ".len() + at, "GET ".len() + at + DIGITS));
            let digits = digits.map(|(start, end)| start..end);
            let asked = path.replacen(PLACEHOLDER, &"0".repeat(DIGITS), 1);
            let request = format!("GET {asked} HTTP/1.1\r\nHost: {authority}\r\n{extra}\r\n").into_bytes();
            targets.push(Target { request, path: path.to_owned(), digits });
        }
        let (tls, server) = server.ok_or(PlanError::Empty)?;
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
        let address = server
            .to_socket_addrs()
            .and_then(|mut all| all.next().ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(|error| PlanError::NoAddress(server.to_owned(), error))?;
        Ok(Self { server: address, tls: tls.then(|| host.to_owned()), targets })
    }
}

/// Whether by TLS, authority and path of a URL with an explicit port.
fn split(url: &str) -> Option<(bool, &str, &str)> {
    let (tls, rest) = match url.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("http://")?),
    };
    let slash = rest.find('/')?;
    let (authority, path) = rest.split_at(slash);
    let clean = !url.contains(|c: char| c.is_ascii_control() || c == ' ' || c == '#');
    (clean && authority.contains(':')).then_some((tls, authority, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(urls: &[&str], headers: &[&str]) -> Result<Plan, PlanError> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Plan::new(&own(urls), &own(headers))
    }

    #[test]
    fn requests_carry_host_query_and_headers() {
        let plan = plan(&["http://127.0.0.1:80/a?t=1"], &["Range: bytes=0-1"]).unwrap();
        assert_eq!((plan.server, plan.tls), ("127.0.0.1:80".parse().unwrap(), None));
        assert_eq!(plan.targets[0].request, b"GET /a?t=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nRange: bytes=0-1\r\n\r\n");
    }

    #[test]
    fn a_number_has_its_place_in_the_request() {
        let target = plan(&["http://127.0.0.1:80/a/{}.ts"], &[]).unwrap().targets.remove(0);
        assert!(target.request.starts_with(b"GET /a/00000000.ts HTTP/1.1\r\n"));
        assert_eq!(&target.request[target.digits.unwrap()], b"00000000");
        assert_eq!(plan(&["http://127.0.0.1:80/a"], &[]).unwrap().targets[0].digits, None);
    }

    #[test]
    fn https_names_the_host_to_expect() {
        assert_eq!(plan(&["https://[::1]:443/a"], &[]).unwrap().tls.as_deref(), Some("::1"));
        assert_eq!(plan(&["https://localhost:443/a"], &[]).unwrap().tls.as_deref(), Some("localhost"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        assert!(matches!(plan(&[], &[]), Err(PlanError::Empty)));
        for bad in ["ftp://127.0.0.1:1/", "http://127.0.0.1:1", "http://127.0.0.1/x", "http://127.0.0.1:1/a b"] {
            assert!(matches!(plan(&[bad], &[]), Err(PlanError::NotHttp(_))), "{bad}");
        }
        for other in ["http://127.0.0.1:2/", "https://127.0.0.1:1/"] {
            assert!(matches!(plan(&["http://127.0.0.1:1/", other], &[]), Err(PlanError::TwoServers { .. })));
        }
        assert!(matches!(plan(&["http://127.0.0.1:1/"], &["x"]), Err(PlanError::Header(_))));
    }
}
