//! Thousands of peers of several tenants come, go, fall silent and report each other, on a virtual clock, against a model that
//! keeps everything in plain maps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use shoal_swarm::nat::can_connect;
use shoal_swarm::query::Event;
use shoal_swarm::swarms::{
    Announce, Answer, Config, Count, Done, Key, MAX_REPORTED, Place, Refusal, SMALL, Supply, Swarms,
};
use shoal_swarm::{Behaviour, InfoHash, Nat, PeerId, Transport, Transports};

const TENANTS: [&str; 3] = ["acme", "globex", "acm"];
const CHANNELS: [&str; 3] = ["room", "eroom", "acmeroom"];
const STEPS: u64 = 20_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
struct Known {
    session: u64,
    address: IpAddr,
    port: u16,
    transports: Transports,
    nat: Nat,
    connection: u64,
    complete: bool,
    relay_only: bool,
    seen: u64,
    failed: VecDeque<PeerId>,
}

type Name = (usize, usize, u8);

#[derive(Default)]
struct Model {
    swarms: BTreeMap<Name, (BTreeMap<PeerId, Known>, u32)>,
}

impl Model {
    fn expire(&mut self, now: u64, life: u64) {
        self.swarms.retain(|_, (peers, _)| {
            peers.retain(|_, peer| now / 100 < peer.seen / 100 + life / 100);
            !peers.is_empty()
        });
    }

    fn count(&self, name: Name) -> Count {
        self.swarms.get(&name).map_or(Count::default(), |(peers, downloaded)| {
            let complete = peers.values().filter(|peer| peer.complete).count() as u32;
            Count { complete, incomplete: peers.len() as u32 - complete, downloaded: *downloaded }
        })
    }

    fn viewers(&self, tenant: usize, channel: usize) -> usize {
        let swarms = self.swarms.iter().filter(|((t, c, _), _)| (*t, *c) == (tenant, channel));
        swarms.flat_map(|(_, (peers, _))| peers.values().map(|peer| peer.session)).collect::<BTreeSet<_>>().len()
    }

    /// Whether `a` may be told of `b`, both of one swarm.
    fn fit(peers: &BTreeMap<PeerId, Known>, a: PeerId, b: PeerId, offers: bool) -> bool {
        let (one, other) = (&peers[&a], &peers[&b]);
        let both = one.transports.both(other.transports);
        let shares = if offers {
            both.has(Transport::Webrtc) && other.connection != 0 && other.connection != one.connection
        } else {
            both.iter().any(|way| way == Transport::Webrtc || one.address.is_ipv4() == other.address.is_ipv4())
        };
        let connects = one.relay_only || other.relay_only || can_connect(one.nat, other.nat);
        a != b && shares && connects && !one.failed.contains(&b) && !other.failed.contains(&a)
    }
}

fn peer_id(number: u64) -> PeerId {
    let mut id = [0; 20];
    id[12..].copy_from_slice(&number.to_be_bytes());
    PeerId(id)
}

fn behaviour(random: &mut Random) -> Behaviour {
    match random.below(4) {
        0 => Behaviour::Unknown,
        1 => Behaviour::EndpointIndependent,
        2 => Behaviour::AddressDependent,
        _ => Behaviour::AddressAndPortDependent,
    }
}

fn address(random: &mut Random) -> IpAddr {
    let (a, b) = (random.below(40) as u8, random.below(250) as u8);
    if random.chance(20) {
        IpAddr::from([0x2001, 0xdb8, u16::from(a), 0, 0, 0, 0, u16::from(b)])
    } else {
        IpAddr::from([10, a % 4, a, b])
    }
}

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => Place { asn: v4.octets()[1].into(), isp: u16::from(v4.octets()[2]) % 3, region: 1 },
        IpAddr::V6(_) => Place { asn: 77, isp: 0, region: 2 },
    }
}

