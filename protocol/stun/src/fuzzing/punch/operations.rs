//! Sequences of operations, from bytes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::world::{NODE, World};
use crate::message::{
    Builder, ChannelId, Class, HEADER, Lifetime, Message, Method, Nat, Nonce, Padding, PeerId, Registration, Target,
    Ticket, TransactionId, XorRelayedAddress,
};
use crate::nat::Behaviour;
use crate::punch::{MIN_INTRODUCE, MIN_REQUEST, Standing};

/// Where peers are: three in one place, two in one network.
const CLIENTS: [&str; 8] = [
    "192.0.2.1:1000",
    "192.0.2.1:1001",
    "192.0.2.1:1002",
    "192.0.2.2:1000",
    "[2001:db8:1::1]:1000",
    "[2001:db8:1::2]:1000",
    "192.0.2.3:1000",
    "192.0.2.4:1000",
];
/// The free ones are of one shard, the paid ones of another.
const CHANNELS: [&str; 5] = ["free", "paid", "free-6", "paid-2", "nowhere"];
/// Two of the node's, and a stranger's.
const RELAYED: [&str; 4] = ["", "198.51.100.1:50000", "[2001:db8:9::1]:50000", "192.0.2.9:50000"];
const SESSIONS: [&str; 3] = ["", "s", "t"];
const STEPS_MS: [u64; 16] =
    [1, 20, 99, 100, 199, 200, 400, 999, 1_000, 3_999, 4_000, 14_999, 15_000, 29_999, 30_000, 600_000];

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn peer(number: u8) -> [u8; 20] {
    [b'A' + number % 6; 20]
}

/// What one that acts on behalf of all peers remembers of the answers.
#[derive(Default)]
struct Peers {
    nonces: BTreeMap<SocketAddr, String>,
    /// REGISTRATION by peer id, the newest last.
    registrations: BTreeMap<[u8; 20], Registration>,
    introduced: VecDeque<(SocketAddr, TransactionId)>,
    recent: VecDeque<(SocketAddr, Vec<u8>)>,
    sent: u64,
}

impl Peers {
    fn transaction(&mut self) -> TransactionId {
        self.sent += 1;
        let [a, b, c, d, e, f, g, h] = self.sent.to_be_bytes();
        TransactionId::new([9, 9, 9, 9, a, b, c, d, e, f, g, h])
    }

