//! The partner node of section `udp`.

use std::net::SocketAddr;

use super::Problems;
use crate::config;
use crate::settings::PartnerSettings;

/// Keys at once: the one in use, and those before and after it.
const MAX_KEYS: usize = 4;

pub(super) fn settings(raw: &config::Udp, problems: &mut Problems) -> Option<PartnerSettings> {
    let keys = [
        ("udp.partner", &raw.partner),
        ("udp.partner_listen", &raw.partner_listen),
        ("udp.partner_key_file", &raw.partner_key_file),
    ];
    if keys.iter().all(|(_, text)| text.is_empty()) {
        return None;
    }
    for (key, text) in keys {
        if text.is_empty() {
            problems.add(key, "\"\"", "is needed where a partner is; give all three of udp.partner… or none");
        }
    }
    if raw.alternate_port == 0 {
        problems.add("udp.alternate_port", 0, "the type of a NAT takes two ports beside a partner, too");
    }
    let mut address = |key: &str, text: &str| -> Option<SocketAddr> {
        let address: SocketAddr = problems.parse(key, text, "write address:port, such as 192.0.2.7:3477")?;
        if address.ip().is_unspecified() || address.port() == 0 {
            problems.add(key, address, "must be one machine's address, with a port");
        }
        Some(address)
    };
    let remote = address("udp.partner", &raw.partner);
    let listen = address("udp.partner_listen", &raw.partner_listen);
    let keys = keys_in(&raw.partner_key_file, problems);
    let (address, listen) = (remote?, listen?);
    if address.is_ipv4() != listen.is_ipv4() {
        problems.add("udp.partner_listen", listen, "must be of the same family as udp.partner");
    }
    Some(PartnerSettings { listen, address, keys: keys? })
}

fn keys_in(path: &str, problems: &mut Problems) -> Option<Vec<(u8, [u8; 32])>> {
    const KEY: &str = "udp.partner_key_file";
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.add(KEY, format_args!("{path:?}"), format_args!("cannot be read: {error}"));
            return None;
        }
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let keys: Option<Vec<_>> = lines.map(key_of).collect();
    let distinct = |keys: &Vec<(u8, [u8; 32])>| {
        (1..=MAX_KEYS).contains(&keys.len())
            && keys.iter().enumerate().all(|(at, (id, _))| keys[..at].iter().all(|(other, _)| other != id))
    };
    let keys = keys.filter(distinct);
    if keys.is_none() {
        // Not a word of what is in there.
        let problem = format_args!(
            "must hold 1 to {MAX_KEYS} lines, each a number of its own from 0 to 255, a space and 64 hexadecimal digits"
        );
        problems.add(KEY, format_args!("{path:?}"), problem);
    }
    keys
}

fn key_of(line: &str) -> Option<(u8, [u8; 32])> {
    let (number, digits) = line.trim().split_once(char::is_whitespace)?;
    let digits = digits.trim();
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some((number.parse().ok()?, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        let digits = "00ff".repeat(16);
        assert_eq!(
            key_of(&format!("7 {digits}")).map(|(id, secret)| (id, secret[..2].to_vec())),
            Some((7, vec![0, 255]))
        );
        for bad in ["", "7", "7 00ff", &format!("256 {digits}"), &format!("7 {}", "+0".repeat(32))] {
            assert_eq!(key_of(bad), None, "{bad}");
        }
    }
}
