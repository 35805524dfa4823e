//! One channel, ready to serve.

use std::sync::Arc;

use shoal_link::access::Access;
use shoal_link::access::names::is_host;
use shoal_link::channel::{CachePolicy, ForwardPolicy};
use shoal_ticket::Verifier;

use super::common::Common;
use super::cors::Cors;
use super::error::{FieldError, RoutesError};
use super::limits::Limits;
use super::origin::OriginState;
use super::pick::{MAX_ORIGINS, Pick};

/// Longest id.
const MAX_ID: usize = 64;

/// One channel with all its rules.
#[derive(Debug)]
pub struct Channel {
    /// Its name.
    pub id: Arc<str>,
    /// Who pays for it.
    pub tenant: Arc<str>,
    /// Path prefix, with a slash at both ends.
    pub prefix: Box<str>,
    /// One of the host names it answers to; none: any will do.
    pub host: Option<Box<str>>,
    /// Off: every request is refused.
    pub enabled: bool,
    /// What may be kept, and for how long.
    pub cache: Arc<CachePolicy>,
    /// What passes between viewers and origins besides the objects.
    pub forward: Arc<ForwardPolicy>,
    /// How much viewers may take; none: as much as they like.
    pub limits: Option<Arc<Limits>>,
    /// Checks tickets; none: no ticket is asked for.
    pub verifier: Option<Verifier>,
    /// Checks everything else about who may fetch.
    pub access: Arc<Access>,
    /// Cross-origin rules.
    pub cors: Arc<Cors>,
    /// Whether what players say with their requests (CMCD) is summed.
    pub cmcd: bool,
    /// Every origin, as configured.
    pub origins: Vec<Arc<OriginState>>,
}

impl Channel {
    pub(super) fn compile<'s>(
        raw: &'s shoal_link::Channel,
        before: Option<&Self>,
        common: &mut Common<'s>,
    ) -> Result<Self, RoutesError> {
        let of = |error: FieldError| error.of(&raw.id);
        for (field, id) in [("id", &raw.id), ("tenant", &raw.tenant)] {
            check_id(field, id).map_err(of)?;
        }
        check_prefix(&raw.prefix).map_err(of)?;
        for (at, host) in raw.hosts.iter().enumerate() {
            if !is_host(host) {
                let remedy = "is no host name in lower case without port, such as edge.example.com";
                return Err(RoutesError::new(&raw.id, format!("hosts[{at}]"), host, remedy));
            }
        }
        let ticket = raw.access.ticket.as_ref().map(|policy| Verifier::new(&raw.id, policy)).transpose();
        let verifier = ticket
            .map_err(|error| RoutesError::new(&raw.id, format!("access.ticket.{}", error.field), "", error.problem))?;
        Ok(Self {
            id: raw.id.as_str().into(),
            tenant: common.tenant(raw),
            prefix: raw.prefix.as_str().into(),
            host: raw.hosts.first().map(|host| host.as_str().into()),
            enabled: raw.enabled,
            cache: common.cache(raw),
            forward: common.forward(raw),
            limits: Limits::compile(&raw.limits, before.and_then(|before| before.limits.as_ref())),
            verifier,
            access: common.access(raw).map_err(of)?,
            cors: common.cors(raw).map_err(of)?,
            cmcd: raw.telemetry.cmcd,
            origins: compile_origins(raw, before).map_err(of)?,
        })
    }

    /// What follows the channel's prefix in a path; `None` when it lies elsewhere.
    pub fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&*self.prefix)
    }

    /// Itself, when its origins' redirects are to be followed.
    pub fn follows_redirects(&self) -> Option<&Self> {
        (self.forward.redirects > 0).then_some(self)
    }

    /// The origins to try for one request, in order. `random` is fresh for each request.
    pub fn pick(&self, now_ms: u64, random: u64) -> Pick<'_> {
        Pick::new(&self.origins, now_ms, random)
    }
}

fn compile_origins(raw: &shoal_link::Channel, before: Option<&Channel>) -> Result<Vec<Arc<OriginState>>, FieldError> {
    if raw.origins.is_empty() || raw.origins.len() > MAX_ORIGINS {
        let remedy = format!("a channel has 1 to {MAX_ORIGINS} origins; give as many");
        return Err(FieldError::new("origins", &raw.origins.len().to_string(), remedy));
    }
    let mut origins: Vec<Arc<OriginState>> = Vec::with_capacity(raw.origins.len());
    for (at, origin) in raw.origins.iter().enumerate() {
        let field = format!("origins[{at}]");
        check_id(&format!("{field}.id"), &origin.id)?;
        if origins.iter().any(|other| *other.id == origin.id) {
            return Err(FieldError::new(format!("{field}.id"), &origin.id, "two origins have this id; rename one"));
        }
        let same = before.and_then(|before| before.origins.iter().find(|before| *before.id == origin.id));
        origins.push(Arc::new(OriginState::compile(origin, &field, same.map(|same| &**same))?));
    }
    Ok(origins)
}

fn check_id(field: &str, id: &str) -> Result<(), FieldError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(allowed) {
        return Err(FieldError::new(field, id, format!("write 1 to {MAX_ID} of a-z 0-9 - _ .")));
    }
    Ok(())
}

/// Only such prefixes as a normalized path can begin with.
fn check_prefix(prefix: &str) -> Result<(), FieldError> {
    let wrong = |remedy| Err(FieldError::new("prefix", prefix, remedy));
    let inner = match prefix.strip_prefix('/') {
        Some("") => return Ok(()),
        Some(inner) => inner.strip_suffix('/'),
        None => None,
    };
    let Some(inner) = inner else { return wrong("begin and end it with a slash, as in /room1/") };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    if inner.split('/').any(|segment| matches!(segment, "" | "." | "..") || !segment.bytes().all(allowed)) {
        return wrong("its segments are letters, digits and -._~!$&'()*+,;=:@, and neither empty nor dots");
    }
    Ok(())
}