/// Most peers are in a few swarms, some of them large.
fn name(random: &mut Random) -> Name {
    let hash = if random.chance(70) { 0 } else { random.below(40) as u8 };
    (random.below(3) as usize, random.below(3) as usize, hash)
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let config = Config::default();
    let life = config.life_ms;
    let mut swarms = Swarms::new(config, seed);
    let mut model = Model::default();
    let mut answer = Answer::default();
    let mut now = 0;
    let mut told = 0;
    for step in 0..STEPS {
        // Long silences let whole swarms expire.
        now += if random.below(10_000) == 0 { 50_000 } else { random.below(40) };
        while swarms.expire(now, 100) {}
        model.expire(now, life);
        let name = name(&mut random);
        let key = Key { tenant: TENANTS[name.0], channel: CHANNELS[name.1], info_hash: InfoHash([name.2; 20]) };
        let number = random.below(700);
        let id = peer_id(number);
        // Two numbers are of one viewer.
        let session = if random.chance(1) { 1_000_000 } else { number / 2 };
        let known = model.swarms.get(&name).and_then(|(peers, _)| peers.get(&id)).cloned();

        if random.chance(5) {
            let connection = known.as_ref().map_or(1, |known| known.connection);
            let gone = swarms.disconnect(key, id, connection);
            assert_eq!(gone, known.is_some(), "step {step}");
            if let Some(known) = known {
                let rest = known.transports.without(Transport::Webrtc);
                let (peers, _) = model.swarms.get_mut(&name).expect("it is known");
                if rest.is_empty() {
                    peers.remove(&id);
                } else {
                    peers.insert(id, Known { transports: rest, connection: 0, ..known });
                }
                model.expire(now, life);
            }
            continue;
        }

        let web = random.chance(40);
        let event = match random.below(20) {
            0 | 1 => Event::Stopped,
            2 => Event::Completed,
            _ => Event::Update,
        };
        let failed: Vec<PeerId> = (0..random.below(4)).map(|_| peer_id(random.below(700))).collect();
        let failed = if random.chance(10) { failed } else { Vec::new() };
        let transports = Transport::ALL.into_iter().filter(|_| random.chance(50)).collect::<Transports>();
        let nat =
            Nat { mapping: behaviour(&mut random), filtering: behaviour(&mut random), predictable: random.chance(20) };
        let announce = Announce {
            key,
            peer_id: id,
            session,
            address: known
                .as_ref()
                .filter(|_| random.chance(95))
                .map_or_else(|| address(&mut random), |known| known.address),
            port: if random.chance(5) { 0 } else { 4_000 },
            transports: if web { Transports::NONE.with(Transport::Webrtc) } else { transports },
            connection: if web { number + 1 } else { 0 },
            nat: random.chance(50).then_some(nat),
            node: 0,
            supply: random.chance(50).then(|| Supply {
                upload_kbps: random.below(20_000) as u32,
                newest: step,
                count: 3,
            }),
            complete: random.chance(50).then(|| random.chance(30)),
            event,
            failed: &failed,
            want: random.below(60) as usize,
            relay_only: random.chance(5),
            remote: false,
            place: &place,
        };
        let result = swarms.handle_announce(now, &announce, &mut answer);

        // The same in the model.
        if known.as_ref().is_some_and(|known| known.session != session) {
            assert_eq!(result, Err(Refusal::Taken), "step {step}");
            continue;
        }
        if event == Event::Stopped {
            assert_eq!(result, Ok(if known.is_some() { Done::Left } else { Done::Absent }), "step {step}");
            if let Some((peers, _)) = model.swarms.get_mut(&name) {
                peers.remove(&id);
            }
            model.expire(now, life);
            assert!(answer.peers.is_empty());
        } else {
            if result == Err(Refusal::Session) {
                continue;
            }
            assert_eq!(result, Ok(if known.is_some() { Done::Updated } else { Done::Joined }), "step {step}");
            let (peers, downloaded) = model.swarms.entry(name).or_default();
            *downloaded += u32::from(event == Event::Completed);
            let new = Known {
                session,
                address: announce.address,
                port: announce.port,
                transports: Transports::NONE,
                nat: Nat::default(),
                connection: 0,
                complete: false,
                relay_only: false,
                seen: now,
                failed: VecDeque::new(),
            };
            let peer = peers.entry(id).or_insert(new);
            let moved = peer.address != announce.address;
            peer.address = announce.address;
            if !web || moved {
                peer.port = announce.port;
            }
            peer.transports = if web {
                peer.connection = announce.connection;
                peer.transports.with(Transport::Webrtc)
            } else if peer.connection != 0 {
                announce.transports.with(Transport::Webrtc)
            } else {
                announce.transports.without(Transport::Webrtc)
            };
            if announce.relay_only || peer.port == 0 {
                peer.transports = peer.transports.without(Transport::Tcp);
            }
            peer.nat = announce.nat.unwrap_or(peer.nat);
            peer.complete |= event == Event::Completed || announce.complete == Some(true);
            peer.relay_only = announce.relay_only;
            peer.seen = now;
            for failed in &failed {
                if !peer.failed.contains(failed) {
                    peer.failed.push_back(*failed);
                    if peer.failed.len() > MAX_REPORTED {
                        peer.failed.pop_front();
                    }
                }
            }
            assert_eq!(answer.registered, peer.transports, "step {step}");
            check(peers, id, &announce, &answer, false, step);
            told += answer.peers.len();
            if web {
                swarms.choose_for_offers(now, key, id, announce.want, &mut answer);
                check(peers, id, &announce, &answer, true, step);
            }
        }
        assert_eq!(swarms.scrape(key), model.count(name), "step {step}");
        if step % 512 == 0 {
            let peers: usize = model.swarms.values().map(|(peers, _)| peers.len()).sum();
            assert_eq!((swarms.peers(), swarms.swarms()), (peers, model.swarms.len()), "step {step}");
            for (tenant, channel) in (0..3).flat_map(|tenant| (0..3).map(move |channel| (tenant, channel))) {
                let found = swarms.viewers(TENANTS[tenant], CHANNELS[channel]);
                assert_eq!(found, model.viewers(tenant, channel) as u64, "step {step}");
            }
        }
    }
    assert!(told > STEPS as usize, "{told} were told of: the simulation tests nothing");
    while swarms.expire(now + 2 * life, 100) {}
    assert_eq!((swarms.peers(), swarms.swarms()), (0, 0));
}

