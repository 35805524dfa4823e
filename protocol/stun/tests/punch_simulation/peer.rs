//! A peer by docs/punch.md, as simply as possible: a model to test the node with, not the client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use shoal_stun::fuzzing::Random;
use shoal_stun::message::{
    Builder, ChannelId, Class, ErrorCode, Fingerprint, Integrity, Lifetime, Message, Method, Nat, Nonce, Padding,
    PeerId, Punch, Registration, Role, Target, Ticket, TransactionId, UseCandidate, XorMappedAddress, XorPeerAddress,
    XorRelayedAddress,
};
use shoal_stun::punch::{MIN_INTRODUCE, MIN_REQUEST};

pub(crate) type Datagram = (SocketAddr, Vec<u8>);
pub(crate) type Key = [u8; 16];

/// A request that is sent again until it is answered.
#[derive(Debug)]
struct Pending {
    id: TransactionId,
    bytes: Vec<u8>,
    due: u64,
    wait: u64,
    target: Option<[u8; 20]>,
}

/// Checks with one other peer.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) other: [u8; 20],
    pub(crate) role: Role,
    /// As the node told it.
    pub(crate) address: SocketAddr,
    pub(crate) nat: Nat,
    pub(crate) begun: u64,
    start: u64,
    due: Option<u64>,
    rounds: u32,
    /// Where the newest check that verified came from.
    source: Option<SocketAddr>,
    /// Transaction ids, and whether they carried USE-CANDIDATE.
    sent: BTreeMap<[u8; 16], bool>,
    /// What has answered.
    pub(crate) connected: Option<SocketAddr>,
    /// Where the controlling peer has decided on, as the controlled one sees it.
    pub(crate) nominated: Option<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: [u8; 20],
    pub(crate) channel: &'static str,
    pub(crate) inside: SocketAddr,
    pub(crate) node: SocketAddr,
    /// Of its tickets, where the channel asks for them.
    pub(crate) session: Option<&'static str>,
    pub(crate) nat: Nat,
    /// Told, and not used: a model of relays is in the model of the node.
    pub(crate) relayed: Option<SocketAddr>,
    told_nat: Option<Nat>,
    nonce: Option<String>,
    registration: Option<Registration>,
    /// The next Register is the whole of it.
    whole: bool,
    register_at: Option<u64>,
    requests: Vec<Pending>,
    pub(crate) checks: BTreeMap<Key, Checks>,
    /// Destinations, each of which took a port of a NAT with a step.
    reached: BTreeSet<SocketAddr>,
    /// Errors of Introduce by code.
    pub(crate) refused: BTreeMap<u16, u64>,
    dice: Random,
}

