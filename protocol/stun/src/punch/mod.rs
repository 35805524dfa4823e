//! The node's side of punching (docs/punch.md), one [`Server`] for each shard: who is registered, and who is introduced to
//! whom.
//!
//! **In.** The caller receives, and hands over what [is of punching](is_punch): [`handle`](Server::handle), and
//! [`advance`](Server::advance) at [`next_deadline`](Server::next_deadline).
//!
//! **Out.** The answer is in the caller's buffer; what the node has to say by itself, the Introduced requests and their
//! repetitions, comes from [`poll_transmit`](Server::poll_transmit). What the tracker wants to know comes from
//! [`take_observations`](Server::take_observations).
//!
//! **Shards.** A channel is owned by one shard, which has all of its registrations. The kernel gives a datagram to any of
//! them: [`shard_of`] says whose it is, and its bytes are handed to that shard, once. All shards have sockets on the same
//! addresses and ports, so the owner answers by itself. REGISTRATION and the transaction ids of Introduced requests begin
//! with the number of the shard that made them.
//!
//! **Who may do what.** An address is proven by a nonce that needs no memory, then by REGISTRATION: 80 random bits that only
//! the peer at that address was told, and that tell the peer in turn that an Introduced request is the node's. Who may
//! register in a channel, the caller's [`Gate`] knows. A peer is told of those of its own channel only, and of relayed
//! addresses only if they are on a relay that the gate knows.
//!
//! **Nothing is amplified.** No answer is longer than its request ([`MIN_REQUEST`]). Without a request only Introduced requests
//! are sent, to proven addresses, four for an introduction at most, and introductions have a [`Rate`] for each asker, each
//! address and each target.
//!
//! **Bounds.** Registrations, of the shard and of each address, and introductions under way by [`Limits`]; what is told of
//! registrations takes a slot of theirs, or one of [`Limits::ended`].

mod connect;
mod counters;
mod gate;
mod introductions;
mod observations;
mod rates;
mod registrations;
mod requests;
mod slots;
mod steer;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use connect::can_connect;
pub use counters::{Counters, Dropped, Refusal};
pub use gate::{Admission, Gate, Refused, Standing};
use introductions::{Due, Introductions, Terms};
pub use observations::Observation;
use observations::Observations;
use rates::AddressRates;
pub use rates::Rate;
use registrations::{Registration, Registrations};
pub use requests::{MAX_REPLY, MIN_INTRODUCE, MIN_REQUEST};
use slots::Id;
pub use steer::{is_punch, shard_of, shard_of_channel};

use crate::credentials::Nonces;
use crate::message::{
    Builder, Class, Fingerprint, Message, Method, Punch, Target, TransactionId, XorPeerAddress, XorRelayedAddress,
};
use crate::random::Random;
pub use crate::turn::Now;

/// Milliseconds that a registration lasts without being renewed.
pub const LIFETIME_MS: u64 = 30_000;
/// Milliseconds from an introduction to the first check: time for a second and third Introduced request.
pub const START_MS: u64 = 200;
/// Milliseconds that an introduction lasts: both have begun, and have given up if they have not met.
pub const INTRODUCTION_MS: u64 = 4_000;
/// Milliseconds from each Introduced request to its repetition.
pub const REPEATS_MS: [u64; 3] = [100, 100, 200];
/// Bytes of an Introduced request at most.
pub const MAX_INTRODUCED: usize = 20 + 20 + 24 + 24 + 24 + 12 + 24 + 8;
const _: () = assert!(START_MS <= u16::MAX as u64 && MAX_INTRODUCED <= MAX_REPLY);

/// Bounds of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registrations at once; beyond is 508.
    pub registrations: usize,
    /// Those of one IPv4 address or IPv6 /64; beyond is 508.
    pub registrations_per_address: u32,
    /// How often one address may ask the [`Gate`]; beyond is 429.
    pub admissions_per_address: Rate,
    /// Introductions under way; beyond is 508.
    pub introductions: usize,
    /// How often one peer may ask for another; beyond is 429.
    pub introductions_per_peer: Rate,
    /// The same for one address.
    pub introductions_per_address: Rate,
    /// How often one peer may be asked for; beyond is 429.
    pub introductions_per_target: Rate,
    /// Ended registrations that nobody has been told of; beyond, nobody is.
    pub ended: usize,
}

