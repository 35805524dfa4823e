//! A TURN client on a stream, which blocks.

use std::io::{Read, Write};
use std::net::SocketAddr;

use shoal_stun::credentials::{Key, PasswordAlgorithm, time_limited_password};
use shoal_stun::message::{
    Builder, ChannelNumber, Class, ErrorCode, Frame, Integrity, Message, Method, Nonce, Realm, RequestedTransport,
    TransactionId, Username, XorPeerAddress, XorRelayedAddress, channel_data_header, next_frame,
};

pub(super) const SECRET: &str = "a secret of sixteen or more";
const NAME: &str = "9999999999:viewer";

pub(super) struct Client<S> {
    pub(super) stream: S,
    received: Vec<u8>,
    /// Realm and nonce.
    known: Option<(String, String)>,
    asked: u8,
}

impl<S: Read + Write> Client<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, received: Vec::new(), known: None, asked: 0 }
    }

    /// The next message; none when the server has closed.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Frame::Whole(length)) = next_frame(&self.received) {
                return Some(self.received.drain(..length).collect());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend_from_slice(&bytes[..read]),
            }
        }
    }

    pub(super) fn request(&mut self, method: Method, add: impl Fn(&mut Builder<'_>)) -> Vec<u8> {
        self.asked += 1;
        let mut out = vec![0; 1000];
        let mut builder = Builder::new(&mut out, method, Class::Request, TransactionId::new([self.asked; 12]));
        add(&mut builder);
        if let Some((realm, nonce)) = &self.known {
            let password = time_limited_password(SECRET.as_bytes(), NAME);
            let password = std::str::from_utf8(&password).unwrap();
            let key = Key::long_term(PasswordAlgorithm::Md5, NAME, realm, password);
            builder.add(&Username(NAME)).add(&Realm(realm)).add(&Nonce(nonce));
            builder.integrity(Integrity::Sha1, key.as_bytes());
        }
        let length = builder.finish().unwrap();
        out.truncate(length);
        out
    }

    /// Asks, by a second request if it has to know realm and nonce first. Its answer.
    pub(super) fn ask(&mut self, method: Method, add: impl Fn(&mut Builder<'_>)) -> Vec<u8> {
        loop {
            let request = self.request(method, &add);
            self.stream.write_all(&request).unwrap();
            let answer = self.next().unwrap();
            let message = Message::parse(&answer).unwrap();
            assert_eq!(*message.transaction_id(), TransactionId::new([self.asked; 12]));
            if code(&message) != 401 || self.known.is_some() {
                return answer;
            }
            let realm = message.read::<Realm<'_>>().unwrap().unwrap().0.to_owned();
            self.known = Some((realm, message.read::<Nonce<'_>>().unwrap().unwrap().0.to_owned()));
        }
    }

    /// Where it relays from.
    pub(super) fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask(Method::ALLOCATE, |request| {
            request.add(&RequestedTransport(17));
        });
        let message = Message::parse(&answer).unwrap();
        assert_eq!(code(&message), 0);
        message.read::<XorRelayedAddress>().unwrap().unwrap().0
    }

    pub(super) fn permit(&mut self, peer: SocketAddr) {
        let answer = self.ask(Method::CREATE_PERMISSION, |request| {
            request.add(&XorPeerAddress(peer));
        });
        assert_eq!(code(&Message::parse(&answer).unwrap()), 0);
    }

    pub(super) fn bind(&mut self, number: u16, peer: SocketAddr) {
        let answer = self.ask(Method::CHANNEL_BIND, |request| {
            request.add(&ChannelNumber(number)).add(&XorPeerAddress(peer));
        });
        assert_eq!(code(&Message::parse(&answer).unwrap()), 0);
    }
}

/// The code of an error; 0 of a success.
pub(super) fn code(message: &Message<'_>) -> u16 {
    message.read::<ErrorCode<'_>>().unwrap().map_or(0, |error| error.code)
}

/// ChannelData as it travels on a stream.
pub(super) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = channel_data_header(number, data.len() as u16).to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
