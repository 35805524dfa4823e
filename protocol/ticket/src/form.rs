//! The third-party profiles: what each hashes, and where each keeps digest and time.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::error::{PolicyError, Refusal};
use crate::expression::{Expression, Variables};
use crate::path::{PathShape, PathSignature, folder, hex_digit};
use crate::policy::{FieldOrder, Profile, TimeFormat};
use crate::query::param;
use crate::time::parse_minute;

/// A profile, ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) profile: Profile,
    /// Seconds from the time in the URL to the expiry.
    pub(crate) lifetime: u64,
    /// nginx's.
    expression: Option<Expression>,
}

/// What a digest is made of, as the URL has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    /// The path that is signed.
    pub(crate) path: &'a str,
    /// The time, as written.
    pub(crate) time: &'a str,
    /// `rand` of the `a` forms.
    pub(crate) nonce: &'a str,
    /// `uid` of the `a` forms.
    pub(crate) uid: &'a str,
    /// nginx's `$arg_NAME`.
    pub(crate) query: &'a str,
    /// nginx's `$remote_addr`.
    pub(crate) client: Option<IpAddr>,
}

/// Where a request may carry a signature.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) path: &'a str,
    pub(crate) in_path: Option<PathSignature<'a>>,
    pub(crate) query: &'a str,
    pub(crate) client: IpAddr,
}

/// A signature that stood every check.
pub(crate) struct Signed<'a> {
    pub(crate) path: &'a str,
    pub(crate) expires: u64,
    pub(crate) digest: [u8; 16],
}

/// Stands for the key in what is explained.
pub(crate) const KEY_SIGN: &str = "{key}";

/// A signature as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Explained {
    /// What is hashed, with [`KEY_SIGN`] for the key; none: it cannot be read.
    pub(crate) hashed: Option<String>,
    /// The digest that came, in hex.
    pub(crate) given: Option<String>,
    /// Unix seconds.
    pub(crate) expires: Option<u64>,
}

/// A signature as found, before any check.
struct Found<'a> {
    digest: [u8; 16],
    fields: Fields<'a>,
    unix: u64,
}

impl Form {
    /// `field` is the profile's place in the policy, for errors.
    pub(crate) fn new(profile: &Profile, policy_ttl_s: u32, field: &str) -> Result<Self, PolicyError> {
        let mut names: Vec<&str> = Vec::new();
        for (setting, name) in profile.params().into_iter().flatten() {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            if name.is_empty() || name.len() > 32 || !name.bytes().all(allowed) {
                let problem = format!("`{name}` is no parameter name: give 1 to 32 of A-Z a-z 0-9 _ - .");
                return Err(PolicyError::new(format!("{field}.{setting}"), problem));
            }
            if name == crate::PARAMETER || names.contains(&name) {
                let problem = format!("`{name}` is taken already: give a name of its own");
                return Err(PolicyError::new(format!("{field}.{setting}"), problem));
            }
            names.push(name);
        }
        if profile.ttl_s() == Some(0) {
            return Err(PolicyError::new(format!("{field}.ttl_s"), "0 would expire at once: give 1 or more seconds"));
        }
        let expression = match profile {
            Profile::NginxSecureLink { expression, expires_param, .. } => Some(
                Expression::parse(expression, expires_param)
                    .map_err(|problem| PolicyError::new(format!("{field}.expression"), problem))?,
            ),
            _ => None,
        };
        Ok(Self { profile: profile.clone(), lifetime: profile.lifetime(policy_ttl_s), expression })
    }

    /// Whether signatures are good for one client address only.
    pub(crate) fn binds_client(&self) -> bool {
        self.expression.as_ref().is_some_and(Expression::binds_client)
    }

    /// The shape of its signature in a path, where it may have one.
    pub(crate) fn path_shape(&self) -> Option<PathShape> {
        match self.profile {
            Profile::TencentB { .. } | Profile::AliyunB { .. } => Some(PathShape::Dated),
            Profile::TencentC { .. } | Profile::AliyunC { .. } => Some(PathShape::Hex),
            _ => None,
        }
    }

    /// The right digest.
    pub(crate) fn digest(&self, secret: &[u8], fields: &Fields<'_>) -> [u8; 16] {
        let mut md5 = Md5::new();
        self.feed(secret, fields, &mut |piece| md5.update(piece));
        md5.finalize().into()
    }

