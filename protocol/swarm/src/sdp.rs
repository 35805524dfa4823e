//! Offers and answers of viewers who want no address of theirs told: only relayed candidates stay (RFC 8839, RFC 8866).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What stands where an address was: no address, as a description without candidates has it (RFC 8829 section 5.2.1).
const NOWHERE: &str = "0.0.0.0";

/// Why an offer or answer is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// It is none.
    #[error("an offer or answer must be an object with type and sdp")]
    Malformed,
    /// Without its own addresses there is none left.
    #[error(
        "no address of this viewer may leave, and its offer or answer has no relay candidate; use the TURN servers from conf \
         with iceTransportPolicy \"relay\""
    )]
    NoRelay,
}

#[derive(Serialize, Deserialize)]
struct Description<'a> {
    #[serde(borrow)]
    r#type: std::borrow::Cow<'a, str>,
    sdp: String,
}

/// An offer or answer, as JSON, without any address but those on relays.
pub fn relay_only(description: &RawValue) -> Result<Box<RawValue>, SdpError> {
    let Description { r#type, sdp } = serde_json::from_str(description.get()).map_err(|_| SdpError::Malformed)?;
    let sdp = strip(&sdp)?;
    serde_json::value::to_raw_value(&Description { r#type, sdp }).map_err(|_| SdpError::Malformed)
}

fn strip(sdp: &str) -> Result<String, SdpError> {
    let mut out = String::with_capacity(sdp.len());
    let mut relayed = 0;
    for line in sdp.split(['\r', '\n']).filter(|line| !line.is_empty()) {
        if let Some(candidate) = line.strip_prefix("a=candidate:") {
            let Some(candidate) = on_relay(candidate) else { continue };
            out.push_str("a=candidate:");
            out.push_str(&candidate);
            relayed += 1;
        } else if line.starts_with("c=") {
            out.push_str("c=IN IP4 ");
            out.push_str(NOWHERE);
        } else if line.starts_with("a=rtcp:") {
            out.push_str("a=rtcp:9 IN IP4 ");
            out.push_str(NOWHERE);
        } else if let Some(origin) = line.strip_prefix("o=") {
            // o=user id version IN IP4 address
            out.push_str("o=");
            for word in origin.split_ascii_whitespace().take(3) {
                out.push_str(word);
                out.push(' ');
            }
            out.push_str("IN IP4 ");
            out.push_str(NOWHERE);
        } else if line.starts_with("a=remote-candidates:") || line.starts_with("a=source-filter:") {
            continue;
        } else {
            out.push_str(line);
        }
        out.push_str("\r\n");
    }
    if relayed == 0 { Err(SdpError::NoRelay) } else { Ok(out) }
}

/// A candidate if it is on a relay, without the address behind the relay.
fn on_relay(candidate: &str) -> Option<String> {
    // foundation component transport priority address port typ TYPE [raddr ADDRESS] [rport PORT] …
    let words: Vec<&str> = candidate.split_ascii_whitespace().collect();
    if words.get(6) != Some(&"typ") || words.get(7) != Some(&"relay") {
        return None;
    }
    let mut out = words[..8].join(" ");
    out.push_str(" raddr ");
    out.push_str(NOWHERE);
    out.push_str(" rport 0");
    let mut rest = words[8..].chunks_exact(2);
    for pair in &mut rest {
        if !matches!(pair[0], "raddr" | "rport") {
            out.push(' ');
            out.push_str(&pair.join(" "));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 46117317 2 IN IP4 198.51.100.7\r\ns=-\r\nt=0 0\r\n\
        m=application 54321 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 198.51.100.7\r\na=rtcp:9 IN IP4 198.51.100.7\r\n\
        a=candidate:1 1 udp 2122260223 192.168.1.7 54321 typ host generation 0\r\n\
        a=candidate:2 1 udp 1686052607 198.51.100.7 54321 typ srflx raddr 192.168.1.7 rport 54321 generation 0\r\n\
        a=candidate:3 1 udp 41885439 203.0.113.9 50000 typ relay raddr 198.51.100.7 rport 54321 generation 0 network-cost 999\r\n\
        a=ice-ufrag:x\r\na=ice-pwd:y\r\na=fingerprint:sha-256 AA\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n";

    fn raw(sdp: &str) -> Box<RawValue> {
        serde_json::value::to_raw_value(&serde_json::json!({"type": "offer", "sdp": sdp})).unwrap()
    }

    #[test]
    fn only_relayed_addresses_stay() {
        let found = relay_only(&raw(OFFER)).unwrap();
        let text = found.get();
        assert!(!text.contains("198.51.100.7") && !text.contains("192.168.1.7"), "{text}");
        assert!(text.contains("a=candidate:3 1 udp 41885439 203.0.113.9 50000 typ relay raddr 0.0.0.0 rport 0 generation 0 network-cost 999\\r\\n"));
        assert!(text.contains("o=- 46117317 2 IN IP4 0.0.0.0") && text.contains("a=ice-ufrag:x"));
        let escaped = RawValue::from_string(raw(OFFER).get().replace("a=c", "\\u0061=c")).unwrap();
        assert_eq!(relay_only(&escaped).unwrap().get(), text, "escapes hide nothing");
    }

    #[test]
    fn without_a_relay_nothing_is_passed_on() {
        let none: String =
            OFFER.lines().filter(|line| !line.contains("relay")).map(|line| format!("{line}\r\n")).collect();
        assert_eq!(relay_only(&raw(&none)).err(), Some(SdpError::NoRelay));
        let odd = RawValue::from_string("[1]".to_owned()).unwrap();
        assert_eq!(relay_only(&odd).err(), Some(SdpError::Malformed));
    }
}
