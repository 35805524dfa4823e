//! One allocation: who has it, what it relays from, and to whom.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::{FiveTuple, Usage};
use crate::credentials::{Credential, TenantId};
use crate::message::{ErrorCode, Family, TransactionId};

/// Milliseconds that a permission lasts (RFC 8656 section 9).
pub const PERMISSION_MS: u64 = 300_000;
/// Milliseconds that a channel lasts (RFC 8656 section 12).
pub const CHANNEL_MS: u64 = 600_000;

/// Permissions and channels kept without memory of their own.
const INLINE_PERMISSIONS: usize = 3;
const INLINE_CHANNELS: usize = 2;

/// An address in 16 bytes, IPv4 as IPv4-mapped; in two words, so that no padding aligns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ip([u64; 2]);

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        let bits = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        Self([(bits >> 64) as u64, bits as u64])
    }
}

impl Ip {
    fn address(self) -> IpAddr {
        let [high, low] = self.0;
        IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).to_canonical()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Permission {
    ip: Ip,
    expires: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    ip: Ip,
    pub(super) expires: u64,
    port: u16,
    pub(super) number: u16,
}

impl Channel {
    pub(super) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.ip.address(), self.port)
    }
}

/// Why a channel cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CannotBind {
    /// The number is another peer's, or the peer has another number.
    Conflict,
    /// No room.
    Full,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) flow: FiveTuple,
    pub(super) credential: Credential,
    pub(super) tenant: TenantId,
    /// Of the request that made it: a repetition is answered alike.
    pub(super) transaction: TransactionId,
    /// For IPv4 and IPv6, each by itself; 0: not relayed.
    expires: [u64; 2],
    /// As answered to the first request.
    pub(super) granted_s: u32,
    pub(super) token: Option<[u8; 8]>,
    /// Why one of two families is missing: the one without a port.
    pub(super) missing: Option<&'static ErrorCode<'static>>,
    /// Relay ports for IPv4 and IPv6; 0: none.
    pub(super) ports: [u16; 2],
    pub(super) usage: Usage,
    permissions: SmallVec<[Permission; INLINE_PERMISSIONS]>,
    channels: SmallVec<[Channel; INLINE_CHANNELS]>,
}

impl Allocation {
    pub(super) fn new(flow: FiveTuple, credential: Credential, tenant: TenantId, transaction: TransactionId) -> Self {
        Self {
            flow,
            credential,
            tenant,
            transaction,
            expires: [0; 2],
            granted_s: 0,
            token: None,
            missing: None,
            ports: [0; 2],
            usage: Usage::default(),
            permissions: SmallVec::new(),
            channels: SmallVec::new(),
        }
    }

    pub(super) const fn port(&self, family: Family) -> Option<u16> {
        let [v4, v6] = self.ports;
        match family {
            Family::Ipv4 if v4 != 0 => Some(v4),
            Family::Ipv6 if v6 != 0 => Some(v6),
            _ => None,
        }
    }

    pub(super) const fn set_port(&mut self, family: Family, port: u16) {
        *half(&mut self.ports, family) = port;
    }

