//! A node of some shards and the model of it, side by side: what is delivered goes to both, and must come to the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::model::{Expected, Model, Name, Telling};
use crate::credentials::{NonceKey, Nonces};
use crate::message::{
    Class, ErrorCode, Fingerprint, Lifetime, Message, Method, Nat, Nonce, Punch, Registration, Role, Target,
    TransactionId, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};
use crate::punch::{
    Admission, Config, Gate, Limits, MAX_INTRODUCED, MAX_REPLY, Now, Outcome, Rate, Refused, Server, Standing,
    Transmit, is_punch, shard_of, shard_of_channel,
};

/// Shards of the node.
pub const SHARDS: u16 = 3;
/// What channels are shared out by.
pub const SEED: u64 = 5;
/// Where the node is.
pub const NODE: [&str; 2] = ["198.51.100.1:3478", "[2001:db8:9::1]:3478"];
/// Few of everything, so that it runs out. Addresses have no rates: they share places by chance.
pub const LIMITS: Limits = Limits {
    registrations: 8,
    registrations_per_address: 3,
    admissions_per_address: Rate { per_second: 0, burst: 1 },
    introductions: 4,
    introductions_per_peer: Rate { per_second: 1, burst: 3 },
    introductions_per_address: Rate { per_second: 0, burst: 1 },
    introductions_per_target: Rate { per_second: 2, burst: 3 },
    ended: 4_096,
};
/// Milliseconds of the nodes' nonces.
pub const NONCE_MS: u64 = 600_000;

const UNIX: u64 = 1_800_000_000;

/// Whether it is on the node's relay.
#[must_use]
pub fn is_relay(address: SocketAddr) -> bool {
    let node = |text: &str| text.parse::<SocketAddr>().is_ok_and(|node| node.ip() == address.ip());
    NODE.into_iter().any(node) && address.port() >= 50_000
}

/// The shard of a channel.
#[must_use]
pub fn shard(channel: &str) -> u16 {
    shard_of_channel(channel, SEED, SHARDS)
}

/// The channels: a name that begins with `free` asks for no ticket, one that begins with `paid` for `session/last second`.
#[derive(Debug, Clone, Default)]
pub struct Rules(BTreeMap<String, Standing>);

impl Rules {
    /// The ticket's session and last second.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        channel: &str,
        ticket: Option<&str>,
        unix: u64,
    ) -> Result<(Option<String>, Option<u64>), &'static str> {
        if self.standing(channel) == Standing::Gone {
            return Err("channel");
        }
        if channel.starts_with("free") {
            return Ok((None, None));
        }
        let (session, last) = ticket.ok_or("missing")?.split_once('/').ok_or("malformed")?;
        let last: u64 = last.parse().map_err(|_| "malformed")?;
        if last < unix {
            return Err("expired");
        }
        Ok((Some(session.to_owned()).filter(|session| !session.is_empty()), Some(last.min(unix + 1_000_000))))
    }

    /// What a channel allows.
    #[must_use]
    pub fn standing(&self, channel: &str) -> Standing {
        let known = channel.starts_with("free") || channel.starts_with("paid");
        self.0.get(channel).copied().unwrap_or(if known { Standing::Open } else { Standing::Gone })
    }
}

impl Gate for Rules {
    fn admit(&self, channel: &str, ticket: Option<&str>, _: IpAddr, unix: u64) -> Result<Admission, Refused> {
        let (session, expires_unix) = self.admit(channel, ticket, unix).map_err(Refused)?;
        let (tenant, session) = (Arc::from("tenant"), session.map(Box::from));
        Ok(Admission { tenant, session, expires_unix })
    }

    fn standing(&self, channel: &str) -> Standing {
        self.standing(channel)
    }

    fn is_relay(&self, address: SocketAddr) -> bool {
        is_relay(address)
    }
}

/// Both.
#[derive(Debug)]
pub struct World {
    shards: Vec<Server>,
    /// The model.
    pub model: Model,
    /// Milliseconds.
    pub now: u64,
    rules: Rules,
    nonces: Nonces,
    starts: u8,
    /// What the tracker was told.
    tracker: BTreeMap<Name, (SocketAddr, Nat)>,
    /// It has forgotten what it was told: some of that may end without having been told again.
    forgot: bool,
}

