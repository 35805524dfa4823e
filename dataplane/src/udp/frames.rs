//! Datagrams by whole frames (AF_XDP), beside the sockets: they come past the kernel's network stack, and go back the way they came.
//!
//! ```text
//!   XDP ─frames─▶ XSK ─batch─▶ parse ─▶ owner? ─▶ handle ─▶ outbox ─▶ way back known? ─▶ frames ─▶ XSK
//!                                         └─ another shard's: post ─▶ its handle    └─ no ─▶ sockets
//! ```
//!
//! A queue's frames come to one shard, whoever's they are. A client's datagrams are of the shard that the hash of addresses and ports
//! says, those for a relay of the shard that has its port, whichever way they come; all others hand them over.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use shoal_frame::{ETHERNET, Hop, NextHops, Outgoing, PATH_MTU, build, length, parse};
use shoal_packet::flow::Owners;
use shoal_probes::FrameEndpoints;
use shoal_stun::turn::Now;
use shoal_sys::udp::{Sent, Train};
use shoal_sys::xsk::{Interface, Received, XskReceiver, XskSender};

use super::outbox::{From, Offered, Open, Outbox};
use super::post::Mail;
use super::{BUFFER_BYTES, LINK, NO_RELAY, State, TRAIN_NEEDS, Udp};
use crate::settings::{Settings, ports_of_shard};
use crate::shard::FrameListeners;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;

/// Frames taken at once, before others have their turn.
const FRAMES_PER_TURN: usize = 256;

/// Frames that are handed to the device together.
const FLUSH_AT: usize = 64;

/// After a wake-up for nothing, as of a device that is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// What a shard needs for it.
pub(super) struct Frames {
    owners: Owners,
    /// Where the node relays from, and which ports each shard has.
    relays: Vec<IpAddr>,
    ports: Vec<RangeInclusive<u16>>,
    /// Sockets that nobody has begun to look at.
    receivers: RefCell<Vec<Receiver>>,
    out: RefCell<Out>,
}

struct Receiver {
    interface: u32,
    socket: XskReceiver,
    /// To wait for.
    descriptor: Rc<OwnedFd>,
}

/// What leaves.
struct Out {
    ways: Vec<Way>,
    hops: NextHops,
    /// Of the last IPv4 packet.
    number: u16,
}

struct Way {
    interface: Interface,
    sender: XskSender,
    /// Frames lost on the way in that were counted.
    lost: u64,
}

impl Frames {
    /// Also gives what is to be told of each relay. `owners` are the same on all shards.
    pub(super) fn start(
        listeners: FrameListeners,
        settings: &Settings,
        owners: Owners,
    ) -> io::Result<(Self, FrameEndpoints)> {
        let (mut receivers, mut ways) = (Vec::new(), Vec::new());
        for listener in listeners.sockets {
            let descriptor = Rc::new(listener.receiver.as_fd().try_clone_to_owned()?);
            let interface = listener.interface;
            receivers.push(Receiver { interface: interface.index, socket: listener.receiver, descriptor });
            ways.push(Way { interface, sender: listener.sender, lost: 0 });
        }
        let (relays, ports) = settings.turn.as_ref().map_or_else(Default::default, |turn| {
            let v4 = turn.ipv4.map(|at| at.bind.into());
            let v6 = turn.ipv6.map(|at| at.bind.into());
            let shards = owners.shards as usize;
            let ports = (0..shards).map(|shard| ports_of_shard(&turn.ports, shard, shards)).collect();
            (v4.into_iter().chain(v6).collect(), ports)
        });
        let out = RefCell::new(Out { ways, hops: NextHops::new(owners.seed), number: 0 });
        Ok((Self { owners, relays, ports, receivers: RefCell::new(receivers), out }, listeners.endpoints))
    }

    /// The shard whose a client's datagrams are.
    fn owner(&self, client: SocketAddr, server: SocketAddr) -> usize {
        self.owners.of(client, server) as usize
    }

