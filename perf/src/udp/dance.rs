//! A TURN client's requests over UDP (RFC 8656), with long-term credentials (RFC 8489 section 9.2). No I/O, no clock.

use std::net::SocketAddr;

use shoal_stun::credentials::{Key, PasswordAlgorithm};
use shoal_stun::message::{
    Builder, ChannelNumber, Class, ErrorCode, Integrity, Lifetime, Message, Method, Nonce, Realm, RequestedTransport,
    TransactionId, Username, XorPeerAddress, XorRelayedAddress,
};

/// Bytes of a request at most.
pub const REQUEST_MAX: usize = 1400;

/// IP's number for UDP.
const UDP: u8 = 17;

/// Nonces of one request that may be refused.
const REFUSALS: u32 = 3;

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// An allocation.
    Allocate,
    /// That this peer may send.
    Permit(SocketAddr),
    /// A channel for this peer.
    Bind(u16, SocketAddr),
    /// The allocation's end.
    Release,
}

/// What came of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was granted.
    Granted,
    /// The same has to be asked for again, with what the server has said now.
    Again,
    /// An allocation that was there before us is in the way; it may end.
    Later,
    /// No answer to what was asked last.
    Other,
}

/// Why a request cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The server said so.
    #[error("{asked:?} was refused: {code} {reason}")]
    Error {
        /// What was asked for.
        asked: Ask,
        /// The code.
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// Realm, nonce, relayed address or integrity is missing or wrong.
    #[error("the response to {0:?} lacks what it needs, or is not signed with our key")]
    Malformed(Ask),
}

/// One client's side of its five-tuple.
#[derive(Debug)]
pub struct Client {
    username: String,
    password: String,
    /// Of this client alone, for transactions' ids.
    seed: u32,
    asked: u64,
    open: Option<(Ask, TransactionId)>,
    /// The last request.
    last: Vec<u8>,
    refusals: u32,
    /// Realm, nonce and key, once the server has named them.
    known: Option<(String, String, Key)>,
    relayed: Option<SocketAddr>,
}

