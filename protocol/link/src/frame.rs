//! Frames: a 4-byte big-endian length, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes in front of each message.
pub const HEADER_LEN: usize = 4;

/// The longest message accepted: a snapshot of 10,000 channels fits with room to spare.
pub const MAX_LEN: usize = 64 << 20;

/// Why bytes are not a frame, or a frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length field is above [`MAX_LEN`]: not our protocol, or a broken peer.
    #[error(
        "a frame of {0} bytes is longer than the {MAX_LEN} allowed; is the peer a shoal process of the same release?"
    )]
    TooLong(usize),
    /// The payload is not the JSON of a known message.
    #[error("the peer sent a message this release does not know: {0}")]
    Message(#[from] serde_json::Error),
}

/// Appends `message` to `out` as one frame.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    serde_json::to_writer(&mut *out, message)?;
    let len = out.len() - start - HEADER_LEN;
    if len > MAX_LEN {
        out.truncate(start);
        return Err(FrameError::TooLong(len));
    }
    out[start..start + HEADER_LEN].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(())
}

/// Takes the first whole frame off `input`; `None` when more bytes are needed. Returns the message and the bytes used.
pub fn decode<M: DeserializeOwned>(input: &[u8]) -> Result<Option<(M, usize)>, FrameError> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*header) as usize;
    if len > MAX_LEN {
        return Err(FrameError::TooLong(len));
    }
    match rest.get(..len) {
        Some(payload) => Ok(Some((serde_json::from_slice(payload)?, HEADER_LEN + len))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ControlMessage;

    #[test]
    fn a_frame_survives_every_split() {
        let mut bytes = Vec::new();
        encode(&ControlMessage::LedgerAck { boot: 7, sequence: 9 }, &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode::<ControlMessage>(&bytes[..cut]).unwrap().is_none());
        }
        let (message, used) = decode::<ControlMessage>(&bytes).unwrap().unwrap();
        assert_eq!((message, used), (ControlMessage::LedgerAck { boot: 7, sequence: 9 }, bytes.len()));
    }

    #[test]
    fn a_foreign_protocol_is_refused_by_its_length() {
        assert!(matches!(decode::<ControlMessage>(b"GET / HTTP/1.1"), Err(FrameError::TooLong(_))));
    }
}
