//! The server that tells clients their address and lets them find out their NAT's type: Binding in two dialects, RFC 8489
//! with RFC 5780 and classic RFC 3489, each answered in kind.
//!
//! That takes two addresses with the same two ports each. A node with one address pairs with another node, its partner,
//! over [`PartnerLink`]; while the partner is not known to be alive, neither OTHER-ADDRESS nor CHANGED-ADDRESS is named and
//! CHANGE-REQUEST is refused with 420, so that a client learns no type rather than a false one.
//!
//! **It is no amplifier.** A response is longer than its request by [`MAX_GROWTH`] at most: the four addresses that RFC
//! 5780 asks for. PADDING is answered with as much PADDING as came. RESPONSE-PORT is obeyed for the sender's own address
//! and ports from 1024 on, with XOR-MAPPED-ADDRESS as the only attribute, and not beside PADDING; the partner sends no PADDING.
//! RESPONSE-ADDRESS of the classic dialect is not understood. Each answer has a [cost](Answer) for the caller's limits.
//!
//! **Unlike the RFCs, on purpose.** That, RFC 5780 would have PADDING as long as the MTU, and MAPPED-ADDRESS and RESPONSE-ORIGIN
//! also from a node without a second address: that node answers as RFC 8489 has it, with XOR-MAPPED-ADDRESS alone. It refuses
//! no CHANGE-REQUEST that asks for no change: some clients send one with every request. Shared Secret requests (RFC 3489)
//! are not answered, and MESSAGE-INTEGRITY is passed over: nobody here could have given out its key.

mod partner;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use partner::{
    FRESH_MS, HEARTBEAT_MS, LinkRefusal, MAX_ASKED, MAX_LINK_MESSAGE, PartnerKey, PartnerLink, Received,
};

use crate::message::{
    AttributeType, Builder, ChangeRequest, ChangedAddress, Class, ErrorCode, Fingerprint, MappedAddress, Message,
    Method, OtherAddress, Padding, ResponseOrigin, ResponsePort, SourceAddress, UnknownAttributes, XorMappedAddress,
};

/// Bytes by which a response is longer than its request at most: four attributes with an IPv6 address.
pub const MAX_GROWTH: usize = 4 * 24;

/// Lowest port that a response is sent to on demand: below are services that somebody may want to hit.
const MIN_RESPONSE_PORT: u16 = 1024;
/// Types that a response lists as unknown, at most. Each took four bytes of the request, and takes two here.
const MAX_UNKNOWN: usize = 8;

const KNOWN: &[AttributeType] = &[
    AttributeType::CHANGE_REQUEST,
    AttributeType::RESPONSE_PORT,
    AttributeType::PADDING,
    // Credentials are not asked for and not looked at.
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    // Of no meaning in a request, so passed over (RFC 8489 section 6.3).
    AttributeType::MAPPED_ADDRESS,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
];
/// All of RFC 3489 but RESPONSE-ADDRESS.
const KNOWN_CLASSIC: &[AttributeType] = &[
    AttributeType::CHANGE_REQUEST,
    AttributeType::USERNAME,
    AttributeType::PASSWORD,
    AttributeType::MAPPED_ADDRESS,
    AttributeType::SOURCE_ADDRESS,
    AttributeType::CHANGED_ADDRESS,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::REFLECTED_FROM,
];

/// In the classic dialect, where attributes have no padding, reasons are filled up with spaces (RFC 3489 section 11.2.9).
const CLASSIC_BAD_REQUEST: ErrorCode<'static> = ErrorCode { reason: "Bad Request ", ..ErrorCode::BAD_REQUEST };
const CLASSIC_UNKNOWN_ATTRIBUTE: ErrorCode<'static> =
    ErrorCode { reason: "Unknown Attribute   ", ..ErrorCode::UNKNOWN_ATTRIBUTE };

/// Where the second address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// There is none.
    Nowhere,
    /// It is this node's too.
    Here(IpAddr),
    /// It is the partner's.
    Partner {
        /// Where it is.
        address: IpAddr,
        /// Whether it is known to be alive ([`PartnerLink::is_fresh`]).
        fresh: bool,
    },
}

/// The two addresses of a family, and the two ports that both are served on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// This node's.
    pub own: IpAddr,
    /// The second one.
    pub other: Other,
    /// Different from one another.
    pub ports: [u16; 2],
}

