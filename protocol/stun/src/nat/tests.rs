use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::discovery::{Answer, Endpoints, MAX_LINK_MESSAGE, Other, PartnerKey, PartnerLink, Received, answer};
use crate::message::{Family, Padding, XorPeerAddress};

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const CLIENT: &str = "10.0.0.5:4000";
const PUBLIC: &str = "198.51.100.7";
const FIRST: &str = "192.0.2.1";
const SECOND: &str = "203.0.113.2";

/// A NAT as RFC 4787 speaks of them; without a mapping, a filter alone.
struct Nat {
    mapping: Option<Behaviour>,
    filtering: Behaviour,
    mappings: HashMap<(Option<IpAddr>, Option<u16>), u16>,
    sent: HashSet<(u16, SocketAddr)>,
}

impl Nat {
    fn new(mapping: Option<Behaviour>, filtering: Behaviour) -> Self {
        Self { mapping, filtering, mappings: HashMap::new(), sent: HashSet::new() }
    }

    fn out(&mut self, to: SocketAddr) -> SocketAddr {
        let Some(mapping) = self.mapping else {
            self.sent.insert((4000, to));
            return socket(CLIENT);
        };
        let key = match mapping {
            Behaviour::EndpointIndependent => (None, None),
            Behaviour::AddressDependent => (Some(to.ip()), None),
            Behaviour::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        let next = 50_000 + self.mappings.len() as u16;
        let port = *self.mappings.entry(key).or_insert(next);
        self.sent.insert((port, to));
        SocketAddr::new(PUBLIC.parse().unwrap(), port)
    }

    fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.sent.iter().any(|(port, sent)| {
            *port == to.port()
                && match self.filtering {
                    Behaviour::EndpointIndependent => true,
                    Behaviour::AddressDependent => sent.ip() == from.ip(),
                    Behaviour::AddressAndPortDependent => *sent == from,
                }
        })
    }
}

/// What serves the four sockets.
enum Servers {
    /// One node with both addresses.
    Both,
    /// Two nodes and their links; the second may be dead.
    Partners { first: Box<PartnerLink>, second: Box<PartnerLink>, alive: bool },
    /// One that passes over CHANGE-REQUEST but names another address.
    Deaf,
}

impl Servers {
    fn partners(alive: bool) -> Self {
        let link = |boot, own: &str| {
            let key = PartnerKey { id: 1, secret: [1; 32] };
            Box::new(PartnerLink::new(vec![key], boot, &[own.parse().unwrap()], [3478, 3479]))
        };
        Self::Partners { first: link(1, FIRST), second: link(2, SECOND), alive }
    }

    fn beat(&mut self, now: u64) {
        let Self::Partners { first, second, alive } = self else { return };
        let mut out = [0; MAX_LINK_MESSAGE];
        if let Some(length) = first.poll_heartbeat(now, &mut out)
            && *alive
        {
            second.handle(&out[..length]).unwrap();
        }
        if let Some(length) = second.poll_heartbeat(now, &mut out)
            && *alive
        {
            first.handle(&out[..length]).unwrap();
        }
    }

    fn answer(&mut self, now: u64, request: &[u8], to: SocketAddr, from: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        let mut out = [0; 512];
        let (first, second): (IpAddr, IpAddr) = (FIRST.parse().unwrap(), SECOND.parse().unwrap());
        let ports = [3478, 3479];
        let endpoints = match self {
            Self::Both | Self::Deaf => Endpoints { own: first, other: Other::Here(second), ports },
            Self::Partners { first: link, .. } if to.ip() == first => {
                let address = link.address(Family::Ipv4).unwrap_or(second);
                let other = Other::Partner { address, fresh: link.is_fresh(now) };
                Endpoints { own: first, other, ports }
            }
            Self::Partners { second: link, alive, .. } => {
                let other = Other::Partner { address: first, fresh: link.is_fresh(now) };
                if !*alive {
                    return None;
                }
                Endpoints { own: second, other, ports }
            }
        };
        let mut request = request.to_vec();
        if matches!(self, Self::Deaf) && request.len() > 20 {
            request[27] = 0;
        }
        match answer(&request, to, from, &endpoints, &mut out) {
            Answer::Send { from, length, .. } => Some((from, out[..length].to_vec())),
            Answer::Ask { from, to, length, .. } => {
                let Self::Partners { first, second, .. } = self else { panic!("nobody to ask") };
                let mut message = [0; MAX_LINK_MESSAGE];
                let length = first.ask(from.port(), to, &out[..length], &mut message).unwrap();
                let Received::Send { from: port, payload, .. } = second.handle(&message[..length]).unwrap() else {
                    panic!("not what was asked");
                };
                Some((SocketAddr::new(from.ip(), port), payload.to_vec()))
            }
            Answer::Silence(_) => None,
        }
    }
}

