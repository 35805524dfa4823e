//! Shoal's own ticket, version 1 (docs/ticket.md):
//!
//! ```text
//! base64url, no padding, of
//!   version   1 byte    1
//!   family    1 byte    0: any client, 4 or 6: bound to an IPv4 or IPv6 network
//!   key id    1 byte length, 1 to 16 bytes
//!   expires   5 bytes   Unix seconds, big-endian
//!   session   1 byte length, 0 to 32 bytes
//!   prefix    2 bytes length (big-endian), 1 to 512 bytes
//!   network   1 byte prefix length, 4 or 16 bytes of address, host bits zero; only where family is 4 or 6
//!   mac       16 bytes  the left half of HMAC-SHA-256(secret, "shoal-ticket" 0x00 len(channel) channel all of the above)
//! ```
//!
//! Every field is of fixed length or preceded by it, and there is one way to write each value, so two different claims
//! never share a text, nor two texts a claim.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::{Refusal, SignError};
use crate::path::{climbs, covers};
use crate::policy::Key;
use crate::short::{KeyId, Session, parse_key_id};

/// Bytes of a key id at most.
pub const MAX_KEY_ID: usize = 16;
/// Bytes of a session id at most.
pub const MAX_SESSION: usize = 32;
/// Bytes of a ticket's path prefix at most.
pub const MAX_PREFIX: usize = 512;
/// Bytes of a channel id at most.
pub const MAX_CHANNEL: usize = 64;
/// Characters of a ticket at most.
pub const MAX_TICKET: usize = MAX_BYTES.div_ceil(3) * 4;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"shoal-ticket\0";
const MAC_BYTES: usize = 16;
const EXPIRES_BYTES: usize = 5;
const MAX_EXPIRES: u64 = (1 << (8 * EXPIRES_BYTES)) - 1;
/// Version, family, lengths, expiry, the longest key id, session, prefix and network, and the MAC.
const MAX_BYTES: usize = 2 + 1 + MAX_KEY_ID + EXPIRES_BYTES + 1 + MAX_SESSION + 2 + MAX_PREFIX + 17 + MAC_BYTES;
// Lengths travel in one byte, that of the prefix in two.
const _: () = assert!(MAX_CHANNEL <= u8::MAX as usize);
const _: () = assert!(MAX_KEY_ID <= MAX_SESSION && MAX_SESSION <= u8::MAX as usize);
const _: () = assert!(MAX_PREFIX <= u16::MAX as usize);

pub(crate) type KeyedMac = Hmac<Sha256>;

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims<'a> {
    /// Id of the channel that it opens: 1 to 64 bytes.
    pub channel: &'a str,
    /// The paths that it opens: this one, and all below it. `/a` covers `/a` and `/a/b`, not `/ab`; `/a/` only what is
    /// below. At most 512 bytes, as the client will send it (percent-encoded), the channel's own prefix included.
    pub path_prefix: &'a str,
    /// Unix seconds; good up to and including this second.
    pub expires: u64,
    /// The viewer's session, for ledgers and reports: up to 32 of `A-Z a-z 0-9 . _ -`; may be empty.
    pub session: &'a str,
    /// Good for clients of this network only.
    pub network: Option<IpNet>,
}

/// Signs `claims` with `key`. Add it to a URL as `ticket=…`, or send it in the cookie `ticket` or the header
/// `X-Shoal-Ticket`.
///
/// # Errors
/// A claim out of its bounds, by name.
pub fn mint(key: &Key, claims: &Claims<'_>) -> Result<String, SignError> {
    mint_with(&key.id, &keyed_mac(key.secret.as_bytes(), claims.channel)?, claims)
}

/// The key's HMAC, up to and including the channel.
pub(crate) fn keyed_mac(secret: &[u8], channel: &str) -> Result<KeyedMac, SignError> {
    let length = u8::try_from(channel.len()).ok().filter(|length| (1..=MAX_CHANNEL).contains(&usize::from(*length)));
    let length = length.ok_or_else(|| {
        SignError::field("channel", format!("`{channel}` has {} bytes: give 1 to {MAX_CHANNEL}", channel.len()))
    })?;
    let mut mac = KeyedMac::new_from_slice(secret)
        .map_err(|_| SignError::field("secret", "of no usable length: give another secret"))?;
    mac.update(DOMAIN);
    mac.update(&[length]);
    mac.update(channel.as_bytes());
    Ok(mac)
}

