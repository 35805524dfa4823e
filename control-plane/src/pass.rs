//! The viewer's pass: what conf gives an SDK, and what it shows to the tracker and with its reports.
//!
//! ```text
//! base64url, no padding, of
//!   version   1 byte    1
//!   flags     1 byte    bit 0: no address of this viewer leaves the tracker
//!   key       4 bytes   number of the key (big-endian)
//!   expires   5 bytes   Unix seconds (big-endian)
//!   tenant, app, channel, session   each 1 byte length, then its bytes
//!   mac       16 bytes  the left half of HMAC-SHA-256(key, "shoal-pass" 0x00 all of the above)
//! ```
//!
//! Any instance of the control plane verifies what another one gave out: the keys are in the store that they share. A pass is
//! no ticket: nodes do not know its keys, and it opens no slice.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Most bytes of tenant, app and channel ids, and of a session.
pub const MAX_FIELD: usize = 64;
/// Characters of a pass at most.
pub const MAX_PASS: usize = (HEAD + 4 * (1 + MAX_FIELD) + MAC_BYTES).div_ceil(3) * 4;

const VERSION: u8 = 1;
const RELAY_ONLY: u8 = 1;
const DOMAIN: &[u8] = b"shoal-pass\0";
const MAC_BYTES: usize = 16;
const EXPIRES_BYTES: usize = 5;
const HEAD: usize = 2 + 4 + EXPIRES_BYTES;
// Lengths travel in one byte.
const _: () = assert!(MAX_FIELD <= u8::MAX as usize);

/// Who a viewer is, as conf has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Tenant id.
    pub tenant: Arc<str>,
    /// App id; empty where none was asked for.
    pub app: Arc<str>,
    /// Channel id.
    pub channel: Arc<str>,
    /// Session id: the same in tickets, in the ledger and in reports.
    pub session: Arc<str>,
    /// Unix seconds.
    pub expires: u64,
    /// No address of this viewer is given to another one.
    pub relay_only: bool,
}

/// Why a pass is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// Not of the form.
    #[error("the pass is malformed; send the one that conf gave, as it came")]
    Malformed,
    /// A key that is not there, or no longer.
    #[error("the pass is signed with a key that is no longer accepted; ask conf for another")]
    Key,
    /// Another signature.
    #[error("the pass has a wrong signature; ask conf for another")]
    Signature,
    /// Its time is over.
    #[error("the pass has expired; ask conf for another")]
    Expired,
}

impl PassError {
    /// The reason label of counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Expired => "expired",
        }
    }
}

/// The keys of passes; the first signs, all are accepted.
#[derive(Clone)]
pub struct PassKeys(Arc<[(u32, [u8; KEY_BYTES])]>);

impl PassKeys {
    /// Keys with their numbers; at least one, or no pass can be made or verified.
    pub fn new(keys: Vec<(u32, [u8; KEY_BYTES])>) -> Self {
        Self(keys.into())
    }

