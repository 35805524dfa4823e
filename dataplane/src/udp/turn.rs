//! The relay of a shard: the state machine of `protocol/stun`, with its sockets on the shard's ring.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use shoal_link::ledger::Kind;
use shoal_probes::{FrameEndpoints, Left};
use shoal_stun::credentials::{Authenticator, NonceKey, Nonces};
use shoal_stun::message::Family;
use shoal_stun::turn::{
    self, BoundChannel, Config, FiveTuple, FromClient, Now, OpenError, RelayId, Relays, Server, ToPeer, TrainToPeer,
    Transport, Way,
};
use shoal_sys::ring::{DatagramSocket, Datagrams};
use shoal_sys::udp::{self, Buffers, Train};

use super::offload::{self, Offload};
use super::outbox::{From, Outbox};
use super::quota::NodeQuota;
use super::stream::{StreamNode, Streams};
use crate::ledger::{Flow, Recorder, Usage};
use crate::routes::RelayTenants;
use crate::settings::{TurnSettings, ports_of_shard};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;

/// Seconds for which a nonce is good; then a client is told a new one, and goes on.
const NONCE_SECONDS: u32 = 3_600;

/// Relay sockets whose queues are looked at in one tick: thousands of system calls at once would be felt.
const QUEUES_PER_TICK: usize = 256;

/// What a node's relays are made from, the same for all its shards.
pub(crate) struct TurnNode {
    /// What all of them count together.
    pub(crate) counts: Arc<crate::counts::Counts>,
    /// Random, for this process: nonces are made with it, so that each shard knows those of the others.
    pub(crate) nonce_secret: [u8; 32],
    /// All addresses that the node is known to have.
    pub(crate) own_addresses: Vec<std::net::IpAddr>,
    /// For clients that come by TCP and TLS.
    pub(crate) streams: Arc<StreamNode>,
}

/// Of one shard.
pub(super) struct Turn {
    pub(super) server: Server<NodeQuota>,
    sockets: Sockets,
    tenants: Arc<RelayTenants>,
    /// What the ledger calls a channel and an origin where there are none.
    nothing: Arc<str>,
    walk: Walk,
}

/// The relays' sockets, by [`RelayId::index`].
struct Sockets {
    datagrams: Rc<Datagrams>,
    places: Vec<Option<RelaySocket>>,
    buffers: Buffers,
    stats: Arc<ShardStats>,
    /// Where XDP relays, too; and who pays for that.
    offload: Option<Offload>,
    tenants: Arc<RelayTenants>,
    frames: Option<RelayFrames>,
}

/// Where frames for relays come to.
struct RelayFrames {
    endpoints: FrameEndpoints,
    relays: HashMap<SocketAddr, RelayId>,
}

struct RelaySocket {
    /// Whose it is: another relay may have the place after it.
    relay: RelayId,
    address: SocketAddr,
    socket: DatagramSocket,
    /// Datagrams lost in its queue that were counted.
    drops: u32,
}

/// A look at all relay sockets' queues, a part in each tick.
#[derive(Default)]
struct Walk {
    next: usize,
    bytes: u64,
}

impl Relays for Sockets {
    fn open(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError> {
        let socket = udp::own_socket(address, self.buffers).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => OpenError::InUse,
            _ => {
                tracing::warn!(%address, %error, "cannot open a relay socket");
                OpenError::Failed
            }
        })?;
        // What is relayed is not ours to probe the path with.
        udp::set_dont_fragment(&socket, relay.family() == Family::Ipv6, false).map_err(|_| OpenError::Failed)?;
        let socket = self.datagrams.receive(socket, relay.to_bits());
        if self.places.len() <= relay.index() {
            self.places.resize_with(relay.index() + 1, || None);
        }
        self.places[relay.index()] = Some(RelaySocket { relay, address, socket, drops: 0 });
        if let Some(RelayFrames { endpoints, relays }) = &mut self.frames {
            match endpoints.add(address) {
                Ok(()) => drop(relays.insert(address, relay)),
                // Its datagrams come to the socket.
                Err(error) => tracing::warn!(%address, %error, "no frames for a relay"),
            }
        }
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        if let Some(mut closed) = self.places.get_mut(relay.index()).and_then(Option::take) {
            closed.look(&self.stats);
            if let Some(RelayFrames { endpoints, relays }) = &mut self.frames
                && relays.remove(&closed.address).is_some()
                && let Err(error) = endpoints.remove(closed.address)
            {
                tracing::warn!(address = %closed.address, %error, "frames for a relay that is closed go on");
            }
        }
    }

    fn bind(&mut self, channel: &BoundChannel<'_>) {
        if let Some(offload) = &mut self.offload {
            offload.bind(channel, &self.tenants);
        }
    }

    fn unbind(&mut self, relay: RelayId, number: u16) {
        if let Some(offload) = &mut self.offload {
            offload.unbind(relay, number);
        }
    }
}