/// [`mint`] with a key that is prepared for the claims' channel.
pub(crate) fn mint_with(key_id: &str, mac: &KeyedMac, claims: &Claims<'_>) -> Result<String, SignError> {
    let key_id = parse_key_id(key_id.as_bytes())
        .ok_or_else(|| SignError::field("key", format!("id `{key_id}`: give 1 to 16 of A-Z a-z 0-9 - _")))?;
    let session = Session::new(claims.session.as_bytes()).ok_or_else(|| {
        SignError::field("session", format!("`{}`: give up to 32 of A-Z a-z 0-9 . _ -", claims.session))
    })?;
    let prefix = claims.path_prefix;
    if !is_prefix(prefix.as_bytes()) {
        let problem = format!(
            "`{prefix}`: give a percent-encoded path of at most {MAX_PREFIX} bytes that begins with / and has no .."
        );
        return Err(SignError::field("path_prefix", problem));
    }
    if claims.expires > MAX_EXPIRES {
        return Err(SignError::field("expires", format!("{}: give Unix seconds, not milliseconds", claims.expires)));
    }
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    bytes.push(VERSION);
    bytes.push(match claims.network {
        None => 0,
        Some(IpNet::V4(_)) => 4,
        Some(IpNet::V6(_)) => 6,
    });
    bytes.push(key_id.as_str().len() as u8);
    bytes.extend_from_slice(key_id.as_str().as_bytes());
    bytes.extend(claims.expires.to_be_bytes().iter().skip(8 - EXPIRES_BYTES));
    bytes.push(session.as_str().len() as u8);
    bytes.extend_from_slice(session.as_str().as_bytes());
    bytes.extend_from_slice(&(prefix.len() as u16).to_be_bytes());
    bytes.extend_from_slice(prefix.as_bytes());
    match claims.network.map(|network| network.trunc()) {
        None => {}
        Some(IpNet::V4(net)) => {
            bytes.push(net.prefix_len());
            bytes.extend_from_slice(&net.addr().octets());
        }
        Some(IpNet::V6(net)) => {
            bytes.push(net.prefix_len());
            bytes.extend_from_slice(&net.addr().octets());
        }
    }
    let full = tag(mac, &bytes);
    bytes.extend(full.iter().take(MAC_BYTES));
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The session that a ticket names, whoever made it: nothing is verified. For logs of others.
#[must_use]
pub fn session_of(ticket: &str) -> Option<Session> {
    let mut buffer = [0; MAX_BYTES + 3];
    let length = URL_SAFE_NO_PAD.decode_slice(ticket, &mut buffer).ok()?;
    let session = buffer.get(..length).and_then(Ticket::parse)?.session;
    (!session.as_str().is_empty()).then_some(session)
}

/// A ticket that stood every check.
pub(crate) struct Verified {
    pub(crate) session: Option<Session>,
    pub(crate) expires: u64,
    pub(crate) binds_client: bool,
}

/// Whom and what a ticket is checked for.
pub(crate) struct Request<'a> {
    /// None: what is asked for has no path.
    pub(crate) path: Option<&'a str>,
    pub(crate) client: IpAddr,
    pub(crate) now: u64,
    pub(crate) skew: u64,
}

/// A ticket whose MAC was right, and what it says. Whoever keeps one must ask for it only with the same keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    text: String,
    prefix: Vec<u8>,
    session: Option<Session>,
    expires: u64,
    network: Option<IpNet>,
}

const FORM: &str = "shoal";

impl Known {
    /// Whether this is its text; never while there is none. Takes as long for any text of the same length: it may be another
    /// viewer's who guesses.
    pub(crate) fn is(&self, text: &str) -> bool {
        !self.text.is_empty()
            && self.text.len() == text.len()
            && self.text.bytes().zip(text.bytes()).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }

    /// Checks what changes from request to request: all but the MAC.
    pub(crate) fn check(&self, request: &Request<'_>) -> Result<Verified, Refusal> {
        if request.now > self.expires.saturating_add(request.skew) {
            return Err(Refusal::Expired { form: FORM, expires: self.expires, now: request.now });
        }
        if request.path.is_some_and(|path| !covers(&self.prefix, path.as_bytes())) {
            return Err(Refusal::Path { prefix: String::from_utf8_lossy(&self.prefix).into() });
        }
        let client = request.client.to_canonical();
        if let Some(network) = self.network.filter(|network| !network.contains(&client)) {
            return Err(Refusal::Network { network, client });
        }
        Ok(Verified { session: self.session, expires: self.expires, binds_client: self.network.is_some() })
    }

