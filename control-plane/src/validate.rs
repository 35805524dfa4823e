//! Raw channels and tenants become valid ones here, once; nothing behind this door checks again.

pub mod block;
mod conf;
mod tenant;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;
use shoal_link::Channel;
use shoal_link::channel::{AddressRule, CachePolicy, CorsPolicy, ForwardPolicy, LimitPolicy, NameRule, Origin};
use shoal_ticket::{TicketPolicy, Verifier};

use crate::field::FieldError;

pub(crate) use conf::named;

/// Longest channel, tenant, origin and node id.
pub const MAX_ID: usize = 64;
/// Longest path prefix.
pub const MAX_PREFIX: usize = 512;
/// Longest origin URL, pattern and other free text.
const MAX_TEXT: usize = 2048;
/// Most host names of a channel.
const MAX_HOSTS: usize = 256;
/// Most origins of a channel.
const MAX_ORIGINS: usize = 32;
/// Most entries in any other list.
const MAX_LIST: usize = 4096;
/// Largest request body that may be passed to an origin.
const MAX_BODY: u32 = 64 << 20;
/// Lowest rate in bytes per second: less is no way to serve video, but a way to hold connections.
const MIN_RATE: u64 = 16 << 10;
/// Highest rate in bytes per second.
const MAX_RATE: u64 = 1 << 40;
/// Most redirects followed for one request.
const MAX_REDIRECTS: u8 = 10;
/// Shortest time between health checks.
const MIN_HEALTH_MS: u32 = 100;
/// Longest time between health checks.
const MAX_HEALTH_MS: u32 = 3_600_000;

/// A channel or a tenant that a data plane will accept. Only [`Valid::new`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Valid<T>(T);

/// What is checked before anything relies on it.
pub trait Check: Sized {
    /// Every rule that is broken, not only the first.
    fn check(&self) -> Vec<FieldError>;
}

impl<T: Check> Valid<T> {
    /// Checks every rule and reports all that are broken.
    pub fn new(document: T) -> Result<Self, Vec<FieldError>> {
        let errors = document.check();
        if errors.is_empty() { Ok(Self(document)) } else { Err(errors) }
    }
}

impl<T> Valid<T> {
    /// What was checked.
    pub fn get(&self) -> &T {
        &self.0
    }
}

impl Check for Channel {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_channel(self, &mut errors);
        errors
    }
}

/// Says what is wrong with a channel, tenant, origin or node id, if anything.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(allowed) {
        return Err("must be 1 to 64 of a-z, 0-9, '-', '_', '.'");
    }
    if id.bytes().all(|byte| byte == b'.') {
        return Err("must not be dots alone");
    }
    Ok(())
}

type Errors = Vec<FieldError>;

fn check_channel(channel: &Channel, errors: &mut Errors) {
    let Channel { id, tenant, hosts, prefix, origins, cache, forward, limits, cors, access, telemetry: _, enabled: _ } =
        channel;
    if let Err(message) = check_id(id) {
        errors.push(FieldError::new("id", id.as_str(), message));
    }
    if let Err(message) = check_id(tenant) {
        errors.push(FieldError::new("tenant", tenant.as_str(), message));
    }
    check_hosts(hosts, errors);
    if let Err(message) = check_prefix(prefix) {
        errors.push(FieldError::new("prefix", prefix.as_str(), message));
    }
    check_origins(origins, errors);
    check_cache(cache, errors);
    check_forward(forward, errors);
    check_limits(limits, errors);
    check_cors(cors, errors);
    if let Some(policy) = &access.ticket {
        check_ticket(id, policy, errors);
    }
    check_names("access.referer", &access.referer, errors, |pattern| {
        let host = pattern.strip_prefix("*.").unwrap_or(pattern);
        check_host(host)
            .map_err(|_| "must be a lower-case host name without port, as in cdn.example.com or *.example.com")
    });
    check_names("access.user_agent", &access.user_agent, errors, |pattern| {
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if pattern.is_empty() || pattern.len() > MAX_TEXT || !pattern.bytes().all(printable) {
            return Err("must be a non-empty substring of printable ASCII");
        }
        Ok(())
    });
    check_addresses(&access.address, errors);
}