    /// What is hashed, piece by piece.
    fn feed(&self, secret: &[u8], fields: &Fields<'_>, sink: &mut impl FnMut(&[u8])) {
        let Fields { path, time, nonce, uid, query, client } = *fields;
        let path_bytes = path.as_bytes();
        let time_bytes = time.as_bytes();
        let mut all = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| sink(piece));
        match &self.profile {
            // Shoal's own ticket is no form of this kind, and is checked elsewhere.
            Profile::Shoal => {}
            Profile::TencentLive { .. } => all(&[secret, stream_name(path).as_bytes(), time_bytes]),
            Profile::TencentA { .. } | Profile::AliyunA { .. } => {
                all(&[path_bytes, b"-", time_bytes, b"-", nonce.as_bytes(), b"-", uid.as_bytes(), b"-", secret]);
            }
            Profile::TencentB { .. }
            | Profile::AliyunB { .. }
            | Profile::TencentC { order: FieldOrder::TimePath, .. } => all(&[secret, time_bytes, path_bytes]),
            Profile::TencentC { order: FieldOrder::PathTime, .. }
            | Profile::TencentD { .. }
            | Profile::AliyunC { .. } => all(&[secret, path_bytes, time_bytes]),
            Profile::NginxSecureLink { .. } => {
                if let Some(expression) = &self.expression {
                    expression.feed(&Variables { secret, expires: time, path, query, client }, sink);
                }
            }
        }
    }

    /// What a request shows of this form, for explanations; `None` when it shows nothing of it.
    pub(crate) fn explain(&self, place: &Place<'_>) -> Option<Explained> {
        let Some(found) = self.find(place)? else { return Some(Explained::default()) };
        let mut hashed = Vec::new();
        self.feed(KEY_SIGN.as_bytes(), &found.fields, &mut |piece| hashed.extend_from_slice(piece));
        Some(Explained {
            hashed: Some(String::from_utf8_lossy(&hashed).into_owned()),
            given: Some(found.digest.iter().map(|byte| format!("{byte:02x}")).collect()),
            expires: Some(found.unix.saturating_add(self.lifetime)),
        })
    }

    /// Checks a request for a signature of this form; `None` when it has none.
    pub(crate) fn verify<'a, 'k>(
        &self,
        place: &Place<'a>,
        secrets: impl Iterator<Item = &'k [u8]>,
        now: u64,
        skew: u64,
    ) -> Option<Result<Signed<'a>, Refusal>> {
        let form = self.profile.name();
        let Some(found) = self.find(place)? else { return Some(Err(Refusal::Malformed { form })) };
        let mut right = subtle::Choice::from(0);
        for secret in secrets {
            right |= self.digest(secret, &found.fields).ct_eq(&found.digest);
        }
        if !bool::from(right) {
            return Some(Err(Refusal::Signature { form }));
        }
        let expires = found.unix.saturating_add(self.lifetime);
        if now > expires.saturating_add(skew) {
            return Some(Err(Refusal::Expired { form, expires, now }));
        }
        Some(Ok(Signed { path: found.fields.path, expires, digest: found.digest }))
    }

    /// `None`: no signature of this form. `Some(None)`: one that cannot be read.
    fn find<'a>(&self, place: &Place<'a>) -> Option<Option<Found<'a>>> {
        let Place { path, in_path, query, client } = *place;
        let fields = Fields { path, time: "", nonce: "", uid: "", query, client: Some(client) };
        let pair = |signature: &str, time: &str| Some((param(query, signature)?, param(query, time)?));
        let from_path = || {
            let found = in_path.filter(|found| Some(found.shape) == self.path_shape())?;
            let unix = match found.shape {
                PathShape::Dated => parse_minute(found.time),
                PathShape::Hex => parse_hex(found.time),
            };
            Some((found.digest, found.time, unix, found.rest))
        };
        Some(match &self.profile {
            Profile::Shoal => return None,
            Profile::TencentLive { signature_param, time_param } => {
                let (digest, time) = pair(signature_param, time_param)?;
                found(hex_digest(digest), Fields { time, ..fields }, parse_hex(time))
            }
            Profile::TencentA { param: name, .. } | Profile::AliyunA { param: name, .. } => {
                dashed(param(query, name)?, fields)
            }
            Profile::TencentB { .. } | Profile::AliyunB { .. } | Profile::TencentC { .. } => {
                let (digest, time, unix, path) = from_path()?;
                found(hex_digest(digest), Fields { path, time, ..fields }, unix)
            }
            Profile::AliyunC { signature_param, time_param, .. } => match from_path() {
                Some((digest, time, unix, path)) => found(hex_digest(digest), Fields { path, time, ..fields }, unix),
                None => {
                    let (digest, time) = pair(signature_param, time_param)?;
                    found(hex_digest(digest), Fields { time, ..fields }, parse_hex(time))
                }
            },
            Profile::TencentD { signature_param, time_param, time_format, .. } => {
                let (digest, time) = pair(signature_param, time_param)?;
                let unix = match time_format {
                    TimeFormat::Decimal => parse_decimal(time),
                    TimeFormat::Hex => parse_hex(time),
                };
                found(hex_digest(digest), Fields { time, ..fields }, unix)
            }
            Profile::NginxSecureLink { signature_param, expires_param, .. } => {
                let (digest, time) = pair(signature_param, expires_param)?;
                found(base64_digest(digest), Fields { time, ..fields }, parse_decimal(time))
            }
        })
    }
}

fn found<'a>(digest: Option<[u8; 16]>, fields: Fields<'a>, unix: Option<u64>) -> Option<Found<'a>> {
    Some(Found { digest: digest?, fields, unix: unix? })
}

/// `ts-rand-uid-H`.
fn dashed<'a>(value: &'a str, fields: Fields<'a>) -> Option<Found<'a>> {
    let mut parts = value.split('-');
    let (time, nonce, uid, digest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    found(hex_digest(digest), Fields { time, nonce, uid, ..fields }, parse_decimal(time))
}

/// The stream of a live URL: the last segment without its extension (`/live/test.m3u8` is `test`).
pub(crate) fn stream_name(path: &str) -> &str {
    let name = path.get(folder(path).len()..).unwrap_or_default();
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn hex_digest(text: &str) -> Option<[u8; 16]> {
    let mut digest = [0; 16];
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !odd.is_empty() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(digest)
}

fn base64_digest(text: &str) -> Option<[u8; 16]> {
    // Three bytes of room more than there are: `decode_slice` asks for whole groups.
    let mut buffer = [0; 19];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok()?;
    buffer.get(..length)?.try_into().ok()
}

fn parse_decimal(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_hex(text: &str) -> Option<u64> {
    let hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(text, 16).ok())?
}