fn check(
    peers: &BTreeMap<PeerId, Known>,
    me: PeerId,
    announce: &Announce<'_>,
    answer: &Answer,
    offers: bool,
    step: u64,
) {
    let ids: BTreeSet<PeerId> = answer.peers.iter().map(|peer| peer.id).collect();
    assert_eq!(ids.len(), answer.peers.len(), "step {step}: somebody is told of twice");
    for peer in &answer.peers {
        let known = peers.get(&peer.id).unwrap_or_else(|| panic!("step {step}: {} is not in this swarm", peer.id));
        assert!(Model::fit(peers, me, peer.id, offers), "step {step}: {me} is told of {}", peer.id);
        let visible = !known.relay_only && known.port != 0;
        assert_eq!(peer.address.is_some(), visible, "step {step}");
        assert!(peer.address.is_none_or(|address| address.ip() == known.address));
    }
    let want = announce.want.min(50);
    assert!(answer.peers.len() <= want, "step {step}");
    if peers.len() <= SMALL / 2 {
        let fitting = peers.keys().filter(|other| Model::fit(peers, me, **other, offers)).count();
        assert_eq!(answer.peers.len(), fitting.min(want), "step {step}: a small swarm is told whole");
    } else {
        let fitting = peers.keys().filter(|other| Model::fit(peers, me, **other, offers)).count();
        assert!(
            fitting == 0 || want == 0 || fitting < peers.len() / 4 || !answer.peers.is_empty(),
            "step {step}: nobody of {fitting}"
        );
    }
}

#[test]
fn nobody_learns_of_whom_it_must_not_and_all_is_counted() {
    for seed in 1..=3 {
        run(seed);
    }
}