/// Adds an error and returns false when a list is longer than `most`.
fn bounded(field: &str, len: usize, most: usize, errors: &mut Errors) -> bool {
    if len > most {
        errors.push(FieldError::new(field, len, format!("has more than the {most} entries allowed; shorten the list")));
    }
    len <= most
}

fn check_hosts(hosts: &[String], errors: &mut Errors) {
    if !bounded("hosts", hosts.len(), MAX_HOSTS, errors) {
        return;
    }
    let mut seen = HashSet::new();
    for (at, host) in hosts.iter().enumerate() {
        let field = format!("hosts[{at}]");
        if let Err(message) = check_host(host) {
            errors.push(FieldError::new(field, host.as_str(), message));
        } else if !seen.insert(host) {
            errors.push(FieldError::new(field, host.as_str(), "is listed twice; keep one"));
        }
    }
}

/// A lower-case host name or address without port, as a Host header has it (RFC 9110 section 7.2).
fn check_host(host: &str) -> Result<(), &'static str> {
    const REMEDY: &str =
        "must be a lower-case host name or address without port, as in cdn.example.com, 192.0.2.1 or [2001:db8::1]";
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| REMEDY);
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) { Ok(()) } else { Err(REMEDY) }
}

/// `host` or `host:port`.
fn check_authority(authority: &str) -> Result<(), &'static str> {
    const REMEDY: &str = "must be host or host:port, with a port from 1 to 65535";
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if let Some(port) = port
        && (!port.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(port.parse::<u16>(), Ok(1..)))
    {
        return Err(REMEDY);
    }
    check_host(&host.to_ascii_lowercase()).map_err(|_| REMEDY)
}

fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    if prefix.len() > MAX_PREFIX {
        return Err("is longer than the 512 bytes allowed; shorten it");
    }
    let Some(inner) = prefix.strip_prefix('/') else {
        return Err("must begin and end with a slash, as in /room1/");
    };
    if inner.is_empty() {
        return Ok(());
    }
    let Some(inner) = inner.strip_suffix('/') else {
        return Err("must begin and end with a slash, as in /room1/");
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    for segment in inner.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err("must consist of whole segments: no //, /./ or /../");
        }
        if !segment.bytes().all(allowed) {
            return Err("must consist of letters, digits and -._~!$&'()*+,;=:@ between its slashes");
        }
    }
    Ok(())
}

