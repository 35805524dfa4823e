//! The client's side of NAT discovery: which of the types a NAT is (RFC 3489 section 10.1), and how it maps and filters
//! (RFC 5780 sections 4.3 and 4.4), in either dialect.
//!
//! A [`Detector`] sends and receives through its caller, from one UDP socket that has sent nothing to the server before:
//!
//! 1. Binding to the server: nothing comes back → UDP is blocked. Else the mapped address, and the server's other one.
//! 2. The same, answered from the other address and port: comes → nothing is filtered.
//! 3. Answered from the other port: comes → filtered by address; else by address and port.
//! 4. Binding to the other address, same port: the same mapped address → one mapping for all.
//! 5. Binding to the other address and port: mapped as in 4 → a mapping for each address; else for each address and port.
//!
//! Filtering is asked about first, because what is sent to the other address opens the filter for it.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use crate::message::{
    AttributeType, Builder, ChangeRequest, ChangedAddress, Class, Fingerprint, MappedAddress, Message, Method,
    OtherAddress, TransactionId, XorMappedAddress,
};

/// Bytes that a request needs at most.
pub const MAX_REQUEST: usize = 28;

/// What a response may hold that must be understood.
const KNOWN: &[AttributeType] = &[
    AttributeType::MAPPED_ADDRESS,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::SOURCE_ADDRESS,
    AttributeType::CHANGED_ADDRESS,
    AttributeType::REFLECTED_FROM,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::USERNAME,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PADDING,
];

/// In whose words to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 3489.
    Classic,
    /// RFC 8489 with RFC 5780.
    Modern,
}

/// The types of RFC 3489, with the names that SDKs report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatType {
    /// No UDP gets through.
    UdpBlocked,
    /// No NAT, no filter.
    OpenInternet,
    /// No NAT, but a filter that lets in only whom was sent to.
    SymmetricUdpFirewall,
    /// One mapping, no filter.
    FullCone,
    /// One mapping, filtered by address.
    RestrictedCone,
    /// One mapping, filtered by address and port.
    PortRestrictedCone,
    /// Another mapping for another destination.
    Symmetric,
}

impl NatType {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::UdpBlocked,
        Self::OpenInternet,
        Self::SymmetricUdpFirewall,
        Self::FullCone,
        Self::RestrictedCone,
        Self::PortRestrictedCone,
        Self::Symmetric,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpBlocked => "UdpBlocked",
            Self::OpenInternet => "OpenInternet",
            Self::SymmetricUdpFirewall => "SymmetricUdpFirewall",
            Self::FullCone => "FullCone",
            Self::RestrictedCone => "RestrictedCone",
            Self::PortRestrictedCone => "PortRestrictedCone",
            Self::Symmetric => "Symmetric",
        }
    }

    /// Inverse of [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a mapping or a filter depends on (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// On nothing.
    EndpointIndependent,
    /// On the other end's address.
    AddressDependent,
    /// On its address and port.
    AddressAndPortDependent,
}

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// `None` when the server could not help to tell, or an answer was lost that decides it.
    pub kind: Option<NatType>,
    /// This client as the server sees it.
    pub mapped: Option<SocketAddr>,
    /// How addresses are mapped.
    pub mapping: Option<Behaviour>,
    /// What is let in.
    pub filtering: Option<Behaviour>,
}

/// How often to ask, and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds to the first repetition; doubled with each.
    pub rto_ms: u64,
    /// Requests of a test at most, at least 1.
    pub requests: u32,
    /// Milliseconds to wait after the last one.
    pub last_ms: u64,
}