impl Peer {
    pub(crate) fn new(id: [u8; 20], channel: &'static str, inside: SocketAddr, node: SocketAddr, seed: u64) -> Self {
        Self {
            id,
            channel,
            inside,
            node,
            session: None,
            nat: Nat::default(),
            relayed: None,
            told_nat: None,
            nonce: None,
            registration: None,
            whole: true,
            register_at: Some(0),
            requests: Vec::new(),
            checks: BTreeMap::new(),
            reached: BTreeSet::new(),
            refused: BTreeMap::new(),
            dice: Random::new(seed),
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registration.is_some() && !self.whole
    }

    /// What its NAT is now; the node is told by the next Register, which is due at once.
    pub(crate) fn found(&mut self, nat: Nat, reached: [SocketAddr; 3], now: u64) {
        self.nat = nat;
        self.reached = BTreeSet::from(reached);
        self.reached.insert(self.node);
        self.register_at = Some(now);
    }

    /// Whether it may be introduced now: one with a step to one peer at a time.
    pub(crate) fn is_ready(&self) -> bool {
        let quiet = self.checks.values().all(|checks| checks.due.is_none());
        self.is_registered()
            && self.requests.is_empty()
            && (self.nat.step == 0 || quiet && self.told_nat == Some(self.nat))
    }

    pub(crate) fn ask_for(&mut self, now: u64, target: [u8; 20]) {
        let (id, registration) = (self.id, self.registration);
        let transaction = self.transaction();
        let bytes = request(Method::INTRODUCE, transaction, &|m| {
            m.add(&PeerId(id)).add(&Target(target));
            if let Some(registration) = &registration {
                m.add(registration);
            }
        });
        self.requests.push(Pending { id: transaction, bytes, due: now, wait: 500, target: Some(target) });
    }

    /// Begins to check, but only once.
    pub(crate) fn begin(&mut self, now: u64, other: [u8; 20], address: SocketAddr, nat: Nat, punch: Punch) {
        let start = now + u64::from(punch.start_ms);
        self.checks.entry(punch.key).or_insert(Checks {
            other,
            role: punch.role,
            address,
            nat,
            begun: now,
            start,
            due: Some(start),
            rounds: 0,
            source: None,
            sent: BTreeMap::new(),
            connected: None,
            nominated: None,
        });
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let requests = self.requests.iter().map(|pending| pending.due);
        let checks = self.checks.values().filter_map(|checks| checks.due);
        self.register_at.into_iter().chain(requests).chain(checks).min()
    }

    /// What is due to be sent.
    pub(crate) fn poll(&mut self, now: u64, unix: u64) -> Vec<Datagram> {
        if self.register_at.is_some_and(|at| at <= now) {
            self.register(now, unix);
        }
        let given_up = |pending: &Pending| pending.due <= now && pending.wait > 4_000;
        if self.requests.iter().any(|pending| given_up(pending) && pending.target.is_none()) {
            self.register_at = Some(now + 1_000);
        }
        self.requests.retain(|pending| !given_up(pending));
        let mut out = Vec::new();
        for pending in self.requests.iter_mut().filter(|pending| pending.due <= now) {
            out.push((self.node, pending.bytes.clone()));
            pending.due = now + pending.wait;
            pending.wait *= 2;
        }
        let keys: Vec<Key> = self.checks.keys().copied().collect();
        keys.into_iter().for_each(|key| self.round(now, key, &mut out));
        out
    }

    fn register(&mut self, now: u64, unix: u64) {
        self.register_at = None;
        self.requests.retain(|pending| pending.target.is_some());
        let Self { id, channel, nat, registration, relayed, whole, .. } = *self;
        let whole = whole || registration.is_none();
        let ticket = self.session.map(|session| format!("{session}/{}", unix + 40));
        let nonce = self.nonce.take();
        let new_nat = self.told_nat != Some(nat);
        let transaction = self.transaction();
        let bytes = request(Method::REGISTER, transaction, &|m| {
            m.add(&PeerId(id));
            if whole {
                m.add(&ChannelId(channel));
            }
            if whole || new_nat {
                m.add(&nat);
            }
            if let Some(ticket) = &ticket {
                m.add(&Ticket(ticket));
            }
            if let Some(relayed) = relayed {
                m.add(&XorRelayedAddress(relayed));
            }
            if let Some(nonce) = &nonce {
                m.add(&Nonce(nonce));
            }
            if let Some(registration) = &registration {
                m.add(registration);
            }
        });
        self.told_nat = Some(nat);
        self.requests.push(Pending { id: transaction, bytes, due: now, wait: 500, target: None });
    }

    /// A round of checks, if it is due.
    fn round(&mut self, now: u64, key: Key, out: &mut Vec<Datagram>) {
        let Some(checks) = self.checks.get_mut(&key).filter(|checks| checks.due.is_some_and(|due| due <= now)) else {
            return;
        };
        checks.rounds += 1;
        let since = now - checks.start;
        let gap = if since < 200 {
            20
        } else if since < 1_000 {
            50
        } else {
            200
        };
        checks.due = (since + gap <= 3_000).then_some(now + gap);
        let destinations: Vec<SocketAddr> = match (checks.connected, checks.source) {
            (Some(connected), _) => vec![connected],
            (None, Some(source)) => vec![source],
            (None, None) if checks.nat.step != 0 => {
                next_ports(checks.address.ip(), checks.nat, checks.rounds.min(8)).collect()
            }
            (None, None) => vec![checks.address],
        };
        let nominates = checks.connected.is_some();
        let id = self.id;
        for to in destinations {
            let transaction = self.transaction();
            let bytes = message(Method::BINDING, Class::Request, transaction, Some(&key), &|m| {
                m.add(&PeerId(id));
                if nominates {
                    m.add(&UseCandidate);
                }
            });
            if let Some(checks) = self.checks.get_mut(&key) {
                checks.sent.insert(*transaction.as_bytes(), nominates);
            }
            self.reach(to);
            out.push((to, bytes));
        }
        if self.checks.values().all(|checks| checks.due.is_none()) && self.told_nat != Some(self.nat) {
            self.register_at = Some(now);
        }
    }

    pub(crate) fn has_reached(&self, to: SocketAddr) -> bool {
        self.reached.contains(&to)
    }

    /// A destination that was not sent to before takes a port.
    fn reach(&mut self, to: SocketAddr) {
        if self.reached.insert(to) && self.nat.step != 0 {
            self.nat.newest = self.nat.newest.wrapping_add_signed(self.nat.step);
        }
    }

    /// Takes a datagram, and gives what it is answered with.
    pub(crate) fn handle(&mut self, now: u64, from: SocketAddr, bytes: &[u8]) -> Vec<Datagram> {
        let message = Message::parse(bytes).expect("nobody sends anything else");
        assert_eq!(message.fingerprint(), Fingerprint::Right);
        match (message.method(), message.class()) {
            (Method::INTRODUCED, Class::Request) => self.introduced(now, &message).into_iter().collect(),
            (Method::BINDING, Class::Request) => self.checked(from, &message).into_iter().collect(),
            (Method::BINDING, Class::Success) => {
                self.check_answered(now, from, &message);
                Vec::new()
            }
            (Method::REGISTER | Method::INTRODUCE, Class::Success | Class::Error) => {
                self.answered(now, &message);
                Vec::new()
            }
            _ => panic!("{message:?}"),
        }
    }

    fn introduced(&mut self, now: u64, request: &Message<'_>) -> Option<Datagram> {
        let registration: Registration = request.read().expect("well-formed").expect("a REGISTRATION");
        if Some(registration) != self.registration {
            return None;
        }
        let other = request.read::<Target>().expect("well-formed").expect("a TARGET").0;
        let nat = request.read::<Nat>().expect("well-formed").expect("a NAT");
        if let Some(XorPeerAddress(address)) = request.read().expect("well-formed") {
            self.begin(now, other, address, nat, request.read().expect("well-formed").expect("a PUNCH"));
        }
        Some((self.node, message(Method::INTRODUCED, Class::Success, *request.transaction_id(), None, &|_| ())))
    }

    fn checked(&mut self, from: SocketAddr, request: &Message<'_>) -> Option<Datagram> {
        let other = request.read::<PeerId>().expect("well-formed").expect("a PEER-ID").0;
        let found = self
            .checks
            .iter_mut()
            .find(|(key, checks)| checks.other == other && request.verify(Integrity::Sha256, key.as_slice()));
        let (key, checks) = found?;
        let key = *key;
        checks.source = Some(from);
        if request.read::<UseCandidate>().expect("well-formed").is_some() {
            assert_eq!(checks.role, Role::Controlled);
            checks.nominated = Some(from);
        }
        self.reach(from);
        let answer = message(Method::BINDING, Class::Success, *request.transaction_id(), Some(&key), &|m| {
            m.add(&XorMappedAddress(from));
        });
        Some((from, answer))
    }

    fn check_answered(&mut self, now: u64, from: SocketAddr, answer: &Message<'_>) {
        let id = answer.transaction_id().as_bytes();
        let found = self
            .checks
            .iter_mut()
            .find(|(key, checks)| checks.sent.contains_key(id) && answer.verify(Integrity::Sha256, key.as_slice()));
        let Some((_, checks)) = found else { return };
        if checks.sent.get(id) == Some(&true) {
            checks.due = None;
        } else if checks.connected.is_none() {
            checks.connected = Some(from);
            checks.due = (checks.role == Role::Controlling).then_some(now);
        }
        if self.checks.values().all(|checks| checks.due.is_none()) && self.told_nat != Some(self.nat) {
            self.register_at = Some(now);
        }
    }

    fn answered(&mut self, now: u64, answer: &Message<'_>) {
        let Some(at) = self.requests.iter().position(|pending| pending.id == *answer.transaction_id()) else { return };
        let pending = self.requests.remove(at);
        let code = answer.read::<ErrorCode<'_>>().expect("well-formed").map(|error| error.code);
        let nonce = answer.read::<Nonce<'_>>().expect("well-formed").map(|nonce| nonce.0.to_owned());
        if matches!(code, Some(401 | 438)) {
            self.nonce = nonce;
            self.whole = true;
            self.register_at = Some(now);
            return;
        }
        match (pending.target, code) {
            (Some(target), None) => {
                let nat = answer.read::<Nat>().expect("well-formed").expect("a NAT");
                if let Some(XorPeerAddress(address)) = answer.read().expect("well-formed") {
                    self.begin(now, target, address, nat, answer.read().expect("well-formed").expect("a PUNCH"));
                }
            }
            (Some(_), Some(code)) => *self.refused.entry(code).or_default() += 1,
            (None, None) => {
                self.registration = answer.read().expect("well-formed");
                self.whole = false;
                let lifetime = answer.read::<Lifetime>().expect("well-formed").expect("a LIFETIME").0;
                self.register_at = Some(now + u64::from(lifetime) * 500);
            }
            (None, Some(code)) => {
                assert!([403, 429, 508].contains(&code), "{code}");
                self.whole = true;
                self.register_at = Some(now + 5_000);
            }
        }
    }

    fn transaction(&mut self) -> TransactionId {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, ..]) =
            (self.dice.bits().to_be_bytes(), self.dice.bits().to_be_bytes());
        TransactionId::new([a, b, c, d, e, f, g, h, i, j, k, l])
    }
}

