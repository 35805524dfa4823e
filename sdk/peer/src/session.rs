//! One peer, from its first datagram to its last: discovery, registration, introductions, checks, relay, transfer.
//!
//! Everything goes through one socket, which is the caller's: [`handle`](Session::handle) takes what came,
//! [`poll_transmit`](Session::poll_transmit) gives what is to be sent, [`poll_event`](Session::poll_event) what has happened.

mod connect;
mod link;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use shoal_stun::message::{Kind, Message, Method};
use shoal_stun::nat::{Dialect, NatType, Timing};
use thiserror::Error;

use crate::check::{Handled, Own, Path};
use crate::discover::{Discovery, Found};
use crate::introduce::{self, Introduction};
use crate::nat::{Mappings, Nat};
use crate::random::Random;
use crate::register::{Identity, Outcome, Refusal, Registrar};
use crate::transfer::Verdict;
use crate::turn::{self, Account, MAX_DATAGRAM, Relay};
use crate::wire::{MAX_MESSAGE, PeerId};
use connect::Connect;
use link::Link;

/// Introductions that are remembered at once; a new one takes the place of the oldest.
const LINKS: usize = 64;
/// Replies that wait for the caller; what is beyond is lost, as on a wire.
const REPLIES: usize = 256;
/// Milliseconds of silence after which what was received needs no more acknowledgements.
const LINGER_MS: u64 = 500;
/// Milliseconds that a farewell may take.
const LEAVE_MS: u64 = 1_000;

/// What a session is for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who, and on which node.
    pub identity: Identity,
    /// What the socket is bound to.
    pub local: SocketAddr,
    /// A relay to fall back to.
    pub turn: Option<Account>,
    /// Whether the channel is relay only.
    pub relay_only: bool,
    /// How patient discovery is; `None`: it is left out, and the type is unknown.
    pub discovery: Option<Timing>,
    /// What to do.
    pub task: Task,
}

/// What to do once registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Be there for others, and receive so many transfers; 0: without end.
    Serve(u32),
    /// Connect to a peer, and send it so many bytes.
    Connect(PeerId, u64),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The type of the NAT is known.
    Found(Found),
    /// The node knows this peer, and sees it at this address.
    Registered(SocketAddr),
    /// A transfer is through, whichever way it went.
    Finished(Finished),
    /// The session is over without one.
    Failed(Failure),
}

/// One connection and its transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What the node said of the other.
    pub introduction: Introduction,
    /// Where packets to the other go.
    pub path: Path,
    /// Whether there is a relay on it.
    pub relay: bool,
    /// By the caller's clock, when this peer was first introduced or asked to be.
    pub asked: u64,
    /// When a way was known to work.
    pub connected: u64,
    /// When everything was through.
    pub finished: u64,
    /// Bytes of the transfer.
    pub bytes: u64,
    /// Whether it was right.
    pub verdict: Verdict,
}

/// Why it came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The network's fault.
    #[error("nothing answers: UDP is blocked")]
    UdpBlocked,
    /// The node's fault: another one, or later.
    #[error("the node does not answer")]
    Silent,
    /// The node said so: its code says whose fault it is.
    #[error("the node refuses: {} {}", .0.code, .0.reason)]
    Refused(Refusal),
    /// A relay was needed.
    #[error("no way was found, and there is no relay to fall back to")]
    NoWay,
    /// The relay's fault, or that of the credentials.
    #[error("there is no relay: {}", .0.as_ref().map_or_else(|| "no answer".to_owned(), |it| format!("{} {}", it.code, it.reason)))]
    NoRelay(Option<Refusal>),
    /// The other peer has gone, or its way to the relay is closed.
    #[error("no way was found, not even through the relay")]
    NoWayByRelay,
    /// A way that worked does not any more.
    #[error("the transfer got stuck")]
    Stuck,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    Discovering(Box<Discovery>),
    /// A relayed address is needed before the registration.
    Allocating,
    Registered,
    Leaving(u64),
    Over,
}

