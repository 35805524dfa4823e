//! From answers to JSON, by hand: ids become latin-1 characters, offers go in as they came.

use serde_json::value::RawValue;

use crate::bencode::digits;
use crate::ids::{InfoHash, PeerId};
use crate::swarms::{Answer, Count};

/// Appends the answer to an announce.
pub fn announced(info_hash: &InfoHash, answer: &Answer, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"action\":\"announce\",\"interval\":");
    digits(out, answer.interval_s.into());
    out.extend_from_slice(b",\"complete\":");
    digits(out, answer.complete.into());
    out.extend_from_slice(b",\"incomplete\":");
    digits(out, answer.incomplete.into());
    hash(out, info_hash);
    out.push(b'}');
}

/// Appends an offer of `from`.
pub fn relayed_offer(info_hash: &InfoHash, from: &PeerId, id: &RawValue, offer: &RawValue, out: &mut Vec<u8>) {
    relayed(info_hash, from, id, b",\"offer\":", offer, out);
}

/// Appends the answer of `from` to an offer.
pub fn relayed_answer(info_hash: &InfoHash, from: &PeerId, id: &RawValue, answer: &RawValue, out: &mut Vec<u8>) {
    relayed(info_hash, from, id, b",\"answer\":", answer, out);
}

/// Appends the answer to a scrape.
pub fn scraped(counts: &[(InfoHash, Count)], interval_s: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"action\":\"scrape\",\"files\":{");
    for (at, (info_hash, count)) in counts.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        latin1(out, &info_hash.0);
        out.extend_from_slice(b":{\"complete\":");
        digits(out, count.complete.into());
        out.extend_from_slice(b",\"incomplete\":");
        digits(out, count.incomplete.into());
        out.extend_from_slice(b",\"downloaded\":");
        digits(out, count.downloaded.into());
        out.push(b'}');
    }
    out.extend_from_slice(b"},\"flags\":{\"min_request_interval\":");
    digits(out, interval_s.into());
    out.extend_from_slice(b"}}");
}

/// Appends a refusal; `reason` is for people.
pub fn failure(action: &str, info_hash: Option<&InfoHash>, reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"action\":\"");
    out.extend_from_slice(action.as_bytes());
    out.push(b'"');
    if let Some(info_hash) = info_hash {
        hash(out, info_hash);
    }
    out.extend_from_slice(b",\"failure reason\":");
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(&mut *out, reason);
    out.push(b'}');
}

fn relayed(info_hash: &InfoHash, from: &PeerId, id: &RawValue, key: &[u8], value: &RawValue, out: &mut Vec<u8>) {
    out.reserve(256 + value.get().len());
    out.extend_from_slice(b"{\"action\":\"announce\",\"offer_id\":");
    out.extend_from_slice(id.get().as_bytes());
    out.extend_from_slice(b",\"peer_id\":");
    latin1(out, &from.0);
    hash(out, info_hash);
    out.extend_from_slice(key);
    out.extend_from_slice(value.get().as_bytes());
    out.push(b'}');
}

fn hash(out: &mut Vec<u8>, info_hash: &InfoHash) {
    out.extend_from_slice(b",\"info_hash\":");
    latin1(out, &info_hash.0);
}

/// Bytes as the characters of a JSON string.
fn latin1(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..=0x1f => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]),
            0x20..=0x7f => out.push(*byte),
            // UTF-8 of the characters 0x80 to 0xff.
            _ => out.extend_from_slice(&[0xc0 | byte >> 6, 0x80 | byte & 0x3f]),
        }
    }
    out.push(b'"');
}