/// The next ports of a NAT with a step.
pub(crate) fn next_ports(ip: IpAddr, nat: Nat, count: u32) -> impl Iterator<Item = SocketAddr> {
    (1..=count as i32).filter_map(move |k| {
        let port = i32::from(nat.newest) + k * i32::from(nat.step);
        (1_024..=65_535).contains(&port).then(|| SocketAddr::new(ip, port as u16))
    })
}

fn message(
    method: Method,
    class: Class,
    id: TransactionId,
    key: Option<&Key>,
    add: &dyn Fn(&mut Builder<'_>),
) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut message = Builder::new(&mut out, method, class, id);
    add(&mut message);
    if let Some(key) = key {
        message.integrity(Integrity::Sha256, key);
    }
    let length = message.fingerprint().finish().expect("there is room");
    out.truncate(length);
    out
}

/// To the node: filled up as it must be.
fn request(method: Method, id: TransactionId, add: &dyn Fn(&mut Builder<'_>)) -> Vec<u8> {
    let bare = message(method, Class::Request, id, None, add);
    let least = if method == Method::INTRODUCE { MIN_INTRODUCE } else { MIN_REQUEST };
    match least.checked_sub(bare.len() + 4) {
        None => bare,
        Some(padding) => message(method, Class::Request, id, None, &|m| {
            add(m);
            m.add(&Padding(&vec![0; padding]));
        }),
    }
}
