//! Sequences of operations, from bytes.

use std::net::SocketAddr;

use super::model::Operation;
use super::world::{PEERS, World};

/// Bytes as operations: each takes a byte for what, one for whom, and what it needs.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn peer(&mut self) -> SocketAddr {
        PEERS[usize::from(self.byte()) % PEERS.len()].parse().expect("a socket address")
    }

    /// One in four is there, and one in eight true.
    fn flag(byte: u8, shift: u8) -> Option<bool> {
        match byte >> shift & 3 {
            2 => Some(false),
            3 => Some(true),
            _ => None,
        }
    }

    fn lifetime(&mut self) -> Option<u32> {
        [None, Some(0), Some(1), Some(600), Some(1000), Some(3600), Some(u32::MAX)][usize::from(self.byte()) % 7]
    }

    fn operation(&mut self, world: &World) -> Option<Operation> {
        Some(match self.byte() % 6 {
            0 => {
                let (flags, transaction) = (self.byte(), u64::from(self.byte() % 4));
                let token = match self.byte() % 4 {
                    0 => world.model.reservations.keys().next().copied(),
                    1 if flags & 0x40 != 0 => Some([3; 8]),
                    _ => None,
                };
                let transport = match self.byte() {
                    0xff => Some(6),
                    0xfe => None,
                    _ => Some(17),
                };
                Operation::Allocate {
                    transaction,
                    lifetime: self.lifetime(),
                    family: Self::flag(flags, 0),
                    additional: Self::flag(flags, 2).filter(|_| flags & 0x80 != 0),
                    even: Self::flag(flags, 4),
                    token,
                    transport,
                }
            }
            1 => {
                let flags = self.byte();
                Operation::Refresh { lifetime: self.lifetime(), family: Self::flag(flags, 0) }
            }
            2 => {
                let count = self.byte() % 4;
                Operation::Permit((0..count).map(|_| self.peer()).collect())
            }
            3 => Operation::Bind([0x4000, 0x4001, 0x7ffe, 0x7fff][usize::from(self.byte() % 4)], self.peer()),
            4 => Operation::Send(self.peer(), usize::from(self.byte())),
            _ => Operation::ChannelData(
                [0x4000, 0x4001, 0x7ffe, 0x4002][usize::from(self.byte() % 4)],
                usize::from(self.byte()),
            ),
        })
    }
}

/// Runs bytes as a sequence of operations on a server and on its model.
pub fn operations(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut world = World::new();
    // The last things sent, to come again later.
    let mut recent = std::collections::VecDeque::new();
    while !script.0.is_empty() {
        let (what, whom) = (script.byte(), script.byte());
        let (flow, user) = (usize::from(whom & 15), usize::from(whom >> 4));
        match what % 16 {
            0..=8 => {
                if let Some(operation) = script.operation(&world) {
                    let sent = world.send(flow, user, operation);
                    world.deliver(&sent);
                    recent.push_front(sent);
                    recent.truncate(8);
                }
            }
            9 => {
                // Late, or twice; nonces last longer than this world.
                if let Some(sent) = recent.get(usize::from(whom) % recent.len().max(1)) {
                    world.deliver(sent);
                }
            }
            10 | 11 => {
                let (peer, shape) = (script.byte(), script.byte());
                world.from_peer(usize::from(whom), usize::from(peer), 1 + usize::from(shape >> 6), usize::from(shape));
            }
            12 => {
                let step = [1, 999, 29_999, 30_000, 60_000, 299_999, 300_000, 600_000][usize::from(whom & 7)];
                world.pass(step, whom & 8 == 0);
            }
            13 => {
                let secret = if whom & 0x80 != 0 { Some("guess") } else { None };
                world.strangers(flow, user, secret);
            }
            14 => {
                let (noise, rest) = script.0.split_at(usize::from(whom).min(script.0.len()));
                script.0 = rest;
                world.noise(flow, noise);
            }
            _ if whom == 0xff => world.restart(),
            _ if whom & 0xf0 == 0xe0 => world.close(flow),
            _ => world.check_usage(),
        }
    }
    world.check_usage();
}