    /// The text of a pass; none without a key, or when a field is longer than [`MAX_FIELD`].
    pub fn mint(&self, pass: &Pass) -> Option<String> {
        let (number, key) = self.0.first()?;
        let mut bytes = Vec::with_capacity(HEAD + 4 * (1 + MAX_FIELD) + MAC_BYTES);
        bytes.extend([VERSION, if pass.relay_only { RELAY_ONLY } else { 0 }]);
        bytes.extend(number.to_be_bytes());
        bytes.extend(pass.expires.to_be_bytes().get(8 - EXPIRES_BYTES..)?);
        for field in [&pass.tenant, &pass.app, &pass.channel, &pass.session] {
            if field.len() > MAX_FIELD {
                return None;
            }
            bytes.push(field.len() as u8);
            bytes.extend(field.as_bytes());
        }
        let mac = mac(key, &bytes);
        bytes.extend(mac);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a pass says, if it is one and still good at `now` (Unix seconds).
    pub fn verify(&self, text: &str, now: u64) -> Result<Pass, PassError> {
        if text.len() > MAX_PASS {
            return Err(PassError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PassError::Malformed)?;
        let (signed, given) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(PassError::Malformed)?;
        let (head, mut rest) = signed.split_first_chunk::<HEAD>().ok_or(PassError::Malformed)?;
        let [VERSION, flags @ (0 | RELAY_ONLY), k0, k1, k2, k3, expires @ ..] = head else {
            return Err(PassError::Malformed);
        };
        let number = u32::from_be_bytes([*k0, *k1, *k2, *k3]);
        let (_, key) = self.0.iter().find(|(id, _)| *id == number).ok_or(PassError::Key)?;
        if !bool::from(mac(key, signed).ct_eq(given)) {
            return Err(PassError::Signature);
        }
        let expires = expires.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let mut field = || {
            let (length, bytes) = rest.split_first()?;
            let (field, behind) = bytes.split_at_checked(usize::from(*length))?;
            rest = behind;
            std::str::from_utf8(field).ok().filter(|field| field.len() <= MAX_FIELD).map(Arc::from)
        };
        let mut next = || field().ok_or(PassError::Malformed);
        let (tenant, app, channel, session) = (next()?, next()?, next()?, next()?);
        if !rest.is_empty() {
            return Err(PassError::Malformed);
        }
        if now >= expires {
            return Err(PassError::Expired);
        }
        Ok(Pass { tenant, app, channel, session, expires, relay_only: *flags == RELAY_ONLY })
    }
}

fn mac(key: &[u8; KEY_BYTES], signed: &[u8]) -> [u8; MAC_BYTES] {
    // A key of any length will do for HMAC; this one has 32 bytes.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
    mac.update(DOMAIN);
    mac.update(signed);
    let whole: [u8; 32] = mac.finalize().into_bytes().into();
    let mut half = [0; MAC_BYTES];
    half.copy_from_slice(&whole[..MAC_BYTES]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PassKeys {
        PassKeys::new(vec![(7, [1; KEY_BYTES]), (6, [2; KEY_BYTES])])
    }

    fn pass() -> Pass {
        Pass {
            tenant: "acme".into(),
            app: "player".into(),
            channel: "room1".into(),
            session: "0123456789abcdef".into(),
            expires: 1_000,
            relay_only: true,
        }
    }

    #[test]
    fn what_was_minted_verifies_until_it_expires() {
        let text = keys().mint(&pass()).unwrap();
        assert_eq!(keys().verify(&text, 999), Ok(pass()));
        assert_eq!(keys().verify(&text, 1_000), Err(PassError::Expired));
        let open = Pass { relay_only: false, app: "".into(), ..pass() };
        assert_eq!(keys().verify(&keys().mint(&open).unwrap(), 0), Ok(open));
    }

    #[test]
    fn keys_rotate_with_overlap() {
        let old = PassKeys::new(vec![(6, [2; KEY_BYTES])]).mint(&pass()).unwrap();
        assert_eq!(keys().verify(&old, 0), Ok(pass()));
        let gone = PassKeys::new(vec![(5, [3; KEY_BYTES])]).mint(&pass()).unwrap();
        assert_eq!(keys().verify(&gone, 0), Err(PassError::Key));
        let other = PassKeys::new(vec![(7, [3; KEY_BYTES])]).mint(&pass()).unwrap();
        assert_eq!(keys().verify(&other, 0), Err(PassError::Signature));
    }

    #[test]
    fn no_byte_may_be_changed_and_none_added_or_left_out() {
        let bytes = URL_SAFE_NO_PAD.decode(keys().mint(&pass()).unwrap()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(keys().verify(&URL_SAFE_NO_PAD.encode(&changed), 0).is_err(), "byte {at}");
            assert!(keys().verify(&URL_SAFE_NO_PAD.encode(&bytes[..at]), 0).is_err(), "cut at {at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(keys().verify(&URL_SAFE_NO_PAD.encode(&longer), 0).is_err());
        for text in ["", "!", &"A".repeat(MAX_PASS + 4)] {
            assert_eq!(keys().verify(text, 0), Err(PassError::Malformed));
        }
    }

    #[test]
    fn fields_have_a_limit_and_keys_are_needed() {
        let long = Pass { session: "x".repeat(MAX_FIELD + 1).into(), ..pass() };
        assert_eq!(keys().mint(&long), None);
        let longest = Pass { session: "x".repeat(MAX_FIELD).into(), ..pass() };
        let text = keys().mint(&longest).unwrap();
        assert_eq!(keys().verify(&text, 0), Ok(longest));
        assert_eq!(PassKeys::new(Vec::new()).mint(&pass()), None);
        assert_eq!(PassKeys::new(Vec::new()).verify(&text, 0), Err(PassError::Key));
    }
}
