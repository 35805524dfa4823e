//! What a shard serves over UDP.
//!
//! ```text
//!   sockets ─trains─▶ ring ─batch─▶ handle ─▶ protocol/stun ─▶ outbox ─trains─▶ sockets
//!                                      └─ what is another shard's: post ─▶ its handle
//! ```
//!
//! Each shard has a socket of its own for each address and port (SO_REUSEPORT), and the kernel gives a client's datagrams to one
//! of them by its address and port; and it has a socket for each relay. One task takes what has arrived in batches, writes answers
//! and headers into one buffer, and hands all that leaves to the kernel, by one system call for each socket. Nothing waits: what
//! the kernel has no room for is dropped, newest first, and counted. Beside the sockets, datagrams can come and go by [`frames`].

mod discovery;
mod frames;
mod offload;
mod outbox;
mod partner;
mod post;
mod punch;
mod quota;
mod rates;
mod send;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use shoal_link::observation::Observation;
use shoal_packet::flow::Owners;
use shoal_probes::Relay;
use shoal_stun::discovery::Endpoints;
use shoal_stun::turn::{FiveTuple, FromClient, MAX_REPLY, Now, RelayId, Transport, reservation_shard};
use shoal_sys::ring::{Arrived, DatagramConfig, DatagramSocket, Datagrams, Ring};
use shoal_sys::udp::{self, Train};

use crate::clock::Clock;
use crate::ledger::Recorder;
use crate::routes::{Published, Routes};
use crate::settings::{Settings, UdpSettings};
use crate::shard::{FrameListeners, UdpListener};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;
use crate::xdp::KnownSources;

use discovery::Answered;
use frames::Frames;
use offload::Offload;
use outbox::{Open, Outbox};
use partner::{Known, Partner};
pub(crate) use post::{Mail, PostOffice};
use punch::Punch;
use rates::Rates;
use stream::Streams;
pub(crate) use stream::{StreamNode, UNSENT_MAX as STREAM_UNSENT_MAX};
use turn::Turn;
pub(crate) use turn::TurnNode;

/// The address `own` and its second one, while no partner is known to be alive.
pub(crate) fn endpoints(settings: &UdpSettings, own: IpAddr) -> Endpoints {
    discovery::endpoints(settings, own, &Known::default(), 0)
}

/// Trains of a batch. So long a batch is only when so much waits, and then joins what goes one way also for a thousand flows.
const BATCH_MAX: usize = 4096;

/// Trains handled before others have their turn, at some 1 µs each.
const TRAINS_PER_TURN: usize = 512;

/// From so many new trains on it is worth a turn to see whether there are more.
const GATHER_MIN: usize = 16;

/// Bytes for answers and headers of a part of a batch.
const BUFFER_BYTES: usize = 512 << 10;

/// Bytes that a train may need of it: each datagram an answer as long as itself and somewhat more, and there are no more datagrams
/// in a train than the kernel joins.
const TRAIN_NEEDS: usize = (64 << 10) + 128 * MAX_REPLY;
const _: () = assert!(TRAIN_NEEDS <= BUFFER_BYTES);

/// Mail handled before others have their turn.
const MAIL_MAX: usize = 64;

/// Clients of a shard whose allocation another one has. Only those who come with a token for a reserved port get there.
const GUESTS_MAX: usize = 4_096;

/// A bit of the key of a socket that is no relay's: a relay's number has it clear.
const NO_RELAY: u64 = 1 << 31;
/// The key of the link to the partner node.
const LINK: u64 = NO_RELAY | 0xffff;

/// What a shard's UDP half is made from.
pub(crate) struct UdpParts<'a> {
    pub(crate) shard: usize,
    pub(crate) settings: &'a Settings,
    pub(crate) node: &'a UdpNode,
    pub(crate) listeners: Vec<UdpListener>,
    pub(crate) frames: Option<FrameListeners>,
    pub(crate) ring: &'a Ring,
    pub(crate) clock: Clock,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) published: Arc<Published>,
    /// The shard's hand on the channels that XDP relays.
    pub(crate) relay: Option<Relay>,
    /// Random, for this shard alone.
    pub(crate) seed: [u8; 32],
}

/// What the shards of a node share for it.
pub(crate) struct UdpNode {
    pub(crate) post: Arc<PostOffice>,
    pub(crate) turn: TurnNode,
    /// For hashes that are the same on all shards, and that nobody outside must be able to steer.
    pub(crate) seed: u64,
    /// Where clients are noted that are no forgery, if anybody wants to know.
    pub(crate) known: Option<Arc<KnownSources>>,
}

