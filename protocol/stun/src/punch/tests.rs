use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use super::registrations::Registration as Registered;
use super::*;
use crate::credentials::NonceKey;
use crate::message::{
    AttributeType, ChannelId, ErrorCode, HEADER, Lifetime, Nat, Nonce, Padding, PeerId, Punch, Registration, Role,
    Software, Ticket, UnknownAttributes, XorMappedAddress,
};
use crate::nat::Behaviour;

const NODE: &str = "198.51.100.1:3478";
const A: &str = "192.0.2.1:1000";
const B: &str = "192.0.2.2:2000";
const ANN: [u8; 20] = *b"-SH0001-annannannann";
const BOB: [u8; 20] = *b"-SH0001-bobbobbobbob";

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Tickets are `session/last second`; `free` asks for none.
struct Channels(RefCell<Standing>);

impl Gate for Channels {
    fn admit(&self, channel: &str, ticket: Option<&str>, _: IpAddr, unix: u64) -> Result<Admission, Refused> {
        let tenant: Arc<str> = "acme".into();
        match (channel, ticket) {
            ("free" | "f", _) => Ok(Admission { tenant, session: None, expires_unix: None }),
            ("paid", None) => Err(Refused("missing")),
            ("paid", Some(ticket)) => {
                let (session, expires) = ticket.split_once('/').ok_or(Refused("malformed"))?;
                let expires = expires.parse().map_err(|_| Refused("malformed"))?;
                if expires < unix {
                    return Err(Refused("expired"));
                }
                Ok(Admission { tenant, session: Some(session.into()), expires_unix: Some(expires) })
            }
            _ => Err(Refused("channel")),
        }
    }

    fn standing(&self, _: &str) -> Standing {
        *self.0.borrow()
    }

    fn is_relay(&self, address: SocketAddr) -> bool {
        address.port() == 50_000
    }
}

fn nonces() -> Nonces {
    Nonces::new(vec![NonceKey { epoch: 1, secret: [7; 32] }], 600, false)
}