    /// A request, filled up as it must be, unless `bare`.
    fn request(&mut self, method: Method, bare: bool, add: &dyn Fn(&mut Builder<'_>)) -> Vec<u8> {
        let id = self.transaction();
        let write = |padding: Option<usize>| {
            let mut out = vec![0; 2_000];
            let mut message = Builder::new(&mut out, method, Class::Request, id);
            add(&mut message);
            if let Some(bytes) = padding {
                message.add(&Padding(&vec![0; bytes]));
            }
            let length = message.fingerprint().finish().expect("there is room");
            out.truncate(length);
            out
        };
        let first = write(None);
        let least = if method == Method::INTRODUCE { MIN_INTRODUCE } else { MIN_REQUEST };
        match least.checked_sub(first.len()) {
            Some(missing) if missing >= 4 && !bare => write(Some(missing - 4)),
            _ => first,
        }
    }

    fn register(&mut self, script: &mut Script<'_>, world: &World, client: SocketAddr) -> Vec<u8> {
        let (who, what, flags) = (script.byte(), script.byte(), script.byte());
        let (who, relayed) = (who & 0x3f, RELAYED[usize::from(who >> 6)].parse::<SocketAddr>().ok());
        let id = peer(who);
        let own = self.registrations.get(&peer(who + (what >> 7))).copied();
        let nonce = match flags & 3 {
            0 => None,
            3 => self.nonces.values().next().cloned(),
            _ => self.nonces.get(&client).cloned(),
        };
        let ticket = (flags & 0x0c != 0).then(|| {
            let last = world.unix() + [0, 1, 20, 3_600][usize::from(flags >> 4 & 3)];
            format!("{}/{}", SESSIONS[usize::from(flags >> 2 & 3) - 1], last.saturating_sub(u64::from(what >> 6 & 1)))
        });
        let channel = (what & 7 != 7).then(|| CHANNELS[usize::from(what & 7) % CHANNELS.len()]);
        let nat = (what & 0x20 != 0).then(|| nat(script.byte()));
        let guess = flags & 0xc0 == 0xc0;
        self.request(Method::REGISTER, flags & 0xf0 == 0xf0, &|m| {
            m.add(&PeerId(id));
            if let Some(channel) = channel {
                m.add(&ChannelId(channel));
            }
            if let Some(nat) = &nat {
                m.add(nat);
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
            if let Some(mut own) = own.filter(|_| what & 0x18 != 0) {
                own.0[15] ^= u8::from(guess);
                m.add(&own);
            }
            if what & 0x18 == 0x18 && flags & 0x40 != 0 {
                m.add(&Lifetime(u32::from(guess)));
            }
        })
    }

    fn introduce(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let (who, whom) = (script.byte(), script.byte());
        let own = self.registrations.get(&peer(who & 0x3f)).copied();
        self.request(Method::INTRODUCE, who & 0x40 != 0, &|m| {
            m.add(&PeerId(peer((who & 0x3f) + (who >> 7))));
            if let Some(own) = own {
                m.add(&own);
            }
            if whom != 0xff {
                m.add(&Target(peer(whom)));
            }
        })
    }

    fn answer(&mut self, which: u8) -> Option<(SocketAddr, Vec<u8>)> {
        let (client, id) = *self.introduced.get(usize::from(which & 7) % self.introduced.len().max(1))?;
        let mut out = vec![0; 60];
        let class = if which & 8 == 0 { Class::Success } else { Class::Error };
        let length = Builder::new(&mut out, Method::INTRODUCED, class, id).fingerprint().finish().ok()?;
        out.truncate(length);
        Some((client, out))
    }

    fn deliver(&mut self, world: &mut World, at: u8, client: SocketAddr, bytes: Vec<u8>) {
        let node = socket(NODE[usize::from(client.is_ipv6())]);
        if let Some(reply) = world.deliver(at.into(), client, node, &bytes) {
            let reply = Message::parse(&reply).expect("a reply is STUN");
            if let Ok(Some(nonce)) = reply.read::<Nonce<'_>>() {
                self.nonces.insert(client, nonce.0.into());
            }
            let asked = Message::parse(&bytes).ok().and_then(|asked| asked.read::<PeerId>().ok().flatten());
            if let (Ok(Some(made)), Some(asked)) = (reply.read::<Registration>(), asked) {
                self.registrations.insert(asked.0, made);
            }
        }
        self.recent.push_front((client, bytes));
        self.recent.truncate(8);
    }

    fn poll(&mut self, world: &mut World) {
        for (_, to, bytes) in world.poll() {
            let id = *Message::parse(&bytes).expect("STUN").transaction_id();
            self.introduced.push_front((to, id));
        }
        self.introduced.truncate(8);
    }
}

fn nat(bits: u8) -> Nat {
    let behaviour = |bits: u8| match bits & 3 {
        0 => None,
        1 => Some(Behaviour::EndpointIndependent),
        2 => Some(Behaviour::AddressDependent),
        _ => Some(Behaviour::AddressAndPortDependent),
    };
    let step = [0, 0, 1, -2][usize::from(bits >> 4 & 3)];
    Nat { mapping: behaviour(bits), filtering: behaviour(bits >> 2), step, newest: 40_000 + u16::from(bits >> 6) }
}

/// Changes some bytes of a datagram, and makes its length and FINGERPRINT right again.
fn change(script: &mut Script<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut body = bytes.get(..bytes.len().saturating_sub(8)).unwrap_or_default().to_vec();
    for _ in 0..script.byte() % 4 {
        let (at, value) = (usize::from(script.byte()) % body.len().max(1), script.byte());
        if let Some(place) = body.get_mut(at) {
            *place = value;
        }
    }
    let cut = usize::from(script.byte());
    if cut < 64 && HEADER + 4 * cut <= body.len() {
        body.truncate(HEADER + 4 * cut);
    }
    let length = (body.len() + 8).saturating_sub(HEADER) as u16;
    body.iter_mut().skip(2).zip(length.to_be_bytes()).for_each(|(place, byte)| *place = byte);
    let crc = crc32fast::hash(&body) ^ 0x5354_554e;
    body.extend_from_slice(&[0x80, 0x28, 0, 4]);
    body.extend_from_slice(&crc.to_be_bytes());
    body
}

/// Runs bytes as a sequence of operations on a node and on its model.
pub fn operations(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (mut world, mut peers) = (World::new(), Peers::default());
    while !script.0.is_empty() {
        let (what, whom) = (script.byte(), script.byte());
        let client = socket(CLIENTS[usize::from(whom & 7)]);
        match what % 16 {
            0..=4 => {
                let bytes = peers.register(&mut script, &world, client);
                peers.deliver(&mut world, whom >> 4, client, bytes);
            }
            5..=7 => {
                let bytes = peers.introduce(&mut script);
                peers.deliver(&mut world, whom >> 4, client, bytes);
            }
            8 => {
                if let Some((to, bytes)) = peers.answer(whom) {
                    let from = if whom & 0x80 == 0 { to } else { client };
                    peers.deliver(&mut world, whom >> 4, from, bytes);
                }
            }
            9 => {
                // Late, or twice, or from elsewhere.
                if let Some((from, bytes)) = peers.recent.get(usize::from(whom & 7)).cloned() {
                    let from = if whom & 0x80 == 0 { from } else { client };
                    peers.deliver(&mut world, whom >> 4, from, bytes);
                }
            }
            10 => world.pass(STEPS_MS[usize::from(whom & 15)], whom & 16 == 0),
            11 => peers.poll(&mut world),
            12 => {
                let standing = [Standing::Open, Standing::RelayOnly, Standing::Gone][usize::from(whom >> 4) % 3];
                world.stand(CHANNELS[usize::from(whom & 7) % CHANNELS.len()], standing);
            }
            13 => {
                let (from, bytes) = peers.recent.front().cloned().unwrap_or((client, Vec::new()));
                let bytes = change(&mut script, &bytes);
                peers.deliver(&mut world, whom, from, bytes);
            }
            14 => {
                let (noise, rest) = script.0.split_at(usize::from(whom).min(script.0.len()));
                script.0 = rest;
                let noise = noise.to_vec();
                peers.deliver(&mut world, whom, client, noise);
            }
            _ => match whom {
                0xff => world.restart(true),
                0xfe => world.restart(false),
                0xfd => world.forget(),
                _ => world.observe(usize::from(whom)),
            },
        }
    }
    peers.poll(&mut world);
    world.observe(usize::MAX);
}