    /// Hands to the devices what they have not taken so far.
    pub(super) fn flush(&self) {
        for way in &mut self.out.borrow_mut().ways {
            way.flush(1);
        }
    }

    /// Counts what was lost.
    pub(super) fn figures(&self, stats: &ShardStats) {
        for way in &mut self.out.borrow_mut().ways {
            if let Ok(lost) = way.sender.lost() {
                stats.add(Counter::FramesLost, lost.saturating_sub(way.lost));
                way.lost = lost;
            }
        }
    }
}

impl Way {
    /// Hands over what waits, from so many frames on. What a device that is down or busy leaves is handed over again later; when no more
    /// fits, datagrams go by sockets.
    fn flush(&mut self, from: usize) {
        if self.sender.waiting() >= from {
            let _ = self.sender.flush();
        }
    }
}

impl Out {
    /// Writes a message's datagrams to frames, if that can be.
    fn send(&mut self, source: SocketAddr, message: &Offered<'_, '_>, now_ms: u64) -> bool {
        let Some(hop) = self.hops.get(message.to, now_ms) else { return false };
        let Some(way) = self.ways.iter_mut().find(|way| way.interface.index == hop.interface) else { return false };
        let ipv4 = source.is_ipv4();
        let fits = length(ipv4, message.segment) - ETHERNET <= PATH_MTU.min(way.interface.mtu);
        if !fits || message.to.is_ipv4() != ipv4 {
            return false;
        }
        if way.sender.room() < message.datagrams.len() {
            way.flush(1);
        }
        if way.sender.room() < message.datagrams.len() {
            return false;
        }
        for parts in message.datagrams {
            let payload = parts.iter().map(|part| part.len()).sum();
            let Some(frame) = way.sender.frame(length(ipv4, payload)) else { break };
            self.number = self.number.wrapping_add(1);
            let outgoing = Outgoing { link: hop.link, source, destination: message.to, parts, number: self.number };
            let built = build(&outgoing, frame);
            debug_assert!(built, "lengths and families were looked at");
        }
        way.flush(FLUSH_AT);
        true
    }
}

impl Udp {
    /// Has a task look at each of the sockets, until the executor ends.
    pub(super) fn serve_frames(self: &Rc<Self>) {
        let receivers = self.frames.iter().flat_map(|frames| frames.receivers.take());
        for receiver in receivers {
            glommio::spawn_local(Rc::clone(self).receive_frames(receiver)).detach();
        }
    }

    async fn receive_frames(self: Rc<Self>, receiver: Receiver) {
        let Receiver { interface, mut socket, descriptor } = receiver;
        let (mut buffer, mut open) = (vec![0; BUFFER_BYTES], Open::default());
        loop {
            if socket.is_empty() {
                // An error is as good as a wake-up: it is looked whether there is something.
                let _ = self.ring.readable(&descriptor).await;
            }
            let received = socket.receive(FRAMES_PER_TURN);
            if received.is_empty() {
                drop(received);
                self.ring.sleep(PAUSE).await;
                continue;
            }
            // A guest's first datagrams may be here as soon as what another shard says of it.
            self.receive();
            let mut next = 0;
            while next < received.len() {
                let mut out = Outbox::new(&mut buffer, &mut open, received.len() - next);
                next = self.take_frames(interface, &received, next, &mut out);
                self.leave(out).await;
            }
            drop(received);
            self.ring.next_turn().await;
        }
    }