type Add<'a> = &'a dyn Fn(&mut Builder<'_>);

struct Lab {
    server: Server,
    gate: Channels,
    now: Now,
    count: u8,
}

/// A message that owns its bytes.
#[derive(Clone)]
struct Got(Vec<u8>);

impl Got {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    fn code(&self) -> u16 {
        self.message().read::<ErrorCode<'_>>().unwrap().map_or(0, |error| error.code)
    }

    fn reason(&self) -> String {
        self.message().read::<ErrorCode<'_>>().unwrap().map_or("", |error| error.reason).into()
    }

    fn nonce(&self) -> Option<String> {
        self.message().read::<Nonce<'_>>().unwrap().map(|nonce| nonce.0.into())
    }

    fn registration(&self) -> Registration {
        self.message().read().unwrap().unwrap()
    }

    fn lifetime(&self) -> u32 {
        self.message().read::<Lifetime>().unwrap().unwrap().0
    }

    fn punch(&self) -> Punch {
        self.message().read().unwrap().unwrap()
    }

    fn peer(&self) -> SocketAddr {
        self.message().read::<XorPeerAddress>().unwrap().unwrap().0
    }

    /// XOR-PEER-ADDRESS and XOR-RELAYED-ADDRESS.
    fn addresses(&self) -> [Option<SocketAddr>; 2] {
        let peer = self.message().read::<XorPeerAddress>().unwrap();
        let relayed = self.message().read::<XorRelayedAddress>().unwrap();
        [peer.map(|peer| peer.0), relayed.map(|relayed| relayed.0)]
    }
}

/// A request, filled up as it must be.
fn request(method: Method, transaction: u8, add: Add<'_>) -> Vec<u8> {
    let write = |padding: Option<usize>| {
        let mut out = vec![0; 1_500];
        let mut message = Builder::new(&mut out, method, Class::Request, TransactionId::new([transaction; 12]));
        add(&mut message);
        if let Some(bytes) = padding {
            message.add(&Padding(&vec![0; bytes]));
        }
        let length = message.fingerprint().finish().unwrap();
        out.truncate(length);
        out
    };
    let bare = write(None);
    let least = if method == Method::INTRODUCE { MIN_INTRODUCE } else { MIN_REQUEST };
    match least.checked_sub(bare.len()) {
        None | Some(0) => bare,
        Some(missing) => write(Some(missing - 4)),
    }
}

impl Lab {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let config = Config { shard: 0x0102, limits, seed: [3; 32] };
        Self {
            server: Server::new(&config, nonces()),
            gate: Channels(RefCell::new(Standing::Open)),
            now: Now { ms: 1_000, unix: 1_800_000_000 },
            count: 0,
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.ms += ms;
        self.now.unix = 1_800_000_000 + (self.now.ms - 1_000) / 1_000;
    }

    fn handle(&mut self, from: &str, datagram: &[u8]) -> (Outcome, Vec<u8>) {
        let mut out = vec![0; MAX_REPLY];
        let outcome = self.server.handle(self.now, socket(from), socket(NODE), datagram, &self.gate, &mut out);
        (outcome, out)
    }

    fn drop_reason(&mut self, from: &str, datagram: &[u8]) -> &'static str {
        match self.handle(from, datagram) {
            (Outcome::Dropped(dropped), _) => dropped.reason(),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// What comes back: no longer than what was asked, for the same transaction.
    fn answer(&mut self, from: &str, datagram: &[u8]) -> Got {
        let (outcome, mut out) = self.handle(from, datagram);
        let Outcome::Reply { length, proven } = outcome else { panic!("{outcome:?}") };
        assert!(length <= datagram.len(), "{length} for {}", datagram.len());
        out.truncate(length);
        let got = Got(out);
        let asked = Message::parse(datagram).unwrap();
        assert_eq!((got.message().method(), got.message().transaction_id()), (asked.method(), asked.transaction_id()));
        assert_eq!(got.message().fingerprint(), Fingerprint::Right);
        assert_eq!(proven, ![400, 401, 420, 438].contains(&got.code()));
        got
    }

    fn ask(&mut self, from: &str, method: Method, add: Add<'_>) -> Got {
        self.count += 1;
        let bytes = request(method, self.count, add);
        self.answer(from, &bytes)
    }

    /// Register with a nonce, after the challenge that is had for it.
    fn prove(&mut self, from: &str, peer: [u8; 20], add: Add<'_>) -> Got {
        let nonce = self.ask(from, Method::REGISTER, &|m| {
            m.add(&PeerId(peer)).add(&ChannelId("none of ours"));
        });
        let nonce = nonce.nonce().unwrap();
        self.ask(from, Method::REGISTER, &|m| {
            m.add(&PeerId(peer)).add(&Nonce(&nonce));
            add(m);
        })
    }

    fn register_in(&mut self, channel: &str, from: &str, peer: [u8; 20], nat: Nat) -> Registration {
        let got = self.prove(from, peer, &|m| {
            m.add(&ChannelId(channel)).add(&nat);
        });
        assert_eq!(got.code(), 0);
        got.registration()
    }

    fn register(&mut self, from: &str, peer: [u8; 20]) -> Registration {
        self.register_in("free", from, peer, Nat::default())
    }

    fn register_paid(&mut self, from: &str, peer: [u8; 20], ticket: &str, old: Option<Registration>) -> Got {
        self.prove(from, peer, &|m| {
            m.add(&ChannelId("paid")).add(&Ticket(ticket));
            if let Some(old) = &old {
                m.add(old);
            }
        })
    }

    fn renew(&mut self, from: &str, peer: [u8; 20], registration: Registration) -> Got {
        self.ask(from, Method::REGISTER, &|m| {
            m.add(&PeerId(peer)).add(&registration);
        })
    }

    fn introduce(&mut self, from: &str, peer: [u8; 20], registration: Registration, target: [u8; 20]) -> Got {
        self.ask(from, Method::INTRODUCE, &|m| {
            m.add(&PeerId(peer)).add(&registration).add(&Target(target));
        })
    }

    /// What is due to be sent.
    fn poll(&mut self) -> Vec<(SocketAddr, Got)> {
        let mut all = Vec::new();
        let mut out = [0; MAX_INTRODUCED];
        while let Some(Transmit { from, to, length }) = self.server.poll_transmit(self.now.ms, &mut out) {
            assert_eq!(from, socket(NODE));
            all.push((to, Got(out[..length].to_vec())));
        }
        all
    }

    fn told(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        let done = self.server.take_observations(100, |seen| {
            let Observation { tenant, channel, peer, address, nat, registered } = *seen;
            let name = std::str::from_utf8(&peer[8..11]).unwrap();
            all.push(format!("{tenant} {channel} {name} {address} {} {registered}", nat.step));
        });
        assert!(done);
        all
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.server.counters().refused().find(|(one, _)| *one == refusal).unwrap().1
    }
}

/// The answer of a peer to an Introduced request.
fn success(introduced: &Got) -> Vec<u8> {
    let mut out = vec![0; 40];
    let id = *introduced.message().transaction_id();
    let length = Builder::new(&mut out, Method::INTRODUCED, Class::Success, id).fingerprint().finish().unwrap();
    out.truncate(length);
    out
}

#[test]
fn an_address_is_proven_before_it_is_told_anything() {
    let mut lab = Lab::new();
    let bytes = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("f")).add(&Nat::default());
    });
    assert_eq!(bytes.len(), MIN_REQUEST, "the shortest there is");
    let challenge = lab.answer(A, &bytes);
    assert_eq!((challenge.code(), challenge.0.len()), (401, MIN_REQUEST));
    assert_eq!(challenge.reason(), "", "there is no room for it");
    assert_eq!(lab.server.registrations(), 0);

    let nonce = challenge.nonce().unwrap();
    let again = |m: &mut Builder<'_>| {
        m.add(&PeerId(ANN)).add(&ChannelId("f")).add(&Nat::default()).add(&Nonce(&nonce));
    };
    let elsewhere = lab.ask("192.0.2.1:1001", Method::REGISTER, &again);
    assert_eq!((elsewhere.code(), elsewhere.reason().as_str()), (438, "Stale Nonce"));
    let got = lab.ask(A, Method::REGISTER, &again);
    assert_eq!((got.code(), got.lifetime()), (0, 30));
    assert_eq!(got.message().read(), Ok(Some(XorMappedAddress(socket(A)))));
    assert_eq!(lab.server.registrations(), 1);

    lab.pass(601_000);
    assert_eq!(lab.ask(A, Method::REGISTER, &again).code(), 438, "too old");
    assert_eq!((lab.refused(Refusal::Unproven), lab.refused(Refusal::StaleNonce)), (1, 2));
}

