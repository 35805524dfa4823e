//! What the kernel runs on an interface (rtnetlink): only it knows whether a link is served by the driver.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};

use crate::Mode;

/// Of linux/rtnetlink.h, linux/netlink.h and linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_XDP: u16 = 43;
const MODES: [(u16, Mode); 3] = [(5, Mode::Native), (6, Mode::Generic), (7, Mode::Offloaded)];

/// Bytes of `nlmsghdr`, and of `ifinfomsg` behind it.
const HEADER: usize = 16;
const INFO: usize = 16;

/// More than the kernel says of one interface.
const ANSWER: usize = 64 << 10;

/// The programs on an interface, by how it runs them, with their ids.
pub(crate) fn programs(interface: &str) -> io::Result<Vec<(Mode, u32)>> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let index = netdevice::name_to_index(&socket, interface)?;
    let mut request = Vec::with_capacity(HEADER + INFO);
    request.extend(((HEADER + INFO) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8 + 4]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = vec![0; ANSWER];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    parse(&answer[..length])
}

fn parse(answer: &[u8]) -> io::Result<Vec<(Mode, u32)>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink's answer is cut off");
    let kind = u16::from_ne_bytes(*answer.get(4..).and_then(<[u8]>::first_chunk).ok_or_else(short)?);
    let body = answer.get(HEADER..).ok_or_else(short)?;
    match kind {
        NLMSG_ERROR => {
            let error = i32::from_ne_bytes(*body.first_chunk().ok_or_else(short)?);
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        RTM_NEWLINK => {
            let all = body.get(INFO..).ok_or_else(short)?;
            let xdp = attributes(all).find(|(kind, _)| *kind == IFLA_XDP).map_or(&[][..], |(_, value)| value);
            let program = |(kind, value): (u16, &[u8])| {
                let mode = MODES.iter().find(|(number, _)| *number == kind)?.1;
                Some((mode, u32::from_ne_bytes(*value.first_chunk()?)))
            };
            Ok(attributes(xdp).filter_map(program).collect())
        }
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink answers with message {other}"))),
    }
}

/// Types and values of `rtattr`s.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The upper bits are flags.
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [((4 + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn programs_are_found_among_what_else_is_said() {
        let xdp = [attribute(2, &[4]), attribute(6, &7_u32.to_ne_bytes()), attribute(5, &9_u32.to_ne_bytes())].concat();
        let all = [attribute(3, b"eth0\0"), attribute(IFLA_XDP | 0x8000, &xdp), attribute(4, &[0; 4])].concat();
        let mut answer = vec![0; HEADER + INFO];
        answer[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        answer.extend(all);
        assert_eq!(parse(&answer).unwrap(), [(Mode::Generic, 7), (Mode::Native, 9)]);
        for length in 0..answer.len() {
            // Whatever comes of it.
            let _ = parse(&answer[..length]);
        }
        assert_eq!(programs("lo").unwrap(), []);
        assert_eq!(programs("nowhere0").unwrap_err().raw_os_error(), Some(19));
    }
}
