//! Over what peers can talk to each other.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One way for peers to talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// WebRTC data channels; offers and answers go over the tracker's WebSocket.
    Webrtc,
    /// Shoal's own, over UDP, introduced by the punch service (docs/punch.md).
    ShoalUdp,
    /// TCP to the port that was announced: classic BitTorrent.
    Tcp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Webrtc, Self::ShoalUdp, Self::Tcp];

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webrtc => "webrtc",
            Self::ShoalUdp => "shoal-udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A set of [`Transport`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transports(u8);

impl Transports {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds one.
    #[must_use]
    pub const fn with(self, transport: Transport) -> Self {
        Self(self.0 | 1 << transport as u8)
    }

    /// Leaves one out.
    #[must_use]
    pub const fn without(self, transport: Transport) -> Self {
        Self(self.0 & !(1 << transport as u8))
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, transport: Transport) -> bool {
        self.0 & 1 << transport as u8 != 0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of [`Transport::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Transport> {
        Transport::ALL.into_iter().filter(move |transport| self.has(*transport))
    }
}

impl FromIterator<Transport> for Transports {
    fn from_iter<I: IntoIterator<Item = Transport>>(transports: I) -> Self {
        transports.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Transports {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Transports as they are matched: two peers share one if they have a bit in common. What goes straight from address to
/// address needs the same family; WebRTC finds its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Mask(pub(crate) u8);

const WEBRTC: u8 = 1;
const UDP: [u8; 2] = [1 << 1, 1 << 2];
const TCP: [u8; 2] = [1 << 3, 1 << 4];

impl Mask {
    pub(crate) fn new(transports: Transports, address: IpAddr) -> Self {
        let family = usize::from(address.is_ipv6());
        let bit = |transport, bit| if transports.has(transport) { bit } else { 0 };
        Self(bit(Transport::Webrtc, WEBRTC) | bit(Transport::ShoalUdp, UDP[family]) | bit(Transport::Tcp, TCP[family]))
    }

    pub(crate) fn shares(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn transports(self) -> Transports {
        let has = |bits: u8| self.0 & bits != 0;
        let all = [has(WEBRTC), has(UDP[0] | UDP[1]), has(TCP[0] | TCP[1])];
        Transport::ALL.into_iter().zip(all).filter(|(_, has)| *has).map(|(transport, _)| transport).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn straight_ways_need_one_family_and_webrtc_does_not() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        for transport in Transport::ALL {
            let transports = Transports::NONE.with(transport);
            let (four, six) = (Mask::new(transports, v4), Mask::new(transports, v6));
            assert!(four.shares(four) && six.shares(six));
            assert_eq!(four.shares(six), transport == Transport::Webrtc);
            assert_eq!((four.transports(), six.transports()), (transports, transports));
            assert_eq!(serde_json::to_value(transports).unwrap(), serde_json::json!([transport.name()]));
        }
        assert!(!Mask::new(Transports::NONE, v4).shares(Mask(u8::MAX)));
    }
}
