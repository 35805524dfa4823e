//! Checks between two introduced peers (docs/punch.md, "Checking"): which ways there are, and which one is taken.

use std::collections::VecDeque;
use std::net::SocketAddr;

use shoal_stun::message::{
    AttributeType, Builder, Class, Integrity, Message, Method, TransactionId, Value, XorMappedAddress,
};

use crate::introduce::Introduction;
use crate::nat::{Nat, PREDICTED};
use crate::random::Random;
use crate::wire::{self, PeerId, Role, UseCandidate};

/// Milliseconds after `start` when it is given up.
pub const CHECKING_MS: u64 = 3_000;
/// Milliseconds after `start` from which on a relay is worth its cost.
pub const RELAY_MS: u64 = 500;

/// Times of checks: so many rounds, so many milliseconds apart.
const ROUNDS: [(u64, u64); 3] = [(10, 20), (16, 50), (10, 200)];
/// Other ways than those that are told, found by checks that came: more than a peer has.
const FOUND: usize = 16;
/// Checks of which an answer is still known.
const REMEMBERED: usize = 512;

/// What checks may have in them.
const KNOWN: &[AttributeType] = &[PeerId::TYPE, UseCandidate::TYPE, XorMappedAddress::TYPE];

// One of the rounds comes at RELAY_MS.
const _: () = {
    let [(a, x), (b, y), (c, z)] = ROUNDS;
    assert!(a * x == 200 && a * x + b * y == 1_000 && a * x + b * y + c * z == CHECKING_MS);
    assert!((RELAY_MS - a * x).is_multiple_of(y) && RELAY_MS < a * x + b * y);
};

/// One way to the other peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where packets for it go in the end.
    pub to: SocketAddr,
    /// Whether they go through the own relay.
    pub relayed: bool,
}

impl Path {
    /// Straight from the socket.
    #[must_use]
    pub const fn direct(to: SocketAddr) -> Self {
        Self { to, relayed: false }
    }
}

/// What a checker has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A way that works in both directions: the first one.
    Connected(Path),
    /// The way that both take.
    Selected(Path),
    /// There is none.
    Failed,
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It is not the introduced peer's.
    No,
    /// A check: these bytes of the buffer go back.
    Reply(usize),
    /// An answer: this is where the other end of the way sees us.
    Answer(SocketAddr),
}

/// What the checking peer is like itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Who it is.
    pub peer: PeerId,
    /// What is in front of it.
    pub nat: Nat,
    /// Whether it has told a relayed address.
    pub relay: bool,
    /// Whether no check may leave but through its relay.
    pub only_relay: bool,
    /// Whether there was an introduction before, and no way.
    pub in_vain: bool,
}

