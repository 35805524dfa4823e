//! Random secrets of 256 bits: API tokens and ids of sessions. Only their hash is stored.
//!
//! A plain hash is enough: nobody guesses 256 random bits, however fast the hash is.

use std::io;

use sha2::{Digest, Sha256};

use crate::token::random_hex;

/// What API tokens begin with, so that people and scanners of secrets know one.
pub(crate) const PREFIX: &str = "shoal_";
/// Hexadecimal digits of a secret.
const DIGITS: usize = 64;

/// A new API token.
pub(crate) fn new_token() -> io::Result<String> {
    Ok(format!("{PREFIX}{}", random_hex()?))
}

/// Whether it looks like a token of ours, so that it is worth a look into the store.
pub(crate) fn is_token(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(is_id)
}

/// Whether it looks like the id of a session.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What is stored of a secret: its SHA-256, as hexadecimal digits.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// What forms must send back: made of the session's id, which no other page can read.
pub(crate) fn form_token(session: &str) -> String {
    hex(&Sha256::new().chain_update("shoal form token 1:").chain_update(session).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_their_form_and_stored_as_hashes() {
        let token = new_token().unwrap();
        assert!(is_token(&token) && token != new_token().unwrap());
        assert!(!is_token(&token[1..]) && !is_token(&format!("{token}0")) && !is_token("shoal_") && !is_id(""));
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_ne!(form_token("abc"), hash("abc"));
    }
}