fn check_origins(origins: &[Origin], errors: &mut Errors) {
    if origins.is_empty() {
        let message = "needs at least one origin, as in [{\"id\": \"main\", \"url\": \"http://origin.example:8080/\"}]";
        errors.push(FieldError::new("origins", Value::Array(Vec::new()), message));
        return;
    }
    if !bounded("origins", origins.len(), MAX_ORIGINS, errors) {
        return;
    }
    let mut seen = HashSet::new();
    for (at, origin) in origins.iter().enumerate() {
        let mut wrong = |name: &str, value: Value, message: &str| {
            errors.push(FieldError::new(format!("origins[{at}].{name}"), value, message));
        };
        if let Err(message) = check_id(&origin.id) {
            wrong("id", origin.id.as_str().into(), message);
        } else if !seen.insert(origin.id.as_str()) {
            wrong("id", origin.id.as_str().into(), "is the id of an earlier origin too; ids are unique in a channel");
        }
        if let Err(message) = check_origin_url(&origin.url) {
            wrong("url", origin.url.as_str().into(), message);
        }
        if let Some(host) = &origin.host
            && let Err(message) = check_authority(host)
        {
            wrong("host", host.as_str().into(), message);
        }
        if let Some(path) = &origin.health_path
            && (path.len() > MAX_TEXT
                || path.starts_with('/')
                || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'))
        {
            wrong(
                "health_path",
                path.as_str().into(),
                "must be a path below the origin's url: no leading slash, no space, no '#'",
            );
        }
        if !(MIN_HEALTH_MS..=MAX_HEALTH_MS).contains(&origin.health_interval_ms) {
            wrong("health_interval_ms", origin.health_interval_ms.into(), "must be from 100 to 3600000 milliseconds");
        }
    }
    if origins.iter().all(|origin| origin.weight == 0) {
        errors.push(FieldError::new(
            "origins",
            Value::Null,
            "all have weight 0, so none would be asked; give one of them a weight of 1 or more",
        ));
    }
}

/// `http://host[:port][/base/]`, the same with `https`, or `file:/absolute/folder`.
fn check_origin_url(url: &str) -> Result<(), &'static str> {
    if url.len() > MAX_TEXT {
        return Err("is longer than the 2048 bytes allowed");
    }
    if let Some(path) = url.strip_prefix("file:") {
        if path.starts_with("//") {
            return Err("must be written with one slash, as in file:/srv/video");
        }
        if !path.starts_with('/') {
            return Err("must name an absolute folder, as in file:/srv/video");
        }
        if path.split('/').any(|segment| segment == "..") || path.contains('\0') {
            return Err("must not contain '..' segments or NUL bytes");
        }
        return Ok(());
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err("must begin with http://, https:// or file:/ (these are the schemes this release can fetch from)");
    };
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must not contain spaces, control or non-ASCII characters; percent-encode them");
    }
    if rest.contains(['?', '#', '\\']) {
        return Err("must not have a query, a fragment or a backslash; the viewer's path is appended to it");
    }
    let (authority, base) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if authority.contains('@') {
        return Err("must not carry a user name or password");
    }
    check_authority(authority)
        .map_err(|_| "must have a host and, if any, a port from 1 to 65535, as in http://origin.example:8080/")?;
    if !base.ends_with('/') {
        return Err("must end with a slash after its base path, as in http://origin.example/live/");
    }
    if base.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("must not contain '.' or '..' segments");
    }
    Ok(())
}

fn check_ticket(channel: &str, policy: &TicketPolicy, errors: &mut Errors) {
    if let Err(error) = Verifier::new(channel, policy) {
        errors.push(FieldError::new(format!("access.ticket.{}", error.field), Value::Null, error.problem));
    }
}

fn check_cache(cache: &CachePolicy, errors: &mut Errors) {
    if !bounded("cache.query_allow", cache.query_allow.len(), MAX_LIST, errors) {
        return;
    }
    for (at, name) in cache.query_allow.iter().enumerate() {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"&=#?".contains(&byte);
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(allowed) {
            let message = "must be the name of one query parameter, without & = # ? or spaces";
            errors.push(FieldError::new(format!("cache.query_allow[{at}]"), name.as_str(), message));
        }
    }
}

fn check_forward(forward: &ForwardPolicy, errors: &mut Errors) {
    check_headers("forward.headers", &forward.headers, errors);
    if forward.redirects > MAX_REDIRECTS {
        let message = format!("must be at most {MAX_REDIRECTS}: each one is a request more that a viewer waits for");
        errors.push(FieldError::new("forward.redirects", forward.redirects, message));
    }
    for (name, percent) in
        [("hedge_percentile", forward.hedge_percentile), ("hedge_budget_percent", forward.hedge_budget_percent)]
    {
        if percent > 100 {
            errors.push(FieldError::new(format!("forward.{name}"), percent, "is a percentage; write 0 to 100"));
        }
    }
    if forward.body_bytes_max > MAX_BODY {
        let message = format!("must be at most {MAX_BODY}: a request body waits in memory until it is whole");
        errors.push(FieldError::new("forward.body_bytes_max", forward.body_bytes_max, message));
    }
}