/// The UDP half of a shard.
pub(crate) struct Udp {
    shard: usize,
    ring: Ring,
    datagrams: Rc<Datagrams>,
    endpoints: Vec<Endpoint>,
    settings: UdpSettings,
    post: Arc<PostOffice>,
    published: Arc<Published>,
    clock: Clock,
    stats: Arc<ShardStats>,
    streams: Streams,
    known: Option<Arc<KnownSources>>,
    frames: Option<Frames>,
    work: RefCell<Work>,
}

/// One of the shard's sockets that clients send to.
struct Endpoint {
    address: SocketAddr,
    socket: DatagramSocket,
    discovery: Cell<Endpoints>,
    /// Datagrams lost in its queue that were counted.
    drops: Cell<u32>,
    /// Whose flows are, if they are steered.
    owners: Option<Owners>,
}

/// What changes from batch to batch.
struct Work {
    buffer: Box<[u8]>,
    open: Open,
    state: State,
}

struct State {
    bindings: Rates,
    /// Answers to requests that are nobody's.
    refusals: Rates,
    turn: Option<Turn>,
    punch: Punch,
    /// The snapshot in force, and how many came before it.
    routes: Arc<Routes>,
    version: u64,
    partner: Option<Partner>,
    known: Known,
    /// By the endpoint and the client: whose it is, and until when that is believed.
    guests: HashMap<(usize, SocketAddr), (u16, u64)>,
    guest_ms: u64,
}

/// What is the same for one datagram and the next.
struct Came {
    endpoint: usize,
    source: SocketAddr,
    now: Now,
    /// The shard that it came to, if that is another one.
    by: Option<u16>,
}

impl Udp {
    /// Starts receiving on `listeners`.
    ///
    /// # Errors
    /// No memory for the receive buffers, or the link to the partner cannot be opened.
    pub(crate) fn start(parts: UdpParts<'_>) -> io::Result<Rc<Udp>> {
        let UdpParts { shard, settings, node, listeners, frames, ring, clock, stats, published, relay, seed } = parts;
        let (version, routes) = (published.version(), published.current());
        let own = &settings.udp;
        let datagrams = Rc::new(ring.datagrams(DatagramConfig { buffers: own.receive_buffers })?);
        let now_ms = clock.now_ms();
        // A client's frames are of the same shard as what comes of it to the sockets.
        let otherwise = Owners { seed: node.seed, shards: node.post.shards() as u32 };
        let owners = listeners.iter().find_map(|listener| listener.owners).unwrap_or(otherwise);
        let endpoint = |(index, listener): (usize, UdpListener)| Endpoint {
            address: listener.address,
            socket: datagrams.receive(listener.socket, NO_RELAY | index as u64),
            discovery: Cell::new(discovery::endpoints(own, listener.address.ip(), &Known::default(), now_ms)),
            drops: Cell::new(0),
            owners: listener.owners,
        };
        let endpoints = listeners.into_iter().enumerate().map(endpoint).collect();
        let place = (shard, node.post.shards());
        let mut turn = settings.turn.as_ref().map(|turn| {
            let tenants = routes.tenants().clone();
            Turn::new(turn, &node.turn, place, datagrams.clone(), tenants, stats.clone(), seed)
        });
        if let (Some(turn), Some(relay)) = (&mut turn, relay) {
            turn.relay_by_xdp(Offload::new(relay, place, clock.clone()));
        }
        let frames = match frames {
            Some(listeners) => {
                let (frames, endpoints) = Frames::start(listeners, settings, owners)?;
                if let Some(turn) = &mut turn {
                    turn.serve_frames(endpoints);
                }
                Some(frames)
            }
            None => None,
        };
        let partner = match own.partner.as_ref().filter(|_| shard == 0) {
            Some(partner) => Some(Partner::start(partner, own, now_ms, &datagrams, LINK)?),
            None => None,
        };
        let refusals = settings.turn.as_ref().map_or(own.bindings_per_address, |turn| turn.refusals_per_address);
        let state = State {
            bindings: Rates::new(own.bindings_per_address),
            refusals: Rates::new(refusals),
            turn,
            punch: Punch::new(place, node.turn.nonce_secret, node.seed, seed, settings.turn.as_ref()),
            routes,
            version,
            partner,
            known: Known::default(),
            guests: HashMap::new(),
            guest_ms: settings.turn.as_ref().map_or(0, |turn| u64::from(turn.limits.max_lifetime_s) * 1_000),
        };
        let work = RefCell::new(Work { buffer: vec![0; BUFFER_BYTES].into(), open: Open::default(), state });
        let streams = Streams::new(settings.turn.as_ref(), &node.turn.streams, &stats);
        let (ring, settings) = (ring.clone(), own.clone());
        let (post, known) = (node.post.clone(), node.known.clone());
        Ok(Rc::new(Udp {
            shard,
            ring,
            datagrams,
            endpoints,
            settings,
            post,
            published,
            clock,
            stats,
            streams,
            known,
            frames,
            work,
        }))
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self: Rc<Udp>) {
        self.serve_frames();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let (mut buffer, mut open) = (vec![0; BUFFER_BYTES], Open::default());
        loop {
            self.datagrams.arrive().await;
            self.datagrams.take(&mut batch, BATCH_MAX);
            // The kernel's end of the ring brings some tens at a time. Where more wait, a longer batch has more for each flow, and so
            // leaves in fewer and longer trains; everybody else has a turn meanwhile.
            let mut before = 0;
            while batch.len() - before >= GATHER_MIN && batch.len() < BATCH_MAX && !self.datagrams.is_short() {
                before = batch.len();
                self.ring.next_turn().await;
                self.datagrams.take(&mut batch, BATCH_MAX);
            }
            // A guest's first datagrams may be here as soon as what another shard says of it.
            self.receive();
            self.handle(&batch, &mut buffer, &mut open).await;
            batch.clear();
            self.ring.next_turn().await;
        }
    }

