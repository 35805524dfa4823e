//! What leaves at the end of a batch.
//!
//! Datagrams of one length from one socket to one place leave as one train (UDP_SEGMENT), also when they came one by one and
//! with others between them: the kernel's way out costs about as much for a train as for a datagram. So what a batch has for one
//! client, or for one peer, is put together here; between flows the order may change, within one it stays.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use shoal_stun::turn::{RelayId, Way};
use shoal_sys::udp::{MESSAGE_MAX, SEGMENTS_MAX, SendBatch, Sent};

/// Longest datagrams that are put together: longer ones may not fit a path of Ethernet's 1500 bytes, with IPv6 and UDP in
/// front, and the kernel refuses a train of what it would have to cut into fragments.
const JOINED_MAX: usize = 1452;

/// Messages handed out together: as many as one system call takes.
const LEAVING_MAX: usize = 64;

/// Places for what was last sent to whom.
const REPLY_PLACES: usize = 256;

/// The socket that something leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum From {
    /// One that clients send to, by its place in the list.
    Endpoint(usize),
    /// A relay's.
    Relay(RelayId),
}

/// What was relayed, so that it can be taken back.
type Relayed = Option<(RelayId, Way)>;

/// What an [`Outbox`] held, in the order of sockets.
pub(super) struct Sorted<'b> {
    messages: Vec<Message>,
    /// Numbers of messages.
    order: Vec<u32>,
    /// Of each message, the place of its first datagram in `parts`.
    starts: Vec<usize>,
    parts: Vec<[&'b [u8]; 3]>,
    /// How much of `order` has gone.
    next: usize,
    batch: SendBatch<'b>,
}

/// A message that may leave some other way.
pub(super) struct Offered<'o, 'b> {
    /// Which socket it would leave by.
    pub(super) from: From,
    /// Where to.
    pub(super) to: SocketAddr,
    /// Bytes of each datagram but the last, which may be shorter.
    pub(super) segment: usize,
    /// Bytes of all.
    pub(super) bytes: usize,
    /// Each datagram, in parts.
    pub(super) datagrams: &'o [[&'b [u8]; 3]],
}

/// What leaves by one socket.
pub(super) struct Leaving<'o, 'b> {
    /// Which socket.
    pub(super) from: From,
    /// Whether it must not be cut into fragments.
    pub(super) dont_fragment: bool,
    /// Messages, with those that have left some other way.
    offered: usize,
    batch: &'o mut SendBatch<'b>,
    /// The messages in `batch` are those of these numbers.
    numbers: &'o [u32],
    messages: &'o [Message],
}

impl Leaving<'_, '_> {
    /// Hands them to the kernel, and says of what it did not take whose it is, as [`lost`] does.
    pub(super) fn send(&mut self, socket: impl AsFd, mut not_sent: impl FnMut(RelayId, Way, u64, u64, u64)) -> Sent {
        let Self { batch, numbers, messages, .. } = self;
        batch.send_reporting(socket, |nth, datagrams, bytes| {
            let message = numbers.get(nth).map(|number| &messages[*number as usize]);
            if let Some((relay, way, payload, heads)) = message.and_then(|message| lost(message, datagrams, bytes)) {
                not_sent(relay, way, datagrams, payload, heads);
            }
        })
    }

    /// How many messages they are, with those that have left some other way.
    pub(super) fn messages(&self) -> usize {
        self.offered
    }

    /// How many datagrams they are.
    pub(super) fn datagrams(&self) -> u64 {
        self.numbers.iter().map(|number| self.messages[*number as usize].datagrams as u64).sum()
    }
}

/// Whose a message is that was not taken, or not whole: the relay, the way, and of `bytes` in `datagrams` those of payloads and of
/// headers.
fn lost(message: &Message, datagrams: u64, bytes: u64) -> Option<(RelayId, Way, u64, u64)> {
    let (relay, way) = message.relayed?;
    let heads = datagrams * message.head as u64;
    // Padding is of the whole message; of a part of it, it is a part.
    let padding = message.padding as u64 * datagrams / message.datagrams.max(1) as u64;
    Some((relay, way, bytes.saturating_sub(heads + padding), heads))
}

struct Message {
    from: From,
    to: SocketAddr,
    relayed: Relayed,
    /// Bytes of each datagram but the last.
    segment: usize,
    datagrams: usize,
    bytes: usize,
    /// Bytes in front of each payload, and behind all of them.
    head: usize,
    padding: usize,
    dont_fragment: bool,
    /// The last datagram is shorter, or there is no room for another.
    closed: bool,
}