/// One peer.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    random: Random,
    stage: Stage,
    kind: Option<NatType>,
    mappings: Mappings,
    mapped: Option<SocketAddr>,
    /// Whether the node has ever known this peer.
    registered: bool,
    registrar: Option<Registrar>,
    relay: Option<Relay>,
    links: Vec<Link>,
    connect: Option<Connect>,
    /// Transfers received.
    served: u32,
    /// Whether what was to be done is done.
    through: bool,
    replies: VecDeque<(Path, Vec<u8>)>,
    events: VecDeque<Event>,
}

impl Session {
    /// Begins at once. `seed` must be random, and another one for each session.
    #[must_use]
    pub fn new(settings: Settings, seed: [u64; 2], now: u64) -> Self {
        let mut random = Random::new(seed);
        let discovers = Random::new([random.word(), random.word()]);
        let connect = match settings.task {
            Task::Connect(to, bytes) => Some(Connect::new(to, bytes)),
            Task::Serve(_) => None,
        };
        let mut session = Self {
            stage: Stage::Allocating,
            kind: None,
            mappings: Mappings::new(Nat::default(), []),
            mapped: None,
            registered: false,
            registrar: None,
            relay: settings.turn.clone().map(Relay::new),
            links: Vec::new(),
            connect,
            served: 0,
            through: false,
            replies: VecDeque::new(),
            events: VecDeque::new(),
            random,
            settings,
        };
        match session.settings.discovery {
            Some(timing) => {
                let (node, local) = (session.settings.identity.node, session.settings.local);
                let discovery = Discovery::new(Dialect::Modern, node, local, timing, discovers);
                session.stage = Stage::Discovering(Box::new(discovery));
            }
            None => session.prepare(now),
        }
        session
    }

    /// Whether nothing will happen any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// The type of the NAT, by the names of SDKs, if it is known.
    #[must_use]
    pub const fn kind(&self) -> Option<NatType> {
        self.kind
    }

    /// What is told of the NAT.
    #[must_use]
    pub const fn nat(&self) -> &Nat {
        self.mappings.nat()
    }