#[test]
fn what_is_too_short_gets_no_nonce_and_never_more_than_it_is() {
    let mut lab = Lab::new();
    let short = |add: Add<'_>| {
        let mut out = vec![0; 100];
        let mut message = Builder::new(&mut out, Method::REGISTER, Class::Request, TransactionId::new([1; 12]));
        add(&mut message);
        let length = message.fingerprint().finish().unwrap();
        out.truncate(length);
        out
    };
    let bytes = short(&|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("f"));
    });
    let got = lab.answer(A, &bytes);
    assert_eq!((got.code(), got.nonce()), (400, None));
    let bare = short(&|_| ());
    assert_eq!(bare.len(), 28);
    assert_eq!(lab.drop_reason(A, &bare), "too_short");
}

#[test]
fn what_is_not_of_a_peer_is_dropped() {
    let mut lab = Lab::new();
    let good = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN));
    });
    assert_eq!(lab.drop_reason(A, &good[..good.len() - 1]), "not_punch");
    let mut wrong = good.clone();
    wrong[30] ^= 1;
    assert_eq!(lab.drop_reason(A, &wrong), "fingerprint");
    let mut without = good[..good.len() - 8].to_vec();
    without[3] -= 8;
    assert_eq!(lab.drop_reason(A, &without), "fingerprint");
    let mut classic = good;
    classic[4] = 0;
    assert_eq!(lab.drop_reason(A, &classic), "not_punch");
    let introduced = request(Method::INTRODUCED, 1, &|_| ());
    assert_eq!(lab.drop_reason(A, &introduced), "unexpected");
    let answer = success(&Got(introduced));
    assert_eq!(lab.drop_reason(A, &answer), "no_introduction");
    assert_eq!(lab.server.counters().dropped().map(|(_, count)| count).sum::<u64>(), 6);
}

#[test]
fn what_is_malformed_or_not_understood_is_said_so() {
    let mut lab = Lab::new();
    let code = |lab: &mut Lab, add: Add<'_>| lab.ask(A, Method::REGISTER, add).code();
    assert_eq!(
        code(&mut lab, &|m| {
            m.add(&ChannelId("free"));
        }),
        400,
        "no PEER-ID"
    );
    assert_eq!(
        code(&mut lab, &|m| {
            m.add(&PeerId(ANN)).add(&ChannelId(""));
        }),
        400
    );
    assert_eq!(
        code(&mut lab, &|m| {
            m.add(&PeerId(ANN)).add(&ChannelId(&"c".repeat(65)));
        }),
        400
    );
    assert_eq!(
        code(&mut lab, &|m| {
            m.add(&PeerId(ANN)).add(&Ticket(&"t".repeat(807)));
        }),
        400
    );
    assert_eq!(lab.prove(A, ANN, &|_| ()).code(), 400, "neither channel nor registration");
    let unknown = lab.ask(A, Method::REGISTER, &|m| {
        m.add(&PeerId(ANN)).add(&XorPeerAddress(socket(A))).add(&Software("passed over"));
    });
    assert_eq!(unknown.code(), 420);
    let list = unknown.message().read::<UnknownAttributes<'_>>().unwrap().unwrap();
    assert_eq!(list.types().collect::<Vec<_>>(), [AttributeType::XOR_PEER_ADDRESS]);
    let many = lab.ask(A, Method::INTRODUCE, &|m| {
        for _ in 0..30 {
            m.add(&XorPeerAddress(socket(A)));
        }
    });
    assert_eq!(many.code(), 420);
}

#[test]
fn a_registration_lasts_while_it_is_renewed() {
    let mut lab = Lab::new();
    let registration = lab.register(A, ANN);
    for _ in 0..4 {
        lab.pass(15_000);
        let got = lab.renew(A, ANN, registration);
        assert_eq!((got.code(), got.lifetime(), got.registration()), (0, 30, registration));
    }
    lab.pass(29_999);
    assert_eq!(lab.server.registrations(), 1);
    assert_eq!(lab.server.next_deadline(), Some(lab.now.ms + 1));
    lab.pass(1);
    let gone = lab.renew(A, ANN, registration);
    assert_eq!(gone.code(), 401);
    assert!(gone.nonce().is_some(), "to begin anew with");
    assert_eq!((lab.server.registrations(), lab.server.next_deadline()), (0, None));

    let registration = lab.register(A, ANN);
    let end = |m: &mut Builder<'_>| {
        m.add(&PeerId(ANN)).add(&registration).add(&Lifetime(0));
    };
    let got = lab.ask(A, Method::REGISTER, &end);
    assert_eq!((got.code(), got.lifetime()), (0, 0));
    assert_eq!(lab.server.registrations(), 0);
    assert_eq!(lab.ask(A, Method::REGISTER, &end).code(), 401, "it had ended before");
}

