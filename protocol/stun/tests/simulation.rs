//! Clients, peers and a server with a network between them that loses, delays, doubles and reorders, and a server that is
//! killed now and then: all from a seed, all against the model (`shoal_stun::fuzzing`), which panics at the first difference.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use shoal_stun::fuzzing::Random;
use shoal_stun::fuzzing::model::Operation;
use shoal_stun::fuzzing::world::{FLOWS, PEERS, Sent, World};

/// Sequences of operations; each has some hundreds.
const SEEDS: u64 = 1_500;
const STEPS: u64 = 300;

/// What is under way.
#[derive(Debug, Clone)]
enum Flight {
    /// To the server.
    Client(Sent),
    /// To a relay.
    Peer { relay: usize, peer: usize, length: usize },
    /// From a stranger.
    Stranger { flow: usize, method: usize, guess: bool },
}

/// What arrives when, in a fixed order.
#[derive(Debug, Default)]
struct Network {
    order: BinaryHeap<Reverse<(u64, u64)>>,
    flights: BTreeMap<u64, Flight>,
    count: u64,
}

impl Network {
    /// One in ten is lost, one in ten doubled; what is not lost takes up to half a second, or up to a minute.
    fn send(&mut self, now: u64, flight: Flight, dice: &mut Random) {
        let copies = match dice.below(10) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if dice.below(50) == 0 { dice.below(60_000) } else { dice.below(500) };
            self.count += 1;
            self.order.push(Reverse((now + delay, self.count)));
            self.flights.insert(self.count, flight.clone());
        }
    }

    fn next(&mut self, until: u64) -> Option<(u64, Flight)> {
        let Reverse((at, number)) = *self.order.peek()?;
        if at > until {
            return None;
        }
        self.order.pop();
        Some((at, self.flights.remove(&number)?))
    }
}

fn peer(dice: &mut Random) -> std::net::SocketAddr {
    // The good ones more often than the bad.
    let count = if dice.below(4) == 0 { PEERS.len() as u64 } else { 4 };
    PEERS[dice.below(count) as usize].parse().expect("a socket address")
}

fn lifetime(dice: &mut Random) -> Option<u32> {
    [None, None, Some(600), Some(1200), Some(3600), Some(0)][dice.below(6) as usize]
}

fn operation(world: &World, dice: &mut Random) -> Operation {
    let flag = |dice: &mut Random, one_in: u64| (dice.below(one_in) == 0).then(|| dice.below(2) == 0);
    match dice.below(12) {
        0 | 1 => {
            let token = world.model.reservations.keys().next().copied().filter(|_| dice.below(2) == 0);
            let plain = token.is_some();
            Operation::Allocate {
                transaction: dice.below(1000),
                lifetime: lifetime(dice).filter(|seconds| *seconds > 0),
                family: flag(dice, 6).filter(|_| !plain),
                additional: flag(dice, 4).filter(|v6| *v6 && !plain),
                even: flag(dice, 3).filter(|_| !plain),
                token,
                transport: Some(17),
            }
        }
        2 => Operation::Refresh { lifetime: lifetime(dice), family: flag(dice, 4) },
        3 | 4 => Operation::Permit((0..1 + dice.below(2)).map(|_| peer(dice)).collect()),
        5 | 6 => Operation::Bind(0x4000 + dice.below(3) as u16, peer(dice)),
        7 | 8 => Operation::Send(peer(dice), dice.below(1200) as usize),
        _ => Operation::ChannelData(0x4000 + dice.below(3) as u16, dice.below(1200) as usize),
    }
}

fn run(seed: u64) {
    let mut dice = Random::new(seed);
    let (mut world, mut network) = (World::new(), Network::default());
    let mut waiting: Vec<(u64, u32, Sent)> = Vec::new();
    for _ in 0..STEPS {
        let now = world.now;
        match dice.below(10) {
            0..=5 => {
                // Clients mostly use their own names.
                let flow = dice.below(FLOWS.len() as u64) as usize;
                let user = if dice.below(10) == 0 { dice.below(4) as usize } else { flow % 4 };
                let operation = operation(&world, &mut dice);
                let sent = world.send(flow, user, operation);
                network.send(now, Flight::Client(sent.clone()), &mut dice);
                // Requests are sent again as they are, whether they were heard or not: the answer may be lost.
                if !matches!(sent.operation, Operation::Send(..) | Operation::ChannelData(..)) {
                    waiting.push((now + 500, 3, sent));
                }
            }
            6 | 7 => {
                let (relay, peer) = (dice.below(64) as usize, dice.below(PEERS.len() as u64) as usize);
                let length = dice.below(1200) as usize;
                network.send(now, Flight::Peer { relay, peer, length }, &mut dice);
            }
            8 => {
                let (flow, method) = (dice.below(6) as usize, dice.below(4) as usize);
                network.send(now, Flight::Stranger { flow, method, guess: dice.below(2) == 0 }, &mut dice);
            }
            _ => world.check_usage(),
        }
        let step = if dice.below(30) == 0 { dice.below(700_000) } else { dice.below(2_000) };
        let until = now + step;
        for (at, left, sent) in &mut waiting {
            while *at <= until && *left > 0 {
                network.send(*at, Flight::Client(sent.clone()), &mut dice);
                *left -= 1;
                *at += 1_000;
            }
        }
        waiting.retain(|(_, left, _)| *left > 0);
        while let Some((at, flight)) = network.next(until) {
            world.pass(at.saturating_sub(world.now), dice.below(3) == 0);
            match flight {
                Flight::Client(sent) => world.deliver(&sent),
                Flight::Peer { relay, peer, length } => world.from_peer(relay, peer, 1, length),
                Flight::Stranger { flow, method, guess } => world.strangers(flow, method, guess.then_some("guess")),
            }
        }
        world.pass(until.saturating_sub(world.now), true);
        if dice.below(20) == 0 {
            world.close(dice.below(FLOWS.len() as u64) as usize);
        }
        if dice.below(200) == 0 {
            world.restart();
        }
    }
    world.check_usage();
}

#[test]
fn nothing_that_the_network_does_makes_the_server_differ_from_the_model() {
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