    /// Until when a family is relayed.
    pub(super) const fn expires(&self, family: Family) -> u64 {
        let [v4, v6] = self.expires;
        match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        }
    }

    /// Has a family relayed until then, or both, as far as there is a port for it.
    pub(super) fn last_until(&mut self, expires: u64, family: Option<Family>) {
        for one in [Family::Ipv4, Family::Ipv6] {
            if family.is_none_or(|family| family == one) && self.port(one).is_some() {
                *half(&mut self.expires, one) = expires;
            }
        }
    }

    /// When the first of its families ends.
    pub(super) fn deadline(&self) -> u64 {
        self.expires.into_iter().filter(|expires| *expires > 0).min().unwrap_or(0)
    }

    /// Whether anything is relayed. What has expired is not there, swept or not.
    #[inline]
    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        self.expires.iter().any(|expires| *expires > now_ms)
    }

    /// The peer of a channel's number.
    #[inline]
    pub(super) fn channel(&self, number: u16, now_ms: u64) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.number == number && channel.expires > now_ms)
    }

    /// Channels to peers of a family, also those that have expired since.
    pub(super) fn channels(&self, family: Family) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(move |channel| Family::of(&channel.ip.address()) == family)
    }

    /// The number of a peer's channel.
    #[inline]
    pub(super) fn channel_of(&self, peer: SocketAddr, now_ms: u64) -> Option<u16> {
        let ip = Ip::from(peer.ip());
        self.channels
            .iter()
            .find(|channel| channel.port == peer.port() && channel.ip == ip && channel.expires > now_ms)
            .map(|channel| channel.number)
    }

    #[inline]
    pub(super) fn permits(&self, peer: IpAddr, now_ms: u64) -> bool {
        let ip = Ip::from(peer);
        self.permissions.iter().any(|permission| permission.ip == ip && permission.expires > now_ms)
    }

    /// Installs or refreshes permissions, all or none of them; false when there is no room, for `limit` in all.
    pub(super) fn permit(&mut self, peers: impl Iterator<Item = IpAddr>, limit: usize, now_ms: u64) -> bool {
        let expires = now_ms + PERMISSION_MS;
        let before = self.permissions.clone();
        for peer in peers {
            let ip = Ip::from(peer);
            if let Some(known) = self.permissions.iter_mut().find(|permission| permission.ip == ip) {
                known.expires = expires;
                continue;
            }
            if self.permissions.len() >= limit {
                self.permissions.retain(|permission| permission.expires > now_ms);
            }
            if self.permissions.len() >= limit {
                self.permissions = before;
                return false;
            }
            self.permissions.push(Permission { ip, expires });
        }
        true
    }

    /// Whether a channel can be bound, for `limit` in all.
    pub(super) fn can_bind(&self, number: u16, peer: SocketAddr, limit: usize, now_ms: u64) -> Result<(), CannotBind> {
        let by_number = self.channel(number, now_ms).map(Channel::peer);
        // IPv4 in IPv6's clothes is another address, and will be refused as such.
        let by_peer = self.channel_of(peer, now_ms).filter(|_| peer.ip() == peer.ip().to_canonical());
        match (by_number, by_peer) {
            (None, None) => {
                let live = self.channels.iter().filter(|channel| channel.expires > now_ms).count();
                if live < limit { Ok(()) } else { Err(CannotBind::Full) }
            }
            (Some(bound), Some(known)) if bound == peer && known == number => Ok(()),
            _ => Err(CannotBind::Conflict),
        }
    }

    /// Binds a channel that [can be](Self::can_bind).
    pub(super) fn bind(&mut self, number: u16, peer: SocketAddr, now_ms: u64) {
        let expires = now_ms + CHANNEL_MS;
        self.channels.retain(|channel| channel.expires > now_ms && channel.number != number);
        self.channels.push(Channel { ip: peer.ip().into(), expires, port: peer.port(), number });
    }

    /// Forgets a family that is relayed no longer, and its peers.
    pub(super) fn forget(&mut self, family: Family) {
        self.set_port(family, 0);
        *half(&mut self.expires, family) = 0;
        self.permissions.retain(|permission| Family::of(&permission.ip.address()) != family);
        self.channels.retain(|channel| Family::of(&channel.ip.address()) != family);
    }

    /// Permissions and channels that it holds.
    #[cfg(test)]
    pub(super) fn peers(&self) -> [usize; 2] {
        [self.permissions.len(), self.channels.len()]
    }

    /// Bytes that it takes beside its place in the table.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let spilled = |spilled, bytes| if spilled { bytes } else { 0 };
        self.credential.username.len()
            + spilled(self.permissions.spilled(), self.permissions.capacity() * size_of::<Permission>())
            + spilled(self.channels.spilled(), self.channels.capacity() * size_of::<Channel>())
    }
}

/// What one family has of a pair.
const fn half<T>(pair: &mut [T; 2], family: Family) -> &mut T {
    let [v4, v6] = pair;
    match family {
        Family::Ipv4 => v4,
        Family::Ipv6 => v6,
    }
}