impl Endpoints {
    /// What a response to a request that came in on `local` would come from if both address and port changed, if there
    /// is such a place now, and whether that is the partner's.
    #[must_use]
    pub fn other_of(&self, local: SocketAddr) -> Option<(SocketAddr, bool)> {
        let (address, partner) = match self.other {
            Other::Here(address) if local.ip() == self.own => (address, false),
            Other::Here(address) if local.ip() == address => (self.own, false),
            Other::Partner { address, fresh: true } if local.ip() == self.own => (address, true),
            _ => return None,
        };
        let [first, second] = self.ports;
        let port = match local.port() {
            port if port == first => second,
            port if port == second => first,
            _ => return None,
        };
        (first != second && address != local.ip()).then_some((SocketAddr::new(address, port), partner))
    }
}

/// What to do about a datagram. `cost` is in units of an ordinary answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send the first `length` bytes of the buffer.
    Send {
        /// One of this node's.
        from: SocketAddr,
        /// The sender, or another port of its address.
        to: SocketAddr,
        /// Of the response.
        length: usize,
        /// For rate limits by address.
        cost: u32,
    },
    /// Ask the partner to send the first `length` bytes, at most [`MAX_ASKED`] ([`PartnerLink::ask`]).
    Ask {
        /// The partner's.
        from: SocketAddr,
        /// The sender.
        to: SocketAddr,
        /// Of the response.
        length: usize,
        /// For rate limits by address.
        cost: u32,
    },
    /// Nothing.
    Silence(Silence),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Not STUN, or damaged.
    NotStun,
    /// STUN, but not a Binding request; keepalive indications among them.
    NotBinding,
    /// The buffer is too short for the response.
    NoRoom,
}

impl Silence {
    /// All, for metrics.
    pub const ALL: [Self; 3] = [Self::NotStun, Self::NotBinding, Self::NoRoom];

    /// A label for metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotStun => "not_stun",
            Self::NotBinding => "not_binding",
            Self::NoRoom => "no_room",
        }
    }
}

/// Answers a datagram from `source` that came in on `local`. The response is written to `out`, which needs the
/// datagram's length and [`MAX_GROWTH`] more.
#[must_use]
pub fn answer(datagram: &[u8], local: SocketAddr, source: SocketAddr, at: &Endpoints, out: &mut [u8]) -> Answer {
    let Ok(request) = Message::parse(datagram) else { return Answer::Silence(Silence::NotStun) };
    if request.fingerprint() == Fingerprint::Wrong {
        return Answer::Silence(Silence::NotStun);
    }
    if request.method() != Method::BINDING || request.class() != Class::Request {
        return Answer::Silence(Silence::NotBinding);
    }
    let respond = Respond { request: &request, local, source, other: at.other_of(local) };
    match respond.wish() {
        Ok(wish) => respond.success(&wish, out),
        Err(refusal) => respond.error(&refusal, out),
    }
}

/// What a request asks for beyond the address.
struct Wish<'a> {
    change: ChangeRequest,
    port: Option<u16>,
    padding: Option<Padding<'a>>,
}

enum Refusal {
    BadRequest,
    Unknown { types: [u16; MAX_UNKNOWN], count: usize },
}

impl Refusal {
    fn unknown(types: impl Iterator<Item = AttributeType>) -> Option<Self> {
        let (mut list, mut count) = ([0; MAX_UNKNOWN], 0);
        for (place, kind) in list.iter_mut().zip(types) {
            *place = kind.0;
            count += 1;
        }
        (count > 0).then_some(Self::Unknown { types: list, count })
    }
}

struct Respond<'r, 'm> {
    request: &'r Message<'m>,
    local: SocketAddr,
    source: SocketAddr,
    other: Option<(SocketAddr, bool)>,
}

