//! Answers to the classic announce and scrape (BEP 3, 7, 23, 48), written by hand into a buffer that may be used again.
//!
//! The keys of a dictionary are in the order of their bytes, as bencoding demands.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::ids::InfoHash;
use crate::swarms::{Answer, Count};

/// How a list of peers is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 6 bytes for an IPv4 address and port under `peers`, 18 for an IPv6 one under `peers6`.
    Compact,
    /// A dictionary for each.
    Dictionaries {
        /// Whether with its id.
        ids: bool,
    },
}

/// Appends the answer to an announce.
pub fn announce(answer: &Answer, form: Form, out: &mut Vec<u8>) {
    out.push(b'd');
    number(out, "complete", answer.complete.into());
    number(out, "downloaded", answer.downloaded.into());
    number(out, "incomplete", answer.incomplete.into());
    number(out, "interval", answer.interval_s.into());
    number(out, "min interval", u64::from(answer.interval_s / 2));
    let addresses = || answer.peers.iter().filter_map(|peer| peer.address.map(|address| (peer, address)));
    match form {
        Form::Compact => {
            let v4 = addresses().filter(|(_, address)| address.is_ipv4()).count();
            text(out, b"peers");
            length(out, 6 * v4);
            for (_, address) in addresses() {
                if let IpAddr::V4(ip) = address.ip() {
                    out.extend_from_slice(&ip.octets());
                    out.extend_from_slice(&address.port().to_be_bytes());
                }
            }
            let v6 = addresses().count() - v4;
            if v6 > 0 {
                text(out, b"peers6");
                length(out, 18 * v6);
                for (_, address) in addresses() {
                    if let IpAddr::V6(ip) = address.ip() {
                        out.extend_from_slice(&ip.octets());
                        out.extend_from_slice(&address.port().to_be_bytes());
                    }
                }
            }
        }
        Form::Dictionaries { ids } => {
            text(out, b"peers");
            out.push(b'l');
            for (peer, address) in addresses() {
                out.push(b'd');
                text(out, b"ip");
                ip(out, address);
                if ids {
                    text(out, b"peer id");
                    text(out, &peer.id.0);
                }
                number(out, "port", address.port().into());
                out.push(b'e');
            }
            out.push(b'e');
        }
    }
    out.push(b'e');
}

/// Appends the answer to a scrape; swarms that are not there have zeros.
pub fn scrape(counts: &[(InfoHash, Count)], out: &mut Vec<u8>) {
    out.push(b'd');
    text(out, b"files");
    out.push(b'd');
    // Keys in order, each once.
    let mut sorted: Vec<&(InfoHash, Count)> = counts.iter().collect();
    sorted.sort_by_key(|(hash, _)| *hash);
    sorted.dedup_by_key(|(hash, _)| *hash);
    for (hash, count) in sorted {
        text(out, &hash.0);
        out.push(b'd');
        number(out, "complete", count.complete.into());
        number(out, "downloaded", count.downloaded.into());
        number(out, "incomplete", count.incomplete.into());
        out.push(b'e');
    }
    out.extend_from_slice(b"ee");
}

/// Appends a refusal; `reason` is for people.
pub fn failure(reason: &str, out: &mut Vec<u8>) {
    out.push(b'd');
    text(out, b"failure reason");
    text(out, reason.as_bytes());
    out.push(b'e');
}

fn length(out: &mut Vec<u8>, bytes: usize) {
    digits(out, bytes as u64);
    out.push(b':');
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    text(out, key.as_bytes());
    out.push(b'i');
    digits(out, value);
    out.push(b'e');
}

pub(crate) fn digits(out: &mut Vec<u8>, mut value: u64) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

fn ip(out: &mut Vec<u8>, address: SocketAddr) {
    // The longest IPv6 address has 39 characters.
    let mut buffer = [0_u8; 40];
    let mut rest = &mut buffer[..];
    // The buffer is large enough; were it not, the address would be cut.
    let _ = write!(rest, "{}", address.ip());
    let unused = rest.len();
    text(out, &buffer[..buffer.len() - unused]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;
    use crate::swarms::Chosen;

    fn written(answer: &Answer, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        announce(answer, form, &mut out);
        out
    }

    #[test]
    fn answers_are_bencoded() {
        let peer = |address: Option<&str>| Chosen {
            address: address.map(|address| address.parse().unwrap()),
            ..Chosen::of(PeerId(*b"aaaaabbbbbcccccddddd"))
        };
        let mut answer = Answer { interval_s: 16, complete: 1, incomplete: 12, downloaded: 3, ..Answer::default() };
        assert_eq!(
            String::from_utf8(written(&answer, Form::Compact)).unwrap(),
            "d8:completei1e10:downloadedi3e10:incompletei12e8:intervali16e12:min intervali8e5:peers0:e"
        );
        answer.peers = vec![peer(Some("1.2.3.4:258")), peer(None), peer(Some("[2001:db8::1]:1"))];
        let compact = written(&answer, Form::Compact);
        let tail = b"5:peers6:\x01\x02\x03\x04\x01\x026:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01e";
        assert!(compact.ends_with(tail), "{}", compact.escape_ascii());
        assert!(written(&answer, Form::Dictionaries { ids: true }).ends_with(
            b"5:peersld2:ip7:1.2.3.47:peer id20:aaaaabbbbbcccccddddd4:porti258eed2:ip11:2001:db8::17:peer id20:aaaaabbbbbcccccddddd4:porti1eeee"
        ));
        assert!(
            written(&answer, Form::Dictionaries { ids: false })
                .ends_with(b"5:peersld2:ip7:1.2.3.44:porti258eed2:ip11:2001:db8::14:porti1eeee")
        );
    }

    #[test]
    fn scrapes_and_failures_are_bencoded() {
        let mut out = Vec::new();
        let count = Count { complete: 5, incomplete: 10, downloaded: 50 };
        let (a, b) = (InfoHash(*b"aaaaaaaaaaaaaaaaaaaa"), InfoHash(*b"bbbbbbbbbbbbbbbbbbbb"));
        scrape(&[(b, Count::default()), (a, count), (b, Count::default())], &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi50e10:incompletei10ee\
             20:bbbbbbbbbbbbbbbbbbbbd8:completei0e10:downloadedi0e10:incompletei0eeee"
        );
        let mut out = Vec::new();
        failure("full", &mut out);
        assert_eq!(out, b"d14:failure reason4:fulle");
    }
}