impl Default for Limits {
    /// A thousand viewers may share an address, and a peer may begin with a swarm at once. A registration takes less than
    /// half a KiB, so all of them less than 32 MiB.
    fn default() -> Self {
        Self {
            registrations: 65_536,
            registrations_per_address: 1_024,
            admissions_per_address: Rate { per_second: 100, burst: 500 },
            introductions: 16_384,
            introductions_per_peer: Rate { per_second: 4, burst: 24 },
            introductions_per_address: Rate { per_second: 100, burst: 500 },
            introductions_per_target: Rate { per_second: 8, burst: 24 },
            ended: 16_384,
        }
    }
}

/// What a [`Server`] is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// This shard's number: REGISTRATION and transaction ids carry it.
    pub shard: u16,
    /// Bounds.
    pub limits: Limits,
    /// 32 random bytes, of this shard and process alone: secrets, keys and the tables' hashes are made from them.
    pub seed: [u8; 32],
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Send the first `length` bytes of the buffer back, from where the datagram was sent to.
    Reply {
        /// At most [`MAX_REPLY`], and no more than the datagram had.
        length: usize,
        /// Whether the sender is where it says it is. If not, replies to it need a limit by address.
        proven: bool,
    },
    /// Nothing; it was an answer that was waited for.
    Done,
    /// Nothing, and why.
    Dropped(Dropped),
}

/// Send the first `length` bytes of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// One of the node's own addresses and ports.
    pub from: SocketAddr,
    /// A registered peer.
    pub to: SocketAddr,
    /// At most [`MAX_INTRODUCED`].
    pub length: usize,
}

/// One shard's registrations and introductions.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    nonces: Nonces,
    registrations: Registrations,
    introductions: Introductions,
    admissions: AddressRates,
    asks: AddressRates,
    observations: Observations,
    random: Random,
    counters: Counters,
}

impl Server {
    /// A server that nobody is registered on.
    #[must_use]
    pub fn new(config: &Config, nonces: Nonces) -> Self {
        let Config { shard, limits, seed } = *config;
        let mut random = Random::new(seed);
        Self {
            limits,
            nonces,
            registrations: Registrations::new(limits.registrations, shard, random.bits()),
            introductions: Introductions::new(limits.introductions, shard, random.bits()),
            admissions: AddressRates::new(limits.admissions_per_address, random.bits()),
            asks: AddressRates::new(limits.introductions_per_address, random.bits()),
            observations: Observations::default(),
            random,
            counters: Counters::default(),
        }
    }

    /// Takes other nonce keys, from the next request on.
    pub fn set_nonces(&mut self, nonces: Nonces) {
        self.nonces = nonces;
    }

    /// Registrations at present.
    #[must_use]
    pub fn registrations(&self) -> usize {
        self.registrations.len()
    }

    /// Introductions under way.
    #[must_use]
    pub fn introductions(&self) -> usize {
        self.introductions.len()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Handles a datagram that `client` sent to `server`, one of the node's addresses and ports. A reply is written to
    /// `out`, of [`MAX_REPLY`] bytes. [`poll_transmit`](Self::poll_transmit) may have something afterwards.
    pub fn handle(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        datagram: &[u8],
        gate: &impl Gate,
        out: &mut [u8],
    ) -> Outcome {
        let (client, server) = (canonical(client), canonical(server));
        let result = self.handle_message(now, client, server, datagram, gate, out);
        result.unwrap_or_else(|dropped| Outcome::Dropped(self.counters.drop_one(dropped)))
    }

    /// When [`advance`](Self::advance) and [`poll_transmit`](Self::poll_transmit) have something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.registrations.next_deadline().into_iter().chain(self.introductions.next_deadline()).min()
    }

    /// Ends the registrations that have expired. What has is without effect before that too.
    pub fn advance(&mut self, now_ms: u64) {
        while let Some(id) = self.registrations.expired(now_ms) {
            self.end(id);
        }
    }

    /// Writes an Introduced request to `out`, of [`MAX_INTRODUCED`] bytes, if one is due. Also ends introductions that are
    /// over, so call it until it gives nothing.
    pub fn poll_transmit(&mut self, now_ms: u64, out: &mut [u8]) -> Option<Transmit> {
        self.advance(now_ms);
        while let Some(due) = self.introductions.poll(now_ms) {
            match due {
                Due::Tell(id) => {
                    // One of the two may be gone, or have moved, or be on another relay: there is nobody to tell, or nothing.
                    if let Some(transmit) = self.write_introduced(now_ms, id, out) {
                        self.counters.introduced += 1;
                        return Some(transmit);
                    }
                }
                Due::Over { answered: false } => self.counters.unanswered += 1,
                Due::Over { answered: true } => {}
            }
        }
        None
    }