    /// Where the node sees this peer.
    #[must_use]
    pub const fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Where others can reach it through its own relay, if it has one.
    #[must_use]
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relay.as_ref().and_then(Relay::relayed)
    }

    /// What the node has refused on the way.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        self.connect.as_ref().map_or(&[], |connect| &connect.refusals)
    }

    /// Presents a newer ticket to the node: each lasts for a while only.
    pub fn set_ticket(&mut self, ticket: String, now: u64) {
        if let Some(registrar) = &mut self.registrar {
            registrar.set_ticket(ticket.clone(), now);
        }
        self.settings.identity.ticket = Some(ticket);
    }

    /// What happened since the last time.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Gives up what is under way, in order: the node and the relay are told.
    pub fn leave(&mut self, now: u64) {
        if matches!(self.stage, Stage::Leaving(_) | Stage::Over) {
            return;
        }
        if let Some(registrar) = &mut self.registrar {
            registrar.leave(now);
        }
        if let Some(relay) = &mut self.relay {
            relay.release();
        }
        self.stage = Stage::Leaving(now + LEAVE_MS);
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next, if nothing comes before; `None` when it is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.replies.is_empty() {
            return Some(0);
        }
        let registrar = self.registrar.as_ref().and_then(Registrar::next_deadline);
        let relay = self.relay.as_ref().and_then(Relay::next_deadline);
        match &self.stage {
            Stage::Over => None,
            Stage::Discovering(discovery) => discovery.next_deadline(),
            Stage::Leaving(until) => [registrar, relay, Some(*until)].into_iter().flatten().min(),
            Stage::Allocating | Stage::Registered => {
                let connect = self.connect.as_ref().and_then(Connect::next_deadline);
                let links = self.links.iter().filter_map(Link::next_deadline);
                let linger = self.through.then(|| self.quiet());
                links.chain([registrar, relay, connect, linger].into_iter().flatten()).min()
            }
        }
    }

    /// Takes a datagram.
    pub fn handle(&mut self, now: u64, from: SocketAddr, datagram: &[u8]) {
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.server() == from)
            && let Some((peer, payload)) = relay.unwrap(datagram)
        {
            self.handle_from_peer(now, Path { to: peer, relayed: true }, payload.to_vec().as_slice());
        } else if !self.handle_from_server(now, from, datagram) {
            self.handle_from_peer(now, Path::direct(from), datagram);
        }
    }

    /// Writes a datagram to `out`, of [`MAX_DATAGRAM`] bytes, if one is due: gives where to send it, and its length. Call it
    /// until it gives nothing.
    pub fn poll_transmit(&mut self, now: u64, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            match self.next_packet(now, &mut buffer) {
                Some((path, length)) => {
                    let payload = buffer.get(..length).unwrap_or_default();
                    // What cannot be sent is passed over.
                    if let Some((to, length)) = self.route(path, payload, out) {
                        self.mappings.note_sent(to);
                        return Some((to, length));
                    }
                }
                // That something was not answered may have come out just now.
                None if self.has_news() => {}
                None => return None,
            }
        }
    }

    fn has_news(&self) -> bool {
        let discovered = matches!(&self.stage, Stage::Discovering(discovery) if discovery.found().is_some());
        let relay = self.relay.as_ref().is_some_and(Relay::has_news);
        discovered || relay || self.links.iter().any(|link| link.checker.has_news())
    }

    fn next_packet(&mut self, now: u64, out: &mut [u8]) -> Option<(Path, usize)> {
        self.advance(now);
        if let Some((path, bytes)) = self.replies.pop_front() {
            out.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            return Some((path, bytes.len()));
        }
        if let Stage::Discovering(discovery) = &mut self.stage {
            return discovery.poll_transmit(now, out).map(|(to, length)| (Path::direct(to), length));
        }
        if let Some(relay) = &mut self.relay
            && let Some(length) = relay.poll_transmit(now, &mut self.random, out)
        {
            return Some((Path::direct(relay.server()), length));
        }
        let node = Path::direct(self.settings.identity.node);
        if let Some(registrar) = &mut self.registrar {
            match registrar.poll_transmit(now, &mut self.random, out) {
                Some(Ok(length)) => return Some((node, length)),
                Some(Err(outcome)) => self.handle_registration(now, outcome),
                None => {}
            }
        }
        if !matches!(self.stage, Stage::Registered) {
            return None;
        }
        if let Some(length) = self.poll_asking(now, out) {
            return Some((node, length));
        }
        self.links.iter_mut().find_map(|link| link.poll_transmit(now, &mut self.random, out))
    }

    /// Where a payload for a way has to be sent, with what in front of it.
    fn route(&mut self, path: Path, payload: &[u8], out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        if path.relayed {
            let relay = self.relay.as_ref()?;
            let length = relay.wrap(path.to, payload, &mut self.random, out)?;
            return Some((relay.server(), length));
        }
        out.get_mut(..payload.len())?.copy_from_slice(payload);
        Some((path.to, payload.len()))
    }

    /// Takes what a node, a discovery server or a relay has sent; false when it is nothing of theirs.
    fn handle_from_server(&mut self, now: u64, from: SocketAddr, datagram: &[u8]) -> bool {
        if let Stage::Discovering(discovery) = &mut self.stage {
            return discovery.handle(now, from, datagram);
        }
        let Ok(message) = Message::parse(datagram) else { return false };
        if let Some(relay) = &mut self.relay
            && relay.server() == from
            && relay.handle(now, &message)
        {
            return true;
        }
        if self.settings.identity.node != from {
            return false;
        }
        if let Some(registrar) = &mut self.registrar
            && let Some(outcome) = registrar.handle(now, &message)
        {
            self.handle_registration(now, outcome);
            return true;
        }
        if self.handle_answer(now, &message) {
            return true;
        }
        let mut out = [0; MAX_MESSAGE];
        if let Some(proof) = self.registrar.as_ref().and_then(Registrar::proof)
            && let Some((length, introduction)) = introduce::handle_introduced(now, proof, &message, &mut out)
        {
            self.reply(Path::direct(from), out.get(..length).unwrap_or_default());
            if let Some(introduction) = introduction
                && matches!(self.stage, Stage::Registered)
            {
                self.begin(introduction, now);
            }
            return true;
        }
        false
    }

    /// Takes what may be a peer's.
    fn handle_from_peer(&mut self, now: u64, from: Path, datagram: &[u8]) {
        if Kind::of(datagram) == Kind::Stun {
            let Ok(message) = Message::parse(datagram) else { return };
            if message.method() != Method::BINDING {
                return;
            }
            let mut out = [0; MAX_MESSAGE];
            for link in &mut self.links {
                match link.handle_check(now, from, &message, &mut out) {
                    Handled::No => {}
                    Handled::Reply(length) => {
                        return self.reply(from, out.get(..length).unwrap_or_default());
                    }
                    Handled::Answer(mapped) => {
                        if !from.relayed {
                            self.mappings.note_seen(from.to, mapped);
                        }
                        return;
                    }
                }
            }
        } else {
            self.links.iter_mut().any(|link| link.handle_data(now, from, datagram));
        }
    }

    fn reply(&mut self, path: Path, bytes: &[u8]) {
        if self.replies.len() < REPLIES {
            self.replies.push_back((path, bytes.to_vec()));
        }
    }

    /// Does what follows from what has come and from the time.
    fn advance(&mut self, now: u64) {
        if let Stage::Discovering(discovery) = &self.stage
            && let Some(found) = discovery.found().cloned()
        {
            self.handle_found(now, found);
        }
        while let Some(event) = self.relay.as_mut().and_then(Relay::poll_event) {
            self.handle_relay(now, event);
        }
        self.advance_links(now);
        // A new introduction needs the ports as they are by then; during checks they change all the time.
        let checking = self.links.iter().any(Link::is_checking);
        if let Some(registrar) = self.registrar.as_mut().filter(|_| !checking) {
            registrar.set_nat(*self.mappings.nat(), now);
        }
        self.advance_attempt(now);
        match self.stage {
            Stage::Registered if self.through && now >= self.quiet() => self.leave(now),
            Stage::Leaving(until) => {
                let left = self.registrar.as_ref().is_none_or(Registrar::has_left);
                let idle = self.relay.as_ref().is_none_or(Relay::is_idle);
                if now >= until || left && idle {
                    self.stage = Stage::Over;
                }
            }
            _ => {}
        }
    }

    fn handle_found(&mut self, now: u64, found: Found) {
        self.kind = found.report.kind;
        self.mapped = found.report.mapped;
        self.mappings = Mappings::new(found.nat, found.destinations.iter().copied());
        self.events.push_back(Event::Found(found));
        if self.kind == Some(NatType::UdpBlocked) {
            self.events.push_back(Event::Failed(Failure::UdpBlocked));
            self.stage = Stage::Over;
        } else {
            self.prepare(now);
        }
    }

    /// Registers, with a relayed address if one is needed from the start: in a channel that knows no others, and where
    /// who is asked for cannot be reached by some, so that they need no relay of their own.
    fn prepare(&mut self, now: u64) {
        let asked_for = matches!(self.settings.task, Task::Serve(_)) && !self.mappings.nat().is_known();
        match &mut self.relay {
            Some(relay) if self.settings.relay_only || asked_for => {
                relay.allocate();
                self.stage = Stage::Allocating;
            }
            None if self.settings.relay_only => self.fail(now, Failure::NoRelay(None)),
            _ => self.register(now, None),
        }
    }

    fn register(&mut self, now: u64, relayed: Option<SocketAddr>) {
        let identity = self.settings.identity.clone();
        self.registrar = Some(Registrar::new(identity, *self.mappings.nat(), relayed, now));
        self.stage = Stage::Registered;
    }

    fn handle_relay(&mut self, now: u64, event: turn::Event) {
        let allocating = matches!(self.stage, Stage::Allocating);
        match event {
            turn::Event::Allocated { relayed, mapped } => {
                if let Some(relay) = &self.relay {
                    self.mappings.note_seen(relay.server(), mapped);
                }
                if allocating {
                    self.register(now, Some(relayed));
                } else if self.needs_relay()
                    && let Some(registrar) = &mut self.registrar
                {
                    registrar.set_relayed(Some(relayed), now);
                }
            }
            // One peer of several, or one channel.
            turn::Event::Failed(_) if self.relayed().is_some() => {}
            turn::Event::Failed(refusal) => {
                if self.needs_relay() {
                    self.fail(now, Failure::NoRelay(refusal));
                } else if allocating {
                    self.register(now, None);
                } else if let Some(registrar) = &mut self.registrar {
                    registrar.set_relayed(None, now);
                }
            }
        }
    }

    /// Whether it cannot go on without a relay.
    fn needs_relay(&self) -> bool {
        self.settings.relay_only || self.connect.as_ref().is_some_and(|connect| connect.fallen_back)
    }

    fn handle_registration(&mut self, now: u64, outcome: Outcome) {
        match outcome {
            Outcome::Registered { mapped } => {
                self.mappings.note_seen(self.settings.identity.node, mapped);
                if !self.registered {
                    self.registered = true;
                    self.events.push_back(Event::Registered(mapped));
                }
                self.mapped = Some(mapped);
            }
            Outcome::Refused(refusal) => {
                if let Some(connect) = &mut self.connect {
                    connect.refusals.push(refusal.clone());
                }
                self.fail(now, Failure::Refused(refusal));
            }
            Outcome::Silent if self.connect.is_some() => self.fail(now, Failure::Silent),
            // Who is there for others goes on trying.
            Outcome::Silent => {}
        }
    }

    fn fail(&mut self, now: u64, failure: Failure) {
        if !matches!(self.stage, Stage::Leaving(_) | Stage::Over) {
            self.events.push_back(Event::Failed(failure));
            self.leave(now);
        }
    }

    /// Begins checks, unless it is an introduction that is known.
    fn begin(&mut self, introduction: Introduction, now: u64) {
        if self.links.iter().any(|link| link.introduction().key == introduction.key) {
            return;
        }
        // The same peer under another key is another link: its question may have been repeated, and either answer be lost.
        if self.links.len() >= LINKS {
            self.links.remove(0);
        }
        let told = self.registrar.as_ref().is_some_and(|registrar| registrar.relayed().is_some());
        if let Some(relay) = self.relay.as_mut().filter(|_| told) {
            let addresses: [Option<IpAddr>; 2] =
                [introduction.address, introduction.relayed].map(|address| address.map(|address| address.ip()));
            addresses.into_iter().flatten().for_each(|peer| relay.permit(peer));
        }
        let own = Own {
            peer: self.settings.identity.peer,
            nat: *self.mappings.nat(),
            relay: told,
            only_relay: self.settings.relay_only,
            in_vain: self.connect.as_ref().is_some_and(|connect| connect.fallen_back),
        };
        self.links.push(Link::new(&own, introduction, now));
    }

    /// When nobody needs an acknowledgement any more, if nothing else comes.
    fn quiet(&self) -> u64 {
        self.links.iter().filter_map(Link::heard).max().map_or(0, |heard| heard + LINGER_MS)
    }
}
