use std::net::SocketAddr;

use super::*;
use crate::{ETHERNET, IPV6, Outgoing, UDP, build, length};

const ENDS: [(&str, &str); 2] = [("198.51.100.7:9", "192.0.2.1:3478"), ("[2001:db8:7::7]:9", "[2001:db8::1]:3478")];
const LINK: Link = Link { own: [2, 0, 0, 0, 0, 2], other: [2, 0, 0, 0, 0, 1] };

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A frame as its receiver gets it.
fn frame(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; length(source.is_ipv4(), payload.len())];
    let link = Link { own: LINK.other, other: LINK.own };
    assert!(build(&Outgoing { link, source, destination, parts: &[payload], number: 7 }, &mut bytes));
    bytes
}

fn transport(ipv4: bool) -> usize {
    ETHERNET + if ipv4 { IPV4 } else { IPV6 }
}

#[test]
fn what_is_built_is_what_is_parsed() {
    for (source, destination) in ENDS.map(|(source, destination)| (at(source), at(destination))) {
        for payload in [&b""[..], b"x", b"hello", &[7; 1400]] {
            let mut bytes = frame(source, destination, payload);
            let whole = Datagram { link: LINK, source, destination, payload };
            assert_eq!(parse(&bytes), Ok(whole));
            let hops = if source.is_ipv4() { bytes[ETHERNET + 8] } else { bytes[ETHERNET + 7] };
            assert_eq!(hops, 64);
            // Short frames are padded on their way.
            bytes.resize(bytes.len() + 20, 0xee);
            assert_eq!(parse(&bytes), Ok(whole));
        }
    }
}

#[test]
fn every_truncation_is_malformed() {
    for (source, destination) in ENDS {
        let bytes = frame(at(source), at(destination), b"some payload");
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Err(FrameError::Malformed), "{cut} of {}", bytes.len());
        }
    }
}

#[test]
fn no_bit_of_a_datagram_changes_unnoticed() {
    for (source, destination) in ENDS.map(|(source, destination)| (at(source), at(destination))) {
        let bytes = frame(source, destination, b"some payload");
        // Behind Ethernet's addresses. Of IPv6, what no checksum covers: traffic class, flow label, hop limit.
        for place in 12..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[place] ^= 1 << bit;
                let free = source.is_ipv6() && matches!(place - 12, 2..6 | 9) && (place, bit / 4) != (ETHERNET, 1);
                assert_eq!(parse(&bytes).is_ok(), free, "byte {place}, bit {bit}");
            }
        }
    }
}

#[test]
fn a_checksum_may_be_missing_where_the_kernel_takes_that() {
    for (source, destination) in ENDS.map(|(source, destination)| (at(source), at(destination))) {
        let mut bytes = frame(source, destination, b"some payload");
        let field = transport(source.is_ipv4()) + 6;
        // None.
        bytes[field..field + 2].fill(0);
        assert_eq!(parse(&bytes).is_ok(), source.is_ipv4());
        // Left to the device.
        let (from, to) = (IpAddress::from(source.ip()), IpAddress::from(destination.ip()));
        let partial = checksum::pseudo_header(&from, &to, IpProtocol::Udp, (UDP + 12) as u32);
        bytes[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        assert_eq!(parse(&bytes).map(|datagram| datagram.payload), Ok(&b"some payload"[..]));
        bytes[field..field + 2].copy_from_slice(&partial.wrapping_add(1).to_be_bytes());
        assert_eq!(parse(&bytes), Err(FrameError::Checksum));
    }
}

#[test]
fn nobody_is_answered_who_cannot_be() {
    for source in ["0.1.2.3:9", "127.0.0.1:9", "224.0.0.1:9", "255.255.255.255:9", "198.51.100.7:0"] {
        assert_eq!(parse(&frame(at(source), at(ENDS[0].1), b"x")), Err(FrameError::Source), "{source}");
    }
    for source in ["[::]:9", "[::1]:9", "[::ffff:192.0.2.9]:9", "[ff02::1]:9", "[fe80::1]:9", "[2001:db8::7]:0"] {
        assert_eq!(parse(&frame(at(source), at(ENDS[1].1), b"x")), Err(FrameError::Source), "{source}");
    }
    let mut bytes = frame(at(ENDS[0].0), at(ENDS[0].1), b"x");
    bytes[6] |= 1;
    assert_eq!(parse(&bytes), Err(FrameError::Source), "a frame from many");
    bytes[6] &= !1;
    bytes[0] |= 1;
    assert_eq!(parse(&bytes), Err(FrameError::Malformed), "a frame for many");
}

/// Something that is done to a header.
type Change<'c> = &'c dyn Fn(&mut Ipv4Packet<&mut [u8]>);

#[test]
fn options_fragments_tags_and_other_protocols_are_not_ours() {
    let bytes = frame(at(ENDS[0].0), at(ENDS[0].1), b"some payload");
    let changed = |change: Change<'_>| {
        let mut bytes = bytes.clone();
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[ETHERNET..]);
        change(&mut ip);
        ip.fill_checksum();
        bytes
    };
    assert!(parse(&changed(&|_| {})).is_ok());
    let refused: [Change<'_>; 4] =
        [&|ip| ip.set_more_frags(true), &|ip| ip.set_frag_offset(8), &|ip| ip.set_header_len(24), &|ip| {
            ip.set_next_header(IpProtocol::Tcp)
        }];
    for change in refused {
        assert_eq!(parse(&changed(change)), Err(FrameError::Malformed));
    }
    for ethertype in [[0x81, 0], [0x86, 0xdd], [0x08, 0x06], [0, 0x2e]] {
        let mut bytes = bytes.clone();
        bytes[12..14].copy_from_slice(&ethertype);
        assert_eq!(parse(&bytes), Err(FrameError::Malformed), "{ethertype:x?}");
    }
    let mut bytes = frame(at(ENDS[1].0), at(ENDS[1].1), b"some payload");
    for next in [0, 43, 44, 58, 60] {
        bytes[ETHERNET + 6] = next;
        assert_eq!(parse(&bytes), Err(FrameError::Malformed), "{next}");
    }
}

#[test]
fn nothing_is_built_of_what_does_not_fit() {
    let [(v4, node4), (v6, node6)] = ENDS.map(|(source, destination)| (at(source), at(destination)));
    let built = |source, destination, len| {
        let out = Outgoing { link: LINK, source, destination, parts: &[b"some", b" payload"], number: 7 };
        build(&out, &mut vec![0; len])
    };
    assert!(built(v4, node4, length(true, 12)) && built(v6, node6, length(false, 12)));
    assert!(!built(v4, node4, length(true, 12) - 1) && !built(v4, node4, length(true, 12) + 1));
    assert!(!built(v4, node6, length(true, 12)) && !built(v6, node4, length(false, 12)) && !built(v4, node4, 0));
}
