//! Passwords, and the keys of HMACs that are made from them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes of a realm at most.
pub const MAX_REALM: usize = 127;
/// Characters of a time-limited password: the base64 of an HMAC-SHA1.
pub const PASSWORD: usize = 28;

/// How a key is made from a password (RFC 8489 section 18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// What RFC 5389 had.
    Md5,
    /// Offered to those who know RFC 8489.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number in IANA's registry.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// Inverse of [`number`](Self::number).
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// What messages are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; 32],
    algorithm: PasswordAlgorithm,
}

impl Key {
    /// The key of a user: the hash of `username:realm:password` (RFC 8489 section 9.2.2).
    #[must_use]
    pub fn long_term(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> Self {
        let parts = [username, ":", realm, ":", password];
        let mut bytes = [0; 32];
        match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut hash = Md5::new();
                parts.iter().for_each(|part| hash.update(part));
                for (place, byte) in bytes.iter_mut().zip(hash.finalize()) {
                    *place = byte;
                }
            }
            PasswordAlgorithm::Sha256 => {
                let mut hash = Sha256::new();
                parts.iter().for_each(|part| hash.update(part));
                bytes = hash.finalize().into();
            }
        }
        Self { bytes, algorithm }
    }

    /// How it was made.
    #[must_use]
    pub const fn algorithm(&self) -> PasswordAlgorithm {
        self.algorithm
    }

    /// 16 or 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = match self.algorithm {
            PasswordAlgorithm::Md5 => 16,
            PasswordAlgorithm::Sha256 => 32,
        };
        self.bytes.get(..length).unwrap_or_default()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.algorithm)
    }
}

/// The password of a time-limited name, in ASCII.
#[must_use]
pub fn time_limited_password(secret: &[u8], username: &str) -> [u8; PASSWORD] {
    let mut password = [0; PASSWORD];
    if let Ok(mac) = Hmac::<Sha1>::new_from_slice(secret) {
        let mac = mac.chain_update(username).finalize().into_bytes();
        // 20 bytes are 28 characters, so it fits.
        let _ = STANDARD.encode_slice(mac, &mut password);
    }
    password
}

/// What stands for a name where the name is not to be seen (RFC 8489 section 14.4).
#[must_use]
pub fn user_hash(username: &str, realm: &str) -> [u8; 32] {
    Sha256::new().chain_update(username).chain_update(":").chain_update(realm).finalize().into()
}
