//! From a request head to an object: route, rules, ticket, key.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use shoal_http::cdn_loop;
use shoal_http::headers::Known;
use shoal_http::path;
use shoal_http::query;
use shoal_http::request::{Method, RequestHead};
use shoal_ticket::{Memory, Presented, Session};

use super::context::Context;
use super::refusal::Refusal;
use crate::routes::{AccessRequest, Channel};
use crate::slices::is_playlist;
use crate::slices::key::SliceKey;

/// Bytes of CDN-Loop that are sent on.
const CDN_LOOP_MAX: usize = 1 << 10;

/// Methods served.
pub const ALLOW: &str = "GET, HEAD, OPTIONS";

/// A request that may have its object.
pub struct Admitted {
    /// Whose it is.
    pub channel: Arc<Channel>,
    /// The object.
    pub key: SliceKey,
    /// The viewer's session, if its ticket names one.
    pub session: Option<Session>,
    /// What to add to the URIs of this playlist.
    pub playlist_ticket: Option<String>,
}

/// A request refused, and the channel it was for, where one was found.
pub struct Denial {
    /// Why.
    pub refusal: Refusal,
    /// Whose usage the answer is, and whose CORS rules go with it.
    pub channel: Option<Arc<Channel>>,
}

impl Denial {
    fn unrouted(refusal: impl Into<Refusal>) -> Denial {
        Denial { refusal: refusal.into(), channel: None }
    }
}

/// What a method is to us; `passes`: the channel hands it to its origin.
pub fn check_method(head: &RequestHead<'_>, passes: bool) -> Result<(), Refusal> {
    match head.method {
        Method::Get | Method::Head | Method::Options => Ok(()),
        _ if passes => Ok(()),
        Method::Other => {
            Err(Refusal::new(501, "method_unknown", format!("this method is not implemented; use one of {ALLOW}")))
        }
        _ => {
            Err(Refusal::new(405, "method", format!("objects can only be read; use one of {ALLOW}"))
                .with("Allow", ALLOW))
        }
    }
}

/// The nodes that the request has passed, as it says; refused when this one is among them (RFC 8586), or too many are.
pub fn check_loop(ctx: &Context, head: &RequestHead<'_>) -> Result<Option<Arc<str>>, Refusal> {
    if head.headers.known(Known::CdnLoop).is_none() {
        return Ok(None);
    }
    let lines = || head.headers.all(Known::CdnLoop);
    let refusal = |message| Refusal::new(508, "loop", message);
    if cdn_loop::names(lines(), &ctx.node) {
        return Err(refusal("this request has come round to the node that sent it; check the parents and the origins"));
    }
    let passed = cdn_loop::joined(lines(), CDN_LOOP_MAX);
    passed.map(|passed| Some(passed.into())).ok_or_else(|| refusal("this request has passed too many nodes"))
}

/// The channel that a request is for, whatever its rules.
pub fn find_channel(ctx: &Context, head: &RequestHead<'_>) -> Option<Arc<Channel>> {
    let path = path::normalize(head.path).ok()?;
    ctx.routes().find(head.host, &path).map(|found| Arc::clone(found.channel))
}

/// Checks everything that has to be checked before an object may be looked for.
///
/// A `child` has checked its viewer: nobody is to be let in twice. `memory` is that of the connection.
pub fn admit(
    ctx: &Context,
    head: &RequestHead<'_>,
    client: IpAddr,
    child: bool,
    memory: &mut Memory,
) -> Result<Admitted, Denial> {
    let routes = ctx.routes();
    if !child && routes.blocks().contain(client, ctx.clock.unix_s()) {
        return Err(Denial::unrouted(Refusal::new(403, "blocked", "nothing is served to this address")));
    }
    let path = path::normalize(head.path).map_err(Denial::unrouted)?;
    let Some(found) = routes.find(head.host, &path) else {
        let refusal = match routes.version() {
            0 => Refusal::new(503, "no_snapshot", "this node has no configuration yet; try again")
                .with("Retry-After", "1"),
            _ => {
                Refusal::new(404, "no_channel", "no channel serves this URL; check the host and the start of the path")
            }
        };
        return Err(Denial::unrouted(refusal));
    };
    let channel = Arc::clone(found.channel);
    let rest = found.rest;
    let checked = if child { None } else { Some((client, memory)) };
    admit_to(ctx, head, &path, rest, &channel, checked).map_err(|refusal| Denial { refusal, channel: Some(channel) })
}

fn admit_to(
    ctx: &Context,
    head: &RequestHead<'_>,
    path: &str,
    rest: &str,
    channel: &Arc<Channel>,
    viewer: Option<(IpAddr, &mut Memory)>,
) -> Result<Admitted, Refusal> {
    if !channel.enabled {
        return Err(Refusal::new(403, "channel_off", "this channel is switched off"));
    }
    if let Some((client, _)) = viewer {
        channel.access.check(&AccessRequest {
            referer: head.headers.known(Known::Referer),
            origin: head.headers.known(Known::Origin),
            user_agent: head.headers.known(Known::UserAgent),
            client,
        })?;
    }
    let text = |name| head.headers.known(name).and_then(|value| std::str::from_utf8(value).ok());
    let (mut session, mut playlist_ticket, mut rest) = (None, None, rest);
    if let Some((verifier, (client, memory))) = channel.verifier.as_ref().zip(viewer) {
        let presented = Presented {
            path,
            query: head.query,
            cookie: text(Known::Cookie),
            header: text(Known::XShoalTicket),
            client,
            now: ctx.clock.unix_s(),
        };
        let pass = verifier.verify_with(&presented, memory)?;
        session = pass.session;
        rest = channel.below(pass.path).unwrap_or(rest);
        if verifier.rewrites_playlists() && is_playlist(rest) {
            playlist_ticket = verifier.playlist_ticket(&pass, &presented);
        }
    }
    let mut allowed = String::new();
    if let Some(query) = head.query
        && !channel.cache.query_allow.is_empty()
    {
        let query = channel.verifier.as_ref().map_or(Cow::Borrowed(query), |verifier| verifier.strip_query(query));
        query::filter(&query, |name| channel.cache.keeps(name), &mut allowed);
    }
    let key = SliceKey::new(ctx.key_seed, &channel.id, rest, &allowed);
    Ok(Admitted { channel: Arc::clone(channel), key, session, playlist_ticket })
}

#[cfg(test)]
mod tests;
