//! Nonces that need no memory:
//!
//! ```text
//! "obMatJos2"          9 characters  the nonce cookie (RFC 8489 section 9.2)
//! features             4 characters  base64 of 24 bits: which parts of RFC 8489 the server speaks
//! ticket              27 characters  base64, no padding, of
//!   expires              4 bytes     Unix seconds, big-endian
//!   epoch                1 byte      which key
//!   mac                 15 bytes     of HMAC-SHA256(key, "shoal-nonce" 0x00 features expires epoch port address)
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Characters of a nonce.
pub const NONCE: usize = COOKIE.len() + FEATURES + TICKET_TEXT;

const COOKIE: &str = "obMatJos2";
const FEATURES: usize = 4;
const MAC: usize = 15;
const TICKET: usize = 4 + 1 + MAC;
const TICKET_TEXT: usize = (TICKET * 8).div_ceil(6);
const DOMAIN: &[u8] = b"shoal-nonce\0";
/// The first of the 24 bits: password algorithms are offered (RFC 8489 section 18.1).
const PASSWORD_ALGORITHMS: [u8; 3] = [0x80, 0, 0];
const NOTHING: [u8; 3] = [0; 3];

/// A key that nonces are signed with.
#[derive(Clone)]
pub struct NonceKey {
    /// Tells it from the one before and the one after.
    pub epoch: u8,
    /// Of no use to whoever does not know it.
    pub secret: [u8; 32],
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NonceKey({})", self.epoch)
    }
}

/// Makes nonces and knows them again.
#[derive(Debug, Clone)]
pub struct Nonces {
    /// The key of new ones, and those that are still honoured.
    keys: Vec<NonceKey>,
    lifetime: u32,
    features: [u8; 3],
}

impl Nonces {
    /// `keys` has the current key first, then older ones; without any, nothing is authenticated. `lifetime` in seconds.
    /// `password_algorithms`: whether [`PASSWORD-ALGORITHMS`](crate::message::PasswordAlgorithms) comes with them, so that
    /// an attacker who takes it away is noticed.
    #[must_use]
    pub fn new(keys: Vec<NonceKey>, lifetime: u32, password_algorithms: bool) -> Self {
        Self { keys, lifetime, features: if password_algorithms { PASSWORD_ALGORITHMS } else { NOTHING } }
    }

    /// A nonce for a client, good from now for the lifetime.
    #[must_use]
    pub fn issue(&self, client: SocketAddr, unix: u64) -> [u8; NONCE] {
        let mut nonce = [b'-'; NONCE];
        let Some(key) = self.keys.first() else { return nonce };
        // 32 bits of seconds last until 2106.
        let expires = u32::try_from(unix).unwrap_or(u32::MAX).saturating_add(self.lifetime).to_be_bytes();
        let mac = mac(key, self.features, expires, client);
        let mut ticket = [0; TICKET];
        for (place, byte) in ticket.iter_mut().zip(expires.into_iter().chain([key.epoch]).chain(mac)) {
            *place = byte;
        }
        let (cookie, rest) = nonce.split_at_mut(COOKIE.len());
        let (features, text) = rest.split_at_mut(FEATURES);
        cookie.copy_from_slice(COOKIE.as_bytes());
        // Both fit: three bytes are four characters, and 20 are 27.
        let _ = STANDARD.encode_slice(self.features, features);
        let _ = STANDARD_NO_PAD.encode_slice(ticket, text);
        nonce
    }

    /// Whether this is a nonce of ours, for this client, and not expired.
    #[must_use]
    pub fn check(&self, nonce: &str, client: SocketAddr, unix: u64) -> bool {
        let Some(text) = nonce.strip_prefix(COOKIE) else { return false };
        let Some((features, text)) = text.split_at_checked(FEATURES) else { return false };
        let (mut bits, mut ticket) = ([0; 3], [0; TICKET]);
        if STANDARD.decode_slice(features, &mut bits) != Ok(bits.len())
            || text.len() != TICKET_TEXT
            || STANDARD_NO_PAD.decode_slice(text, &mut ticket) != Ok(TICKET)
        {
            return false;
        }
        let [e0, e1, e2, e3, epoch, received @ ..] = ticket;
        let expires = [e0, e1, e2, e3];
        let Some(key) = self.keys.iter().find(|key| key.epoch == epoch) else { return false };
        // Features other than those now offered are from another configuration: the client shall learn the new ones.
        let right: bool = mac(key, bits, expires, client).ct_eq(&received).into();
        right && bits == self.features && unix <= u64::from(u32::from_be_bytes(expires))
    }

    /// Whether the client was told of password algorithms, by a nonce that may be anyone's (RFC 8489 section 9.2.4).
    #[must_use]
    pub fn offers_algorithms(nonce: &str) -> bool {
        let features = nonce.strip_prefix(COOKIE).and_then(|text| text.split_at_checked(FEATURES));
        let mut bits = [0; 3];
        features.is_some_and(|(features, _)| {
            STANDARD.decode_slice(features, &mut bits) == Ok(bits.len()) && bits[0] & PASSWORD_ALGORITHMS[0] != 0
        })
    }
}

fn mac(key: &NonceKey, features: [u8; 3], expires: [u8; 4], client: SocketAddr) -> [u8; MAC] {
    let mut out = [0; MAC];
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.secret) {
        for part in [DOMAIN, &features, &expires, &[key.epoch], &client.port().to_be_bytes()] {
            mac.update(part);
        }
        match client.ip().to_canonical() {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        for (place, byte) in out.iter_mut().zip(mac.finalize().into_bytes()) {
            *place = byte;
        }
    }
    out
}
