//! A client of TURN over UDP (RFC 8656), with long-term credentials (RFC 8489 section 9.2): one allocation, permissions and
//! channels that are kept up, one request at a time.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use shoal_stun::credentials::{Key, PasswordAlgorithm};
use shoal_stun::message::{
    Builder, CHANNELS, ChannelData, ChannelNumber, Class, Data, ErrorCode, Family, Integrity, Lifetime, Message,
    Method, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm, RequestedAddressFamily, RequestedTransport,
    TransactionId, Username, XorMappedAddress, XorPeerAddress, XorRelayedAddress, channel_data_header,
};

use crate::random::Random;
use crate::register::Refusal;
use crate::request::{Exchange, Next};

/// Bytes of a request, or of a payload with what goes in front of it, at most.
pub const MAX_DATAGRAM: usize = 1_500;

/// IP's number for UDP.
const UDP: u8 = 17;
/// Milliseconds after which permissions and channels are renewed: a minute before a permission ends.
const RENEW_MS: u64 = 240_000;
/// Times in a row that the server may want other credentials.
const CHALLENGES: u32 = 3;
/// Peers at most, each with an address and a channel.
const PEERS: usize = 32;

/// Where a relay is, and who we are there.
#[derive(Debug, Clone)]
pub struct Account {
    /// The server.
    pub server: SocketAddr,
    /// A name that it knows.
    pub user: String,
    /// And the password.
    pub password: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is an allocation.
    Allocated {
        /// Where peers can reach it.
        relayed: SocketAddr,
        /// This client as the server sees it.
        mapped: SocketAddr,
    },
    /// There is none, or no more; or one peer was refused. `None`: the server is silent.
    Failed(Option<Refusal>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Allocate,
    Refresh,
    Permit(IpAddr),
    Bind(u16, SocketAddr),
    Release,
}

/// What the server wants to see in each request.
#[derive(Debug)]
struct Credentials {
    realm: String,
    nonce: String,
    /// As they were offered, to be repeated.
    algorithms: Option<Vec<u8>>,
    key: Key,
}

impl Credentials {
    const fn integrity(&self) -> Integrity {
        if self.algorithms.is_some() { Integrity::Sha256 } else { Integrity::Sha1 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    bound: bool,
    due: u64,
}

/// One allocation, from the wish for it to its end.
#[derive(Debug)]
pub struct Relay {
    account: Account,
    credentials: Option<Credentials>,
    challenges: u32,
    jobs: VecDeque<Job>,
    open: Option<(Job, Exchange)>,
    relayed: Option<SocketAddr>,
    refresh: Option<u64>,
    permissions: Vec<(IpAddr, u64)>,
    channels: Vec<Channel>,
    /// Of all channels that there ever were: a number is another peer's only after a while (RFC 8656 section 12).
    numbered: usize,
    events: VecDeque<Event>,
}

impl Relay {
    /// Asks for nothing yet.
    #[must_use]
    pub const fn new(account: Account) -> Self {
        Self {
            account,
            credentials: None,
            challenges: 0,
            jobs: VecDeque::new(),
            open: None,
            relayed: None,
            refresh: None,
            permissions: Vec::new(),
            channels: Vec::new(),
            numbered: 0,
            events: VecDeque::new(),
        }
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.account.server
    }

    /// The allocation's address, while there is one.
    #[must_use]
    pub const fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// Asks for an allocation, if there is none and none is asked for.
    pub fn allocate(&mut self) {
        if self.relayed.is_none() {
            self.push(Job::Allocate);
        }
    }

    /// Lets in who sends from this address.
    pub fn permit(&mut self, peer: IpAddr) {
        if self.permissions.iter().all(|(known, _)| *known != peer) && self.permissions.len() < PEERS {
            self.push(Job::Permit(peer));
        }
    }

    /// Gives a peer a channel.
    pub fn bind(&mut self, peer: SocketAddr) {
        if self.channels.iter().all(|channel| channel.peer != peer)
            && self.channels.len() < PEERS
            && let Some(number) = CHANNELS.clone().nth(self.numbered)
        {
            self.numbered += 1;
            self.channels.push(Channel { number, peer, bound: false, due: u64::MAX });
            self.push(Job::Bind(number, peer));
        }
    }

    /// Ends the allocation.
    pub fn release(&mut self) {
        self.jobs.clear();
        self.refresh = None;
        self.permissions.clear();
        self.channels.clear();
        if self.relayed.is_some() || matches!(self.open, Some((Job::Allocate, _))) {
            self.push(Job::Release);
        }
    }

    /// Whether nothing is left to ask or to wait for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.jobs.is_empty()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    /// What came of it since the last time.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if let Some((_, exchange)) = &self.open {
            return Some(exchange.due());
        }
        if !self.jobs.is_empty() {
            return Some(0);
        }
        let permissions = self.permissions.iter().map(|(_, due)| *due);
        let channels = self.channels.iter().filter(|channel| channel.bound).map(|channel| channel.due);
        self.refresh.into_iter().chain(permissions).chain(channels).min()
    }