    /// Does what is due. Gives what is new of peers.
    pub(crate) fn tick(&self) -> Vec<Observation> {
        let now_ms = self.clock.now_ms();
        let Work { buffer, open, state } = &mut *self.work.borrow_mut();
        self.look_at_snapshot(state);
        if state.punch.is_due(now_ms) {
            let mut out = Outbox::new(buffer, open, 0);
            state.punch.poll(now_ms, |from| self.place(from).ok(), &mut out);
            self.send(out, state);
        }
        if let Some(turn) = &mut state.turn {
            turn.advance(now_ms);
            self.streams.sweep(now_ms, &turn.server);
        }
        if let Some(known) = state.partner.as_mut().and_then(|partner| partner.tick(now_ms)) {
            for shard in 1..self.post.shards() {
                let mail = Mail::Partner { addresses: known.addresses, until_ms: known.until_ms };
                // The next one says it again.
                let _ = self.post.send(shard, mail);
            }
            state.known = known;
        }
        if self.settings.partner.is_some() {
            self.look_at_partner(&state.known, now_ms);
        }
        if let Some(frames) = &self.frames {
            frames.flush();
        }
        state.guests.retain(|_, (_, until_ms)| *until_ms > now_ms);
        state.punch.observations()
    }

    /// Has all peers told of once more.
    pub(crate) fn observe_again(&self) {
        self.work.borrow_mut().state.punch.observe_again();
    }

    /// Notes what waits in the sockets, and what was lost there.
    pub(crate) fn figures(&self) {
        let (mut receive, mut receive_max) = (0, u64::MAX);
        for (at, queues) in self.endpoints.iter().filter_map(|at| Some((at, udp::queues(&at.socket).ok()?))) {
            receive += u64::from(queues.receive);
            receive_max = receive_max.min(queues.receive_max.into());
            self.stats.add(Counter::UdpQueueDrops, queues.drops.wrapping_sub(at.drops.replace(queues.drops)).into());
        }
        self.stats.set(Gauge::UdpQueue, receive);
        self.stats.set(Gauge::UdpQueueMax, if receive_max == u64::MAX { 0 } else { receive_max });
        if let Some(frames) = &self.frames {
            frames.figures(&self.stats);
        }
        let state = &mut self.work.borrow_mut().state;
        state.punch.figures(&self.stats);
        if let Some(turn) = &mut state.turn {
            turn.figures();
        }
    }

    /// Hands over what was relayed since the last time.
    pub(crate) fn record(&self, recorder: &mut Recorder) {
        if let Some(turn) = &mut self.work.borrow_mut().state.turn {
            turn.record(recorder);
        }
    }

