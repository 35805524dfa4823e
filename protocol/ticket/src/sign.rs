//! Signed URLs of every profile, as the control plane hands them out.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;

use crate::error::SignError;
use crate::form::{Fields, Form, stream_name};
use crate::policy::{Profile, TicketPolicy, TimeFormat};
use crate::ticket::{Claims, mint};
use crate::time::format_minute;
use crate::verifier::{PARAMETER, Verifier};

/// What is to be signed. Only shoal's own ticket carries all of it.
#[derive(Debug, Clone, Copy)]
pub struct SignRequest<'a> {
    /// Id of the channel.
    pub channel: &'a str,
    /// The path, percent-encoded, with the channel's prefix; no query.
    pub path: &'a str,
    /// A query that the URL has besides, without its question mark; signatures in it are replaced.
    pub query: Option<&'a str>,
    /// What shoal's ticket opens; usually the path's folder, so that playlists and their segments are in it.
    pub path_prefix: &'a str,
    /// Unix seconds. Forms that carry the time of signing get this less their TTL; those that tell minutes, the minute
    /// before.
    pub expires: u64,
    /// Session of shoal's ticket; may be empty.
    pub session: &'a str,
    /// Network of shoal's ticket.
    pub network: Option<IpNet>,
    /// The viewer's address, for nginx expressions with `$remote_addr`.
    pub client: Option<IpAddr>,
    /// `rand` of the `a` forms: letters and digits; `0` will do.
    pub nonce: &'a str,
    /// `uid` of the `a` forms: letters and digits; `0` will do.
    pub uid: &'a str,
}

/// Path and query of a URL signed with the policy's first key, in the form of `profile`.
///
/// # Errors
/// A policy that [`Verifier::new`] would refuse, or a value that the form cannot carry.
pub fn sign_url(policy: &TicketPolicy, profile: &Profile, request: &SignRequest<'_>) -> Result<String, SignError> {
    let policy = TicketPolicy { profiles: vec![profile.clone()], ..policy.clone() };
    let verifier = Verifier::new(request.channel, &policy)?;
    let key = policy.keys.first().ok_or_else(|| SignError::field("keys", "none: give at least one"))?;
    let path = request.path;
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !path.starts_with('/') || !clean(path) || path.contains('?') {
        return Err(SignError::field("path", format!("`{path}`: give one that begins with /, percent-encoded")));
    }
    // An older signature in the query would be found before the new one.
    let query = &*verifier.strip_query(request.query.unwrap_or_default());
    if !clean(query) {
        return Err(SignError::field("query", format!("`{query}`: percent-encode it")));
    }
    if *profile == Profile::Shoal {
        let claims = Claims {
            channel: request.channel,
            path_prefix: request.path_prefix,
            expires: request.expires,
            session: request.session,
            network: request.network,
        };
        return Ok(with_query(path, query, &[(PARAMETER, &mint(key, &claims)?)]));
    }
    let form = Form::new(profile, policy.ttl_s, "profile")?;
    let unix = request.expires.checked_sub(form.lifetime).ok_or_else(|| {
        SignError::field("expires", format!("{}: give Unix seconds, later than the TTL", request.expires))
    })?;
    if form.binds_client() && request.client.is_none() {
        return Err(SignError::field("client", "not given: this profile's expression has $remote_addr; give it"));
    }
    if matches!(profile, Profile::TencentLive { .. }) && stream_name(path).is_empty() {
        return Err(SignError::field("path", format!("`{path}` names no stream: give /app/stream.m3u8 or the like")));
    }
    for (field, value) in [("nonce", request.nonce), ("uid", request.uid)] {
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(SignError::field(field, format!("`{value}`: give letters and digits only")));
        }
    }
    let time = time_text(profile, unix)?;
    let (nonce, uid) = (request.nonce, request.uid);
    let fields = Fields { path, time: &time, nonce, uid, query, client: request.client };
    let digest = form.digest(key.secret.as_bytes(), &fields);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(match profile {
        Profile::Shoal => String::new(),
        Profile::TencentB { .. } | Profile::AliyunB { .. } => with_query(&format!("/{time}/{hex}{path}"), query, &[]),
        Profile::TencentC { .. } | Profile::AliyunC { .. } => with_query(&format!("/{hex}/{time}{path}"), query, &[]),
        Profile::TencentA { param, .. } | Profile::AliyunA { param, .. } => {
            with_query(path, query, &[(param, &format!("{time}-{nonce}-{uid}-{hex}"))])
        }
        Profile::TencentLive { signature_param, time_param }
        | Profile::TencentD { signature_param, time_param, .. } => {
            with_query(path, query, &[(signature_param, &hex), (time_param, &time)])
        }
        Profile::NginxSecureLink { signature_param, expires_param, .. } => {
            with_query(path, query, &[(signature_param, &URL_SAFE_NO_PAD.encode(digest)), (expires_param, &time)])
        }
    })
}

fn time_text(profile: &Profile, unix: u64) -> Result<String, SignError> {
    let out_of_range = || SignError::field("expires", format!("{unix}: too late for this form; give an earlier one"));
    match profile {
        Profile::TencentB { .. } | Profile::AliyunB { .. } => format_minute(unix).ok_or_else(out_of_range),
        // Eight digits: the shape by which a signature in a path is told.
        Profile::TencentC { .. } | Profile::AliyunC { .. } => {
            u32::try_from(unix).map(|unix| format!("{unix:08x}")).map_err(|_| out_of_range())
        }
        Profile::TencentLive { .. } | Profile::TencentD { time_format: TimeFormat::Hex, .. } => Ok(format!("{unix:x}")),
        _ => Ok(unix.to_string()),
    }
}

fn with_query(path: &str, query: &str, more: &[(&str, &str)]) -> String {
    let mut url = path.to_owned();
    let pairs = more.iter().map(|(name, value)| format!("{name}={value}"));
    for pair in (!query.is_empty()).then(|| query.to_owned()).into_iter().chain(pairs) {
        url.push(if url.len() == path.len() { '?' } else { '&' });
        url.push_str(&pair);
    }
    url
}