    /// Writes a request to `out`, of [`MAX_DATAGRAM`] bytes, if one is due, and gives its length.
    pub fn poll_transmit(&mut self, now: u64, random: &mut Random, out: &mut [u8]) -> Option<usize> {
        self.renew(now);
        if self.open.is_none() {
            let job = self.jobs.pop_front()?;
            self.open = Some((job, Exchange::new(random.transaction(), now)));
        }
        let (job, exchange) = self.open.as_mut()?;
        match exchange.poll(now) {
            Next::Wait => None,
            Next::Send => {
                let (job, id) = (*job, *exchange.id());
                self.write(job, id, out)
            }
            Next::GiveUp => {
                let job = *job;
                self.open = None;
                self.fail(job, None);
                None
            }
        }
    }

    /// Takes a message of the server; true when it was an answer to this client.
    pub fn handle(&mut self, now: u64, message: &Message<'_>) -> bool {
        let open = self.open.as_ref().filter(|(_, exchange)| exchange.id() == message.transaction_id());
        let Some((job, _)) = open else { return false };
        let job = *job;
        match message.class() {
            Class::Request | Class::Indication => return false,
            Class::Success => {
                let signed =
                    |credentials: &Credentials| message.verify(credentials.integrity(), credentials.key.as_bytes());
                // Anybody can answer without the key.
                if !self.credentials.as_ref().is_some_and(signed) {
                    return false;
                }
                self.open = None;
                self.challenges = 0;
                self.handle_success(now, job, message);
            }
            Class::Error => {
                let Some(error) = message.read::<ErrorCode<'_>>().ok().flatten() else { return false };
                self.open = None;
                if !self.accept_challenge(&error, message) {
                    self.fail(job, Some(Refusal::of(&error)));
                    return true;
                }
                self.jobs.push_front(job);
            }
        }
        true
    }

    /// Puts in front of a payload what the server needs to send it on to `peer`; gives the length in `out`.
    pub fn wrap(&self, peer: SocketAddr, payload: &[u8], random: &mut Random, out: &mut [u8]) -> Option<usize> {
        self.relayed?;
        if let Some(channel) = self.channels.iter().find(|channel| channel.bound && channel.peer == peer) {
            let header = channel_data_header(channel.number, u16::try_from(payload.len()).ok()?);
            let place = out.get_mut(..header.len() + payload.len())?;
            place.iter_mut().zip(header.iter().chain(payload)).for_each(|(place, byte)| *place = *byte);
            return Some(header.len() + payload.len());
        }
        let mut send = Builder::new(out, Method::SEND, Class::Indication, random.transaction());
        send.add(&XorPeerAddress(peer)).add(&Data(payload)).finish().ok()
    }

    /// What a datagram of the server has for us from a peer, and which one.
    #[must_use]
    pub fn unwrap<'d>(&self, datagram: &'d [u8]) -> Option<(SocketAddr, &'d [u8])> {
        self.relayed?;
        if let Some(data) = ChannelData::parse(datagram) {
            let channel = self.channels.iter().find(|channel| channel.number == data.channel)?;
            return Some((channel.peer, data.data));
        }
        let message = Message::parse(datagram).ok()?;
        if (message.method(), message.class()) != (Method::DATA, Class::Indication) {
            return None;
        }
        let XorPeerAddress(peer) = message.read().ok().flatten()?;
        let Data(payload) = message.read().ok().flatten()?;
        Some((peer, payload))
    }

    fn push(&mut self, job: Job) {
        let under_way = self.open.as_ref().is_some_and(|(open, _)| *open == job);
        if !under_way && !self.jobs.contains(&job) {
            self.jobs.push_back(job);
        }
    }

    /// Asks again for what would end.
    fn renew(&mut self, now: u64) {
        if self.refresh.is_some_and(|due| due <= now) {
            self.refresh = None;
            self.push(Job::Refresh);
        }
        for nth in 0..self.permissions.len() {
            if let Some((peer, due)) = self.permissions.get_mut(nth)
                && *due <= now
            {
                *due = now + RENEW_MS;
                let peer = *peer;
                self.push(Job::Permit(peer));
            }
        }
        for nth in 0..self.channels.len() {
            if let Some(channel) = self.channels.get_mut(nth)
                && channel.bound
                && channel.due <= now
            {
                channel.due = now + RENEW_MS;
                let (number, peer) = (channel.number, channel.peer);
                self.push(Job::Bind(number, peer));
            }
        }
    }

