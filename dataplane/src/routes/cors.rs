//! Cross-origin answers (Fetch standard, section "CORS protocol"; Resource Timing for Timing-Allow-Origin).

use std::collections::{HashMap, HashSet};

use shoal_link::access::names::{host_and_port, parents};
use shoal_link::channel::CorsPolicy;

use super::error::FieldError;

/// Longest Access-Control-Request-Headers that is echoed.
const ECHO_MAX: usize = 4096;

/// A channel's cross-origin rules, with all that can be written ahead written ahead.
#[derive(Debug)]
pub struct Cors {
    enabled: bool,
    sites: Sites,
    /// Lines of every answer: what scripts may read.
    expose: Vec<u8>,
    /// Lines of an answer that any site may use, complete.
    any_lines: Vec<u8>,
    /// Lines of a preflight's answer that do not depend on who asks.
    preflight: Vec<u8>,
    echo_headers: bool,
    credentials: bool,
    timing: bool,
}

/// Whom the answer may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowOrigin<'a> {
    /// `*`
    Any,
    /// The caller's own origin, as it came.
    Caller(&'a [u8]),
}

/// Origins of callers: all, or those listed.
#[derive(Debug, Default)]
struct Sites {
    any: bool,
    exact: HashSet<Box<str>>,
    /// For `scheme://*.host:port`: the schemes by `host:port`.
    below: HashMap<Box<str>, Vec<Box<str>>>,
}

impl Cors {
    pub(super) fn compile(policy: &CorsPolicy) -> Result<Self, FieldError> {
        let mut sites = Sites::default();
        for (at, origin) in policy.allow_origins.iter().enumerate() {
            sites
                .insert(origin)
                .map_err(|remedy| FieldError::new(format!("cors.allow_origins[{at}]"), origin, remedy))?;
        }
        check_names("cors.expose_headers", &policy.expose_headers)?;
        check_names("cors.allow_headers", &policy.allow_headers)?;

        let mut expose = Vec::new();
        if !policy.expose_headers.is_empty() {
            line(&mut expose, "Access-Control-Expose-Headers", policy.expose_headers.join(", ").as_bytes());
        }
        let mut any_lines = Vec::new();
        line(&mut any_lines, "Access-Control-Allow-Origin", b"*");
        any_lines.extend_from_slice(&expose);
        if policy.timing {
            line(&mut any_lines, "Timing-Allow-Origin", b"*");
        }
        let echo_headers = policy.allow_headers.iter().any(|name| name == "*");
        let mut preflight = Vec::new();
        line(&mut preflight, "Access-Control-Allow-Methods", b"GET, HEAD, OPTIONS");
        line(&mut preflight, "Access-Control-Max-Age", policy.max_age_s.to_string().as_bytes());
        if !echo_headers && !policy.allow_headers.is_empty() {
            line(&mut preflight, "Access-Control-Allow-Headers", policy.allow_headers.join(", ").as_bytes());
        }
        Ok(Self {
            enabled: policy.enabled,
            sites,
            expose,
            any_lines,
            preflight,
            echo_headers,
            credentials: policy.allow_credentials,
            timing: policy.timing,
        })
    }

    /// Whether answers carry CORS lines of shoal's own; else those of the channel's origin may pass.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whom the answer to a request with this Origin field may name, if anybody.
    pub fn allow_origin<'a>(&self, origin: Option<&'a [u8]>) -> Option<AllowOrigin<'a>> {
        if !self.enabled {
            return None;
        }
        if self.sites.any && !self.credentials {
            return Some(AllowOrigin::Any);
        }
        // To reflect `null` would let in every sandboxed frame and local file.
        let origin = origin.filter(|origin| self.sites.covers(origin))?;
        Some(AllowOrigin::Caller(origin))
    }

    /// Appends the header lines of an answer, each with its CRLF, to a head under way. They are the same for every
    /// status, and belong on refusals too, so that a player can read why.
    pub fn response_lines(&self, origin: Option<&[u8]>, out: &mut Vec<u8>) {
        match self.allow_origin(origin) {
            Some(AllowOrigin::Any) => out.extend_from_slice(&self.any_lines),
            Some(AllowOrigin::Caller(caller)) => {
                self.caller_lines(caller, out);
                out.extend_from_slice(&self.expose);
                if self.timing {
                    line(out, "Timing-Allow-Origin", caller);
                }
                line(out, "Vary", b"Origin");
            }
            // A cache must not give this answer to a site that would get another.
            None if self.enabled => line(out, "Vary", b"Origin"),
            None => {}
        }
    }

    /// Appends the header lines of the answer (204) to a preflight: an OPTIONS request with
    /// Access-Control-Request-Method. `headers` is its Access-Control-Request-Headers field.
    pub fn preflight_lines(&self, origin: Option<&[u8]>, headers: Option<&[u8]>, out: &mut Vec<u8>) {
        if !self.enabled {
            return;
        }
        let mut vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers".as_bytes();
        match self.allow_origin(origin) {
            None => return line(out, "Vary", vary),
            Some(AllowOrigin::Any) => {
                line(out, "Access-Control-Allow-Origin", b"*");
                vary = b"Access-Control-Request-Method, Access-Control-Request-Headers";
            }
            Some(AllowOrigin::Caller(caller)) => self.caller_lines(caller, out),
        }
        out.extend_from_slice(&self.preflight);
        if self.echo_headers
            && let Some(headers) = headers.filter(|headers| is_name_list(headers))
        {
            line(out, "Access-Control-Allow-Headers", headers);
        }
        line(out, "Vary", vary);
    }

    fn caller_lines(&self, caller: &[u8], out: &mut Vec<u8>) {
        line(out, "Access-Control-Allow-Origin", caller);
        if self.credentials {
            line(out, "Access-Control-Allow-Credentials", b"true");
        }
    }
}