#[test]
fn a_registration_ends_with_its_ticket() {
    let mut lab = Lab::new();
    let unix = lab.now.unix;
    let missing = lab.prove(A, ANN, &|m| {
        m.add(&ChannelId("paid"));
    });
    assert_eq!((missing.code(), missing.reason().as_str()), (403, "missing"));
    let got = lab.register_paid(A, ANN, &format!("s/{}", unix + 9), None);
    assert_eq!((got.code(), got.lifetime()), (0, 10), "the last second counts");
    lab.pass(5_000);
    let registration = got.registration();
    assert_eq!(lab.renew(A, ANN, registration).lifetime(), 5, "no longer than the ticket");
    let with = |ticket: String| {
        move |m: &mut Builder<'_>| {
            m.add(&PeerId(ANN)).add(&registration).add(&Ticket(&ticket));
        }
    };
    let refused = lab.ask(A, Method::REGISTER, &with(format!("s/{}", unix - 1)));
    assert_eq!((refused.code(), refused.reason().as_str()), (403, "expired"));
    assert_eq!(lab.server.registrations(), 1, "it has what it had");
    assert_eq!(lab.ask(A, Method::REGISTER, &with(format!("s/{}", unix + 900))).lifetime(), 30);
    lab.pass(29_000);
    assert_eq!(lab.server.registrations(), 1);
    let gate: Vec<_> = lab.server.counters().refused_by_gate().collect();
    assert_eq!(gate, [("expired", 1), ("missing", 1)]);
}

#[test]
fn another_process_knows_nothing_of_registrations_and_all_of_nonces() {
    let mut lab = Lab::new();
    let registration = lab.register(A, ANN);
    lab.server = Server::new(&Config { shard: 0x0102, limits: Limits::default(), seed: [4; 32] }, nonces());
    let got = lab.renew(A, ANN, registration);
    assert_eq!(got.code(), 401);
    let nonce = got.nonce().unwrap();
    let got = lab.ask(A, Method::REGISTER, &|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("free")).add(&Nonce(&nonce)).add(&registration);
    });
    assert_eq!(got.code(), 0);
    assert_ne!(got.registration(), registration);
}

#[test]
fn a_peer_id_is_one_peers_until_it_ends_and_may_move_with_a_proof() {
    let mut lab = Lab::new();
    let first = lab.register(A, ANN);
    let claim = |lab: &mut Lab, old: Option<Registration>| {
        lab.prove(B, ANN, &|m| {
            m.add(&ChannelId("free"));
            if let Some(old) = &old {
                m.add(old);
            }
        })
    };
    assert_eq!(claim(&mut lab, None).code(), 403);
    assert_eq!(lab.renew(B, ANN, first).code(), 401, "the address is not proven");
    assert_eq!(lab.renew(A, BOB, first).code(), 401, "it is another's");
    let mut guess = first;
    guess.0[15] ^= 1;
    assert_eq!(lab.renew(A, ANN, guess).code(), 401);
    assert_eq!(claim(&mut lab, Some(guess)).code(), 403);
    let moved = claim(&mut lab, Some(first)).registration();
    assert_ne!(moved, first);
    assert_eq!(lab.server.registrations(), 1);
    assert_eq!(lab.renew(A, ANN, first).code(), 401);
    assert_eq!(claim(&mut lab, Some(first)).registration(), moved, "the answer was lost");
    assert_eq!(lab.register(B, ANN), moved, "the same address, begun anew");

    // The same of a session; without one, tickets prove nothing of whose a registration is.
    let until = lab.now.unix + 1_000;
    let one = lab.register_paid(A, BOB, &format!("s/{until}"), None).registration();
    assert_eq!(lab.register_paid(B, BOB, &format!("t/{until}"), None).code(), 403);
    assert_eq!(lab.register_paid(B, BOB, &format!("t/{until}"), Some(one)).code(), 0);
    assert_eq!(lab.register_paid(A, BOB, &format!("t/{until}"), None).code(), 0);
    assert_eq!(lab.register_paid(A, ANN, &format!("/{until}"), None).code(), 0);
    assert_eq!(lab.register_paid(B, ANN, &format!("/{until}"), None).code(), 403, "no session");
    // In another channel it is another.
    assert_eq!(lab.server.registrations(), 3);
}