    fn handle_success(&mut self, now: u64, job: Job, message: &Message<'_>) {
        let lifetime = message.read::<Lifetime>().ok().flatten().map(|lifetime| u64::from(lifetime.0));
        match job {
            Job::Allocate => {
                let relayed = message.read_all::<XorRelayedAddress>().flatten().next().map(|address| address.0);
                let mapped = message.read::<XorMappedAddress>().ok().flatten().map(|address| address.0);
                let (Some(relayed), Some(mapped)) = (relayed, mapped) else { return self.fail(job, None) };
                self.relayed = Some(relayed);
                self.refresh = lifetime.map(|seconds| now + seconds * 500);
                self.events.push_back(Event::Allocated { relayed, mapped });
            }
            Job::Refresh => self.refresh = lifetime.map(|seconds| now + seconds * 500),
            Job::Permit(peer) => {
                self.permissions.retain(|(known, _)| *known != peer);
                self.permissions.push((peer, now + RENEW_MS));
            }
            Job::Bind(number, _) => {
                if let Some(channel) = self.channels.iter_mut().find(|channel| channel.number == number) {
                    channel.bound = true;
                    channel.due = now + RENEW_MS;
                }
            }
            Job::Release => self.relayed = None,
        }
    }

    /// Learns realm and nonce from an error that is no refusal.
    fn accept_challenge(&mut self, error: &ErrorCode<'_>, message: &Message<'_>) -> bool {
        let asked = match error.code {
            // With credentials in the request it is a refusal: they are wrong.
            401 => self.credentials.is_none(),
            438 => self.challenges < CHALLENGES,
            _ => false,
        };
        let realm = message.read::<Realm<'_>>().ok().flatten();
        let nonce = message.read::<Nonce<'_>>().ok().flatten();
        let (true, Some(Realm(realm)), Some(Nonce(nonce))) = (asked, realm, nonce) else { return false };
        let offered = message.read::<PasswordAlgorithms<'_>>().ok().flatten().map(|offered| offered.0.to_vec());
        // The best of those that we know; all that are left out of the offer are MD5 (RFC 8489 section 9.2.3.2).
        let algorithm = match &offered {
            Some(offered) if offers_sha256(offered) => PasswordAlgorithm::Sha256,
            _ => PasswordAlgorithm::Md5,
        };
        let key = Key::long_term(algorithm, &self.account.user, realm, &self.account.password);
        self.challenges += 1;
        self.credentials =
            Some(Credentials { realm: realm.to_owned(), nonce: nonce.to_owned(), algorithms: offered, key });
        true
    }

    fn fail(&mut self, job: Job, refusal: Option<Refusal>) {
        match job {
            Job::Release => {
                self.relayed = None;
                return;
            }
            Job::Allocate | Job::Refresh => {
                self.relayed = None;
                self.refresh = None;
                self.jobs.clear();
            }
            Job::Permit(peer) => self.permissions.retain(|(known, _)| *known != peer),
            // Without the channel there is still the Send indication.
            Job::Bind(number, _) => self.channels.retain(|channel| channel.number != number),
        }
        self.events.push_back(Event::Failed(refusal));
    }

    fn write(&self, job: Job, id: TransactionId, out: &mut [u8]) -> Option<usize> {
        let method = match job {
            Job::Allocate => Method::ALLOCATE,
            Job::Refresh | Job::Release => Method::REFRESH,
            Job::Permit(_) => Method::CREATE_PERMISSION,
            Job::Bind(..) => Method::CHANNEL_BIND,
        };
        let mut builder = Builder::new(out, method, Class::Request, id);
        match job {
            Job::Allocate => {
                builder.add(&RequestedTransport(UDP));
                if Family::of(&self.account.server.ip()) == Family::Ipv6 {
                    builder.add(&RequestedAddressFamily(Family::Ipv6));
                }
            }
            Job::Refresh => {}
            Job::Release => _ = builder.add(&Lifetime(0)),
            // Permissions do not look at ports.
            Job::Permit(peer) => _ = builder.add(&XorPeerAddress(SocketAddr::new(peer, 0))),
            Job::Bind(number, peer) => _ = builder.add(&ChannelNumber(number)).add(&XorPeerAddress(peer)),
        }
        if let Some(credentials) = &self.credentials {
            builder.add(&Username(&self.account.user)).add(&Realm(&credentials.realm));
            builder.add(&Nonce(&credentials.nonce));
            if let Some(offered) = &credentials.algorithms {
                builder.add(&PasswordAlgorithms(offered));
                let number = credentials.key.algorithm().number();
                builder.add(&PasswordAlgorithmValue { number, parameters: &[] });
            }
            builder.integrity(credentials.integrity(), credentials.key.as_bytes());
        }
        builder.fingerprint().finish().ok()
    }
}

/// Whether SHA-256 is among the algorithms of an offer: number and length of parameters, then those, padded.
fn offers_sha256(mut offer: &[u8]) -> bool {
    while let Some((&[n0, n1, l0, l1], rest)) = offer.split_first_chunk() {
        if u16::from_be_bytes([n0, n1]) == PasswordAlgorithm::Sha256.number() {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([l0, l1])).next_multiple_of(4);
        offer = rest.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests;
