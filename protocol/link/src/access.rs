//! Who may fetch: lists of sites, programs and networks. Both planes match by this.

mod address;
pub mod names;

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::net::IpAddr;

use crate::channel::{AccessPolicy, NameRule};

use address::AddressTable;
use names::{HostPatterns, bare_host, is_host};

/// The lists of a channel or an app, prepared. Tickets are apart.
#[derive(Debug)]
pub struct Access {
    address: AddressTable,
    referer: RefererRule,
    user_agent: AgentRule,
}

/// What a request says of itself; header values as they came.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    /// The Referer field.
    pub referer: Option<&'a [u8]>,
    /// The Origin field.
    pub origin: Option<&'a [u8]>,
    /// The User-Agent field.
    pub user_agent: Option<&'a [u8]>,
    /// The viewer's address.
    pub client: IpAddr,
}

/// A rule that a request breaks. Its `Display` is one line for the viewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The address is denied, or on no allow list.
    Address(IpAddr),
    /// The page's host is denied, or on no allow list.
    Referer(Box<str>),
    /// Neither Referer nor Origin names a host, and the channel wants one.
    RefererMissing,
    /// The program is denied, or on no allow list.
    UserAgent,
    /// No User-Agent, and the channel wants one.
    UserAgentMissing,
}

/// A pattern that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} `{value}`: {remedy}")]
pub struct AccessError {
    /// Its place, such as `access.referer.allow[1]`.
    pub field: String,
    /// The pattern.
    pub value: String,
    /// What is wrong with it and what to write instead.
    pub remedy: &'static str,
}

#[derive(Debug)]
struct RefererRule {
    allow: HostPatterns,
    deny: HostPatterns,
    allow_missing: bool,
}

#[derive(Debug)]
struct AgentRule {
    /// In lower case.
    allow: Vec<Box<str>>,
    deny: Vec<Box<str>>,
    allow_missing: bool,
}

impl Access {
    /// Prepares the lists of a policy.
    ///
    /// # Errors
    /// The first pattern that can match nothing, or everything.
    pub fn compile(policy: &AccessPolicy) -> Result<Self, AccessError> {
        Ok(Self {
            address: AddressTable::new(&policy.address),
            referer: RefererRule {
                allow: hosts("access.referer.allow", &policy.referer.allow)?,
                deny: hosts("access.referer.deny", &policy.referer.deny)?,
                allow_missing: policy.referer.allow_missing,
            },
            user_agent: AgentRule::compile(&policy.user_agent)?,
        })
    }

    /// Whether clients of this address may come at all.
    pub fn allows_address(&self, client: IpAddr) -> bool {
        self.address.allows(client)
    }

    /// Whether a request keeps to all lists.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, request: &AccessRequest<'_>) -> Result<(), Denied> {
        if !self.address.allows(request.client) {
            return Err(Denied::Address(request.client.to_canonical()));
        }
        self.referer.check(request)?;
        self.user_agent.check(request.user_agent)
    }
}

impl RefererRule {
    fn check(&self, request: &AccessRequest<'_>) -> Result<(), Denied> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Ok(());
        }
        // Who can send a Referer that names no host can as well send none, so the two are the same.
        let Some(host) = request.referer.and_then(url_host).or_else(|| request.origin.and_then(url_host)) else {
            return if self.allow.is_empty() || self.allow_missing { Ok(()) } else { Err(Denied::RefererMissing) };
        };
        if self.deny.matches(&host) || !(self.allow.is_empty() || self.allow.matches(&host)) {
            return Err(Denied::Referer(host.into()));
        }
        Ok(())
    }
}

impl AgentRule {
    fn compile(rule: &NameRule) -> Result<Self, AccessError> {
        Ok(Self {
            allow: lower_case("access.user_agent.allow", &rule.allow)?,
            deny: lower_case("access.user_agent.deny", &rule.deny)?,
            allow_missing: rule.allow_missing,
        })
    }