#[test]
fn both_are_told_by_one_key() {
    let mut lab = Lab::new();
    let step = Nat {
        mapping: Some(Behaviour::AddressAndPortDependent),
        filtering: Some(Behaviour::AddressAndPortDependent),
        step: -2,
        newest: 4_000,
    };
    let ann = lab.register_in("free", A, ANN, step);
    let bob = lab.register(B, BOB);
    assert!(lab.poll().is_empty());
    let got = lab.introduce(A, ANN, ann, BOB);
    assert_eq!((got.code(), got.peer()), (0, socket(B)));
    assert_eq!(got.message().read(), Ok(Some(Nat::default())));
    let key = got.punch().key;
    assert_eq!(got.punch(), Punch { key, start_ms: 200, role: Role::Controlling });

    let mut sent = Vec::new();
    for at in [0, 100, 200, 400] {
        assert_eq!(lab.server.next_deadline(), Some(1_000 + at));
        lab.now.ms = 1_000 + at;
        let mut due = lab.poll();
        assert_eq!(due.len(), 1);
        let (to, introduced) = due.remove(0);
        assert_eq!(to, socket(B));
        assert!(introduced.0.len() <= MAX_INTRODUCED);
        let message = introduced.message();
        assert_eq!((message.method(), message.class()), (Method::INTRODUCED, Class::Request));
        assert_eq!(message.fingerprint(), Fingerprint::Right);
        assert_eq!(message.read(), Ok(Some(Target(ANN))));
        assert_eq!(message.read(), Ok(Some(step)));
        assert_eq!(introduced.registration(), bob, "by which it knows the node");
        assert_eq!(introduced.peer(), socket(A));
        let start_ms = 200_u64.saturating_sub(at) as u16;
        assert_eq!(introduced.punch(), Punch { key, start_ms, role: Role::Controlled });
        sent.push(introduced);
    }
    assert!(sent.iter().all(|one| one.message().transaction_id() == sent[0].message().transaction_id()));
    lab.pass(600);
    assert!(lab.poll().is_empty(), "no more than four");
    assert_eq!(lab.server.introductions(), 1);
    lab.now.ms = 1_000 + INTRODUCTION_MS;
    assert!(lab.poll().is_empty());
    assert_eq!(lab.server.introductions(), 0);
    let counters = lab.server.counters();
    assert_eq!((counters.introductions, counters.introduced, counters.unanswered), (1, 4, 1));

    assert_eq!(lab.renew(B, BOB, bob).code(), 0);
    assert_ne!(lab.introduce(A, ANN, ann, BOB).punch().key, key, "another introduction, another key");
}

#[test]
fn the_longest_answers_are_no_longer_than_the_shortest_requests() {
    let mut lab = Lab::new();
    let (a, b, relay) = ("[2001:db8::1]:1000", "[2001:db8::2]:1000", socket("[2001:db8:9::9]:50000"));
    let mut registrations = Vec::new();
    for (from, peer) in [(a, ANN), (b, BOB)] {
        let got = lab.prove(from, peer, &|m| {
            m.add(&ChannelId("f")).add(&XorRelayedAddress(relay));
        });
        registrations.push(got.registration());
    }
    // Lab::answer has compared the lengths.
    let got = lab.introduce(a, ANN, registrations[0], BOB);
    assert_eq!(got.0.len(), MIN_INTRODUCE);
    assert_eq!(lab.poll().remove(0).1.0.len(), MAX_INTRODUCED);
    assert_eq!(lab.renew(b, BOB, registrations[1]).0.len(), MIN_REQUEST);
}

#[test]
fn whoever_answers_is_not_told_again() {
    let mut lab = Lab::new();
    let (ann, _) = (lab.register(A, ANN), lab.register(B, BOB));
    lab.introduce(A, ANN, ann, BOB);
    let introduced = lab.poll().remove(0).1;
    let answer = success(&introduced);
    assert_eq!(lab.drop_reason(A, &answer), "no_introduction", "it was not asked");
    let mut guess = answer.clone();
    guess[19] ^= 1;
    let guess = success(&Got(guess));
    assert_eq!(lab.drop_reason(B, &guess), "no_introduction");
    assert_eq!(lab.handle(B, &answer).0, Outcome::Done);
    assert_eq!(lab.handle(B, &answer).0, Outcome::Done, "twice");
    lab.pass(1_000);
    assert!(lab.poll().is_empty());
    assert_eq!(lab.server.counters().answered, 1);
    lab.pass(INTRODUCTION_MS);
    assert!(lab.poll().is_empty());
    assert_eq!(lab.server.counters().unanswered, 0);
    assert_eq!(lab.drop_reason(B, &answer), "no_introduction", "it is over");
}

#[test]
fn who_asks_again_or_asks_back_gets_the_same() {
    let mut lab = Lab::new();
    let (ann, bob) = (lab.register(A, ANN), lab.register(B, BOB));
    let first = lab.introduce(A, ANN, ann, BOB).punch();
    lab.pass(150);
    assert_eq!(lab.introduce(A, ANN, ann, BOB).punch(), Punch { start_ms: 50, ..first });
    let back = lab.introduce(B, BOB, bob, ANN);
    assert_eq!(back.punch(), Punch { start_ms: 50, role: Role::Controlled, ..first });
    assert_eq!(back.peer(), socket(A));
    lab.pass(1_000);
    assert_eq!(lab.introduce(A, ANN, ann, BOB).punch(), Punch { start_ms: 0, ..first });
    let due = lab.poll();
    assert_eq!(due.len(), 1, "late, and not all four at once");
    assert!(due.iter().all(|(to, _)| *to == socket(B)));
    assert_eq!((lab.server.introductions(), lab.server.counters().introductions), (1, 1));
}

