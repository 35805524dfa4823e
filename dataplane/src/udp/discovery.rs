//! Binding requests: clients are told their address, and find out the type of their NAT.

use std::net::{IpAddr, SocketAddr};

use shoal_stun::discovery::{self, Answer, Endpoints, MAX_GROWTH, Other};
use shoal_stun::message::MAGIC_COOKIE;

use super::outbox::Outbox;
use super::partner::Known;
use super::rates::Rates;
use crate::settings::UdpSettings;
use crate::telemetry::metrics::Counter;

/// A datagram that is longer is not answered: no request is.
pub(super) const REQUEST_MAX: usize = 2048;

/// What an answer is.
pub(super) enum Answered {
    /// It lies at the front of the outbox' spare bytes, and leaves from this address.
    Here { from: SocketAddr, to: SocketAddr, length: usize, counter: Counter },
    /// The partner is to send it, from its address and this port.
    Partner { from: u16, to: SocketAddr, length: usize, counter: Counter },
}

/// Answers one datagram, or says why not.
pub(super) fn answer(
    datagram: &[u8],
    (local, source): (SocketAddr, SocketAddr),
    endpoints: &Endpoints,
    rates: &mut Rates,
    now_ns: u64,
    out: &mut Outbox<'_>,
) -> Result<Answered, &'static str> {
    if datagram.len() > REQUEST_MAX {
        return Err("too_long");
    }
    let spare = out.spare();
    if spare.len() < datagram.len() + MAX_GROWTH {
        return Err("no_room");
    }
    let answer = discovery::answer(datagram, local, source, endpoints, spare);
    let cost = match answer {
        Answer::Send { cost, .. } | Answer::Ask { cost, .. } => cost,
        Answer::Silence(silence) => return Err(silence.reason()),
    };
    if !rates.admit(source.ip(), cost, now_ns) {
        return Err("rate");
    }
    let classic = datagram.get(4..8) != Some(&MAGIC_COOKIE.to_be_bytes()[..]);
    // The class of an error response has both its bits set (RFC 8489 section 5).
    let error = spare.get(..2).is_some_and(|head| head[0] & 1 == 1 && head[1] & 0x10 != 0);
    let counter = counter(classic, error);
    Ok(match answer {
        Answer::Send { from, to, length, .. } => Answered::Here { from, to, length, counter },
        Answer::Ask { from, to, length, .. } => Answered::Partner { from: from.port(), to, length, counter },
        Answer::Silence(silence) => return Err(silence.reason()),
    })
}

fn counter(classic: bool, error: bool) -> Counter {
    match (classic, error) {
        (false, false) => Counter::StunAnswered,
        (false, true) => Counter::StunRefused,
        (true, false) => Counter::ClassicAnswered,
        (true, true) => Counter::ClassicRefused,
    }
}

/// The address `own` and the one that clients are told as its other: addresses of a family go in pairs, and one that is left
/// over takes the first. An address that is alone in its family has the partner's, while the partner is known to be alive.
pub(super) fn endpoints(settings: &UdpSettings, own: IpAddr, partner: &Known, now_ms: u64) -> Endpoints {
    let family: Vec<IpAddr> = settings.addresses.iter().copied().filter(|ip| ip.is_ipv4() == own.is_ipv4()).collect();
    let place = family.iter().position(|ip| *ip == own).unwrap_or_default();
    let other = family.get(place ^ 1).or(family.first()).filter(|ip| **ip != own);
    let [v4, v6] = partner.addresses;
    let partners = (if own.is_ipv4() { v4 } else { v6 }).filter(|ip| *ip != own);
    let other = match (other, partners) {
        (Some(ip), _) => Other::Here(*ip),
        (None, Some(address)) => Other::Partner { address, fresh: now_ms < partner.until_ms },
        (None, None) => Other::Nowhere,
    };
    Endpoints { own, other, ports: [settings.port, settings.alternate_port.unwrap_or(settings.port)] }
}
