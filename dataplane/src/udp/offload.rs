//! Bound channels that XDP relays: told as they are bound, and what they have relayed taken into the books.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use shoal_probes::maps::RelayUsage;
use shoal_probes::{BindError, Channel, Left, Owner, Relay};
use shoal_stun::credentials::TenantId;
use shoal_stun::turn::{BoundChannel, RelayId, Usage};

use super::quota::NodeQuota;
use crate::clock::Clock;
use crate::routes::RelayTenants;

type Server = shoal_stun::turn::Server<NodeQuota>;

/// Bytes that ChannelData has around a payload.
const HEAD: u64 = 4;

/// The shard's hand on the program's channels.
pub(super) struct Offload {
    relay: Relay,
    clock: Clock,
    /// By relay, and then by number.
    bound: BTreeMap<(RelayId, u16), Bound>,
    /// Places that are free. Those below `unused` were in use before.
    free: Vec<u32>,
    unused: Range<u32>,
    /// Channels that are bound no longer: what was on its way on another CPU is counted when they are looked at next.
    closing: Vec<Bound>,
    /// Whether the kernel's last word was an error: said once, not each time.
    failing: bool,
}

struct Bound {
    relay: RelayId,
    channel: Channel,
    place: u32,
    tenant: TenantId,
    user: Box<str>,
    expires: u64,
}

impl Offload {
    /// With the places that are this shard's.
    pub(super) fn new(relay: Relay, (shard, shards): (usize, usize), clock: Clock) -> Self {
        let each = relay.channels() / shards as u32;
        let unused = each * shard as u32..each * (shard as u32 + 1);
        Self { relay, clock, bound: BTreeMap::new(), free: Vec::new(), unused, closing: Vec::new(), failing: false }
    }

    /// What a process before this one had relayed and not recorded.
    pub(super) fn take_left(&mut self) -> Vec<Left> {
        let left = self.relay.take_left();
        left.unwrap_or_else(|error| {
            self.note(&Err(error.into()));
            Vec::new()
        })
    }

    /// Has a channel relayed, or for longer. If that cannot be, user space goes on with it.
    pub(super) fn bind(&mut self, bound: &BoundChannel<'_>, tenants: &RelayTenants) {
        let BoundChannel { relay, number, client, server, relayed, peer, expires, tenant, user } = *bound;
        let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let channel = Channel {
            number,
            client: plain(client),
            server: plain(server),
            relayed: plain(relayed),
            peer: plain(peer),
        };
        let key = (relay, number);
        // The number may have been another peer's before, and the peer may have had another number: those have expired, and share a key
        // with this one.
        let of_relay = self.bound.range((relay, 0)..=(relay, u16::MAX));
        let shares = |(_, known): &(_, &Bound)| {
            known.channel != channel && (known.channel.number == number || known.channel.peer == channel.peer)
        };
        let expired: Vec<u16> = of_relay.filter(shares).map(|((_, number), _)| *number).collect();
        expired.into_iter().for_each(|number| self.unbind(relay, number));
        let (place, is_new) = match self.bound.get(&key) {
            Some(known) => (known.place, false),
            None => match self.free.pop().or_else(|| self.unused.next()) {
                Some(place) => (place, true),
                None => return,
            },
        };
        let told = self.tell(&channel, place, is_new, bound, tenants);
        match told {
            Ok(()) => {
                let user = user.into();
                self.bound.insert(key, Bound { relay, channel, place, tenant, user, expires });
            }
            // It relays until the end that was told before, and is counted.
            Err(_) if !is_new => {}
            Err(_) => self.free.push(place),
        }
        self.note(&told);
    }

    fn tell(
        &mut self,
        channel: &Channel,
        place: u32,
        is_new: bool,
        bound: &BoundChannel<'_>,
        tenants: &RelayTenants,
    ) -> Result<(), BindError> {
        let allocation = bound.relay.to_bits();
        if is_new {
            let tenant = tenants.rules(bound.tenant).ok_or(BindError::Unknown)?;
            self.relay.own(place, allocation, Owner { tenant: &tenant.id, user: bound.user })?;
        }
        self.relay.bind(channel, place, allocation, self.clock.monotonic_ns(bound.expires))
    }

    /// Has it relayed no longer.
    pub(super) fn unbind(&mut self, relay: RelayId, number: u16) {
        if let Some(bound) = self.bound.remove(&(relay, number)) {
            let done = self.relay.unbind(&bound.channel);
            self.note(&done.map_err(BindError::from));
            self.closing.push(bound);
        }
    }

    /// Ends all of them: the process does.
    pub(super) fn end(&mut self) {
        let all: Vec<(RelayId, u16)> = self.bound.keys().copied().collect();
        all.into_iter().for_each(|(relay, number)| self.unbind(relay, number));
    }

    /// Takes into the books what was relayed since the last time; gives all of it.
    pub(super) fn take(&mut self, server: &mut Server) -> Usage {
        let mut all = Usage::default();
        let mut add = |bound: &Bound, relayed: &RelayUsage| {
            if *relayed != RelayUsage::default() {
                let usage = usage(relayed);
                all.add(&usage);
                server.add_usage(bound.relay, bound.tenant, &bound.user, &usage);
            }
        };
        for closed in std::mem::take(&mut self.closing) {
            add(&closed, &self.relay.take(closed.place));
            let done = self.relay.disown(closed.place);
            self.note(&done.map_err(BindError::from));
            self.free.push(closed.place);
        }
        let now_ms = self.clock.now_ms();
        let mut expired = Vec::new();
        for (key, bound) in &self.bound {
            add(bound, &self.relay.take(bound.place));
            if bound.expires <= now_ms {
                expired.push(*key);
            }
        }
        expired.into_iter().for_each(|(relay, number)| self.unbind(relay, number));
        all
    }

    /// Channels that are relayed there.
    pub(super) fn len(&self) -> usize {
        self.bound.len()
    }

    fn note(&mut self, done: &Result<(), BindError>) {
        match done {
            Ok(()) | Err(BindError::Unknown) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(%error, "XDP does not take channels; they are relayed in user space");
            }
            Err(_) => {}
        }
    }
}

/// What the program has counted, as user space counts.
pub(super) const fn usage(relayed: &RelayUsage) -> Usage {
    let RelayUsage { datagrams: [sent, received], bytes: [sent_bytes, received_bytes] } = *relayed;
    Usage { sent, sent_bytes, received, received_bytes, framing_bytes: (sent + received) * HEAD }
}