#[test]
fn who_has_moved_or_gone_is_not_told_of() {
    let mut lab = Lab::new();
    let (ann, bob) = (lab.register(A, ANN), lab.register(B, BOB));
    let first = lab.introduce(A, ANN, ann, BOB).punch();
    let moved = lab.prove("192.0.2.3:3000", BOB, &|m| {
        m.add(&ChannelId("free")).add(&bob);
    });
    assert_eq!(moved.code(), 0);
    assert!(lab.poll().is_empty(), "where it was, nobody is told");
    let second = lab.introduce(A, ANN, ann, BOB);
    assert_ne!(second.punch().key, first.key);
    assert_eq!(second.peer(), socket("192.0.2.3:3000"));
    assert_eq!(lab.poll().remove(0).0, socket("192.0.2.3:3000"));
    // The asker ends: its target is not told where it was.
    lab.ask(A, Method::REGISTER, &|m| {
        m.add(&PeerId(ANN)).add(&ann).add(&Lifetime(0));
    });
    lab.pass(100);
    assert!(lab.poll().is_empty());
    assert_eq!(lab.introduce(A, ANN, ann, BOB).code(), 401);
}

#[test]
fn who_cannot_be_introduced_is_told_why() {
    let mut lab = Lab::new();
    let symmetric = Nat {
        mapping: Some(Behaviour::AddressAndPortDependent),
        filtering: Some(Behaviour::AddressAndPortDependent),
        ..Nat::default()
    };
    let ann = lab.register_in("free", A, ANN, symmetric);
    let peer = |name: u8| [name; 20];
    lab.register_in("f", B, peer(1), Nat::default());
    lab.register_in("free", B, peer(2), symmetric);
    lab.register_in("free", "[2001:db8::1]:1000", peer(3), Nat::default());
    lab.register_in("free", B, peer(4), Nat::default());
    assert_eq!(lab.introduce(A, ANN, ann, BOB).code(), 404);
    assert_eq!(lab.introduce(A, ANN, ann, peer(1)).code(), 404, "in another channel");
    assert_eq!(lab.introduce(A, ANN, ann, peer(2)).code(), 409, "neither lets the other in");
    assert_eq!(lab.introduce(A, ANN, ann, peer(3)).code(), 409, "IPv6");
    assert_eq!(lab.introduce(A, ANN, ann, ANN).code(), 400);
    assert_eq!(lab.introduce(B, ANN, ann, peer(4)).code(), 401, "not from there");
    assert_eq!(lab.introduce(A, BOB, ann, peer(4)).code(), 401, "not its own");
    assert!(lab.poll().is_empty());
    lab.gate.0.replace(Standing::RelayOnly);
    assert_eq!(lab.introduce(A, ANN, ann, peer(4)).code(), 409);
    assert_eq!(lab.introduce(A, ANN, ann, BOB).code(), 404);
    lab.gate.0.replace(Standing::Open);
    assert_eq!(lab.introduce(A, ANN, ann, peer(4)).code(), 0);
    lab.gate.0.replace(Standing::Gone);
    assert_eq!(lab.introduce(A, ANN, ann, peer(4)).code(), 403);
    assert_eq!(lab.renew(A, ANN, ann).code(), 401, "it was ended");
    assert_eq!(lab.server.registrations(), 4);
}

#[test]
fn who_cannot_connect_is_introduced_with_a_relayed_address() {
    let mut lab = Lab::new();
    let symmetric = Nat {
        mapping: Some(Behaviour::AddressAndPortDependent),
        filtering: Some(Behaviour::AddressAndPortDependent),
        ..Nat::default()
    };
    let ann = lab.register_in("free", A, ANN, symmetric);
    let bob = lab.register_in("free", B, BOB, symmetric);
    let relay = socket("198.51.100.9:50000");
    let tell = |lab: &mut Lab, from: &str, peer: [u8; 20], registration: Registration, relayed: Option<SocketAddr>| {
        let got = lab.ask(from, Method::REGISTER, &|m| {
            m.add(&PeerId(peer)).add(&registration);
            if let Some(relayed) = relayed {
                m.add(&XorRelayedAddress(relayed));
            }
        });
        got.code()
    };
    assert_eq!(lab.introduce(A, ANN, ann, BOB).code(), 409);
    assert_eq!(tell(&mut lab, A, ANN, ann, Some(socket("192.0.2.9:80"))), 403, "anybody's");
    assert_eq!(tell(&mut lab, A, ANN, ann, Some(relay)), 0);
    let first = lab.introduce(A, ANN, ann, BOB);
    assert_eq!(first.addresses(), [Some(socket(B)), None]);
    assert_eq!(lab.poll().remove(0).1.addresses(), [Some(socket(A)), Some(relay)]);
    assert_eq!(tell(&mut lab, A, ANN, ann, Some(relay)), 0);
    assert_eq!(lab.introduce(A, ANN, ann, BOB).punch(), first.punch(), "nothing has changed");

    // The other has one too: that is another introduction, and the first is over.
    assert_eq!(tell(&mut lab, B, BOB, bob, Some(relay)), 0);
    lab.pass(100);
    assert!(lab.poll().is_empty(), "the first one's terms are not those of now");
    let second = lab.introduce(B, BOB, bob, ANN);
    assert_ne!(second.punch().key, first.punch().key);
    assert_eq!((second.punch().role, second.addresses()), (Role::Controlling, [Some(socket(A)), Some(relay)]));
    assert_eq!(lab.server.introductions(), 1);
    lab.gate.0.replace(Standing::RelayOnly);
    let third = lab.introduce(A, ANN, ann, BOB);
    assert_eq!((third.code(), third.addresses()), (0, [None, Some(relay)]));
    let introduced = lab.poll().remove(0).1;
    assert_eq!(introduced.addresses(), [None, Some(relay)]);
    assert_eq!(introduced.punch().key, third.punch().key);
    // Without it in the next Register it is none any more.
    assert_eq!(tell(&mut lab, B, BOB, bob, None), 0);
    assert_eq!(lab.introduce(A, ANN, ann, BOB).code(), 409);
}