/// Runs a detection; every `lose`-th datagram of either direction is lost.
fn detect(dialect: Dialect, nat: Option<Nat>, servers: &mut Servers, lose: u32) -> (Report, u64) {
    let mut nat = nat;
    let server = socket("192.0.2.1:3478");
    let mut detector = Detector::new(dialect, server, socket(CLIENT), 7, Timing::default());
    let mut now = 0;
    while now < 2_000 {
        servers.beat(now);
        now += 500;
    }
    // The detector's clock begins where the world's is by now.
    let mut count = 0;
    let mut lost = || {
        count += 1;
        lose > 0 && count % lose == 0
    };
    for _ in 0..1_000 {
        if let Some(report) = detector.report() {
            return (*report, now - 2_000);
        }
        let mut out = [0; MAX_REQUEST];
        while let Some((to, length)) = detector.poll_transmit(now, &mut out) {
            assert_eq!(
                Message::parse(&out[..length]).unwrap().transaction_id().is_classic(),
                dialect == Dialect::Classic
            );
            let Some(nat) = &mut nat else { continue };
            let source = nat.out(to);
            if lost() {
                continue;
            }
            if let Some((from, response)) = servers.answer(now, &out[..length], to, source)
                && nat.lets_in(from, source)
                && !lost()
            {
                assert!(detector.handle(now, from, &response));
            }
        }
        if let Some(due) = detector.next_deadline() {
            while now < due {
                now = (now + 100).min(due);
                servers.beat(now);
            }
        }
    }
    panic!("no end: {detector:?}");
}

fn types() -> Vec<(Option<Behaviour>, Behaviour, NatType)> {
    use Behaviour::{AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei};
    let mut types = vec![
        (None, Ei, NatType::OpenInternet),
        (None, Ad, NatType::SymmetricUdpFirewall),
        (None, Apd, NatType::SymmetricUdpFirewall),
        (Some(Ei), Ei, NatType::FullCone),
        (Some(Ei), Ad, NatType::RestrictedCone),
        (Some(Ei), Apd, NatType::PortRestrictedCone),
    ];
    for mapping in [Ad, Apd] {
        for filtering in [Ei, Ad, Apd] {
            types.push((Some(mapping), filtering, NatType::Symmetric));
        }
    }
    types
}

#[test]
fn every_type_is_found_in_both_dialects_from_one_node_and_from_two() {
    for dialect in [Dialect::Classic, Dialect::Modern] {
        for (mapping, filtering, kind) in types() {
            for partners in [false, true] {
                for lose in [0, 3, 4] {
                    let mut servers = if partners { Servers::partners(true) } else { Servers::Both };
                    let nat = Nat::new(mapping, filtering);
                    let (report, _) = detect(dialect, Some(nat), &mut servers, lose);
                    let context = format!("{dialect:?} {mapping:?} {filtering:?} partners {partners} lose {lose}");
                    assert_eq!(report.kind, Some(kind), "{context}");
                    assert_eq!(report.filtering, Some(filtering), "{context}");
                    let expected = mapping.unwrap_or(Behaviour::EndpointIndependent);
                    assert_eq!(report.mapping, Some(expected), "{context}");
                }
            }
        }
    }
}

#[test]
fn blocked_udp_is_found_without_waiting_for_ever() {
    for dialect in [Dialect::Classic, Dialect::Modern] {
        let (report, took) = detect(dialect, None, &mut Servers::Both, 0);
        assert_eq!(report, Report { kind: Some(NatType::UdpBlocked), ..Report::default() });
        assert_eq!(took, 200 + 400 + 800 + 800);
    }
}

#[test]
fn without_a_live_partner_there_is_an_address_but_no_type() {
    for dialect in [Dialect::Classic, Dialect::Modern] {
        for (mapping, filtering, _) in types() {
            let (report, took) = detect(dialect, Some(Nat::new(mapping, filtering)), &mut Servers::partners(false), 0);
            assert_eq!((report.kind, report.mapping, report.filtering, took), (None, None, None, 0));
            assert!(report.mapped.is_some());
        }
    }
}

#[test]
fn a_server_that_passes_over_change_request_misleads_nobody() {
    for dialect in [Dialect::Classic, Dialect::Modern] {
        for (mapping, filtering, kind) in types() {
            let (report, _) = detect(dialect, Some(Nat::new(mapping, filtering)), &mut Servers::Deaf, 0);
            assert_eq!(report.filtering, None);
            assert!(report.kind.is_none_or(|found| found == NatType::Symmetric && kind == found), "{report:?}");
        }
    }
}

#[test]
fn answers_of_others_are_not_taken() {
    let server = socket("192.0.2.1:3478");
    let mut detector = Detector::new(Dialect::Modern, server, socket(CLIENT), 7, Timing::default());
    let mut out = [0; MAX_REQUEST];
    detector.poll_transmit(0, &mut out).unwrap();
    let mut forged = [0; 64];
    let length = Builder::new(&mut forged, Method::BINDING, Class::Success, TransactionId::new([9; 12]))
        .add(&XorMappedAddress(socket(CLIENT)))
        .finish()
        .unwrap();
    assert!(!detector.handle(0, server, &forged[..length]));
    assert!(!detector.handle(0, server, b"noise"));
    // Ours, but damaged on its way.
    let mut damaged = [0; 64];
    let length = Builder::new(&mut damaged, Method::BINDING, Class::Success, detector.id)
        .add(&XorMappedAddress(socket(CLIENT)))
        .fingerprint()
        .finish()
        .unwrap();
    damaged[30] ^= 1;
    assert!(!detector.handle(0, server, &damaged[..length]));
    assert_eq!(detector.report(), None);
    // One that cannot be understood settles nothing (RFC 8489 section 6.3.3), and says that UDP gets through.
    let mut strange = [0; 64];
    let length = Builder::new(&mut strange, Method::BINDING, Class::Success, detector.id)
        .add(&XorMappedAddress(socket(CLIENT)))
        .add(&Padding(b"ours"))
        .add(&XorPeerAddress(socket(CLIENT)))
        .finish()
        .unwrap();
    assert!(detector.handle(0, server, &strange[..length]));
    assert_eq!(detector.report(), Some(&Report::default()));
    for kind in NatType::ALL {
        assert_eq!(NatType::from_name(kind.name()), Some(kind));
    }
}