impl Sockets {
    /// Counts what was relayed, and what of it by XDP.
    fn count(&self, all: &turn::Usage, by_xdp: &turn::Usage) {
        let [all, by_xdp] = [all, by_xdp].map(ledger_usage);
        // What a tenant that is gone has used is in nobody's books.
        let less = |a: u64, b: u64| a.saturating_sub(b);
        self.stats.add(Counter::TurnBySockets, less(all.requests, by_xdp.requests));
        self.stats.add(Counter::TurnByXdp, by_xdp.requests);
        self.stats.add(Counter::TurnBytesBySockets, less(all.body_bytes, by_xdp.body_bytes));
        self.stats.add(Counter::TurnBytesByXdp, by_xdp.body_bytes);
    }
}

impl RelaySocket {
    /// Counts what was lost in its queue, and says how many bytes wait there.
    fn look(&mut self, stats: &ShardStats) -> u64 {
        let Ok(queues) = udp::queues(&self.socket) else { return 0 };
        stats.add(Counter::UdpQueueDrops, queues.drops.wrapping_sub(self.drops).into());
        self.drops = queues.drops;
        queues.receive.into()
    }
}

impl Turn {
    pub(super) fn new(
        settings: &TurnSettings,
        node: &TurnNode,
        (shard, shards): (usize, usize),
        datagrams: Rc<Datagrams>,
        tenants: Arc<RelayTenants>,
        stats: Arc<ShardStats>,
        seed: [u8; 32],
    ) -> Self {
        let config = Config {
            shard: shard as u16,
            ipv4: settings.ipv4,
            ipv6: settings.ipv6,
            ports: ports_of_shard(&settings.ports, shard, shards),
            node_ports: settings.ports.clone(),
            own_addresses: node.own_addresses.clone(),
            limits: settings.limits,
            seed,
        };
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: node.nonce_secret }], NONCE_SECONDS, true);
        let authenticator = Authenticator::new(&settings.realm, nonces, true);
        let quota = NodeQuota::new(node.counts.clone(), tenants.clone(), settings.allocations_per_address);
        let buffers = Buffers { receive: settings.socket_bytes, send: settings.socket_bytes };
        Self {
            server: Server::new(config, authenticator, tenants.names.clone(), quota),
            sockets: Sockets {
                datagrams,
                places: Vec::new(),
                buffers,
                stats,
                offload: None,
                tenants: tenants.clone(),
                frames: None,
            },
            tenants,
            nothing: "".into(),
            walk: Walk::default(),
        }
    }

    /// Has bound channels relayed by XDP, too.
    pub(super) fn relay_by_xdp(&mut self, offload: Offload) {
        self.sockets.offload = Some(offload);
    }

    /// Has relays served by frames, too.
    pub(super) fn serve_frames(&mut self, endpoints: FrameEndpoints) {
        self.sockets.frames = Some(RelayFrames { endpoints, relays: HashMap::new() });
    }

    /// The relay that frames to an address are for.
    pub(super) fn relay_at(&self, address: SocketAddr) -> Option<RelayId> {
        self.sockets.frames.as_ref()?.relays.get(&address).copied()
    }

    /// Where a relay that is open sends from.
    pub(super) fn address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.open(relay).map(|open| open.address)
    }

    pub(super) fn set_tenants(&mut self, tenants: Arc<RelayTenants>) {
        if !Arc::ptr_eq(&tenants, &self.tenants) {
            self.server.set_tenants(tenants.names.clone());
            self.server.quota_mut().set_tenants(tenants.clone());
            self.sockets.tenants = tenants.clone();
            self.tenants = tenants;
        }
    }

    /// Takes from the front of a client's train what goes to one peer: its bytes there, or `None` when the first datagram is
    /// nothing that is relayed so.
    pub(super) fn client_train<'b>(
        &mut self,
        now_ms: u64,
        flow: &FiveTuple,
        datagrams: &'b [u8],
        segment: usize,
        out: &mut Outbox<'b>,
    ) -> Option<usize> {
        let train = self.server.handle_client_train(now_ms, flow, datagrams, segment)?;
        let TrainToPeer { relay, peer, .. } = train;
        for payload in train.payloads() {
            out.relay(From::Relay(relay), peer, (relay, Way::ToPeer), [&[], payload, &[]]);
        }
        Some(train.datagrams.len())
    }

    /// Handles one datagram of a client, or a frame of its stream, with a reply written to `reply`.
    pub(super) fn client<'d>(
        &mut self,
        now: Now,
        flow: &FiveTuple,
        datagram: &'d [u8],
        reply: &mut [u8],
    ) -> FromClient<'d> {
        self.server.handle_client(now, flow, datagram, &mut self.sockets, reply)
    }

    /// Sends a payload to a peer.
    pub(super) fn to_peer<'b>(&self, to: &ToPeer<'b>, out: &mut Outbox<'b>) {
        let (from, relayed) = (From::Relay(to.relay), (to.relay, Way::ToPeer));
        if to.dont_fragment {
            out.relay_whole(from, to.peer, relayed, to.data);
        } else {
            out.relay(from, to.peer, relayed, [&[], to.data, &[]]);
        }
    }

    /// Handles a train that came to a relay. `endpoint` tells the socket that a client's server address is; `streams` has those
    /// who came by a stream.
    pub(super) fn peer_train<'b>(
        &mut self,
        now_ms: u64,
        relay: RelayId,
        train: &Train<'b>,
        endpoint: impl FnOnce(SocketAddr) -> Option<usize>,
        streams: &Streams,
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let datagrams = train.datagrams();
        let (count, bytes) = (datagrams.len(), train.payload().len());
        let handled = self.server.handle_peer(now_ms, relay, train.source(), count, bytes);
        let mut to = handled.map_err(|dropped| dropped.reason())?;
        if to.flow.transport != Transport::Udp {
            return streams.to_client(&mut self.server, relay, to, train);
        }
        let (from, client) = (From::Endpoint(endpoint(to.flow.server).ok_or("no_socket")?), to.flow.client);
        let relayed = (relay, Way::ToClient);
        if to.is_channel() {
            let (mut length, mut head): (usize, &'b [u8]) = (usize::MAX, &[]);
            for payload in datagrams {
                if payload.len() != length {
                    length = payload.len();
                    head = out.copy(to.head(length as u16).as_bytes());
                }
                out.relay(from, client, relayed, [head, payload, &[]]);
            }
        } else {
            for payload in datagrams {
                let head = to.head(payload.len() as u16);
                let in_front = out.copy(head.as_bytes());
                out.relay(from, client, relayed, [in_front, payload, head.padding()]);
            }
        }
        Ok(())
    }

    /// A client's stream is closed.
    pub(super) fn closed(&mut self, flow: &FiveTuple) {
        self.server.handle_closed(flow, &mut self.sockets);
    }

    /// The socket of a relay that is open.
    pub(super) fn socket(&self, relay: RelayId) -> Option<&DatagramSocket> {
        self.open(relay).map(|open| &open.socket)
    }

    fn open(&self, relay: RelayId) -> Option<&RelaySocket> {
        self.sockets.places.get(relay.index())?.as_ref().filter(|open| open.relay == relay)
    }

    /// Ends what has expired.
    pub(super) fn advance(&mut self, now_ms: u64) {
        if self.server.next_deadline().is_some_and(|at| at <= now_ms) {
            self.server.advance(now_ms, &mut self.sockets);
        }
    }

    /// Hands over what a process before this one had XDP relay and did not record.
    pub(super) fn record_left(&mut self, recorder: &mut Recorder) {
        let left = self.sockets.offload.as_mut().map(Offload::take_left).unwrap_or_default();
        for Left { tenant, user, usage } in left {
            let tenant: Arc<str> = tenant.into();
            let flow = Flow { tenant: &tenant, channel: &self.nothing, kind: Kind::Relay, origin: &self.nothing };
            let usage = offload::usage(&usage);
            recorder.record(flow, &user, ledger_usage(&usage));
            self.sockets.count(&usage, &usage);
        }
    }

    /// Has XDP relay nothing any more.
    pub(super) fn end_offload(&mut self) {
        self.sockets.offload.iter_mut().for_each(Offload::end);
    }

    /// Hands over what was relayed since the last time.
    pub(super) fn record(&mut self, recorder: &mut Recorder) {
        let Self { server, sockets, tenants, nothing, .. } = self;
        let by_xdp = sockets.offload.as_mut().map(|offload| offload.take(server)).unwrap_or_default();
        let mut all = turn::Usage::default();
        server.take_usage(|tenant, user, usage| {
            let Some(rules) = tenants.rules(tenant) else { return };
            let flow = Flow { tenant: &rules.id, channel: nothing, kind: Kind::Relay, origin: nothing };
            recorder.record(flow, user, ledger_usage(usage));
            all.add(usage);
        });
        sockets.count(&all, &by_xdp);
    }

    /// Notes how it is.
    pub(super) fn figures(&mut self) {
        let Self { server, sockets, walk, .. } = self;
        let stats = &sockets.stats;
        stats.set(Gauge::TurnAllocations, server.allocations() as u64);
        stats.set(Gauge::TurnOffloaded, sockets.offload.as_ref().map_or(0, Offload::len) as u64);
        let counters = server.counters();
        stats.set_total(Counter::TurnAllocated, counters.allocations);
        stats.set_total(Counter::TurnGranted, counters.granted);
        counters.errors().for_each(|(error, count)| stats.turn_errors(error.label(), count));
        counters.refused().for_each(|(refusal, count)| stats.turn_refusals(refusal.reason(), count));
        let end = (walk.next + QUEUES_PER_TICK).min(sockets.places.len());
        for open in sockets.places[walk.next..end].iter_mut().flatten() {
            walk.bytes += open.look(stats);
        }
        walk.next = end;
        if end == sockets.places.len() {
            stats.set(Gauge::TurnQueue, walk.bytes);
            *walk = Walk::default();
        }
    }
}

/// What was relayed, as the ledger counts it.
const fn ledger_usage(usage: &turn::Usage) -> Usage {
    let body_bytes = usage.sent_bytes + usage.received_bytes;
    Usage { requests: usage.sent + usage.received, body_bytes, wire_bytes: body_bytes + usage.framing_bytes }
}
