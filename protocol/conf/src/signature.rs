//! Requests signed with an app's key.
//!
//! A signature is the text `KEY.TIMESTAMP.NONCE.SIGNATURE`: the key's id, Unix seconds, 8 to 64 characters of `A-Z a-z 0-9 - _`
//! that are used once, and the base64url without padding of HMAC-SHA-256(secret, canonical). It stands in the header
//! `X-Shoal-Signature` or the parameter `signature`. The canonical string is, with a line feed behind each line,
//!
//! ```text
//! shoal-conf-1
//! KEY
//! TIMESTAMP
//! NONCE
//! NAME=VALUE        one line for each parameter but `signature` and `pass`, in the order of the names' bytes,
//!                   decoded and in UTF-8; those that are not sent have none
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use shoal_ticket::Key;
use subtle::ConstantTimeEq;

use crate::code::Code;

/// First line of what is signed.
const DOMAIN: &str = "shoal-conf-1";
/// Most characters of a signature.
pub const MAX_SIGNATURE: usize = 16 + 1 + 10 + 1 + MAX_NONCE + 1 + 43;
/// Fewest characters of a nonce.
const MIN_NONCE: usize = 8;
/// Most characters of a nonce.
const MAX_NONCE: usize = 64;

/// A signature, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Id of the key.
    pub key: &'a str,
    /// Unix seconds.
    pub timestamp: u64,
    /// Used once.
    pub nonce: &'a str,
    mac: [u8; 32],
}

/// Parameters of a request: names and decoded values, in the order of the names.
pub type Parameters<'a> = [(&'a str, &'a str)];

impl<'a> Signature<'a> {
    /// Takes a signature apart; none when it is not of the form.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_SIGNATURE {
            return None;
        }
        let mut parts = text.split('.');
        let (key, time, nonce, mac) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let digits = (1..=10).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
        let good = parts.next().is_none()
            && (1..=16).contains(&key.len())
            && word(key)
            && digits
            && (MIN_NONCE..=MAX_NONCE).contains(&nonce.len())
            && word(nonce);
        if !good {
            return None;
        }
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        Some(Self { key, timestamp: time.parse().ok()?, nonce, mac })
    }

    /// Checks it against the keys of an app, at `now` (Unix seconds). Whether its nonce is new is not known here.
    ///
    /// # Errors
    /// `SignatureKey`, `SignatureWrong`, `SignatureTime`.
    pub fn verify(&self, keys: &[Key], parameters: &Parameters<'_>, now: u64, window_s: u64) -> Result<(), Code> {
        let key = keys.iter().find(|key| key.id == self.key).ok_or(Code::SignatureKey)?;
        let right = mac(key, self.timestamp, self.nonce, parameters).ok_or(Code::SignatureWrong)?;
        if !bool::from(right.ct_eq(&self.mac)) {
            return Err(Code::SignatureWrong);
        }
        if now.abs_diff(self.timestamp) > window_s {
            return Err(Code::SignatureTime);
        }
        Ok(())
    }
}

/// The signature of a request; none when a name or value has a line feed in it, which no request may have.
pub fn sign(key: &Key, timestamp: u64, nonce: &str, parameters: &Parameters<'_>) -> Option<String> {
    let mac = mac(key, timestamp, nonce, parameters)?;
    Some(format!("{}.{timestamp}.{nonce}.{}", key.id, URL_SAFE_NO_PAD.encode(mac)))
}

/// What is signed.
pub fn canonical(key: &str, timestamp: u64, nonce: &str, parameters: &Parameters<'_>) -> Option<String> {
    let mut text = format!("{DOMAIN}\n{key}\n{timestamp}\n{nonce}\n");
    for (name, value) in parameters {
        if name.contains(['\n', '=']) || value.contains('\n') {
            return None;
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
        text.push('\n');
    }
    Some(text)
}

fn mac(key: &Key, timestamp: u64, nonce: &str, parameters: &Parameters<'_>) -> Option<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key.secret.as_bytes()).ok()?;
    mac.update(canonical(&key.id, timestamp, nonce, parameters)?.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn keys() -> Vec<Key> {
        let key = |id: &str, secret: &str| Key { id: id.to_owned(), secret: secret.to_owned() };
        vec![key("k2", "another secret of the app"), key("k1", "a secret of the app player")]
    }

    const PARAMETERS: &Parameters<'_> =
        &[("app", "player"), ("channel", "room1"), ("platform", "html5"), ("viewer", "zoë")];

    /// The vector of docs/conf.md; recomputed there with openssl.
    const VECTOR: &str = "k1.1700000000.n0nce-0001.TrPPE3FhTG_2iZWmMSOs7YFbc3JTtNnhWxCGMShZPXk";

    #[test]
    fn the_vector_of_the_manual() {
        let signed = sign(&keys()[1], NOW, "n0nce-0001", PARAMETERS).unwrap();
        assert_eq!(signed, VECTOR);
        assert_eq!(
            canonical("k1", NOW, "n0nce-0001", PARAMETERS).unwrap(),
            "shoal-conf-1\nk1\n1700000000\nn0nce-0001\napp=player\nchannel=room1\nplatform=html5\nviewer=zoë\n"
        );
    }

    #[test]
    fn what_is_signed_verifies_within_the_window_and_with_any_key() {
        for key in keys() {
            let text = sign(&key, NOW, "0123456789abcdef", PARAMETERS).unwrap();
            let signature = Signature::parse(&text).unwrap();
            for now in [NOW - 60, NOW, NOW + 60] {
                assert_eq!(signature.verify(&keys(), PARAMETERS, now, 60), Ok(()));
            }
            for now in [NOW - 61, NOW + 61] {
                assert_eq!(signature.verify(&keys(), PARAMETERS, now, 60), Err(Code::SignatureTime));
            }
            assert_eq!(signature.verify(&[], PARAMETERS, NOW, 60), Err(Code::SignatureKey));
        }
    }

    #[test]
    fn every_character_and_every_parameter_counts() {
        let text = sign(&keys()[0], NOW, "0123456789abcdef", PARAMETERS).unwrap();
        for (at, old) in text.char_indices() {
            let mut altered = text.clone();
            altered.replace_range(at..=at, if old == '1' { "2" } else { "1" });
            let verified = Signature::parse(&altered).map(|signature| signature.verify(&keys(), PARAMETERS, NOW, 60));
            assert_ne!(verified, Some(Ok(())), "{altered}");
            assert_eq!(Signature::parse(&text[..at]), None, "cut at {at}");
        }
        let signature = Signature::parse(&text).unwrap();
        for leave in 0..PARAMETERS.len() {
            let mut fewer = PARAMETERS.to_vec();
            fewer.remove(leave);
            assert_eq!(signature.verify(&keys(), &fewer, NOW, 60), Err(Code::SignatureWrong));
        }
        assert_eq!(canonical("k", 1, "n", &[("a", "b\nc=d")]), None);
    }

    #[test]
    fn other_forms_are_none() {
        let mac = "A".repeat(43);
        for text in [
            String::new(),
            format!("k1.1700000000.short.{mac}"),
            format!("k1.-1.0123456789.{mac}"),
            format!("k1..0123456789.{mac}"),
            format!("k1.17000000000.0123456789.{mac}"),
            format!("k 1.1700000000.0123456789.{mac}"),
            format!("k1.1700000000.0123456789.{mac}A"),
            format!("k1.1700000000.0123456789.{mac}.x"),
            format!("k1.1700000000.{}.{mac}", "n".repeat(65)),
        ] {
            assert_eq!(Signature::parse(&text), None, "{text}");
        }
    }
}