    /// What it says, but for the time.
    pub(crate) fn claims<'a>(&'a self, channel: &'a str, expires: u64) -> Option<Claims<'a>> {
        let path_prefix = std::str::from_utf8(&self.prefix).ok()?;
        let session = self.session.as_ref().map_or("", Session::as_str);
        Some(Claims { channel, path_prefix, expires, session, network: self.network })
    }

    fn learn(&mut self, text: &str, ticket: &Ticket<'_>) {
        self.text.clear();
        self.text.push_str(text);
        self.prefix.clear();
        self.prefix.extend_from_slice(ticket.prefix);
        self.session = Some(ticket.session).filter(|id| !id.as_str().is_empty());
        self.expires = ticket.expires;
        self.network = ticket.network;
    }
}

/// Checks a ticket's text, and keeps it in `known` where its MAC is right. `find_key` gives the prepared HMAC of a key id.
pub(crate) fn verify<'k>(
    text: &str,
    request: &Request<'_>,
    find_key: impl FnOnce(&KeyId) -> Option<&'k KeyedMac>,
    known: &mut Known,
) -> Result<Verified, Refusal> {
    // `decode_slice` asks for room by the text's length, up to a whole group more than the result.
    let mut buffer = [0; MAX_BYTES + 3];
    let malformed = Refusal::Malformed { form: FORM };
    let Ok(length) = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer) else { return Err(malformed) };
    let Some(ticket) = buffer.get(..length).and_then(Ticket::parse) else { return Err(malformed) };
    let Some(mac) = find_key(&ticket.key_id) else { return Err(Refusal::UnknownKey { key: ticket.key_id }) };
    let right = tag(mac, ticket.signed);
    if !bool::from(right.get(..MAC_BYTES).unwrap_or_default().ct_eq(ticket.mac)) {
        return Err(Refusal::Signature { form: FORM });
    }
    known.learn(text, &ticket);
    known.check(request)
}

/// What a ticket says, whether it is right or not.
pub(crate) fn describe(text: &str) -> Option<(KeyId, String, u64)> {
    let bytes = (text.len() <= MAX_TICKET).then(|| URL_SAFE_NO_PAD.decode(text).ok())??;
    let ticket = Ticket::parse(&bytes)?;
    let network = ticket.network.map_or_else(|| "any".to_owned(), |network| network.to_string());
    let prefix = String::from_utf8_lossy(ticket.prefix);
    let says = format!("paths {prefix}, session `{}`, network {network}", ticket.session);
    Some((ticket.key_id, says, ticket.expires))
}

fn tag(mac: &KeyedMac, signed: &[u8]) -> impl std::ops::Deref<Target = [u8]> + use<> {
    let mut mac = mac.clone();
    mac.update(signed);
    mac.finalize().into_bytes()
}

fn is_prefix(prefix: &[u8]) -> bool {
    prefix.first() == Some(&b'/')
        && prefix.len() <= MAX_PREFIX
        && prefix.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
        && !climbs(prefix)
}

/// A view of a ticket's bytes.
struct Ticket<'a> {
    key_id: KeyId,
    expires: u64,
    session: Session,
    prefix: &'a [u8],
    network: Option<IpNet>,
    signed: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Ticket<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (signed, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        let mut rest = signed;
        if take::<1>(&mut rest)? != [VERSION] {
            return None;
        }
        let [family] = take(&mut rest)?;
        let key_id = parse_key_id(take_counted(&mut rest)?)?;
        let expires = take::<EXPIRES_BYTES>(&mut rest)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let session = Session::new(take_counted(&mut rest)?)?;
        let length = u16::from_be_bytes(take(&mut rest)?);
        let (prefix, after) = rest.split_at_checked(usize::from(length))?;
        rest = after;
        let network = match family {
            0 => None,
            4 => {
                let [length] = take(&mut rest)?;
                Some(IpNet::V4(Ipv4Net::new(take::<4>(&mut rest)?.into(), length).ok()?))
            }
            6 => {
                let [length] = take(&mut rest)?;
                Some(IpNet::V6(Ipv6Net::new(take::<16>(&mut rest)?.into(), length).ok()?))
            }
            _ => return None,
        };
        let canonical = network.is_none_or(|network| network.trunc() == network);
        (rest.is_empty() && canonical && is_prefix(prefix)).then_some(Self {
            key_id,
            expires,
            session,
            prefix,
            network,
            signed,
            mac,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn take_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [length] = take(rest)?;
    let (head, tail) = rest.split_at_checked(usize::from(length))?;
    *rest = tail;
    Some(head)
}
