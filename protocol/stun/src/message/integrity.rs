//! MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (RFC 8489 sections 14.5 to 14.7): each covers the message up
//! to itself, with a header whose length ends with itself.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::attribute::{Attribute, AttributeType};
use super::{HEADER, Message};

/// Bytes of an HMAC-SHA1.
pub(super) const SHA1: usize = 20;
/// Bytes of an HMAC-SHA256. None of what STUN is used for here allows a truncated one (section 14.6).
pub(super) const SHA256: usize = 32;
/// What the CRC is XOR'd with, so that it is not mistaken for one of a payload's own: `STUN`.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Which of the two HMACs protects a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// Whether a message's FINGERPRINT is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// There is none.
    Absent,
    /// It is.
    Right,
    /// It is not: the message is something else, or damaged.
    Wrong,
}

impl Message<'_> {
    /// What protects the message: the better one, where both do.
    #[must_use]
    pub const fn integrity(&self) -> Option<Integrity> {
        match (self.sha256, self.sha1) {
            (Some(_), _) => Some(Integrity::Sha256),
            (None, Some(_)) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the message has this HMAC of `key`, compared in constant time. False too when it has none, or one that
    /// is not whole.
    #[must_use]
    pub fn verify(&self, integrity: Integrity, key: &[u8]) -> bool {
        let offset = match integrity {
            Integrity::Sha1 => self.sha1,
            Integrity::Sha256 => self.sha256,
        };
        let Some((covered, value)) = offset.and_then(|offset| self.at(offset)) else { return false };
        match integrity {
            Integrity::Sha1 => value.len() == SHA1 && hmac_sha1(covered, key, SHA1).ct_eq(value).into(),
            Integrity::Sha256 => value.len() == SHA256 && hmac_sha256(covered, key, SHA256).ct_eq(value).into(),
        }
    }

    /// Checks FINGERPRINT.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        match self.fingerprint.and_then(|offset| self.at(offset)) {
            None => Fingerprint::Absent,
            Some((covered, value)) if value == crc(covered).to_be_bytes() => Fingerprint::Right,
            Some(_) => Fingerprint::Wrong,
        }
    }

    /// What is in front of the attribute at `offset`, and its value.
    fn at(&self, offset: usize) -> Option<(&[u8], &[u8])> {
        let (covered, rest) = self.bytes.split_at_checked(offset)?;
        let (Attribute { value, .. }, _) = Attribute::split(rest)?;
        Some((covered, value))
    }
}

/// The header's type and the length it has with an attribute of `value` bytes behind `covered`, and what follows them.
fn parts(covered: &[u8], value: usize) -> ([u8; 4], &[u8]) {
    let length = (covered.len() + 4 + value).saturating_sub(HEADER) as u16;
    let [l0, l1] = length.to_be_bytes();
    match covered.split_first_chunk() {
        Some((&[t0, t1, _, _], rest)) => ([t0, t1, l0, l1], rest),
        None => ([0, 0, l0, l1], &[]),
    }
}

/// HMAC-SHA1 over `covered`, for an attribute of `value` bytes. A key of any length is good for an HMAC.
pub(super) fn hmac_sha1(covered: &[u8], key: &[u8], value: usize) -> [u8; SHA1] {
    let (head, rest) = parts(covered, value);
    Hmac::<Sha1>::new_from_slice(key)
        .map(|mac| mac.chain_update(head).chain_update(rest).finalize().into_bytes().into())
        .unwrap_or_default()
}

/// [`hmac_sha1`] with SHA-256.
pub(super) fn hmac_sha256(covered: &[u8], key: &[u8], value: usize) -> [u8; SHA256] {
    let (head, rest) = parts(covered, value);
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(head).chain_update(rest).finalize().into_bytes().into())
        .unwrap_or_default()
}

/// The value of a FINGERPRINT behind `covered`.
pub(super) fn crc(covered: &[u8]) -> u32 {
    let (head, rest) = parts(covered, 4);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(rest);
    crc.finalize() ^ FINGERPRINT_XOR
}

impl Integrity {
    /// The attribute that it travels in.
    #[must_use]
    pub const fn attribute(self) -> AttributeType {
        match self {
            Self::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            Self::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        }
    }
}
