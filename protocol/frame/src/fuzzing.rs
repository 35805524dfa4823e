//! What the fuzz target and the replay of its corpus call.

use crate::{FrameError, Link, Outgoing, PATH_MTU, build, length, parse};

/// Takes a frame apart, and checks what must hold for any: what is understood is what is sent, back and forth.
///
/// # Panics
/// When it does not hold.
pub fn frame(bytes: &[u8]) {
    let Ok(datagram) = parse(bytes) else { return };
    let ipv4 = datagram.source.is_ipv4();
    assert_eq!(ipv4, datagram.destination.is_ipv4());
    assert!(length(ipv4, datagram.payload.len()) <= bytes.len(), "it was all there");
    assert!(datagram.source.port() != 0 && datagram.destination.port() != 0);
    // The same in two parts.
    let parts = datagram.payload.split_at(datagram.payload.len() / 2);
    let mut again = vec![0xff; length(ipv4, datagram.payload.len())];
    let out = Outgoing {
        link: Link { own: datagram.link.other, other: datagram.link.own },
        source: datagram.source,
        destination: datagram.destination,
        parts: &[parts.0, parts.1],
        number: 7,
    };
    assert!(build(&out, &mut again), "what came in a frame goes in one");
    assert_eq!(parse(&again), Ok(datagram));
    // Back to the sender, who may be somebody that no host takes anything from.
    let back = Outgoing { link: datagram.link, source: out.destination, destination: out.source, ..out };
    assert!(build(&back, &mut again));
    match parse(&again) {
        Ok(answer) => assert_eq!((answer.source, answer.payload), (datagram.destination, datagram.payload)),
        Err(error) => assert_eq!(error, FrameError::Source),
    }
    // No part of it is taken for a whole.
    if again.len() <= PATH_MTU {
        for cut in 0..again.len() {
            assert_eq!(parse(&again[..cut]), Err(FrameError::Malformed));
        }
    }
}