#[test]
fn introductions_have_rates_and_a_limit() {
    let peer = |number: u8| [number; 20];
    let one = |per_second, burst| Rate { per_second, burst };
    let none = one(0, 1);
    let limits = |limits: &dyn Fn(&mut Limits)| {
        let mut all = Limits {
            introductions_per_peer: none,
            introductions_per_address: none,
            introductions_per_target: none,
            ..Limits::default()
        };
        limits(&mut all);
        let mut lab = Lab::with(all);
        let (ann, bob) = (lab.register(A, ANN), lab.register("192.0.2.1:1001", BOB));
        for number in 0..9 {
            lab.register(&format!("192.0.2.2:{}", 2_000 + u16::from(number)), peer(number));
        }
        (lab, ann, bob)
    };
    let code = |lab: &mut Lab, who: [u8; 20], registration, target| {
        let from = if who == ANN { A } else { "192.0.2.1:1001" };
        lab.introduce(from, who, registration, target).code()
    };

    let (mut lab, ann, bob) = limits(&|limits| limits.introductions_per_peer = one(1, 2));
    assert_eq!([0, 1, 2].map(|number| code(&mut lab, ANN, ann, peer(number))), [0, 0, 429]);
    assert_eq!(code(&mut lab, ANN, ann, peer(0)), 0, "the same again is none more");
    assert_eq!(code(&mut lab, BOB, bob, peer(0)), 0, "another peer");
    lab.pass(1_000);
    assert_eq!([2, 3].map(|number| code(&mut lab, ANN, ann, peer(number))), [0, 429]);
    lab.pass(1_000);
    assert_eq!([100, 101].map(|number| code(&mut lab, ANN, ann, peer(number))), [404, 429], "guesses count");

    let (mut lab, ann, bob) = limits(&|limits| limits.introductions_per_address = one(1, 2));
    assert_eq!(code(&mut lab, ANN, ann, peer(0)), 0);
    assert_eq!([1, 2].map(|number| code(&mut lab, BOB, bob, peer(number))), [0, 429]);
    assert_eq!(lab.refused(Refusal::AddressRate), 1);

    let (mut lab, ann, bob) = limits(&|limits| limits.introductions_per_target = one(1, 1));
    assert_eq!(code(&mut lab, ANN, ann, peer(0)), 0);
    assert_eq!([0, 1].map(|number| code(&mut lab, BOB, bob, peer(number))), [429, 0]);
    lab.pass(1_000);
    assert_eq!(code(&mut lab, BOB, bob, peer(0)), 0);

    let (mut lab, ann, _) = limits(&|limits| limits.introductions = 3);
    assert_eq!([0, 1, 2, 3].map(|number| code(&mut lab, ANN, ann, peer(number))), [0, 0, 0, 508]);
    lab.pass(INTRODUCTION_MS);
    lab.poll();
    assert_eq!(code(&mut lab, ANN, ann, peer(3)), 0);
}

#[test]
fn registrations_have_limits() {
    // Beside the slot: two short texts, and what finds it, also when each table has just been doubled.
    let texts = 64 + 32 + 2 * 16;
    let tables = 2 * (2 * size_of::<u32>() + size_of::<(u64, u32)>() + size_of::<(u128, u32)>());
    assert!(slots::Slots::<Registered>::PLACE + texts + tables < 512);
    let limits = Limits { registrations: 4, registrations_per_address: 2, ..Limits::default() };
    let mut lab = Lab::with(limits);
    let claim = |lab: &mut Lab, from: &str, peer: [u8; 20], old: Option<Registration>| {
        lab.prove(from, peer, &|m| {
            m.add(&ChannelId("free"));
            if let Some(old) = &old {
                m.add(old);
            }
        })
    };
    let first = claim(&mut lab, "[2001:db8::1]:1", [1; 20], None).registration();
    assert_eq!(claim(&mut lab, "[2001:db8::2]:1", [2; 20], None).code(), 0);
    assert_eq!(claim(&mut lab, "[2001:db8::3]:1", [3; 20], None).code(), 508, "one network");
    let moved = claim(&mut lab, "[2001:db8::4]:1", [1; 20], Some(first));
    assert_eq!(moved.code(), 0, "it makes room for itself");
    let third = claim(&mut lab, A, [4; 20], None).registration();
    assert_eq!(claim(&mut lab, "[2001:db8::5]:1", [4; 20], Some(third)).code(), 508);
    assert_eq!(lab.renew(A, [4; 20], third).code(), 0, "it has stayed where it was");
    assert_eq!(claim(&mut lab, B, [5; 20], None).code(), 0);
    assert_eq!(claim(&mut lab, B, [6; 20], None).code(), 508, "the shard");
    assert_eq!((lab.refused(Refusal::AddressFull), lab.refused(Refusal::Full)), (2, 1));
    lab.pass(LIFETIME_MS);
    lab.server.advance(lab.now.ms);
    assert_eq!(lab.server.registrations(), 0);
    assert_eq!(claim(&mut lab, "[2001:db8::3]:1", [3; 20], None).code(), 0);

    let mut lab = Lab::with(Limits { admissions_per_address: Rate { per_second: 1, burst: 2 }, ..Limits::default() });
    let codes = [1, 2, 3].map(|number| claim(&mut lab, A, [number; 20], None).code());
    assert_eq!(codes, [0, 0, 429]);
}