impl Sites {
    fn insert(&mut self, origin: &str) -> Result<(), &'static str> {
        const REMEDY: &str =
            "is neither * nor scheme://host[:port], as in https://www.example.com or https://*.example.com";
        if origin == "*" {
            self.any = true;
            return Ok(());
        }
        let origin = origin.to_ascii_lowercase();
        let (scheme, authority) = origin.split_once("://").ok_or(REMEDY)?;
        let (below, authority) = match authority.strip_prefix("*.") {
            Some(authority) => (true, authority),
            None => (false, authority),
        };
        let scheme_ok =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !scheme_ok || host_and_port(authority).is_none() {
            return Err(REMEDY);
        }
        if below {
            self.below.entry(authority.into()).or_default().push(scheme.into());
        } else {
            self.exact.insert(origin.into());
        }
        Ok(())
    }

    /// Browsers write origins in lower case and without the scheme's own port, so do not try to be clever.
    fn covers(&self, origin: &[u8]) -> bool {
        let Some((origin, scheme, authority)) = std::str::from_utf8(origin)
            .ok()
            .and_then(|origin| origin.split_once("://").map(|(scheme, authority)| (origin, scheme, authority)))
        else {
            return false;
        };
        if self.any {
            return host_and_port(authority).is_some();
        }
        self.exact.contains(origin)
            || (!self.below.is_empty()
                && host_and_port(authority).is_some()
                && parents(authority)
                    .filter_map(|parent| self.below.get(parent))
                    .any(|schemes| schemes.iter().any(|known| **known == *scheme)))
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn check_names(field: &str, names: &[String]) -> Result<(), FieldError> {
    match names.iter().position(|name| name.is_empty() || !name.bytes().all(is_token)) {
        Some(at) => {
            let value = names.get(at).map_or("", |name| name);
            Err(FieldError::new(format!("{field}[{at}]"), value, "is no header name; write one such as `Age`, or *"))
        }
        None => Ok(()),
    }
}

/// Whether a list may be sent back as it came.
fn is_name_list(value: &[u8]) -> bool {
    value.len() <= ECHO_MAX && value.iter().all(|&byte| is_token(byte) || b", ".contains(&byte))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(change: impl FnOnce(&mut CorsPolicy)) -> Cors {
        let mut policy = CorsPolicy::default();
        change(&mut policy);
        Cors::compile(&policy).unwrap()
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn response(cors: &Cors, origin: &str) -> String {
        let mut out = Vec::new();
        cors.response_lines((origin != "-").then_some(origin.as_bytes()), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn preflight(cors: &Cors, origin: &str, headers: Option<&str>) -> String {
        let mut out = Vec::new();
        cors.preflight_lines(Some(origin.as_bytes()), headers.map(str::as_bytes), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn by_default_every_site_may_read() {
        let cors = cors(|_| {});
        let lines = "Access-Control-Allow-Origin: *\r\n\
            Access-Control-Expose-Headers: Content-Length, Content-Range, Accept-Ranges, Age, Date, ETag, Server-Timing\r\n\
            Timing-Allow-Origin: *\r\n";
        for origin in ["https://a.test", "-", "null"] {
            assert_eq!(response(&cors, origin), lines);
        }
        assert_eq!(
            preflight(&cors, "https://a.test", Some("range, x-any")),
            "Access-Control-Allow-Origin: *\r\n\
             Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
             Access-Control-Max-Age: 86400\r\n\
             Access-Control-Allow-Headers: range, x-any\r\n\
             Vary: Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        );
        assert!(!preflight(&cors, "https://a.test", None).contains("Allow-Headers"));
    }

    #[test]
    fn switched_off_it_is_silent() {
        let cors = cors(|policy| policy.enabled = false);
        assert_eq!((response(&cors, "https://a.test"), preflight(&cors, "https://a.test", None)), Default::default());
        assert_eq!((cors.enabled(), cors.allow_origin(Some(b"https://a.test"))), (false, None));
    }

    #[test]
    fn listed_sites_are_named_and_others_are_not() {
        let cors = cors(|policy| {
            policy.allow_origins = list(&["https://one.test", "https://*.Two.test:8443", "http://three.test:81"]);
            policy.expose_headers.clear();
            policy.allow_headers = list(&["Range", "X-Shoal-Ticket"]);
        });
        for good in ["https://one.test", "https://a.two.test:8443", "https://a.b.two.test:8443", "http://three.test:81"]
        {
            assert_eq!(cors.allow_origin(Some(good.as_bytes())), Some(AllowOrigin::Caller(good.as_bytes())), "{good}");
        }
        for bad in [
            "http://one.test",
            "https://one.test:444",
            "https://two.test:8443",
            "https://a.two.test",
            "null",
            "",
            "*",
            "http://a.two.test:8443",
            "https://one.test.evil.test",
            "https://evil.test/https://a.two.test:8443",
            "https://evil/.two.test:8443",
            "https://one.test/",
            "https://*.two.test:8443",
        ] {
            assert_eq!(response(&cors, bad), "Vary: Origin\r\n", "{bad}");
        }
        assert_eq!(response(&cors, "-"), "Vary: Origin\r\n");
        assert_eq!(
            response(&cors, "https://one.test"),
            "Access-Control-Allow-Origin: https://one.test\r\nTiming-Allow-Origin: https://one.test\r\nVary: Origin\r\n"
        );
        assert_eq!(
            preflight(&cors, "https://one.test", Some("anything")),
            "Access-Control-Allow-Origin: https://one.test\r\n\
             Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
             Access-Control-Max-Age: 86400\r\n\
             Access-Control-Allow-Headers: Range, X-Shoal-Ticket\r\n\
             Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        );
        assert!(preflight(&cors, "https://evil.test", None).starts_with("Vary: "));
    }

    #[test]
    fn with_credentials_nobody_gets_a_star() {
        let cors = cors(|policy| {
            policy.allow_credentials = true;
            policy.timing = false;
            policy.expose_headers = list(&["Age"]);
        });
        assert_eq!(
            response(&cors, "https://a.test"),
            "Access-Control-Allow-Origin: https://a.test\r\nAccess-Control-Allow-Credentials: true\r\n\
             Access-Control-Expose-Headers: Age\r\nVary: Origin\r\n"
        );
        for nobody in ["null", "-", "https://a b.test", "https://a.test/path"] {
            assert_eq!(response(&cors, nobody), "Vary: Origin\r\n");
        }
    }

    #[test]
    fn nothing_is_echoed_that_is_no_list_of_names() {
        let cors = cors(|_| {});
        for bad in ["x\ty", "x: y", "é", &"x".repeat(ECHO_MAX + 1)] {
            assert!(!preflight(&cors, "https://a.test", Some(bad)).contains("Allow-Headers"), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        let refused = |change: fn(&mut CorsPolicy)| {
            let mut policy = CorsPolicy::default();
            change(&mut policy);
            Cors::compile(&policy).unwrap_err()
        };
        let error = refused(|policy| policy.expose_headers.push("Age\r\nSet-Cookie: x".to_owned()));
        assert_eq!(error.field, "cors.expose_headers[7]");
        let error = refused(|policy| policy.allow_headers = vec![String::new()]);
        assert_eq!(error.field, "cors.allow_headers[0]");
        for origin in ["example.com", "https://", "https://a/", "://a", "https://*", "https://a.*.b", "h ttp://a"] {
            let policy = CorsPolicy { allow_origins: list(&["*", origin]), ..CorsPolicy::default() };
            let error = Cors::compile(&policy).unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), ("cors.allow_origins[1]", origin));
        }
    }
}