    /// Hands over what a process before this one had XDP relay and did not record. For the first shard, before it serves.
    pub(crate) fn record_left(&self, recorder: &mut Recorder) {
        if let Some(turn) = &mut self.work.borrow_mut().state.turn {
            turn.record_left(recorder);
        }
    }

    /// Has XDP relay nothing any more: what it has is then to be [recorded](Self::record) for the last time.
    pub(crate) fn end_offload(&self) {
        if let Some(turn) = &mut self.work.borrow_mut().state.turn {
            turn.end_offload();
        }
    }

    /// Takes what other shards have handed over. Returns how much that was.
    pub(crate) fn receive(&self) -> usize {
        if self.post.is_empty(self.shard) {
            return 0;
        }
        let mail: Vec<Mail> = std::iter::from_fn(|| self.post.take(self.shard)).take(MAIL_MAX).collect();
        let now = self.now();
        let Work { buffer, open, state } = &mut *self.work.borrow_mut();
        self.look_at_snapshot(state);
        let mut out = Outbox::new(buffer, open, mail.len());
        for one in &mail {
            if out.room() < TRAIN_NEEDS {
                // Its box is bounded, and so is this.
                self.stats.udp_drop("handover_full", 1);
                continue;
            }
            let handled = match one {
                Mail::Datagram { from, endpoint, source, bytes } => {
                    let came = Came { endpoint: (*endpoint).into(), source: *source, now, by: Some(*from) };
                    self.datagram(state, &came, bytes, &mut out)
                }
                Mail::Flow { to, source, hop, bytes } => {
                    self.flow(state, (*to, *hop), Train::single(*source, bytes), now, &mut out)
                }
                Mail::Guest { owner, endpoint, client } => {
                    if state.guests.len() < GUESTS_MAX {
                        state.guests.insert(((*endpoint).into(), *client), (*owner, now.ms + state.guest_ms));
                    }
                    Ok(())
                }
                Mail::Partner { addresses, until_ms } => {
                    state.known = Known { addresses: *addresses, until_ms: *until_ms };
                    self.look_at_partner(&state.known, now.ms);
                    Ok(())
                }
                Mail::Ask { from, to, payload } => match &mut state.partner {
                    Some(partner) => partner.ask(*from, *to, payload),
                    None => Err("no_partner"),
                },
            };
            if let Err(reason) = handled {
                self.stats.udp_drop(reason, 1);
            }
        }
        self.send(out, state);
        mail.len()
    }