struct Datagram<'b> {
    message: u32,
    parts: [&'b [u8]; 3],
}

/// The message that the last datagram of a relay went into, for each direction, by the relay's index. It outlives a batch, to
/// be used again.
pub(super) struct Open {
    places: Vec<[u32; 2]>,
    /// The same for replies, by a few bits of their destination: two that share a place only miss each other's trains.
    replies: [u32; REPLY_PLACES],
}

impl Default for Open {
    fn default() -> Self {
        Self { places: Vec::new(), replies: [0; REPLY_PLACES] }
    }
}

/// Datagrams to send, in parts that are borrowed: from what came in, and from a buffer that is cut into pieces.
pub(super) struct Outbox<'b> {
    spare: &'b mut [u8],
    messages: Vec<Message>,
    datagrams: Vec<Datagram<'b>>,
    open: &'b mut Open,
}

impl<'b> Outbox<'b> {
    pub(super) fn new(buffer: &'b mut [u8], open: &'b mut Open, expected: usize) -> Self {
        Self { spare: buffer, messages: Vec::with_capacity(expected), datagrams: Vec::with_capacity(expected), open }
    }

    /// Bytes that are left to write to.
    pub(super) fn room(&self) -> usize {
        self.spare.len()
    }

    /// Where a reply is written, before it is known how long it is.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        self.spare
    }

    /// Keeps the first `length` bytes of what was written there.
    pub(super) fn keep(&mut self, length: usize) -> &'b [u8] {
        let spare = std::mem::take(&mut self.spare);
        let (kept, rest) = spare.split_at_mut(length.min(spare.len()));
        self.spare = rest;
        kept
    }

    /// Keeps a copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> &'b [u8] {
        let length = bytes.len().min(self.spare.len());
        self.spare[..length].copy_from_slice(&bytes[..length]);
        self.keep(length)
    }

    /// Adds a datagram that nobody relays.
    pub(super) fn reply(&mut self, endpoint: usize, to: SocketAddr, datagram: &'b [u8]) {
        let place = reply_place(to);
        let candidate = self.open.replies[place] as usize;
        self.open.replies[place] =
            self.push(candidate, From::Endpoint(endpoint), to, None, [&[], datagram, &[]], false);
    }

    /// Adds a datagram of a relay: its head, its payload, its padding.
    pub(super) fn relay(&mut self, from: From, to: SocketAddr, (relay, way): (RelayId, Way), parts: [&'b [u8]; 3]) {
        if self.open.places.len() <= relay.index() {
            self.open.places.resize(relay.index() + 1, [0; 2]);
        }
        let candidate = self.open.places[relay.index()][way as usize] as usize;
        let message = self.push(candidate, from, to, Some((relay, way)), parts, false);
        self.open.places[relay.index()][way as usize] = message;
    }

    /// The same by itself, and never in fragments.
    pub(super) fn relay_whole(&mut self, from: From, to: SocketAddr, relayed: (RelayId, Way), payload: &'b [u8]) {
        self.push(usize::MAX, from, to, Some(relayed), [&[], payload, &[]], true);
    }

    /// Adds it to the candidate if that is its train (it may be any number, also one of a batch before), else to a new one.
    fn push(
        &mut self,
        candidate: usize,
        from: From,
        to: SocketAddr,
        relayed: Relayed,
        parts: [&'b [u8]; 3],
        dont_fragment: bool,
    ) -> u32 {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let [head, _, padding] = parts.map(<[u8]>::len);
        let fits = |message: &Message| {
            !message.closed
                && message.from == from
                && message.to == to
                && message.relayed == relayed
                && length <= message.segment
                && head == message.head
                && message.bytes + length <= MESSAGE_MAX
        };
        let index = match self.messages.get_mut(candidate) {
            Some(message) if length > 0 && fits(message) => {
                message.datagrams += 1;
                message.bytes += length;
                message.padding += padding;
                message.closed = length < message.segment || message.datagrams == SEGMENTS_MAX;
                candidate
            }
            _ => {
                let closed = dont_fragment || length == 0 || length > JOINED_MAX;
                let message = Message {
                    from,
                    to,
                    relayed,
                    segment: length,
                    datagrams: 1,
                    bytes: length,
                    head,
                    padding,
                    dont_fragment,
                    closed,
                };
                self.messages.push(message);
                self.messages.len() - 1
            }
        } as u32;
        self.datagrams.push(Datagram { message: index, parts });
        index
    }

    /// Everything, sorted by socket; of one socket in the order in which it was added.
    pub(super) fn sort(self) -> Sorted<'b> {
        let Self { messages, datagrams, .. } = self;
        let mut order: Vec<u32> = (0..messages.len() as u32).collect();
        order.sort_by_key(|number| messages[*number as usize].from);
        // Where each message's datagrams begin when they are put in order.
        let mut starts = Vec::with_capacity(messages.len());
        let mut next = 0;
        for message in &messages {
            starts.push(next);
            next += message.datagrams;
        }
        let mut parts: Vec<[&'b [u8]; 3]> = vec![[&[], &[], &[]]; datagrams.len()];
        let mut filled = starts.clone();
        for datagram in datagrams {
            let place = &mut filled[datagram.message as usize];
            parts[*place] = datagram.parts;
            *place += 1;
        }
        Sorted { messages, order, starts, parts, next: 0, batch: SendBatch::default() }
    }
}

impl<'b> Sorted<'b> {
    /// The next messages of one socket, at most [`LEAVING_MAX`]; those apart that must not be cut into fragments. The others are offered
    /// to `take`, and do not leave by the socket if it takes them.
    pub(super) fn next(&mut self, mut take: impl FnMut(&Offered<'_, 'b>) -> bool) -> Option<Leaving<'_, 'b>> {
        // What was left in there must not go out by another socket.
        self.batch.clear();
        let left = &self.order[self.next..];
        let first = &self.messages[*left.first()? as usize];
        let (from, dont_fragment) = (first.from, first.dont_fragment);
        let same = |number: &&u32| {
            let message = &self.messages[**number as usize];
            message.from == from && message.dont_fragment == dont_fragment
        };
        let count = left.iter().take(LEAVING_MAX).take_while(same).count();
        let first = self.next;
        self.next += count;
        let mut kept = first;
        for at in first..self.next {
            let number = self.order[at];
            let message = &self.messages[number as usize];
            let start = self.starts[number as usize];
            let datagrams = &self.parts[start..start + message.datagrams];
            let Message { from, to, segment, bytes, .. } = *message;
            if !dont_fragment && take(&Offered { from, to, segment, bytes, datagrams }) {
                continue;
            }
            self.order[kept] = number;
            kept += 1;
            // An empty datagram is one part of no bytes.
            let parts = datagrams.iter().flatten().copied().filter(|part| bytes == 0 || !part.is_empty());
            self.batch.push(to, parts, segment);
        }
        let numbers = &self.order[first..kept];
        let (batch, messages) = (&mut self.batch, &self.messages);
        Some(Leaving { from, dont_fragment, offered: count, batch, numbers, messages })
    }
}

fn reply_place(to: SocketAddr) -> usize {
    let ip = match to {
        SocketAddr::V4(to) => to.ip().to_bits(),
        SocketAddr::V6(to) => to.ip().to_bits() as u32,
    };
    // Clients behind one address differ in their ports, those of one network in the last bits of their addresses.
    let mixed = (ip ^ u32::from(to.port()) << 16 ^ u32::from(to.port())).wrapping_mul(0x9e37_79b1);
    mixed as usize >> 24
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fill: impl for<'b> FnOnce(&mut Outbox<'b>)) -> Vec<(From, usize, u64)> {
        let (mut buffer, mut open) = ([0; 64], Open::default());
        let mut out = Outbox::new(&mut buffer, &mut open, 8);
        fill(&mut out);
        let (mut sent, mut sorted) = (Vec::new(), out.sort());
        while let Some(leaving) = sorted.next(|_| false) {
            sent.push((leaving.from, leaving.messages(), leaving.datagrams()));
        }
        sent
    }

    #[test]
    fn what_goes_one_way_is_one_message_also_with_others_between() {
        let [a, b]: [SocketAddr; 2] = ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap());
        let (one, two) = (RelayId::from_bits(2), RelayId::from_bits(4));
        let sent = sent(|out| {
            for _ in 0..3 {
                out.relay(From::Relay(one), a, (one, Way::ToPeer), [&[], b"1234", &[]]);
                out.relay(From::Relay(two), b, (two, Way::ToPeer), [&[], b"1234", &[]]);
            }
            // Shorter ends the train, longer begins another, and a third peer has its own.
            out.relay(From::Relay(one), a, (one, Way::ToPeer), [&[], b"12", &[]]);
            out.relay(From::Relay(one), a, (one, Way::ToPeer), [&[], b"1234", &[]]);
            out.relay(From::Relay(one), b, (one, Way::ToPeer), [&[], b"1234", &[]]);
            out.relay_whole(From::Relay(one), b, (one, Way::ToPeer), b"1234");
        });
        assert_eq!(sent, [(From::Relay(one), 3, 6), (From::Relay(one), 1, 1), (From::Relay(two), 1, 3)]);
    }

    #[test]
    fn replies_to_one_client_are_one_train() {
        let to = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let (mut buffer, mut open) = ([0; 64], Open::default());
        let mut out = Outbox::new(&mut buffer, &mut open, 8);
        for port in [1, 2, 1, 2, 1] {
            out.reply(0, to(port), b"1234");
        }
        out.reply(1, to(1), b"1234");
        let datagrams: Vec<usize> = out.messages.iter().map(|message| message.datagrams).collect();
        assert_eq!(datagrams, [3, 2, 1]);
    }

    #[test]
    fn what_is_taken_leaves_by_no_socket_and_the_rest_does() {
        let [a, b]: [SocketAddr; 2] = ["127.0.0.1:9", "127.0.0.2:9"].map(|text| text.parse().unwrap());
        let relay = RelayId::from_bits(2);
        let (mut buffer, mut open) = ([0; 64], Open::default());
        let mut out = Outbox::new(&mut buffer, &mut open, 8);
        for to in [a, b, a] {
            out.reply(0, to, b"1234");
        }
        out.relay_whole(From::Relay(relay), a, (relay, Way::ToPeer), b"whole");
        out.relay(From::Relay(relay), b, (relay, Way::ToPeer), [b"head", b"", b"\0"]);
        let (mut sorted, mut offered, mut left) = (out.sort(), Vec::new(), Vec::new());
        while let Some(leaving) = sorted.next(|message| {
            let datagrams: Vec<Vec<u8>> = message.datagrams.iter().map(|parts| parts.concat()).collect();
            offered.push((message.from, message.to, datagrams));
            message.to == a
        }) {
            left.push((leaving.from, leaving.messages(), leaving.datagrams(), leaving.batch.is_empty()));
        }
        // What must not be cut is not offered.
        let replies = vec![b"1234".to_vec(), b"1234".to_vec()];
        assert_eq!(
            offered,
            [
                (From::Endpoint(0), a, replies),
                (From::Endpoint(0), b, vec![b"1234".to_vec()]),
                (From::Relay(relay), b, vec![b"head\0".to_vec()]),
            ]
        );
        let endpoint = (From::Endpoint(0), 2, 1, false);
        assert_eq!(left, [endpoint, (From::Relay(relay), 1, 1, false), (From::Relay(relay), 1, 1, false)]);
    }

    #[test]
    fn what_is_lost_is_payload_and_headers_and_nothing_of_the_next_socket() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let relay = RelayId::from_bits(2);
        let (mut buffer, mut open) = ([0; 64], Open::default());
        let mut out = Outbox::new(&mut buffer, &mut open, 8);
        for _ in 0..3 {
            out.relay(From::Endpoint(0), to, (relay, Way::ToClient), [b"head", b"payload", b"\0"]);
        }
        out.relay(From::Relay(relay), to, (relay, Way::ToPeer), [&[], b"1234567", &[]]);
        let message = &out.messages[0];
        assert_eq!(lost(message, 3, 36), Some((relay, Way::ToClient, 21, 12)));
        assert_eq!(lost(message, 1, 12), Some((relay, Way::ToClient, 7, 4)));
        let socket = shoal_sys::udp::own_socket(
            "127.0.0.1:0".parse().unwrap(),
            shoal_sys::udp::Buffers { receive: 1 << 16, send: 1 << 16 },
        );
        let socket = socket.unwrap();
        let mut sorted = out.sort();
        // The socket of the first is gone.
        let gone = sorted.next(|_| false).unwrap();
        assert_eq!((gone.from, gone.datagrams()), (From::Endpoint(0), 3));
        let mut next = sorted.next(|_| false).unwrap();
        assert_eq!(next.from, From::Relay(relay));
        assert_eq!(next.send(&socket, |_, _, _, _, _| panic!("it is taken")).datagrams, 1);
        assert!(sorted.next(|_| false).is_none());
    }
}