impl Default for Timing {
    /// Four requests within 1.4 s, given up after 2.2 s: three tests of five may have to be waited out.
    fn default() -> Self {
        Self { rto_ms: 200, requests: 4, last_ms: 800 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    First,
    ChangeBoth,
    ChangePort,
    OtherAddress,
    OtherBoth,
    Done,
}

/// Finds out about the NAT between a socket and a server.
#[derive(Debug)]
pub struct Detector {
    dialect: Dialect,
    server: SocketAddr,
    local: SocketAddr,
    timing: Timing,
    random: u64,
    step: Step,
    id: TransactionId,
    /// Requests of this step so far, and when the next one, or giving up, is due.
    requests: u32,
    due: u64,
    other: Option<SocketAddr>,
    mapped_at_other: Option<SocketAddr>,
    report: Report,
}

impl Detector {
    /// `local` is what the socket is bound to; with an unspecified address, only a NAT can be told, not its absence.
    /// `seed` must be random, and different for each detector: transaction ids are made from it.
    #[must_use]
    pub fn new(dialect: Dialect, server: SocketAddr, local: SocketAddr, seed: u64, timing: Timing) -> Self {
        let mut detector = Self {
            dialect,
            server,
            local,
            timing,
            random: seed,
            step: Step::First,
            id: TransactionId::new([0; 12]),
            requests: 0,
            due: 0,
            other: None,
            mapped_at_other: None,
            report: Report::default(),
        };
        detector.go(Step::First, 0);
        detector
    }

    /// What was found out, once it is over.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        (self.step == Step::Done).then_some(&self.report)
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next; `None` when it is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        (self.step != Step::Done).then_some(self.due)
    }

    /// Writes a request to `out`, of [`MAX_REQUEST`] bytes, if one is due: gives where to send it, and its length. Also
    /// gives up what is not answered, so call it until it gives nothing.
    pub fn poll_transmit(&mut self, now_ms: u64, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        while self.step != Step::Done && now_ms >= self.due {
            if self.requests >= self.timing.requests.max(1) {
                self.handle_silence(now_ms);
                continue;
            }
            let wait = if self.requests + 1 >= self.timing.requests {
                self.timing.last_ms
            } else {
                self.timing.rto_ms << self.requests.min(16)
            };
            self.requests += 1;
            self.due = now_ms + wait;
            let change = match self.step {
                Step::ChangeBoth => Some(ChangeRequest { address: true, port: true }),
                Step::ChangePort => Some(ChangeRequest { address: false, port: true }),
                _ => None,
            };
            let mut request = Builder::new(out, Method::BINDING, Class::Request, self.id);
            if let Some(change) = change {
                request.add(&change);
            }
            return Some((self.destination()?, request.finish().ok()?));
        }
        None
    }

    /// Takes a datagram; true when it was an answer to this detector.
    pub fn handle(&mut self, now_ms: u64, from: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(response) = Message::parse(datagram) else { return false };
        let ours = *response.transaction_id() == self.id && response.method() == Method::BINDING;
        if !ours || self.step == Step::Done || response.fingerprint() == Fingerprint::Wrong {
            return false;
        }
        match response.class() {
            Class::Success if response.unknown_required(KNOWN).next().is_none() => {}
            Class::Success | Class::Error => {
                self.handle_refusal(now_ms);
                return true;
            }
            Class::Request | Class::Indication => return false,
        }
        let xored = response.read::<XorMappedAddress>().ok().flatten().map(|address| address.0);
        let plain = response.read::<MappedAddress>().ok().flatten().map(|address| address.0);
        // A classic server of the time may know an XOR-MAPPED-ADDRESS of another number; the plain one is for it.
        let mapped = match self.dialect {
            Dialect::Modern => xored.or(plain),
            Dialect::Classic => plain.or(xored),
        };
        let Some(mapped) = mapped else { return false };
        match self.step {
            Step::First => {
                let modern = response.read::<OtherAddress>().ok().flatten().map(|other| other.0);
                let classic = response.read::<ChangedAddress>().ok().flatten().map(|other| other.0);
                self.other = modern.or(classic).filter(|other| {
                    other.ip() != self.server.ip() && other.port() != self.server.port() && other.port() != 0
                });
                self.report.mapped = Some(mapped);
                let next = if self.other.is_some() { Step::ChangeBoth } else { Step::Done };
                self.go(next, now_ms);
            }
            Step::ChangeBoth if Some(from) == self.other => {
                self.report.filtering = Some(Behaviour::EndpointIndependent);
                self.go_to_mapping(now_ms);
            }
            Step::ChangePort if from.ip() == self.server.ip() && from.port() != self.server.port() => {
                self.report.filtering = Some(Behaviour::AddressDependent);
                self.go_to_mapping(now_ms);
            }
            // From where we asked: the server passed over what was asked.
            Step::ChangeBoth | Step::ChangePort => self.handle_refusal(now_ms),
            Step::OtherAddress => {
                if Some(mapped) == self.report.mapped {
                    self.report.mapping = Some(Behaviour::EndpointIndependent);
                    self.go(Step::Done, now_ms);
                } else {
                    self.mapped_at_other = Some(mapped);
                    self.go(Step::OtherBoth, now_ms);
                }
            }
            Step::OtherBoth => {
                let same = Some(mapped) == self.mapped_at_other;
                self.report.mapping =
                    Some(if same { Behaviour::AddressDependent } else { Behaviour::AddressAndPortDependent });
                self.go(Step::Done, now_ms);
            }
            Step::Done => {}
        }
        true
    }

    fn handle_silence(&mut self, now_ms: u64) {
        match self.step {
            Step::First => {
                self.report.kind = Some(NatType::UdpBlocked);
                self.step = Step::Done;
            }
            Step::ChangeBoth => self.go(Step::ChangePort, now_ms),
            Step::ChangePort => {
                self.report.filtering = Some(Behaviour::AddressAndPortDependent);
                self.go_to_mapping(now_ms);
            }
            // Two mappings are seen already; how they differ is not, so the weaker claim is not made.
            Step::OtherAddress | Step::OtherBoth | Step::Done => self.go(Step::Done, now_ms),
        }
    }

    /// The server cannot do it (any more).
    fn handle_refusal(&mut self, now_ms: u64) {
        match self.step {
            // Mappings can be seen without its help.
            Step::ChangeBoth | Step::ChangePort => {
                self.report.filtering = None;
                self.go_to_mapping(now_ms);
            }
            _ => self.go(Step::Done, now_ms),
        }
    }

    fn go_to_mapping(&mut self, now_ms: u64) {
        if self.has_nat() {
            self.go(Step::OtherAddress, now_ms);
        } else {
            self.report.mapping = Some(Behaviour::EndpointIndependent);
            self.go(Step::Done, now_ms);
        }
    }

    fn go(&mut self, step: Step, now_ms: u64) {
        self.step = step;
        self.requests = 0;
        self.due = now_ms;
        if step == Step::Done {
            self.report.kind = self.kind();
            return;
        }
        let words: [u64; 2] = std::array::from_fn(|_| {
            self.random = self.random.wrapping_add(1);
            shoal_packet::hash_words(self.random, &[0x006e_6174])
        });
        let [a, b] = words.map(u64::to_be_bytes);
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(a.into_iter().chain(b)).for_each(|(place, byte)| *place = byte);
        self.id = match self.dialect {
            Dialect::Modern => {
                let [_, _, _, _, id @ ..] = bytes;
                TransactionId::new(id)
            }
            Dialect::Classic => {
                // So that it never begins with the cookie.
                let [first, ..] = &mut bytes;
                *first |= 0x80;
                TransactionId::classic(bytes)
            }
        };
    }

    fn destination(&self) -> Option<SocketAddr> {
        match self.step {
            Step::OtherAddress => Some(SocketAddr::new(self.other?.ip(), self.server.port())),
            Step::OtherBoth => self.other,
            _ => Some(self.server),
        }
    }

    fn has_nat(&self) -> bool {
        let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        self.report.mapped.map(canonical) != Some(canonical(self.local))
    }

    fn kind(&self) -> Option<NatType> {
        if self.report.mapped.is_none() {
            return self.report.kind;
        }
        if !self.has_nat() {
            return Some(match self.report.filtering? {
                Behaviour::EndpointIndependent => NatType::OpenInternet,
                _ => NatType::SymmetricUdpFirewall,
            });
        }
        // Two mappings are enough to call it symmetric.
        if self.mapped_at_other.is_some() {
            return Some(NatType::Symmetric);
        }
        match (self.report.mapping?, self.report.filtering?) {
            (Behaviour::EndpointIndependent, Behaviour::EndpointIndependent) => Some(NatType::FullCone),
            (Behaviour::EndpointIndependent, Behaviour::AddressDependent) => Some(NatType::RestrictedCone),
            (Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent) => Some(NatType::PortRestrictedCone),
            _ => Some(NatType::Symmetric),
        }
    }
}