impl World {
    /// Nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        let nonces = nonces(0);
        Self {
            shards: shards(0, &nonces),
            model: Model::default(),
            now: 1,
            rules: Rules::default(),
            nonces,
            starts: 0,
            tracker: BTreeMap::new(),
            forgot: false,
        }
    }

    /// The node is killed and started again, with the keys of its nonces or with others. The tracker finds out by itself.
    pub fn restart(&mut self, keeps_nonces: bool) {
        self.starts = self.starts.wrapping_add(1);
        if !keeps_nonces {
            self.nonces = nonces(self.starts);
        }
        self.shards = shards(self.starts, &self.nonces);
        self.model = Model::default();
        self.tracker.clear();
        self.forgot = false;
    }

    /// Another snapshot.
    pub fn stand(&mut self, channel: &str, standing: Standing) {
        self.rules.0.insert(channel.into(), standing);
    }

    /// What channels allow.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Unix seconds.
    #[must_use]
    pub const fn unix(&self) -> u64 {
        UNIX + self.now / 1_000
    }

    /// Time passes; with `sweep` the node is told.
    pub fn pass(&mut self, ms: u64, sweep: bool) {
        self.now += ms;
        if sweep {
            for server in &mut self.shards {
                server.advance(self.now);
            }
            self.model.expire(self.now);
            self.check();
        }
    }

    /// It arrives at one of the shards. Gives what is sent back. Panics unless the node does what the model says.
    pub fn deliver(&mut self, at: u16, client: SocketAddr, server: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let now = Now { ms: self.now, unix: self.unix() };
        let nonces = self.nonces.clone();
        let is_good = |nonce: &str| nonces.check(nonce, client, now.unix);
        let expected = self.model.apply(now, client, server, bytes, &self.rules, is_good);
        let shard = shard_of(bytes, SEED, SHARDS).filter(|_| is_punch(bytes)).unwrap_or(at % SHARDS);
        let mut out = [0; MAX_REPLY];
        let handler = &mut self.shards[usize::from(shard)];
        match handler.handle(now, client, server, bytes, &self.rules, &mut out) {
            Outcome::Done => assert_eq!(expected, Expected::Done),
            Outcome::Dropped(dropped) => {
                assert!(matches!(expected, Expected::Nothing), "{dropped:?} for {expected:?}");
            }
            Outcome::Reply { length, proven } => {
                assert!(is_punch(bytes) && length <= bytes.len(), "{length} for {}", bytes.len());
                let reply = out[..length].to_vec();
                self.check_reply(client, bytes, &reply, proven, &expected);
                return Some(reply);
            }
        }
        None
    }

    fn check_reply(&mut self, client: SocketAddr, bytes: &[u8], reply: &[u8], proven: bool, expected: &Expected) {
        let request = Message::parse(bytes).expect("what was answered is STUN");
        let reply = Message::parse(reply).expect("a reply is STUN");
        assert_eq!((reply.method(), reply.transaction_id()), (request.method(), request.transaction_id()));
        assert_eq!(reply.fingerprint(), Fingerprint::Right);
        let code = reply.read::<ErrorCode<'_>>().expect("well-formed").map(|error| error.code);
        assert_eq!(reply.class(), if code.is_some() { Class::Error } else { Class::Success });
        let nonce = reply.read::<Nonce<'_>>().expect("well-formed");
        assert_eq!(nonce.is_some(), matches!(code, Some(401 | 438)), "a nonce comes with a challenge");
        assert!(nonce.is_none_or(|nonce| self.nonces.check(nonce.0, client, self.unix())));
        assert_eq!(proven, !matches!(code, Some(400 | 401 | 420 | 438)));
        let lifetime = reply.read::<Lifetime>().expect("well-formed").map(|lifetime| lifetime.0);
        match expected {
            Expected::Error(expected) => assert_eq!(code, Some(*expected), "{request:?}"),
            Expected::Ended => assert_eq!((code, lifetime), (None, Some(0))),
            Expected::Registered { lifetime_s, registration, name } => {
                assert_eq!((code, lifetime), (None, Some(*lifetime_s)));
                assert_eq!(reply.read(), Ok(Some(XorMappedAddress(client))));
                let made = reply.read::<Registration>().expect("well-formed").expect("a REGISTRATION").0;
                match registration {
                    Some(known) => assert_eq!(made, *known),
                    None => self.model.learn_registration(name, made),
                }
            }
            Expected::Introduced { peer, relayed, nat, start_ms, role, key } => {
                assert_eq!(code, None);
                assert_eq!(reply.read(), Ok(peer.map(XorPeerAddress)));
                assert_eq!(reply.read(), Ok(relayed.map(XorRelayedAddress)));
                assert_eq!(reply.read(), Ok(Some(*nat)));
                let punch = reply.read::<Punch>().expect("well-formed").expect("a PUNCH");
                assert_eq!((u64::from(punch.start_ms), punch.role), (*start_ms, *role));
                match key {
                    Some(known) => assert_eq!(punch.key, *known),
                    None => self.model.learn_key(punch.key),
                }
            }
            Expected::Done | Expected::Nothing => panic!("{reply:?} for {expected:?}"),
        }
    }

    /// What the node has to say by itself: from where, to whom, and what.
    pub fn poll(&mut self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        for (of, server) in (0..SHARDS).zip(&mut self.shards) {
            let mut expected = self.model.poll(self.now, of);
            let mut out = [0; MAX_INTRODUCED];
            while let Some(Transmit { from, to, length }) = server.poll_transmit(self.now, &mut out) {
                let (telling, transaction) = read_introduced(from, to, &out[..length]);
                let at = expected.iter().position(|one| *one == telling);
                expected.swap_remove(at.unwrap_or_else(|| panic!("{telling:?} is none of {expected:?}")));
                self.model.learn_transaction(telling.key, transaction);
                all.push((from, to, out[..length].to_vec()));
            }
            assert!(expected.is_empty(), "{expected:?} was not sent");
        }
        self.check();
        all
    }

    /// Whom the tracker knows is who is registered, once it has been told everything.
    pub fn observe(&mut self, max: usize) {
        self.pass(0, true);
        let mut complete = true;
        for server in &mut self.shards {
            complete &= server.take_observations(max, |seen| {
                assert_eq!(seen.tenant, "tenant");
                let name = (seen.channel.to_owned(), *seen.peer);
                if seen.registered {
                    self.tracker.insert(name, (seen.address, seen.nat));
                } else {
                    assert!(self.tracker.remove(&name).is_some() || self.forgot, "the end of what never began");
                }
            });
        }
        if complete {
            let truth = self.model.peers.iter().map(|(name, peer)| (name.clone(), (peer.client, peer.nat)));
            assert_eq!(self.tracker, truth.collect());
        }
    }

    /// The tracker has forgotten everything.
    pub fn forget(&mut self) {
        self.observe(usize::MAX);
        self.tracker.clear();
        self.forgot = true;
        self.shards.iter_mut().for_each(Server::observe_again);
    }

    /// When the node wants to be asked again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.shards.iter().filter_map(Server::next_deadline).min()
    }

    /// All shards have been told the time.
    fn check(&self) {
        let counts: Vec<_> =
            self.shards.iter().map(|server| (server.registrations(), server.introductions())).collect();
        assert_eq!(counts, self.model.counts());
        let fits = |(registrations, introductions): &(usize, usize)| {
            *registrations <= LIMITS.registrations && *introductions <= LIMITS.introductions
        };
        assert!(counts.iter().all(fits), "{counts:?}");
        assert!(self.shards.iter().all(|server| server.counters().observations_lost == 0));
        assert_eq!(self.next_deadline(), self.model.next_deadline());
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn read_introduced(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> (Telling, TransactionId) {
    let message = Message::parse(bytes).expect("STUN");
    assert_eq!((message.method(), message.class()), (Method::INTRODUCED, Class::Request));
    assert_eq!(message.fingerprint(), Fingerprint::Right);
    let punch = message.read::<Punch>().expect("well-formed").expect("a PUNCH");
    assert_eq!(punch.role, Role::Controlled);
    let telling = Telling {
        from,
        to,
        registration: message.read::<Registration>().expect("well-formed").expect("a REGISTRATION").0,
        target: message.read::<Target>().expect("well-formed").expect("a TARGET").0,
        peer: message.read::<XorPeerAddress>().expect("well-formed").map(|peer| peer.0),
        relayed: message.read::<XorRelayedAddress>().expect("well-formed").map(|relayed| relayed.0),
        nat: message.read::<Nat>().expect("well-formed").expect("a NAT"),
        key: punch.key,
        start_ms: punch.start_ms.into(),
    };
    (telling, *message.transaction_id())
}

fn nonces(starts: u8) -> Nonces {
    Nonces::new(vec![NonceKey { epoch: starts, secret: [starts; 32] }], (NONCE_MS / 1_000) as u32, false)
}

fn shards(starts: u8, nonces: &Nonces) -> Vec<Server> {
    let server = |shard: u16| {
        let mut seed = [starts; 32];
        seed[0] = shard as u8;
        Server::new(&Config { shard, limits: LIMITS, seed }, nonces.clone())
    };
    (0..SHARDS).map(server).collect()
}
