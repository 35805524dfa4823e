//! Binding requests, and whether their responses are right.

use std::net::SocketAddr;

use shoal_stun::message::{Builder, Class, HEADER, Message, Method, TransactionId, XorMappedAddress};

use super::engine::Load;
use super::stamp::Stamp;

/// Requests from each of some clients to a server.
#[derive(Debug)]
pub struct Bindings {
    server: SocketAddr,
    /// In the order of their ends.
    clients: Vec<SocketAddr>,
}

impl Bindings {
    /// `clients` are the addresses of the first ends, in their order.
    pub fn new(server: SocketAddr, clients: Vec<SocketAddr>) -> Self {
        Self { server, clients }
    }
}

/// Run, lane and number as a transaction's id; their sum shows one that is not ours.
fn id(stamp: Stamp) -> TransactionId {
    let [a, b] = (stamp.run as u16).to_be_bytes();
    let [c, d] = (stamp.lane as u16).to_be_bytes();
    let [e, f, g, h] = (stamp.number as u32).to_be_bytes();
    let [i, j, k, l] = sum(stamp).to_be_bytes();
    TransactionId::new([a, b, c, d, e, f, g, h, i, j, k, l])
}

fn sum(stamp: Stamp) -> u32 {
    (stamp.run ^ stamp.lane.rotate_left(16) ^ stamp.number as u32).wrapping_mul(0x9e37_79b1)
}

impl Load for Bindings {
    fn lanes(&self) -> usize {
        self.clients.len()
    }

    fn from(&self, lane: usize) -> usize {
        lane
    }

    fn to(&self, _: usize) -> SocketAddr {
        self.server
    }

    fn at(&self, lane: usize) -> usize {
        lane
    }

    fn len(&self, _: usize) -> usize {
        HEADER
    }

    fn write(&self, stamp: Stamp, out: &mut [u8]) {
        // There is room for a header, and there is nothing else.
        let _ = Builder::new(out, Method::BINDING, Class::Request, id(stamp)).finish();
    }

    fn read(&self, end: usize, source: SocketAddr, datagram: &[u8]) -> Result<Stamp, String> {
        let message = Message::parse(datagram).map_err(|error| error.to_string())?;
        let [_, _, _, _, a, b, c, d, e, f, g, h, i, j, k, l] = *message.transaction_id().as_bytes();
        let stamp = Stamp {
            run: u16::from_be_bytes([a, b]).into(),
            lane: u16::from_be_bytes([c, d]).into(),
            number: u32::from_be_bytes([e, f, g, h]).into(),
            at: 0,
        };
        let ours = u32::from_be_bytes([i, j, k, l]) == sum(stamp) && !message.transaction_id().is_classic();
        if !ours || stamp.lane as usize != end || source != self.server {
            return Err(format!("{message:?} from {source} answers nothing that was asked from there"));
        }
        let mapped = message.read::<XorMappedAddress>().ok().flatten().map(|mapped| mapped.0);
        let granted = (message.method(), message.class()) == (Method::BINDING, Class::Success);
        if !granted || mapped.is_none() || mapped != self.clients.get(end).copied() {
            return Err(format!("{message:?} does not say our address, but {mapped:?}"));
        }
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 9, lane: 1, number: 70_000, at: 0 };

    fn response(class: Class, id: TransactionId, mapped: SocketAddr) -> Vec<u8> {
        let mut bytes = [0; 100];
        let len = Builder::new(&mut bytes, Method::BINDING, class, id).add(&XorMappedAddress(mapped)).finish().unwrap();
        bytes[..len].to_vec()
    }

    #[test]
    fn a_request_is_a_header_and_its_response_is_known_again() {
        let [server, first, second] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let load = Bindings::new(server, vec![first, second]);
        let mut request = [0; HEADER];
        load.write(STAMP, &mut request);
        let request = Message::parse(&request).unwrap();
        assert_eq!((request.method(), request.class()), (Method::BINDING, Class::Request));
        let good = response(Class::Success, *request.transaction_id(), second);
        assert_eq!(load.read(1, server, &good), Ok(STAMP));
        assert!(load.read(0, server, &good).is_err());
        assert!(load.read(1, first, &good).is_err());
        assert!(load.read(1, server, &response(Class::Success, *request.transaction_id(), first)).is_err());
        assert!(load.read(1, server, &response(Class::Error, *request.transaction_id(), second)).is_err());
        assert!(load.read(1, server, &response(Class::Success, TransactionId::new([7; 12]), second)).is_err());
        assert!(load.read(1, server, b"junk").is_err());
    }
}