impl<'m> Respond<'_, 'm> {
    fn wish(&self) -> Result<Wish<'m>, Refusal> {
        let classic = self.request.transaction_id().is_classic();
        let known = if classic { KNOWN_CLASSIC } else { KNOWN };
        if let Some(refusal) = Refusal::unknown(self.request.unknown_required(known)) {
            return Err(refusal);
        }
        let bad = |_| Refusal::BadRequest;
        let change = self.request.read::<ChangeRequest>().map_err(bad)?.unwrap_or_default();
        let changes = change.address || change.port;
        if changes && self.other.is_none() {
            // RFC 5780 section 6.1: as if it were not known.
            return Err(Refusal::Unknown { types: [AttributeType::CHANGE_REQUEST.0; MAX_UNKNOWN], count: 1 });
        }
        if classic {
            return Ok(Wish { change, port: None, padding: None });
        }
        let port = self.request.read::<ResponsePort>().map_err(bad)?.map(|port| port.0);
        let padding = self.request.read::<Padding<'m>>().map_err(bad)?;
        // RFC 5780 section 7.6: a padded response goes to nobody but who sent as much.
        let both = port.is_some() && padding.is_some();
        let partners = change.address && self.other.is_some_and(|(_, partner)| partner);
        if both || partners && padding.is_some() || port.is_some_and(|port| port < MIN_RESPONSE_PORT) {
            return Err(Refusal::BadRequest);
        }
        Ok(Wish { change, port, padding })
    }

    fn success(&self, wish: &Wish<'_>, out: &mut [u8]) -> Answer {
        let id = *self.request.transaction_id();
        let mut from = self.local;
        let mut partner = false;
        if let Some((other, partners)) = self.other {
            if wish.change.address {
                from.set_ip(other.ip());
                partner = partners;
            }
            if wish.change.port {
                from.set_port(other.port());
            }
        }
        let mut response = Builder::new(out, Method::BINDING, Class::Success, id);
        if id.is_classic() {
            response.add(&MappedAddress(self.source)).add(&SourceAddress(from));
            if let Some((other, _)) = self.other {
                response.add(&ChangedAddress(other));
            }
        } else {
            response.add(&XorMappedAddress(self.source));
            if let (Some((other, _)), None) = (self.other, wish.port) {
                response.add(&MappedAddress(self.source)).add(&ResponseOrigin(from)).add(&OtherAddress(other));
            }
            if let Some(padding) = &wish.padding {
                response.add(padding);
            }
        }
        let to = SocketAddr::new(self.source.ip(), wish.port.unwrap_or(self.source.port()));
        let cost = match wish {
            Wish { port: Some(_), .. } | Wish { padding: Some(_), .. } => 4,
            Wish { change: ChangeRequest { address: false, port: false }, .. } => 1,
            _ => 2,
        };
        match self.finish(&mut response) {
            Some(length) if partner => Answer::Ask { from, to, length, cost },
            Some(length) => Answer::Send { from, to, length, cost },
            None => Answer::Silence(Silence::NoRoom),
        }
    }

    fn error(&self, refusal: &Refusal, out: &mut [u8]) -> Answer {
        let id = *self.request.transaction_id();
        let classic = id.is_classic();
        let mut response = Builder::new(out, Method::BINDING, Class::Error, id);
        match refusal {
            Refusal::BadRequest => {
                response.add(if classic { &CLASSIC_BAD_REQUEST } else { &ErrorCode::BAD_REQUEST });
            }
            Refusal::Unknown { types, count } => {
                // Nor is there padding for an odd number of types: it is made even by the last (RFC 3489 section 11.2.10).
                let listed = if classic { count.next_multiple_of(2).min(MAX_UNKNOWN) } else { *count };
                let mut bytes = [0; 2 * MAX_UNKNOWN];
                for (index, place) in bytes.as_chunks_mut().0.iter_mut().enumerate().take(listed) {
                    let index = index.min(count.saturating_sub(1));
                    *place = types.get(index).map_or([0; 2], |kind| kind.to_be_bytes());
                }
                let listed = bytes.get(..2 * listed).unwrap_or_default();
                response.add(if classic { &CLASSIC_UNKNOWN_ATTRIBUTE } else { &ErrorCode::UNKNOWN_ATTRIBUTE });
                response.add(&UnknownAttributes(listed));
            }
        }
        match self.finish(&mut response) {
            Some(length) => Answer::Send { from: self.local, to: self.source, length, cost: 1 },
            None => Answer::Silence(Silence::NoRoom),
        }
    }

    /// FINGERPRINT is answered with FINGERPRINT.
    fn finish(&self, response: &mut Builder<'_>) -> Option<usize> {
        if self.request.fingerprint() == Fingerprint::Right {
            response.fingerprint();
        }
        response.finish().ok()
    }
}
