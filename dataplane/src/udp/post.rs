//! What shards hand to one another of UDP: seldom, for the kernel gives a client's datagrams to one shard and always the same.
//!
//! A reserved port belongs to the shard that reserved it, and the client that comes for it with its token may be another shard's;
//! peers of a channel are known to the channel's shard; what the partner node says comes to the first shard; and frames come to the shard
//! that has their queue. Each shard has one bounded box for all of that. When it is full what comes next is dropped, as if the network had.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use crossbeam::queue::ArrayQueue;
use shoal_frame::Hop;
use shoal_sys::doorbell::Doorbell;

/// Things that a shard's box holds.
const BOX: usize = 4_096;

/// One of them.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A datagram that is this shard's to answer.
    Datagram {
        /// Who handed it over.
        from: u16,
        /// Place of the address that it came to, the same on all shards.
        endpoint: u16,
        /// Where it came from.
        source: SocketAddr,
        /// All of it.
        bytes: Box<[u8]>,
    },
    /// One that came to another shard than its owner's.
    Flow {
        /// Where it came to.
        to: SocketAddr,
        /// Where it came from.
        source: SocketAddr,
        /// By which way, if by a frame.
        hop: Option<Hop>,
        /// All of it.
        bytes: Box<[u8]>,
    },
    /// The client's allocation is the sender's: hand over what comes from it.
    Guest {
        /// The shard that has it.
        owner: u16,
        /// Place of the address that the client sends to.
        endpoint: u16,
        /// The client.
        client: SocketAddr,
    },
    /// How the partner is.
    Partner {
        /// Its addresses, IPv4 and IPv6.
        addresses: [Option<IpAddr>; 2],
        /// Until when that counts, by the node's clock.
        until_ms: u64,
    },
    /// Ask the partner to send something.
    Ask {
        /// The partner's port that it is to come from.
        from: u16,
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Box<[u8]>,
    },
}

/// All boxes.
pub(crate) struct PostOffice {
    boxes: Vec<ArrayQueue<Mail>>,
    bells: Vec<OnceLock<Doorbell>>,
}

impl PostOffice {
    /// For so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            boxes: (0..shards).map(|_| ArrayQueue::new(BOX)).collect(),
            bells: (0..shards).map(|_| OnceLock::new()).collect(),
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.boxes.len()
    }

    /// Says how a shard is woken.
    pub(crate) fn open(&self, shard: usize, bell: Doorbell) {
        if let Some(place) = self.bells.get(shard) {
            // A shard has one bell, and says so once.
            let _ = place.set(bell);
        }
    }

    /// Puts something into a shard's box; false when that is full.
    #[must_use]
    pub(crate) fn send(&self, to: usize, mail: Mail) -> bool {
        let sent = self.boxes.get(to).is_some_and(|own| own.push(mail).is_ok());
        if let Some(bell) = self.bells.get(to).and_then(OnceLock::get).filter(|_| sent) {
            bell.ring();
        }
        sent
    }

    /// Takes what is in a shard's box.
    pub(crate) fn take(&self, shard: usize) -> Option<Mail> {
        self.boxes.get(shard)?.pop()
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self, shard: usize) -> bool {
        self.boxes.get(shard).is_none_or(ArrayQueue::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_box_takes_no_more_and_others_do() {
        let office = PostOffice::new(2);
        let mail = || Mail::Partner { addresses: [None; 2], until_ms: 0 };
        assert!((0..BOX).all(|_| office.send(0, mail())));
        assert!(!office.send(0, mail()));
        assert!(office.send(1, mail()));
        assert!(!office.send(2, mail()), "there is no such shard");
        assert!(office.take(0).is_some() && office.send(0, mail()));
        assert!(!office.is_empty(0) && office.is_empty(2));
    }
}