    /// Hands out up to `max` registrations that began, changed or ended since they were told of. False when there are
    /// more. One that has ended before anybody was told of it is not told of.
    pub fn take_observations(&mut self, max: usize, mut each: impl FnMut(&Observation<'_>)) -> bool {
        let mut told = 0;
        while told < max && self.observations.take_ended(&mut each) {
            told += 1;
        }
        while told < max {
            let Some(slot) = self.observations.pop_changed() else { break };
            let found = self.registrations.at(slot).and_then(|id| self.registrations.get_mut(id));
            let Some(known) = found.filter(|known| !known.told) else { continue };
            (known.told, known.ever_told) = (true, true);
            told += 1;
            each(&Observation {
                tenant: &known.tenant,
                channel: &known.channel,
                peer: &known.peer,
                address: known.client,
                nat: known.nat,
                registered: true,
            });
        }
        self.observations.is_empty()
    }

    /// Has all registrations told of once more, for a tracker that has forgotten them.
    pub fn observe_again(&mut self) {
        let ids: Vec<Id> = self.registrations.ids().collect();
        ids.into_iter().for_each(|id| self.observe(id));
    }

    fn handle_message(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        datagram: &[u8],
        gate: &impl Gate,
        out: &mut [u8],
    ) -> Result<Outcome, Dropped> {
        let message = Message::parse(datagram).map_err(|_| Dropped::NotPunch)?;
        if message.transaction_id().is_classic() {
            return Err(Dropped::NotPunch);
        }
        if message.fingerprint() != Fingerprint::Right {
            return Err(Dropped::Fingerprint);
        }
        self.advance(now.ms);
        match (message.method(), message.class()) {
            (Method::REGISTER | Method::INTRODUCE, Class::Request) => {
                self.handle_request(now, client, server, &message, gate, out)
            }
            (Method::INTRODUCED, Class::Success | Class::Error) => {
                self.handle_answer(client, message.transaction_id()).map(|()| Outcome::Done)
            }
            _ => Err(Dropped::Unexpected),
        }
    }

    /// The target of an introduction has heard of it.
    fn handle_answer(&mut self, client: SocketAddr, transaction: &TransactionId) -> Result<(), Dropped> {
        let id = self.introductions.find_transaction(transaction).ok_or(Dropped::NoIntroduction)?;
        let target = self.introductions.get(id).and_then(|known| self.registrations.get(known.target));
        if target.is_none_or(|target| target.client != client) {
            return Err(Dropped::NoIntroduction);
        }
        if self.introductions.answered(id) {
            self.counters.answered += 1;
        }
        Ok(())
    }

    fn write_introduced(&self, now_ms: u64, id: Id, out: &mut [u8]) -> Option<Transmit> {
        let introduction = self.introductions.get(id)?;
        let target = self.registrations.get(introduction.target)?;
        let asker = self.registrations.get(introduction.asker)?;
        let relayed_only = introduction.terms.relayed_only;
        if self.terms(introduction.asker, introduction.target, relayed_only) != Some(introduction.terms) {
            return None;
        }
        let mut request = Builder::new(out, Method::INTRODUCED, Class::Request, self.introductions.transaction(id)?);
        request.add(&self.registrations.secret(introduction.target)?).add(&Target(asker.peer));
        let punch = introduction.punch(now_ms, introduction.target);
        tell(&mut request, asker, relayed_only, &punch);
        let length = request.fingerprint().finish().ok()?;
        Some(Transmit { from: target.server, to: target.client, length })
    }

    /// What two would be introduced with now.
    fn terms(&self, a: Id, b: Id, relayed_only: bool) -> Option<Terms> {
        let relayed = |id| self.registrations.get(id).map(|known| known.relayed);
        Some(Terms::new((a, relayed(a)?), (b, relayed(b)?), relayed_only))
    }

    fn end(&mut self, id: Id) {
        let Some(registration) = self.registrations.remove(id) else { return };
        if !self.observations.end(registration, self.limits.ended) {
            self.counters.observations_lost += 1;
        }
    }

    /// A registration is not as it was told.
    fn observe(&mut self, id: Id) {
        if let Some(known) = self.registrations.get_mut(id) {
            known.told = false;
            self.observations.change(id.slot);
        }
    }
}

/// What one of two peers is told of the other.
fn tell(message: &mut Builder<'_>, other: &Registration, relayed_only: bool, punch: &Punch) {
    if !relayed_only {
        message.add(&XorPeerAddress(other.client));
    }
    if let Some(relayed) = other.relayed {
        message.add(&XorRelayedAddress(relayed));
    }
    message.add(&other.nat).add(punch);
}

/// An IPv4 address as such, however it is written.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