/// The checks of one introduction.
#[derive(Debug)]
pub struct Checker {
    own: PeerId,
    introduction: Introduction,
    /// Whether it is likely that there is a way without a relay.
    hopeful: bool,
    /// Ways that are checked in each round.
    paths: Vec<Path>,
    /// Nothing has come from the peer, but perhaps by a relay: what was told or predicted is checked.
    searching: bool,
    round: u64,
    queue: VecDeque<Path>,
    sent: VecDeque<Sent>,
    answered: Vec<Path>,
    nominated: Option<Path>,
    /// Whether the peer knows what was nominated.
    confirmed: bool,
    selected: Option<Path>,
    ended: bool,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Sent {
    id: TransactionId,
    path: Path,
    nominates: bool,
}

impl Checker {
    /// Nothing is sent before [`Introduction::start`].
    #[must_use]
    pub fn new(own: &Own, introduction: Introduction) -> Self {
        let nat = &introduction.nat;
        let hopeful = introduction.address.is_some() && !own.only_relay && !own.in_vain && own.nat.connects(nat);
        let relayed = own.relay && own.only_relay;
        // A NAT with a step has another port for us than for the node.
        let address = introduction.address.filter(|_| nat.step == 0);
        let paths = address.into_iter().chain(introduction.relayed).map(|to| Path { to, relayed }).collect();
        Self {
            own: own.peer,
            hopeful,
            paths,
            searching: true,
            round: 0,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            answered: Vec::new(),
            nominated: None,
            confirmed: false,
            selected: None,
            ended: false,
            events: VecDeque::new(),
            introduction,
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// The way that is taken.
    #[must_use]
    pub const fn selected(&self) -> Option<Path> {
        self.selected
    }

    /// Whether a way has a relay in it, one's own or the other's.
    #[must_use]
    pub fn has_relay(&self, path: Path) -> bool {
        path.relayed || self.introduction.relayed == Some(path.to)
    }

    /// Whether it takes so long that a relay will be needed.
    #[must_use]
    pub fn wants_relay(&self, now: u64) -> bool {
        self.answered.is_empty() && now >= self.introduction.start + RELAY_MS
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.queue.is_empty() {
            return Some(0);
        }
        if self.is_over() {
            return None;
        }
        // A relay is thought of in the round that comes at that time.
        Some(self.introduction.start + at(self.round).unwrap_or(CHECKING_MS))
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    /// What was found out since the last time.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes a check to `out` if one is due: gives which way it goes, and its length. Call it until it gives nothing.
    pub fn poll_transmit(&mut self, now: u64, random: &mut Random, out: &mut [u8]) -> Option<(Path, usize)> {
        self.advance(now);
        let path = self.queue.pop_front()?;
        let id = random.transaction();
        let nominates = self.introduction.role == Role::Controlling && self.nominated == Some(path);
        let mut check = Builder::new(out, Method::BINDING, Class::Request, id);
        check.add(&self.own);
        if nominates {
            check.add(&UseCandidate);
        }
        let length = self.sign(&mut check)?;
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { id, path, nominates });
        Some((path, length))
    }

    /// Takes a Binding message that came on a way; a reply is written to `out`.
    pub fn handle(&mut self, now: u64, from: Path, message: &Message<'_>, out: &mut [u8]) -> Handled {
        let key = &self.introduction.key.0;
        let verified = wire::is_sound(message, KNOWN) && message.verify(Integrity::Sha256, key);
        if message.method() != Method::BINDING || !verified {
            return Handled::No;
        }
        match message.class() {
            Class::Request => self.handle_check(now, from, message, out).map_or(Handled::No, Handled::Reply),
            Class::Success => {
                self.handle_answer(now, from, message).map_or(Handled::No, |mapped| Handled::Answer(mapped.0))
            }
            Class::Error | Class::Indication => Handled::No,
        }
    }

    fn handle_check(&mut self, now: u64, from: Path, message: &Message<'_>, out: &mut [u8]) -> Option<usize> {
        message.read::<PeerId>().ok().flatten().filter(|peer| *peer == self.introduction.peer)?;
        if self.searching && !self.has_relay(from) {
            // Whoever has found us is not looked for elsewhere. A relay is kept, for it is for another case.
            self.searching = false;
            let told = self.introduction.address;
            self.paths.retain(|path| Some(path.to) != told);
        }
        let known = self.paths.contains(&from);
        if !known && self.paths.len() < FOUND {
            self.paths.push(from);
        }
        if self.introduction.role == Role::Controlled && message.has(UseCandidate::TYPE) {
            self.nominated = Some(from);
        }
        // Its way is open now, so there is no reason to wait for the next round.
        if !known && !self.answered.contains(&from) {
            self.enqueue(from);
        }
        self.decide(now);
        let mut reply = Builder::new(out, Method::BINDING, Class::Success, *message.transaction_id());
        reply.add(&XorMappedAddress(from.to));
        self.sign(&mut reply)
    }

    fn handle_answer(&mut self, now: u64, from: Path, message: &Message<'_>) -> Option<XorMappedAddress> {
        let at = self.sent.iter().position(|sent| sent.id == *message.transaction_id())?;
        let sent = self.sent.get(at).filter(|sent| sent.path.relayed == from.relayed)?;
        let mapped = message.read::<XorMappedAddress>().ok().flatten()?;
        self.confirmed |= sent.nominates && self.nominated == Some(from);
        self.sent.remove(at);
        if !self.answered.contains(&from) && self.answered.len() < FOUND {
            if self.answered.is_empty() {
                self.events.push_back(Event::Connected(from));
            }
            self.answered.push(from);
        }
        self.decide(now);
        Some(mapped)
    }

    /// Queues the rounds that are due, and ends what takes too long.
    fn advance(&mut self, now: u64) {
        self.decide(now);
        while !self.is_over()
            && let Some(after) = at(self.round)
            && now >= self.introduction.start + after
        {
            self.round += 1;
            match self.nominated {
                // What is left to do is to say so, or to have an answer on it.
                Some(path) => self.enqueue(path),
                None => self.enqueue_round(),
            }
        }
        if now >= self.introduction.start + CHECKING_MS && !self.ended {
            self.ended = true;
            if self.selected.is_none() {
                self.events.push_back(Event::Failed);
            }
        }
    }

    fn enqueue_round(&mut self) {
        for path in self.paths.clone() {
            self.enqueue(path);
        }
        if let Some(address) = self.introduction.address
            && self.searching
        {
            let nat = self.introduction.nat;
            let nths = 1..=u16::try_from(self.round).unwrap_or(PREDICTED).min(PREDICTED);
            for port in nths.filter_map(|nth| nat.predicted(nth)) {
                self.enqueue(Path::direct(SocketAddr::new(address.ip(), port)));
            }
        }
    }

    fn enqueue(&mut self, path: Path) {
        if !self.queue.contains(&path) {
            self.queue.push_back(path);
        }
    }

    /// Takes a way, if it is time.
    fn decide(&mut self, now: u64) {
        if self.introduction.role == Role::Controlling && self.nominated.is_none() {
            let late = now >= self.introduction.start + RELAY_MS || !self.hopeful;
            let straight = self.answered.iter().find(|path| !self.has_relay(**path));
            self.nominated = straight.or_else(|| self.answered.first().filter(|_| late)).copied();
            if let Some(path) = self.nominated {
                self.queue.clear();
                self.enqueue(path);
            }
        }
        if self.selected.is_none()
            && let Some(path) = self.nominated.filter(|path| self.answered.contains(path))
        {
            self.selected = Some(path);
            self.events.push_back(Event::Selected(path));
        }
    }

    /// Whether no check is left to send.
    fn is_over(&self) -> bool {
        let told = self.introduction.role == Role::Controlled || self.confirmed;
        self.ended || self.selected.is_some() && told
    }

    fn sign(&self, builder: &mut Builder<'_>) -> Option<usize> {
        builder.integrity(Integrity::Sha256, &self.introduction.key.0);
        wire::finish(builder)
    }
}

/// Milliseconds after `start` of a round, if there is such a round.
fn at(round: u64) -> Option<u64> {
    let (mut before, mut time) = (0, 0);
    for (rounds, apart) in ROUNDS {
        if round < before + rounds {
            return Some(time + (round - before) * apart);
        }
        before += rounds;
        time += rounds * apart;
    }
    None
}

#[cfg(test)]
mod tests;