impl Client {
    /// Nothing asked yet.
    pub fn new(username: &str, password: &str, seed: u32) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
            seed,
            asked: 0,
            open: None,
            last: Vec::new(),
            refusals: 0,
            known: None,
            relayed: None,
        }
    }

    /// The address that the allocation relays from.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// A new request for something.
    pub fn request(&mut self, ask: Ask) -> Vec<u8> {
        if self.open.is_none_or(|(open, _)| open != ask) {
            self.refusals = 0;
        }
        self.asked += 1;
        let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (self.seed.to_be_bytes(), self.asked.to_be_bytes());
        let id = TransactionId::new([a, b, c, d, e, f, g, h, i, j, k, l]);
        self.open = Some((ask, id));
        let method = match ask {
            Ask::Allocate => Method::ALLOCATE,
            Ask::Permit(_) => Method::CREATE_PERMISSION,
            Ask::Bind(..) => Method::CHANNEL_BIND,
            Ask::Release => Method::REFRESH,
        };
        let mut bytes = vec![0; REQUEST_MAX];
        let mut builder = Builder::new(&mut bytes, method, Class::Request, id);
        match ask {
            Ask::Allocate => builder.add(&RequestedTransport(UDP)),
            Ask::Permit(peer) => builder.add(&XorPeerAddress(peer)),
            Ask::Bind(channel, peer) => builder.add(&ChannelNumber(channel)).add(&XorPeerAddress(peer)),
            Ask::Release => builder.add(&Lifetime(0)),
        };
        if let Some((realm, nonce, key)) = &self.known {
            builder.add(&Username(&self.username)).add(&Realm(realm)).add(&Nonce(nonce));
            builder.integrity(Integrity::Sha1, key.as_bytes());
        }
        // A realm and a nonce of the longest possible have room.
        let len = builder.finish().unwrap_or_default();
        bytes.truncate(len);
        self.last.clone_from(&bytes);
        bytes
    }

    /// The same request while no answer has come (RFC 8489 section 6.2.1: so a late answer is still one), else a new one.
    pub fn repeat(&mut self, ask: Ask) -> Vec<u8> {
        if self.open.is_some_and(|(open, _)| open == ask) { self.last.clone() } else { self.request(ask) }
    }

    /// Takes what came from the server.
    ///
    /// # Errors
    /// What was asked for will not be granted.
    pub fn handle(&mut self, datagram: &[u8]) -> Result<Step, Refused> {
        let Ok(message) = Message::parse(datagram) else { return Ok(Step::Other) };
        let Some((ask, _)) = self.open.filter(|(_, id)| id == message.transaction_id()) else { return Ok(Step::Other) };
        let malformed = || Refused::Malformed(ask);
        match message.class() {
            Class::Success => {
                let (_, _, key) = self.known.as_ref().ok_or_else(malformed)?;
                if !message.verify(Integrity::Sha1, key.as_bytes()) {
                    return Err(malformed());
                }
                if ask == Ask::Allocate {
                    let relayed = message.read::<XorRelayedAddress>().ok().flatten().ok_or_else(malformed)?;
                    self.relayed = Some(relayed.0);
                }
                self.open = None;
                Ok(Step::Granted)
            }
            Class::Error => {
                let error = message.read::<ErrorCode<'_>>().ok().flatten().ok_or_else(malformed)?;
                if error.code == ErrorCode::ALLOCATION_MISMATCH.code && ask == Ask::Allocate {
                    self.open = None;
                    return Ok(Step::Later);
                }
                let challenged =
                    error.code == 401 && self.known.is_none() || error.code == 438 && self.refusals < REFUSALS;
                if !challenged {
                    return Err(Refused::Error { asked: ask, code: error.code, reason: error.reason.to_owned() });
                }
                self.refusals += 1;
                let realm = message.read::<Realm<'_>>().ok().flatten().ok_or_else(malformed)?.0.to_owned();
                let nonce = message.read::<Nonce<'_>>().ok().flatten().ok_or_else(malformed)?.0.to_owned();
                let key = Key::long_term(PasswordAlgorithm::Md5, &self.username, &realm, &self.password);
                self.known = Some((realm, nonce, key));
                Ok(Step::Again)
            }
            Class::Request | Class::Indication => Ok(Step::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAYED: &str = "192.0.2.1:50000";

    /// A server that knows one user.
    fn answer(request: &[u8], nonce: &str, password: &str) -> Vec<u8> {
        let message = Message::parse(request).unwrap();
        let key = Key::long_term(PasswordAlgorithm::Md5, "u", "realm", password);
        let right = message.verify(Integrity::Sha1, key.as_bytes());
        let fresh = message.read::<Nonce<'_>>().unwrap() == Some(Nonce(nonce));
        let mut bytes = vec![0; 500];
        let class = if right && fresh { Class::Success } else { Class::Error };
        let mut builder = Builder::new(&mut bytes, message.method(), class, *message.transaction_id());
        if right && fresh {
            builder.add(&XorRelayedAddress(RELAYED.parse().unwrap())).integrity(Integrity::Sha1, key.as_bytes());
        } else {
            let error = if right { ErrorCode::STALE_NONCE } else { ErrorCode::UNAUTHORIZED };
            builder.add(&error).add(&Realm("realm")).add(&Nonce(nonce));
        }
        let len = builder.finish().unwrap();
        bytes.truncate(len);
        bytes
    }

    fn allocated() -> Client {
        let mut client = Client::new("u", "p", 1);
        let request = client.request(Ask::Allocate);
        assert_eq!(client.handle(&answer(&request, "n1", "p")).unwrap(), Step::Again);
        let request = client.request(Ask::Allocate);
        assert_eq!(client.handle(&answer(&request, "n1", "p")).unwrap(), Step::Granted);
        client
    }

    #[test]
    fn an_allocation_takes_a_challenge_and_an_answer() {
        assert_eq!(allocated().relayed(), Some(RELAYED.parse().unwrap()));
    }

    #[test]
    fn a_stale_nonce_is_replaced_and_a_server_that_knows_no_other_way_is_left() {
        let mut client = allocated();
        let ask = Ask::Bind(0x4000, "192.0.2.9:9".parse().unwrap());
        let request = client.request(ask);
        assert_eq!(client.handle(&answer(&request, "n2", "p")).unwrap(), Step::Again);
        let request = client.request(ask);
        assert_eq!(client.handle(&answer(&request, "n2", "p")).unwrap(), Step::Granted);
        for n in 0..REFUSALS {
            let request = client.request(Ask::Release);
            assert_eq!(client.handle(&answer(&request, &format!("m{n}"), "p")).unwrap(), Step::Again);
        }
        let request = client.request(Ask::Release);
        assert!(matches!(client.handle(&answer(&request, "m", "p")), Err(Refused::Error { code: 438, .. })));
    }

    #[test]
    fn a_request_is_repeated_until_it_is_answered() {
        let mut client = Client::new("u", "p", 1);
        let request = client.request(Ask::Allocate);
        assert_eq!(client.repeat(Ask::Allocate), request);
        // An answer to either is one to both.
        assert_eq!(client.handle(&answer(&request, "n", "p")).unwrap(), Step::Again);
        let request = client.request(Ask::Allocate);
        assert_eq!(client.handle(&answer(&request, "n", "p")).unwrap(), Step::Granted);
        assert_ne!(client.repeat(Ask::Allocate), request);
    }

    #[test]
    fn wrong_passwords_are_refused_and_unsigned_grants_too() {
        let mut client = Client::new("u", "p", 1);
        let request = client.request(Ask::Allocate);
        client.handle(&answer(&request, "n", "other")).unwrap();
        let request = client.request(Ask::Allocate);
        assert!(matches!(client.handle(&answer(&request, "n", "other")), Err(Refused::Error { code: 401, .. })));
        let mut client = allocated();
        let request = client.request(Ask::Release);
        let id = *Message::parse(&request).unwrap().transaction_id();
        let mut bytes = [0; 20];
        Builder::new(&mut bytes, Method::REFRESH, Class::Success, id).finish().unwrap();
        assert!(matches!(client.handle(&bytes), Err(Refused::Malformed(Ask::Release))));
    }

    #[test]
    fn an_allocation_in_the_way_is_waited_for_and_nothing_else_is() {
        for (ask, waits) in [(Ask::Allocate, true), (Ask::Release, false)] {
            let mut client = Client::new("u", "p", 1);
            let request = client.request(ask);
            let id = *Message::parse(&request).unwrap().transaction_id();
            let mut bytes = [0; 100];
            let mut builder = Builder::new(&mut bytes, Method::ALLOCATE, Class::Error, id);
            let len = builder.add(&ErrorCode::ALLOCATION_MISMATCH).finish().unwrap();
            let step = client.handle(&bytes[..len]);
            assert_eq!(matches!(step, Ok(Step::Later)), waits, "{step:?}");
            // What was answered is not asked in the same words.
            assert!(!waits || client.repeat(ask) != request);
            assert_eq!(step.is_err(), !waits);
        }
    }

    #[test]
    fn what_answers_nothing_is_passed_over() {
        let mut client = allocated();
        let first = client.request(Ask::Release);
        let _second = client.request(Ask::Release);
        assert_eq!(client.handle(&answer(&first, "n1", "p")).unwrap(), Step::Other);
        assert_eq!(client.handle(b"junk").unwrap(), Step::Other);
    }
}
