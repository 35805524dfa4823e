//! The link to the partner node, on the first shard: each of the two sends for the other from the address that it has not.

use std::net::{IpAddr, SocketAddr};

use shoal_stun::discovery::{FRESH_MS, MAX_LINK_MESSAGE, PartnerKey, PartnerLink, Received};
use shoal_stun::message::Family;
use shoal_sys::ring::{DatagramSocket, Datagrams};
use shoal_sys::udp::{self, Buffers, SendBatch};

use crate::settings::{PartnerSettings, UdpSettings};

/// Bytes of the link's queues: heartbeats and single answers.
const BUFFERS: Buffers = Buffers { receive: 1 << 20, send: 1 << 20 };

pub(super) struct Partner {
    link: PartnerLink,
    socket: DatagramSocket,
    address: SocketAddr,
}

/// What the partner wants sent: from this node's port, to whom, and what.
pub(super) type Wanted<'d> = (u16, SocketAddr, &'d [u8]);

/// What a shard knows of the partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Known {
    pub(super) addresses: [Option<IpAddr>; 2],
    pub(super) until_ms: u64,
}

impl Partner {
    /// `key` comes back with what arrives.
    pub(super) fn start(
        settings: &PartnerSettings,
        udp: &UdpSettings,
        now_ms: u64,
        datagrams: &Datagrams,
        key: u64,
    ) -> std::io::Result<Self> {
        let socket = datagrams.receive(udp::own_socket(settings.listen, BUFFERS)?, key);
        let keys = settings.keys.iter().map(|(id, secret)| PartnerKey { id: *id, secret: *secret }).collect();
        let ports = [udp.port, udp.alternate_port.unwrap_or(udp.port)];
        Ok(Self { link: PartnerLink::new(keys, now_ms, &udp.addresses, ports), socket, address: settings.address })
    }

    /// Sends a heartbeat when it is time, and says how the partner is then.
    pub(super) fn tick(&mut self, now_ms: u64) -> Option<Known> {
        let mut message = [0; MAX_LINK_MESSAGE];
        let length = self.link.poll_heartbeat(now_ms, &mut message)?;
        self.send(&message[..length]);
        let fresh = self.link.is_fresh(now_ms);
        let address = |family| self.link.address(family).filter(|_| fresh);
        Some(Known { addresses: [address(Family::Ipv4), address(Family::Ipv6)], until_ms: now_ms + FRESH_MS })
    }

    /// Asks the partner to send `payload` from its port `from`.
    pub(super) fn ask(&mut self, from: u16, to: SocketAddr, payload: &[u8]) -> Result<(), &'static str> {
        let mut message = [0; MAX_LINK_MESSAGE];
        let length = self.link.ask(from, to, payload, &mut message).ok_or("partner_too_long")?;
        self.send(&message[..length]);
        Ok(())
    }

    /// Takes a message that came on the link.
    pub(super) fn handle<'d>(
        &mut self,
        source: SocketAddr,
        message: &'d [u8],
    ) -> Result<Option<Wanted<'d>>, &'static str> {
        if source != self.address {
            return Err("partner_source");
        }
        match self.link.handle(message) {
            Ok(Received::Heartbeat) => Ok(None),
            Ok(Received::Send { from, to, payload }) => Ok(Some((from, to, payload))),
            Err(refusal) => Err(match refusal.reason() {
                "signature" => "partner_signature",
                "session" => "partner_session",
                "replay" => "partner_replay",
                _ => "partner_malformed",
            }),
        }
    }

    fn send(&self, message: &[u8]) {
        let mut batch = SendBatch::default();
        batch.push(self.address, [message], message.len());
        // What is lost is missed by the partner, and said again.
        batch.send(&self.socket);
    }
}