    /// Handles frames from the `next` on, as far as there is room for what comes of them; which one is then the next.
    fn take_frames<'b>(
        &self,
        interface: u32,
        received: &'b Received<'_>,
        mut next: usize,
        out: &mut Outbox<'b>,
    ) -> usize {
        let now = self.now();
        let state = &mut self.work.borrow_mut().state;
        self.look_at_snapshot(state);
        while next < received.len() && out.room() >= TRAIN_NEEDS {
            self.stats.add(Counter::FramesIn, 1);
            let handled = match parse(received.frame(next)) {
                Ok(came) if self.is_own(came.source.ip()) => Err("frame_source"),
                Ok(came) => {
                    let hop = Some(Hop { interface, link: came.link });
                    let train = Train::single(came.source, came.payload);
                    self.flow(state, (came.destination, hop), train, now, out)
                }
                Err(error) => Err(error.reason()),
            };
            if let Err(reason) = handled {
                self.stats.add(Counter::UdpTrainsIn, 1);
                self.stats.add(Counter::UdpDatagramsIn, 1);
                self.stats.udp_drop(reason, 1);
            }
            next += 1;
        }
        next
    }

    /// Handles a train that came to an address here, by a frame or from another shard; or gives it to its owner.
    pub(super) fn flow<'b>(
        &self,
        state: &mut State,
        (to, hop): (SocketAddr, Option<Hop>),
        train: Train<'b>,
        now: Now,
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let Some(frames) = &self.frames else { return Err("no_socket") };
        let endpoint = self.endpoints.iter().position(|at| at.address == to);
        let owner = match endpoint {
            Some(_) => Some(frames.owner(train.source(), to)),
            None => frames.ports.iter().position(|ports| ports.contains(&to.port())),
        };
        if let Some(owner) = owner.filter(|owner| *owner != self.shard) {
            self.post_flow(owner, (to, hop), &train);
            return Ok(());
        }
        let relay = || state.turn.as_ref().and_then(|turn| turn.relay_at(to)).map(|relay| relay.to_bits());
        // It may have ended a moment ago.
        let key = endpoint.map(|place| NO_RELAY | place as u64).or_else(relay).ok_or("no_relay")?;
        if let Some(hop) = hop {
            frames.out.borrow_mut().hops.learn(train.source(), hop, now.ms);
        }
        self.train(state, key, train, now, out);
        Ok(())
    }

    /// Whether a train that came to a socket was another shard's, which has it now.
    pub(super) fn is_handed_over(&self, key: u64, train: &Train<'_>) -> bool {
        let (Some(frames), true) = (&self.frames, key & NO_RELAY != 0 && key != LINK) else { return false };
        let Some(endpoint) = self.endpoints.get((key & !NO_RELAY) as usize) else { return false };
        let owner = frames.owner(train.source(), endpoint.address);
        if owner == self.shard {
            return false;
        }
        if endpoint.owners.is_some() {
            self.stats.add(Counter::UdpStrays, 1);
        }
        self.post_flow(owner, (endpoint.address, None), train);
        true
    }

    fn post_flow(&self, owner: usize, (to, hop): (SocketAddr, Option<Hop>), train: &Train<'_>) {
        for datagram in train.datagrams() {
            let mail = Mail::Flow { to, source: train.source(), hop, bytes: datagram.into() };
            if self.post.send(owner, mail) {
                self.stats.add(Counter::HandoverFrame, 1);
            } else {
                self.stats.add(Counter::UdpDatagramsIn, 1);
                self.stats.udp_drop("handover_full", 1);
            }
        }
    }

    /// Whether a message has gone by frames.
    pub(super) fn by_frame(&self, state: &State, message: &Offered<'_, '_>, sent: &mut Sent) -> bool {
        let Some(frames) = &self.frames else { return false };
        let source = match message.from {
            From::Endpoint(place) => self.endpoints.get(place).map(|at| at.address),
            From::Relay(relay) => state.turn.as_ref().and_then(|turn| turn.address(relay)),
        };
        let now_ms = self.clock.now_ms();
        let gone = source.is_some_and(|source| frames.out.borrow_mut().send(source, message, now_ms));
        if gone {
            let datagrams = message.datagrams.len() as u64;
            self.stats.add(Counter::FramesOut, datagrams);
            sent.trains += datagrams;
            sent.datagrams += datagrams;
            sent.bytes += message.bytes as u64;
        }
        gone
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        let relays = self.frames.iter().flat_map(|frames| &frames.relays);
        self.endpoints.iter().any(|at| at.address.ip() == ip) || relays.into_iter().any(|own| *own == ip)
    }
}
