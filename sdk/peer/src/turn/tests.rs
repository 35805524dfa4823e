use super::*;

const RELAYED: &str = "192.0.2.1:50000";
const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn peer() -> SocketAddr {
    socket("198.51.100.2:2000")
}

/// A server that knows one user, whose nonce may change.
struct Fake {
    nonce: &'static str,
    password: &'static str,
    offers: bool,
}

impl Fake {
    fn key(&self) -> Key {
        let algorithm = if self.offers { PasswordAlgorithm::Sha256 } else { PasswordAlgorithm::Md5 };
        Key::long_term(algorithm, "u", "realm", self.password)
    }

    /// Grants what is signed, with a lifetime of ten minutes.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let message = Message::parse(request).unwrap();
        let integrity = if self.offers { Integrity::Sha256 } else { Integrity::Sha1 };
        let right = message.verify(integrity, self.key().as_bytes());
        let fresh = message.read::<Nonce<'_>>().unwrap() == Some(Nonce(self.nonce));
        if right && self.offers {
            assert_eq!(message.read::<PasswordAlgorithms<'_>>().unwrap(), Some(PasswordAlgorithms(&OFFER)));
            assert_eq!(message.read::<PasswordAlgorithmValue<'_>>().unwrap().unwrap().number, 2);
        }
        let mut bytes = vec![0; MAX_DATAGRAM];
        let class = if right && fresh { Class::Success } else { Class::Error };
        let mut builder = Builder::new(&mut bytes, message.method(), class, *message.transaction_id());
        if right && fresh {
            builder.add(&XorRelayedAddress(socket(RELAYED))).add(&XorMappedAddress(socket("198.51.100.1:1000")));
            builder.add(&Lifetime(600)).integrity(integrity, self.key().as_bytes());
        } else {
            let error = if right { ErrorCode::STALE_NONCE } else { ErrorCode::UNAUTHORIZED };
            builder.add(&error).add(&Realm("realm")).add(&Nonce(self.nonce));
            if self.offers {
                builder.add(&PasswordAlgorithms(&OFFER));
            }
        }
        let length = builder.fingerprint().finish().unwrap();
        bytes.truncate(length);
        bytes
    }

    /// Answers everything that is due at `now`; gives the methods.
    fn serve(&self, relay: &mut Relay, now: u64) -> Vec<Method> {
        let mut random = Random::new([now, 3]);
        let mut out = vec![0; MAX_DATAGRAM];
        let mut methods = Vec::new();
        while let Some(length) = relay.poll_transmit(now, &mut random, &mut out) {
            methods.push(Message::parse(&out[..length]).unwrap().method());
            let answer = self.answer(&out[..length]);
            assert!(relay.handle(now, &Message::parse(&answer).unwrap()));
        }
        methods
    }
}

const SERVER: Fake = Fake { nonce: "n1", password: "p", offers: true };

fn relay() -> Relay {
    let account = Account { server: socket("192.0.2.1:3478"), user: "u".to_owned(), password: "p".to_owned() };
    Relay::new(account)
}

fn allocated() -> Relay {
    let mut relay = relay();
    relay.allocate();
    relay.allocate();
    assert_eq!(SERVER.serve(&mut relay, 0), [Method::ALLOCATE; 2], "a challenge and an answer");
    let mapped = socket("198.51.100.1:1000");
    assert_eq!(relay.poll_event(), Some(Event::Allocated { relayed: socket(RELAYED), mapped }));
    relay
}

#[test]
fn an_allocation_is_made_with_either_algorithm() {
    assert_eq!(allocated().relayed(), Some(socket(RELAYED)));
    let mut relay = relay();
    relay.allocate();
    Fake { offers: false, ..SERVER }.serve(&mut relay, 0);
    assert_eq!(relay.relayed(), Some(socket(RELAYED)));
}

#[test]
fn wrong_passwords_stale_nonces_and_unsigned_answers() {
    let mut other = relay();
    other.allocate();
    assert_eq!(Fake { password: "other", ..SERVER }.serve(&mut other, 0).len(), 2);
    let Some(Event::Failed(Some(refusal))) = other.poll_event() else { panic!("it was refused") };
    assert_eq!((refusal.code, other.relayed()), (401, None));

    let mut relay = allocated();
    relay.permit(peer().ip());
    let methods = Fake { nonce: "n2", ..SERVER }.serve(&mut relay, 1);
    assert_eq!(methods, [Method::CREATE_PERMISSION; 2], "once more with the new nonce");

    relay.bind(peer());
    let mut out = vec![0; MAX_DATAGRAM];
    let length = relay.poll_transmit(2, &mut Random::new([1, 1]), &mut out).unwrap();
    let id = *Message::parse(&out[..length]).unwrap().transaction_id();
    let length = Builder::new(&mut out, Method::CHANNEL_BIND, Class::Success, id).finish().unwrap();
    assert!(!relay.handle(2, &Message::parse(&out[..length]).unwrap()), "anybody could have sent that");
}

#[test]
fn what_would_end_is_renewed_in_time() {
    let mut relay = allocated();
    relay.permit(peer().ip());
    relay.permit(peer().ip());
    relay.bind(peer());
    let methods = SERVER.serve(&mut relay, 0);
    assert_eq!(methods, [Method::CREATE_PERMISSION, Method::CHANNEL_BIND]);
    let mut renewed = Vec::new();
    while let Some(at) = relay.next_deadline().filter(|at| *at <= 600_000) {
        let methods = SERVER.serve(&mut relay, at);
        assert!(!methods.is_empty());
        renewed.extend(methods.into_iter().map(|method| (at / 1_000, method)));
    }
    let both = |at| [(at, Method::CREATE_PERMISSION), (at, Method::CHANNEL_BIND)];
    let refresh = |at| [(at, Method::REFRESH)];
    assert_eq!(renewed, [&both(240)[..], &refresh(300), &both(480), &refresh(600)].concat());
    assert!(relay.poll_event().is_none());
}

#[test]
fn payloads_are_wrapped_in_an_indication_and_later_in_a_channel() {
    let mut relay = allocated();
    let (mut random, mut out) = (Random::new([5, 5]), vec![0; MAX_DATAGRAM]);
    let length = relay.wrap(peer(), b"hello", &mut random, &mut out).unwrap();
    let send = Message::parse(&out[..length]).unwrap();
    assert_eq!((send.method(), send.class()), (Method::SEND, Class::Indication));
    assert_eq!((send.read().unwrap(), send.read().unwrap()), (Some(XorPeerAddress(peer())), Some(Data(b"hello"))));

    relay.bind(peer());
    SERVER.serve(&mut relay, 0);
    let length = relay.wrap(peer(), b"hello", &mut random, &mut out).unwrap();
    assert_eq!(out[..length], [&[0x40, 0, 0, 5][..], b"hello"].concat());
    assert_eq!(relay.unwrap(&out[..length]), Some((peer(), &b"hello"[..])));
    assert_eq!(relay.unwrap(&[0x40, 1, 0, 0]), None, "nobody's channel");

    let id = random.transaction();
    let mut data = Builder::new(&mut out, Method::DATA, Class::Indication, id);
    let length = data.add(&XorPeerAddress(peer())).add(&Data(b"back")).finish().unwrap();
    assert_eq!(relay.unwrap(&out[..length]), Some((peer(), &b"back"[..])));
    assert_eq!(self::relay().unwrap(&out[..length]), None, "without an allocation there is nothing to come");
    assert_eq!(self::relay().wrap(peer(), b"hello", &mut random, &mut out), None);
}

#[test]
fn an_end_is_asked_for_and_a_silent_server_does_not_hold_anybody_up() {
    let mut relay = allocated();
    relay.permit(peer().ip());
    relay.release();
    assert_eq!(SERVER.serve(&mut relay, 0), [Method::REFRESH]);
    assert!(relay.is_idle() && relay.relayed().is_none() && relay.next_deadline().is_none());
    let mut nothing = self::relay();
    nothing.release();
    assert!(nothing.is_idle());

    let mut relay = self::relay();
    relay.allocate();
    let (mut random, mut out) = (Random::new([5, 5]), vec![0; MAX_DATAGRAM]);
    while let Some(at) = relay.next_deadline() {
        relay.poll_transmit(at, &mut random, &mut out);
    }
    assert_eq!(relay.poll_event(), Some(Event::Failed(None)));
}