    fn check(&self, agent: Option<&[u8]>) -> Result<(), Denied> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Ok(());
        }
        let Some(agent) = agent.filter(|agent| !agent.is_empty()) else {
            return if self.allow.is_empty() || self.allow_missing { Ok(()) } else { Err(Denied::UserAgentMissing) };
        };
        let agent = String::from_utf8_lossy(agent).to_lowercase();
        let any = |patterns: &[Box<str>]| patterns.iter().any(|pattern| agent.contains(&**pattern));
        if any(&self.deny) || !(self.allow.is_empty() || any(&self.allow)) {
            return Err(Denied::UserAgent);
        }
        Ok(())
    }
}

impl Denied {
    /// A label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Referer(_) => "referer",
            Self::RefererMissing => "referer_missing",
            Self::UserAgent => "user_agent",
            Self::UserAgentMissing => "user_agent_missing",
        }
    }

    /// The answer's status.
    pub fn status(&self) -> u16 {
        403
    }
}

impl Display for Denied {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match self {
            Self::Address(client) => write!(f, "the address {client} may not watch this channel"),
            Self::Referer(host) => write!(f, "pages of {host} may not show this channel"),
            Self::RefererMissing => f.write_str("this channel asks for a Referer or Origin header, and there was none"),
            Self::UserAgent => f.write_str("this program (User-Agent) may not fetch this channel"),
            Self::UserAgentMissing => f.write_str("this channel asks for a User-Agent header, and there was none"),
        }
    }
}

impl std::error::Error for Denied {}

fn hosts(field: &str, patterns: &[String]) -> Result<HostPatterns, AccessError> {
    let mut hosts = HostPatterns::default();
    for (at, pattern) in patterns.iter().enumerate() {
        if !hosts.insert(pattern) {
            let remedy = "is no host pattern; write a name without scheme and port, as in example.com or *.example.com";
            return Err(AccessError { field: format!("{field}[{at}]"), value: pattern.clone(), remedy });
        }
    }
    Ok(hosts)
}

fn lower_case(field: &str, patterns: &[String]) -> Result<Vec<Box<str>>, AccessError> {
    if let Some(at) = patterns.iter().position(String::is_empty) {
        let remedy = "would match every program; remove it, or give a part of the User-Agent";
        return Err(AccessError { field: format!("{field}[{at}]"), value: String::new(), remedy });
    }
    Ok(patterns.iter().map(|pattern| pattern.to_lowercase().into()).collect())
}