    /// Whether others have handed over nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.post.is_empty(self.shard)
    }

    fn now(&self) -> Now {
        Now { ms: self.clock.now_ms(), unix: self.clock.unix_s() }
    }

    /// Whether nothing is to be served to this address.
    fn is_blocked(&self, client: IpAddr) -> bool {
        self.work.borrow().state.routes.blocks().contain(client, self.clock.unix_s())
    }

    /// Takes the snapshot in force, if it is another one.
    fn look_at_snapshot(&self, state: &mut State) {
        let version = self.published.version();
        if version == state.version {
            return;
        }
        (state.version, state.routes) = (version, self.published.current());
        if let Some(turn) = &mut state.turn {
            turn.set_tenants(state.routes.tenants().clone());
        }
    }

    fn look_at_partner(&self, known: &Known, now_ms: u64) {
        for endpoint in &self.endpoints {
            endpoint.discovery.set(discovery::endpoints(&self.settings, endpoint.address.ip(), known, now_ms));
        }
    }

    /// Handles a batch, and lets others have their turns meanwhile.
    async fn handle(&self, batch: &[Arrived], buffer: &mut [u8], open: &mut Open) {
        let mut left = batch;
        while !left.is_empty() {
            let mut out = Outbox::new(buffer, open, left.len());
            while !left.is_empty() && out.room() >= TRAIN_NEEDS {
                let taken = self.trains(left, &mut out);
                left = &left[taken..];
                if taken == TRAINS_PER_TURN {
                    self.ring.next_turn().await;
                }
            }
            self.leave(out).await;
        }
    }

    /// Handles the first of these trains, up to [`TRAINS_PER_TURN`] as far as there is room for what comes of them; how many it was.
    fn trains<'b>(&self, left: &'b [Arrived], out: &mut Outbox<'b>) -> usize {
        let now = self.now();
        let state = &mut self.work.borrow_mut().state;
        self.look_at_snapshot(state);
        let mut taken = 0;
        for arrived in left.iter().take(TRAINS_PER_TURN) {
            if out.room() < TRAIN_NEEDS {
                break;
            }
            let (key, train) = (arrived.key(), arrived.train());
            if arrived.is_truncated() {
                self.stats.udp_drop("truncated", self.came(&train));
            } else if !self.is_handed_over(key, &train) {
                self.train(state, key, train, now, out);
            }
            taken += 1;
        }
        taken
    }

    /// Counts what came; how many datagrams it was.
    fn came(&self, train: &Train<'_>) -> u64 {
        let count = train.datagrams().len() as u64;
        self.stats.add(Counter::UdpTrainsIn, 1);
        self.stats.add(Counter::UdpDatagramsIn, count);
        self.stats.add(Counter::UdpBytesIn, train.payload().len() as u64);
        count
    }

    fn train<'b>(&self, state: &mut State, key: u64, train: Train<'b>, now: Now, out: &mut Outbox<'b>) {
        let count = self.came(&train);
        // The partner is the operator's own.
        if key != LINK && state.routes.blocks().contain(train.source().ip(), now.unix) {
            return self.stats.udp_drop("blocked", count);
        }
        if key & NO_RELAY == 0 {
            let Some(turn) = &mut state.turn else { return };
            let place = |server: SocketAddr| self.endpoints.iter().position(|at| at.address == server);
            let relay = RelayId::from_bits(key);
            if let Err(reason) = turn.peer_train(now.ms, relay, &train, place, &self.streams, out) {
                self.stats.udp_drop(reason, count);
            }
            return;
        }
        if key == LINK {
            for message in train.datagrams() {
                if let Err(reason) = self.partners_message(state, train.source(), message, out) {
                    self.stats.udp_drop(reason, 1);
                }
            }
            return;
        }
        let endpoint = (key & !NO_RELAY) as usize;
        let Some(Endpoint { address: server, owners, .. }) = self.endpoints.get(endpoint) else { return };
        let server = *server;
        // It is served all the same, by the shard that it came to: where it came to is as steady as an owner.
        if owners.is_some_and(|owners| owners.of(train.source(), server) as usize != self.shard) {
            self.stats.add(Counter::UdpStrays, 1);
        }
        let came = Came { endpoint, source: train.source(), now, by: None };
        if !state.guests.is_empty()
            && let Some((owner, until_ms)) = state.guests.get_mut(&(endpoint, came.source))
        {
            *until_ms = now.ms + state.guest_ms;
            let owner = usize::from(*owner);
            return train.datagrams().for_each(|datagram| self.hand_over(owner, &came, datagram));
        }
        let flow = FiveTuple { client: came.source, server, transport: Transport::Udp };
        let (mut rest, segment) = (train.payload(), train.segment());
        loop {
            // The first two bits of ChannelData are 01 (RFC 8656 section 12.4).
            let channel = rest.first().is_some_and(|byte| byte & 0xc0 == 0x40);
            if channel
                && let Some(turn) = &mut state.turn
                && let Some(taken) = turn.client_train(now.ms, &flow, rest, segment, out)
            {
                rest = &rest[taken..];
            } else {
                let (datagram, after) = rest.split_at(segment.min(rest.len()));
                rest = after;
                if let Err(reason) = self.datagram(state, &came, datagram, out) {
                    self.stats.udp_drop(reason, 1);
                }
            }
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Handles one datagram of a client, or says why nothing came of it.
    fn datagram<'b>(
        &self,
        state: &mut State,
        came: &Came,
        datagram: &'b [u8],
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let Some(endpoint) = self.endpoints.get(came.endpoint) else { return Err("no_socket") };
        if shoal_stun::punch::is_punch(datagram) {
            return self.punch(state, came, endpoint.address, datagram, out);
        }
        let turn = match &mut state.turn {
            Some(turn) if !is_binding(datagram) => turn,
            _ => return self.binding(state, came, datagram, out),
        };
        let flow = FiveTuple { client: came.source, server: endpoint.address, transport: Transport::Udp };
        if came.by.is_none()
            && let Some(owner) = reservation_shard(datagram).map(usize::from)
            && owner != self.shard
            && owner < self.post.shards()
        {
            self.hand_over(owner, came, datagram);
            return Ok(());
        }
        match turn.client(came.now, &flow, datagram, out.spare()) {
            FromClient::Forward(to) => turn.to_peer(&to, out),
            FromClient::Reply { length, authenticated } => {
                if !authenticated && !state.refusals.admit(came.source.ip(), 1, came.now.ms * 1_000_000) {
                    return Err("rate");
                }
                if authenticated && let Some(known) = &self.known {
                    known.note(came.source.ip());
                }
                let reply = out.keep(length);
                if let Some(by) = came.by.filter(|_| reply.starts_with(&ALLOCATED)) {
                    let (owner, endpoint) = (self.shard as u16, came.endpoint as u16);
                    // Should it get lost, the client's allocation will seem gone, and it makes another.
                    let _ = self.post.send(by.into(), Mail::Guest { owner, endpoint, client: came.source });
                }
                out.reply(came.endpoint, came.source, reply);
            }
            FromClient::Binding => return self.binding(state, came, datagram, out),
            FromClient::Dropped(dropped) => return Err(dropped.reason()),
        }
        Ok(())
    }

    fn punch<'b>(
        &self,
        state: &mut State,
        came: &Came,
        local: SocketAddr,
        datagram: &[u8],
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let State { punch, routes, refusals, .. } = state;
        if let Some(owner) = punch.owner(datagram).filter(|owner| *owner != self.shard && came.by.is_none()) {
            self.hand_over(owner, came, datagram);
            return Ok(());
        }
        let handled = punch.handle(came.now, (came.source, local), datagram, routes, refusals, out)?;
        if let Some((length, proven)) = handled {
            if proven && let Some(known) = &self.known {
                known.note(came.source.ip());
            }
            let reply = out.keep(length);
            out.reply(came.endpoint, came.source, reply);
        }
        // An introduction has something to say at once.
        if punch.is_due(came.now.ms) {
            punch.poll(came.now.ms, |from| self.place(from).ok(), out);
        }
        Ok(())
    }

    fn binding<'b>(
        &self,
        state: &mut State,
        came: &Came,
        datagram: &[u8],
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let Some(endpoint) = self.endpoints.get(came.endpoint) else { return Err("no_socket") };
        let (addresses, at) = ((endpoint.address, came.source), endpoint.discovery.get());
        let now_ns = came.now.ms * 1_000_000;
        match discovery::answer(datagram, addresses, &at, &mut state.bindings, now_ns, out)? {
            Answered::Here { from, to, length, counter } => {
                let from = self.place(from)?;
                let answer = out.keep(length);
                out.reply(from, to, answer);
                self.stats.add(counter, 1);
            }
            Answered::Partner { from, to, length, counter } => {
                let payload = out.keep(length);
                match &mut state.partner {
                    Some(partner) => partner.ask(from, to, payload)?,
                    None if self.post.send(0, Mail::Ask { from, to, payload: payload.into() }) => {}
                    None => return Err("handover_full"),
                }
                self.stats.add(counter, 1);
            }
        }
        Ok(())
    }

    /// A message of the partner node: mostly, what it wants sent from here.
    fn partners_message<'b>(
        &self,
        state: &mut State,
        source: SocketAddr,
        message: &'b [u8],
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let Some(partner) = &mut state.partner else { return Err("no_partner") };
        if let Some((from, to, payload)) = partner.handle(source, message)? {
            let of_family = |at: &Endpoint| at.address.port() == from && at.address.is_ipv4() == to.is_ipv4();
            let from = self.endpoints.iter().position(of_family).ok_or("no_socket")?;
            out.reply(from, to, payload);
        }
        Ok(())
    }

    /// Gives a datagram to the shard whose it is.
    fn hand_over(&self, owner: usize, came: &Came, datagram: &[u8]) {
        let (from, endpoint) = (self.shard as u16, came.endpoint as u16);
        let mail = Mail::Datagram { from, endpoint, source: came.source, bytes: datagram.into() };
        if self.post.send(owner, mail) {
            self.stats.add(Counter::HandoverDatagram, 1);
        } else {
            self.stats.udp_drop("handover_full", 1);
        }
    }

    fn place(&self, address: SocketAddr) -> Result<usize, &'static str> {
        self.endpoints.iter().position(|at| at.address == address).ok_or("no_socket")
    }
}

/// The type of an Allocate success response (RFC 8656 section 17).
const ALLOCATED: [u8; 2] = [0x01, 0x03];

/// Whether it is a Binding request or indication by its first bytes, in either dialect.
fn is_binding(datagram: &[u8]) -> bool {
    matches!(datagram, [0x00, 0x01 | 0x11, ..])
}