#[test]
fn what_is_observed_is_how_it_is_at_last() {
    let mut lab = Lab::with(Limits { ended: 1, ..Limits::default() });
    let ann = lab.register(A, ANN);
    assert_eq!(lab.told(), ["acme free ann 192.0.2.1:1000 0 true"]);
    lab.pass(15_000);
    lab.renew(A, ANN, ann);
    assert!(lab.told().is_empty(), "nothing has changed");
    for step in [1, 2] {
        let nat = Nat { step, newest: 4_000, ..Nat::default() };
        lab.ask(A, Method::REGISTER, &|m| {
            m.add(&PeerId(ANN)).add(&ann).add(&nat);
        });
    }
    assert_eq!(lab.told(), ["acme free ann 192.0.2.1:1000 2 true"]);
    lab.prove(B, ANN, &|m| {
        m.add(&ChannelId("free")).add(&ann);
    });
    assert_eq!(lab.told(), ["acme free ann 192.0.2.2:2000 0 true"], "it has moved, and never went");
    // Who came and went between is not told of.
    let bob = lab.register(A, BOB);
    lab.ask(A, Method::REGISTER, &|m| {
        m.add(&PeerId(BOB)).add(&bob).add(&Lifetime(0));
    });
    assert!(lab.told().is_empty());
    lab.register(A, BOB);
    lab.told();
    lab.server.observe_again();
    lab.server.observe_again();
    assert_eq!(lab.told().len(), 2);
    lab.pass(LIFETIME_MS);
    lab.register(B, BOB);
    assert_eq!(lab.server.counters().observations_lost, 1, "two ended, one is kept");
    let mut all = Vec::new();
    assert!(!lab.server.take_observations(1, |seen| all.push((*seen.peer, seen.registered))));
    assert!(lab.server.take_observations(1, |seen| all.push((*seen.peer, seen.registered))));
    assert_eq!(all, [(ANN, false), (BOB, true)]);
}

#[test]
fn a_datagram_is_its_channels_shards() {
    let (seed, shards) = (77, 8);
    let owner = shard_of_channel("free", seed, shards);
    let config = Config { shard: owner, limits: Limits::default(), seed: [3; 32] };
    let mut lab = Lab::new();
    lab.server = Server::new(&config, nonces());
    let of = |bytes: &[u8]| {
        assert!(is_punch(bytes));
        shard_of(bytes, seed, shards)
    };
    let first = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("free"));
    });
    assert_eq!(of(&first), None, "each can challenge it");
    let proven = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("free")).add(&Nonce("whatever"));
    });
    assert_eq!(of(&proven), Some(owner));
    let (ann, bob) = (lab.register(A, ANN), lab.register(B, BOB));
    let moves = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&ChannelId("other")).add(&ann);
    });
    assert_eq!(of(&moves), Some(shard_of_channel("other", seed, shards)));
    let renewal = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&ann);
    });
    assert_eq!(of(&renewal), Some(owner));
    let asks = request(Method::INTRODUCE, 1, &|m| {
        m.add(&PeerId(BOB)).add(&bob).add(&Target(ANN));
    });
    assert_eq!(of(&asks), Some(owner));
    lab.answer(B, &asks);
    let introduced = lab.poll().remove(0).1;
    assert_eq!(of(&success(&introduced)), Some(owner));
    assert_eq!(of(&introduced.0), None, "no peer sends it");
    let mut strange = ann;
    strange.0[0] = 0xff;
    let strange = request(Method::REGISTER, 1, &|m| {
        m.add(&PeerId(ANN)).add(&strange);
    });
    assert_eq!(of(&strange), None, "there is no such shard");
    let counts = (0..4_000).fold([0; 8], |mut counts, number| {
        counts[usize::from(shard_of_channel(&format!("channel-{number}"), seed, shards))] += 1;
        counts
    });
    assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");

    let binding = request(Method::BINDING, 1, &|_| ());
    assert!(!is_punch(&binding) && !is_punch(&renewal[..7]) && !is_punch(&[]));
    assert_eq!(shard_of(&binding, seed, shards), None);
    assert_eq!(shard_of(&renewal[..HEADER], seed, shards), None);
}