fn check_limits(limits: &LimitPolicy, errors: &mut Errors) {
    let LimitPolicy { requests_per_second: _, bytes_per_second, response_bytes_per_second, response_burst_bytes } =
        limits;
    for (name, rate) in
        [("bytes_per_second", *bytes_per_second), ("response_bytes_per_second", *response_bytes_per_second)]
    {
        if rate != 0 && !(MIN_RATE..=MAX_RATE).contains(&rate) {
            let message = format!("must be 0 for no limit, or from {MIN_RATE} to {MAX_RATE} bytes per second");
            errors.push(FieldError::new(format!("limits.{name}"), rate, message));
        }
    }
    if *response_burst_bytes > MAX_RATE {
        let message = format!("must be at most {MAX_RATE} bytes");
        errors.push(FieldError::new("limits.response_burst_bytes", *response_burst_bytes, message));
    }
    if *response_burst_bytes > 0 && *response_bytes_per_second == 0 {
        let message = "has no meaning without limits.response_bytes_per_second; set that too";
        errors.push(FieldError::new("limits.response_burst_bytes", *response_burst_bytes, message));
    }
}

fn check_headers(field: &str, list: &[String], errors: &mut Errors) {
    if !bounded(field, list.len(), MAX_LIST, errors) {
        return;
    }
    for (at, header) in list.iter().enumerate() {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if header.is_empty() || header.len() > MAX_TEXT || !header.bytes().all(token) {
            let message = "must be a header name (RFC 9110 token) or *";
            errors.push(FieldError::new(format!("{field}[{at}]"), header.as_str(), message));
        }
    }
}

fn check_cors(cors: &CorsPolicy, errors: &mut Errors) {
    if bounded("cors.allow_origins", cors.allow_origins.len(), MAX_LIST, errors) {
        for (at, origin) in cors.allow_origins.iter().enumerate() {
            if let Err(message) = check_cors_origin(origin) {
                errors.push(FieldError::new(format!("cors.allow_origins[{at}]"), origin.as_str(), message));
            }
        }
    }
    for (name, list) in [("expose_headers", &cors.expose_headers), ("allow_headers", &cors.allow_headers)] {
        check_headers(&format!("cors.{name}"), list, errors);
    }
    if cors.allow_credentials && cors.allow_origins.iter().any(|origin| origin == "*") {
        errors.push(FieldError::new(
            "cors.allow_credentials",
            true,
            "together with allow_origins * lets every site read with the viewer's cookies; list the sites instead",
        ));
    }
}

/// `*`, or an origin as browsers serialize it (RFC 6454 section 6.2), with `*.` allowed before the host.
fn check_cors_origin(origin: &str) -> Result<(), &'static str> {
    const REMEDY: &str =
        "must be *, or scheme://host[:port] without a path, as in https://www.example.com or https://*.example.com";
    if origin == "*" {
        return Ok(());
    }
    let (scheme, authority) = origin.split_once("://").ok_or(REMEDY)?;
    let scheme_ok = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let authority = authority.strip_prefix("*.").unwrap_or(authority);
    if !scheme_ok || authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(REMEDY);
    }
    check_authority(authority).map_err(|_| REMEDY)
}

fn check_names(field: &str, rule: &NameRule, errors: &mut Errors, check: impl Fn(&str) -> Result<(), &'static str>) {
    for (name, list) in [("allow", &rule.allow), ("deny", &rule.deny)] {
        if !bounded(&format!("{field}.{name}"), list.len(), MAX_LIST, errors) {
            continue;
        }
        for (at, pattern) in list.iter().enumerate() {
            if let Err(message) = check(pattern) {
                errors.push(FieldError::new(format!("{field}.{name}[{at}]"), pattern.as_str(), message));
            }
        }
    }
}

fn check_addresses(rule: &AddressRule, errors: &mut Errors) {
    for (name, list) in [("allow", &rule.allow), ("deny", &rule.deny)] {
        if !bounded(&format!("access.address.{name}"), list.len(), MAX_LIST, errors) {
            continue;
        }
        for (at, net) in list.iter().enumerate() {
            if let Err(message) = check_net(net) {
                errors.push(FieldError::new(format!("access.address.{name}[{at}]"), net.to_string(), message));
            }
        }
    }
}

/// A network whose host bits are set is more often a typing error than meant.
pub(crate) fn check_net(net: &IpNet) -> Result<(), String> {
    if net.addr() == net.network() {
        return Ok(());
    }
    Err(format!("has bits set behind its prefix length; write {}, or the single address", net.trunc()))
}

#[cfg(test)]
mod tests;
