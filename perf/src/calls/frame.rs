//! WebSocket frames (RFC 6455 section 5.2), as far as a client of text messages needs them.

/// Writes a text message. Clients mask (section 5.3); with zeros, so that nothing has to be done for it.
pub(super) fn text(message: &[u8], out: &mut Vec<u8>) {
    masked(0x81, message, out);
}

/// Writes a pong.
pub(super) fn pong(message: &[u8], out: &mut Vec<u8>) {
    masked(0x8a, message, out);
}

fn masked(first: u8, message: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match message.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(message);
}

/// A frame of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// 1 text, 8 close, 9 ping, 10 pong.
    pub(super) opcode: u8,
    pub(super) payload: &'a [u8],
    /// With its head.
    pub(super) whole: usize,
}

/// The frame at the start of `bytes`; none while it is not whole.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length & 0x7f {
        126 => rest.split_first_chunk().map(|(long, rest)| (usize::from(u16::from_be_bytes(*long)), rest))?,
        127 => rest.split_first_chunk().map(|(long, rest)| (u64::from_be_bytes(*long) as usize, rest))?,
        short => (usize::from(short), rest),
    };
    let payload = rest.get(..length)?;
    Some(Frame { opcode: first & 15, payload, whole: bytes.len() - rest.len() + length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_all_three_forms() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let message = vec![b'x'; length];
            let mut ours = Vec::new();
            text(&message, &mut ours);
            // As a server would send it: without the mask.
            let head = ours.len() - length - 4;
            let mut theirs = ours[..head].to_vec();
            theirs[1] &= 0x7f;
            theirs.extend_from_slice(&message);
            let whole = theirs.len();
            assert_eq!(frame(&theirs), Some(Frame { opcode: 1, payload: &message, whole }));
            assert_eq!(frame(&theirs[..whole - 1]), None);
        }
    }
}