/// The host of an absolute URL, in lower case; `None` when it has none that could be on a list.
fn url_host(url: &[u8]) -> Option<String> {
    let (_, rest) = std::str::from_utf8(url).ok()?.split_once("://")?;
    let authority = rest.split(['/', '\\', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = bare_host(host);
    is_host(&host).then(|| host.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str], allow_missing: bool) -> NameRule {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        NameRule { allow: list(allow), deny: list(deny), allow_missing }
    }

    fn access(referer: NameRule, user_agent: NameRule) -> Access {
        Access::compile(&AccessPolicy { referer, user_agent, ..AccessPolicy::default() }).unwrap()
    }

    fn request<'a>(referer: &'a str, origin: &'a str, user_agent: &'a str) -> AccessRequest<'a> {
        let field = |text: &'a str| (text != "-").then_some(text.as_bytes());
        AccessRequest {
            referer: field(referer),
            origin: field(origin),
            user_agent: field(user_agent),
            client: "192.0.2.1".parse().unwrap(),
        }
    }

    #[test]
    fn empty_rules_agree_with_everybody() {
        let access = access(NameRule::default(), NameRule::default());
        assert_eq!(access.check(&request("-", "-", "-")), Ok(()));
        assert_eq!(access.check(&request("http://evil.test/", "null", "curl")), Ok(()));
    }

    #[test]
    fn the_referers_host_must_be_on_the_list() {
        let access = access(rule(&["example.com", "*.example.com"], &["bad.example.com"], false), NameRule::default());
        for good in [
            "https://example.com/",
            "https://example.com",
            "http://WWW.Example.com:8443/page?x=http://evil.test/",
            "https://user@a.b.example.com/",
            "https://example.com./",
        ] {
            assert_eq!(access.check(&request(good, "-", "-")), Ok(()), "{good}");
        }
        for (bad, host) in [
            ("https://bad.example.com/", "bad.example.com"),
            ("https://BAD.example.com:80/", "bad.example.com"),
            ("https://badexample.com/", "badexample.com"),
            ("https://example.com@evil.test/", "evil.test"),
            ("https://evil.test/example.com", "evil.test"),
            ("https://evil.test\\.example.com", "evil.test"),
            ("https://evil.test?.example.com", "evil.test"),
            ("https://evil.test#.example.com", "evil.test"),
            ("https://example.com.evil.test/", "example.com.evil.test"),
        ] {
            assert_eq!(access.check(&request(bad, "-", "-")), Err(Denied::Referer(host.into())), "{bad}");
        }
    }

    #[test]
    fn origin_stands_in_for_a_missing_referer() {
        let access = access(rule(&["example.com"], &[], false), NameRule::default());
        assert_eq!(access.check(&request("-", "https://example.com", "-")), Ok(()));
        assert!(access.check(&request("-", "https://evil.test", "-")).is_err());
        assert!(access.check(&request("https://evil.test/", "https://example.com", "-")).is_err());
        for nothing in ["-", "", "null", "about:blank", "example.com", "https:///", "https://exa mple.com/"] {
            let denied = access.check(&request(nothing, "null", "-"));
            assert_eq!(denied, Err(Denied::RefererMissing), "{nothing}");
        }
        let lenient = super::tests::access(rule(&["example.com"], &[], true), NameRule::default());
        assert_eq!(lenient.check(&request("-", "-", "-")), Ok(()));
        assert!(lenient.check(&request("https://evil.test/", "-", "-")).is_err());
        let deny_only = super::tests::access(rule(&[], &["evil.test"], false), NameRule::default());
        assert_eq!(deny_only.check(&request("-", "-", "-")), Ok(()));
    }

    #[test]
    fn user_agents_are_matched_by_parts() {
        let access = access(NameRule::default(), rule(&["Mozilla", "shoal-sdk"], &["HeadlessBot"], false));
        assert_eq!(access.check(&request("-", "-", "mozilla/5.0 (X11)")), Ok(()));
        assert_eq!(access.check(&request("-", "-", "SHOAL-SDK/1")), Ok(()));
        assert_eq!(access.check(&request("-", "-", "Mozilla/5.0 headlessbot")), Err(Denied::UserAgent));
        assert_eq!(access.check(&request("-", "-", "curl/8")), Err(Denied::UserAgent));
        assert_eq!(access.check(&request("-", "-", "-")), Err(Denied::UserAgentMissing));
        assert_eq!(access.check(&request("-", "-", "")), Err(Denied::UserAgentMissing));
        let raw = AccessRequest { user_agent: Some(b"Mozilla \xff"), ..request("-", "-", "-") };
        assert_eq!(access.check(&raw), Ok(()));
    }

    #[test]
    fn the_address_comes_first_and_is_named() {
        let mut policy = AccessPolicy::default();
        policy.address.deny.push("192.0.2.0/24".parse().unwrap());
        let access = Access::compile(&policy).unwrap();
        let denied = access.check(&request("-", "-", "-")).unwrap_err();
        assert_eq!((denied.reason(), denied.status()), ("address", 403));
        assert_eq!(denied.to_string(), "the address 192.0.2.1 may not watch this channel");
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused_by_name() {
        for (policy, field, value) in [
            (
                AccessPolicy { referer: rule(&["ok.test", "http://a/"], &[], false), ..Default::default() },
                "access.referer.allow[1]",
                "http://a/",
            ),
            (AccessPolicy { referer: rule(&[], &["*"], false), ..Default::default() }, "access.referer.deny[0]", "*"),
            (
                AccessPolicy { user_agent: rule(&[], &[""], false), ..Default::default() },
                "access.user_agent.deny[0]",
                "",
            ),
        ] {
            let error = Access::compile(&policy).unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), (field, value));
        }
    }
}
