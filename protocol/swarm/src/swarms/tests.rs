use super::*;
use crate::nat::Behaviour;
use crate::transport::Transport;

const TCP: Transports = Transports::NONE.with(Transport::Tcp);
const WEBRTC: Transports = Transports::NONE.with(Transport::Webrtc);
const UDP: Transports = Transports::NONE.with(Transport::ShoalUdp);

fn id(number: u32) -> PeerId {
    let mut id = [0; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    PeerId(id)
}

fn address(number: u32) -> IpAddr {
    // A prefix of its own for each.
    IpAddr::from((0x0a00_0000 + (number << 8)).to_be_bytes())
}

fn place(_: IpAddr) -> Place {
    Place::default()
}

fn key(hash: u8) -> Key<'static> {
    Key { tenant: "acme", channel: "room1", info_hash: InfoHash([hash; 20]) }
}

fn announce(number: u32) -> Announce<'static> {
    Announce {
        key: key(1),
        peer_id: id(number),
        session: u64::from(number),
        address: address(number),
        port: 1000,
        transports: TCP,
        connection: 0,
        nat: None,
        node: 0,
        supply: None,
        complete: None,
        event: Event::Update,
        failed: &[],
        want: 50,
        relay_only: false,
        remote: false,
        place: &place,
    }
}

fn swarms() -> Swarms {
    Swarms::new(Config::default(), 7)
}

fn told(swarms: &mut Swarms, now_ms: u64, announce: &Announce<'_>) -> Vec<PeerId> {
    let mut answer = Answer::default();
    swarms.handle_announce(now_ms, announce, &mut answer).unwrap();
    let mut ids: Vec<PeerId> = answer.peers.iter().map(|peer| peer.id).collect();
    ids.sort();
    ids
}

#[test]
fn a_peer_joins_is_told_of_others_and_leaves() {
    let mut swarms = swarms();
    let mut answer = Answer::default();
    assert_eq!(swarms.handle_announce(0, &announce(1), &mut answer), Ok(Done::Joined));
    assert_eq!((answer.peers.len(), answer.incomplete, answer.interval_s, answer.registered), (0, 1, 16, TCP));
    assert!(answer.interval_ms <= 16_000 && answer.interval_ms >= 15_000);
    assert_eq!(told(&mut swarms, 0, &announce(2)), [id(1)]);
    assert_eq!(swarms.handle_announce(1, &announce(1), &mut answer), Ok(Done::Updated));
    assert_eq!(answer.peers[0].address, Some(SocketAddr::new(address(2), 1000)));
    let complete = Announce { complete: Some(true), event: Event::Completed, ..announce(2) };
    told(&mut swarms, 2, &complete);
    assert_eq!(swarms.scrape(key(1)), Count { complete: 1, incomplete: 1, downloaded: 1 });
    let stop = Announce { event: Event::Stopped, ..announce(1) };
    assert_eq!(swarms.handle_announce(3, &stop, &mut answer), Ok(Done::Left));
    assert_eq!(swarms.handle_announce(3, &stop, &mut answer), Ok(Done::Absent));
    assert!(answer.peers.is_empty());
    assert_eq!((swarms.peers(), swarms.swarms(), swarms.viewers("acme", "room1")), (1, 1, 1));
    told(&mut swarms, 4, &Announce { event: Event::Stopped, ..announce(2) });
    assert_eq!((swarms.peers(), swarms.swarms(), swarms.viewers("acme", "room1")), (0, 0, 0));
    assert_eq!(swarms.scrape(key(1)), Count::default());
}

#[test]
fn two_missed_intervals_and_the_grace_end_a_peer() {
    let mut swarms = swarms();
    told(&mut swarms, 0, &announce(1));
    told(&mut swarms, 39_900, &announce(2));
    assert_eq!(told(&mut swarms, 39_900, &announce(2)), [id(1)]);
    assert!(!swarms.expire(39_999, 10));
    assert_eq!(swarms.peers(), 2);
    assert!(!swarms.expire(40_000, 10));
    assert_eq!((swarms.peers(), swarms.expired()), (1, 1));
    told(&mut swarms, 60_000, &announce(2));
    swarms.expire(99_999, 10);
    assert_eq!(swarms.peers(), 1, "an announce renews");
}

#[test]
fn only_what_can_connect_is_matched() {
    let mut swarms = swarms();
    let symmetric = Nat {
        mapping: Behaviour::AddressAndPortDependent,
        filtering: Behaviour::AddressAndPortDependent,
        predictable: false,
    };
    let open =
        Nat { mapping: Behaviour::EndpointIndependent, filtering: Behaviour::EndpointIndependent, predictable: false };
    let udp = |number, nat| Announce { transports: UDP, nat: Some(nat), ..announce(number) };
    told(&mut swarms, 0, &announce(1));
    assert_eq!(told(&mut swarms, 0, &udp(2, symmetric)), [], "no transport in common");
    assert_eq!(told(&mut swarms, 0, &udp(3, symmetric)), [], "two symmetric NATs");
    assert_eq!(told(&mut swarms, 0, &udp(4, open)), [id(2), id(3)]);
    assert_eq!(told(&mut swarms, 0, &udp(2, symmetric)), [id(4)]);
    let six = Announce { address: "2001:db8::1".parse().unwrap(), ..udp(5, open) };
    assert_eq!(told(&mut swarms, 0, &six), [], "another family");
    assert_eq!(told(&mut swarms, 0, &Announce { relay_only: true, ..udp(3, symmetric) }), [id(2), id(4)]);
    assert_eq!(told(&mut swarms, 0, &Announce { port: 0, ..announce(6) }), [], "nobody listens at port 0");
}

#[test]
fn who_wants_no_address_told_has_none_told() {
    let mut swarms = swarms();
    let hidden = Announce { relay_only: true, transports: TCP.with(Transport::ShoalUdp), node: 3, ..announce(1) };
    told(&mut swarms, 0, &hidden);
    assert_eq!(told(&mut swarms, 0, &announce(2)), [], "TCP would tell an address");
    let mut answer = Answer::default();
    swarms.handle_announce(0, &Announce { transports: UDP, ..announce(3) }, &mut answer).unwrap();
    assert_eq!((answer.peers[0].id, answer.peers[0].address, answer.peers[0].node), (id(1), None, 3));
}

#[test]
fn a_failed_peer_is_not_told_of_again_neither_way() {
    let mut swarms = swarms();
    for number in 1..=3 {
        told(&mut swarms, 0, &announce(number));
    }
    let failed = [id(2)];
    assert_eq!(told(&mut swarms, 1, &Announce { failed: &failed, ..announce(1) }), [id(3)]);
    assert_eq!(told(&mut swarms, 2, &announce(1)), [id(3)], "it is remembered");
    assert_eq!(told(&mut swarms, 2, &announce(2)), [id(3)], "and holds for the other one");
    let many: Vec<PeerId> = (100..100 + MAX_REPORTED as u32).map(id).collect();
    assert_eq!(
        told(&mut swarms, 3, &Announce { failed: &many, ..announce(1) }),
        [id(2), id(3)],
        "the oldest is forgotten"
    );
}

#[test]
fn offers_go_to_connections_only_and_end_with_them() {
    let mut swarms = swarms();
    let web = |number: u32| Announce {
        transports: WEBRTC,
        connection: u64::from(number),
        port: 0,
        want: 0,
        ..announce(number)
    };
    told(&mut swarms, 0, &announce(1));
    let mut answer = Answer::default();
    swarms
        .handle_announce(0, &Announce { transports: TCP.with(Transport::Webrtc), ..announce(9) }, &mut answer)
        .unwrap();
    assert_eq!(answer.registered, TCP, "WebRTC needs a connection");
    for number in 2..=4 {
        told(&mut swarms, 0, &web(number));
    }
    swarms.choose_for_offers(0, key(1), id(2), 10, &mut answer);
    let mut found: Vec<(PeerId, u64)> = answer.peers.iter().map(|peer| (peer.id, peer.connection)).collect();
    found.sort();
    assert_eq!(found, [(id(3), 3), (id(4), 4)]);
    assert_eq!(swarms.connection(0, key(1), id(3)), Some(3));
    assert_eq!(swarms.connection(0, key(1), id(1)), None);
    assert_eq!(swarms.connection(0, key(2), id(3)), None, "not in this swarm");
    assert!(!swarms.disconnect(key(1), id(3), 99), "that is not its connection");
    assert!(swarms.disconnect(key(1), id(3), 3));
    assert_eq!(swarms.connection(0, key(1), id(3)), None);
    // Known by another door as well: it stays.
    swarms.handle_announce(1, &Announce { transports: TCP, ..announce(4) }, &mut answer).unwrap();
    assert_eq!(answer.registered, TCP.with(Transport::Webrtc));
    assert!(swarms.disconnect(key(1), id(4), 4));
    assert_eq!(told(&mut swarms, 1, &announce(1)), [id(4), id(9)]);
}

#[test]
fn an_id_belongs_to_its_viewer() {
    let mut swarms = swarms();
    let mut answer = Answer::default();
    told(&mut swarms, 0, &announce(1));
    let thief = Announce { session: 9, ..announce(1) };
    assert_eq!(swarms.handle_announce(0, &thief, &mut answer), Err(Refusal::Taken));
    let gone = Announce { event: Event::Stopped, ..thief };
    assert_eq!(swarms.handle_announce(0, &gone, &mut answer), Err(Refusal::Taken));
    assert_eq!(swarms.peers(), 1);
}

#[test]
fn viewers_count_once_and_have_a_bound() {
    let mut swarms = swarms();
    let mut answer = Answer::default();
    let of = |hash: u8, number: u32| Announce { key: key(hash), session: 5, ..announce(number) };
    for number in 0..MAX_PER_SESSION as u32 {
        told(&mut swarms, 0, &of(number as u8, number));
    }
    assert_eq!(swarms.viewers("acme", "room1"), 1);
    assert_eq!(swarms.handle_announce(0, &of(200, 999), &mut answer), Err(Refusal::Session));
    assert_eq!(swarms.swarms(), MAX_PER_SESSION, "no empty swarm stays");
    told(&mut swarms, 0, &Announce { event: Event::Stopped, ..of(30, 30) });
    told(&mut swarms, 0, &of(200, 999));
    swarms.expire(100_000, usize::MAX);
    assert_eq!((swarms.viewers("acme", "room1"), swarms.peers(), swarms.swarms()), (0, 0, 0));
}

#[test]
fn limits_refuse_with_their_names() {
    let config = Config { peers: 5, peers_per_swarm: 2, swarms: 3, swarms_per_channel: 2, ..Config::default() };
    let mut swarms = Swarms::new(config, 1);
    let mut answer = Answer::default();
    let mut join = |hash: u8, channel, number: u32| {
        let key = Key { channel, ..key(hash) };
        swarms.handle_announce(0, &Announce { key, ..announce(number) }, &mut answer)
    };
    for (hash, channel, number, result) in [
        (1, "a", 1, Ok(Done::Joined)),
        (1, "a", 2, Ok(Done::Joined)),
        (1, "a", 3, Err(Refusal::SwarmPeers)),
        (2, "a", 3, Ok(Done::Joined)),
        (3, "a", 4, Err(Refusal::ChannelSwarms)),
        (3, "b", 4, Ok(Done::Joined)),
        (4, "b", 5, Err(Refusal::Swarms)),
        (3, "b", 5, Ok(Done::Joined)),
        (3, "b", 6, Err(Refusal::Peers)),
        (3, "b", 5, Ok(Done::Updated)),
    ] {
        assert_eq!(join(hash, channel, number), result, "{hash} {channel} {number}");
    }
}

#[test]
fn a_herd_is_spread() {
    let mut swarms = Swarms::new(Config { herd: 10, ..Config::default() }, 1);
    let mut answer = Answer::default();
    let mut seconds = [0; 17];
    for number in 0..1_000 {
        swarms.handle_announce(500, &announce(number), &mut answer).unwrap();
        seconds[answer.interval_s as usize] += 1;
        assert!((8_000..=16_000).contains(&answer.interval_ms));
    }
    assert!(seconds[9..=16].iter().all(|count| *count > 80), "{seconds:?}");
    swarms.handle_announce(1_500, &announce(0), &mut answer).unwrap();
    assert_eq!(answer.interval_s, 16);
}

#[test]
fn near_peers_come_first_and_some_from_anywhere() {
    let mut swarms = swarms();
    // 2,000 peers in 20 systems with 100 each, two of each in one prefix.
    let where_is = |address: IpAddr| match address {
        IpAddr::V4(v4) => Place { asn: u32::from(v4.octets()[1]) + 1, isp: 0, region: 1 },
        IpAddr::V6(_) => Place::default(),
    };
    let from = |number: u32| Announce {
        address: IpAddr::from([10, (number % 20) as u8, (number / 40) as u8, (number % 40) as u8]),
        place: &where_is,
        want: 16,
        ..announce(number)
    };
    for number in 0..2_000 {
        told(&mut swarms, 0, &from(number));
    }
    let mut answer = Answer::default();
    for number in 0..2_000 {
        swarms.handle_announce(1, &from(number), &mut answer).unwrap();
        let near = |at_least: u8| answer.peers.iter().filter(|peer| peer.nearness >= at_least).count();
        assert_eq!(answer.peers.len(), 16);
        assert_eq!(near(4), 1, "the other one of its prefix");
        assert!((12..16).contains(&near(3)), "{} of its system", near(3));
    }
}

#[test]
fn nobody_is_given_to_everybody() {
    let mut swarms = swarms();
    let mut answer = Answer::default();
    let mut times = [0; 1_000];
    // One has much to give, the others little; all are in one prefix.
    let from = |number: u32| Announce {
        address: IpAddr::from([10, 0, 0, number as u8]),
        supply: Some(Supply { upload_kbps: if number == 0 { 1_000_000 } else { 600 }, newest: 5, count: 5 }),
        want: 10,
        ..announce(number)
    };
    for number in 0..1_000 {
        told(&mut swarms, 0, &from(number));
    }
    for number in 0..1_000 {
        swarms.handle_announce(1, &from(number), &mut answer).unwrap();
        for peer in &answer.peers {
            times[u32::from_be_bytes([peer.id.0[0], peer.id.0[1], peer.id.0[2], peer.id.0[3]]) as usize] += 1;
        }
    }
    let most = times.iter().max().unwrap();
    assert!(*most <= 40, "each is due ten times; one had {most}");
    assert!(times[0] >= 10, "who has more to give is told of more often: {}", times[0]);
    assert!(times.iter().all(|times| *times > 0), "everybody has a turn");
}

/// What a peer takes, in a swarm of many and in many swarms, at a size just above where tables double.
#[test]
fn a_peer_takes_at_most_200_bytes() {
    let provider = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            Place { asn: u32::from(v4.octets()[1]) % 50 + 1, isp: 3, region: u16::from(v4.octets()[2]) + 1 }
        }
        IpAddr::V6(_) => Place::default(),
    };
    for (peers, swarms_of) in [(120_000_u32, 120_000_u32), (120_000, 10), (60_000, 60_000)] {
        let mut swarms = Swarms::new(Config::default(), 3);
        let mut answer = Answer::default();
        for number in 0..peers {
            let mut info_hash = [1; 20];
            info_hash[..4].copy_from_slice(&(number / swarms_of).to_be_bytes());
            let key = Key { info_hash: InfoHash(info_hash), ..key(1) };
            // Hashed, so that the prefixes are as scattered as they can be.
            let address = IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes());
            let announce = Announce { key, address, place: &provider, want: 0, ..announce(number) };
            swarms.handle_announce(0, &announce, &mut answer).unwrap();
        }
        let each = swarms.memory() / peers as usize;
        assert!(each <= 200, "{each} bytes for each of {peers} peers, {swarms_of} in a swarm");
    }
}

#[test]
fn inspection_shows_swarms_and_peers_page_by_page() {
    let mut swarms = swarms();
    for number in 0..100 {
        told(&mut swarms, 700, &Announce { key: key((number % 3) as u8), ..announce(number) });
    }
    let (first, next) = swarms.swarm_from(0, Some("acme"), None, 10);
    let first = first.unwrap();
    assert_eq!((first.count.incomplete, first.breakdown.counted, next), (34, 34, Some(1)));
    assert_eq!((first.breakdown.transports, &first.breakdown.nats[..]), ([0, 0, 34], &[("unknown", 34)][..]));
    assert_eq!(swarms.swarm_from(0, Some("other"), None, 10), (None, None));
    assert_eq!(swarms.swarm(key(2)).unwrap().count.incomplete, 33);
    let page = swarms.peers_of(key(0), 30, 10).unwrap();
    assert_eq!((page.len(), page[0].seen_ms, page[0].complete), (4, 700, false));
    assert_eq!(swarms.peers_of(key(9), 0, 10), None);
    assert_eq!(swarms.hashes_of("acme", "room1", 2).len(), 2);
}

#[test]
fn peers_of_another_instance_are_told_of_until_it_says_otherwise() {
    let (mut here, mut there) = (swarms(), swarms());
    let mut answer = Answer::default();
    let web = Announce { transports: WEBRTC, connection: 77, port: 0, want: 0, ..announce(1) };
    told(&mut there, 0, &web);
    told(&mut there, 0, &Announce { supply: Some(Supply { upload_kbps: 900, newest: 4, count: 2 }), ..announce(2) });
    let copy = |from: &Swarms, to: &mut Swarms, now_ms: u64, answer: &mut Answer| {
        let mut next = Some(0);
        let mut records = 0;
        while let Some(from_number) = next {
            next = from.each_record(from_number, 1, |record| {
                records += 1;
                to.handle_remote(now_ms, &record, &[], &place, answer).unwrap();
            });
        }
        records
    };
    assert_eq!(copy(&there, &mut here, 0, &mut answer), 2);
    assert_eq!(copy(&here, &mut there, 0, &mut answer), 0, "what is remote is not told on");
    assert_eq!(told(&mut here, 0, &announce(3)), [id(2)]);
    assert_eq!(here.connection(0, key(1), id(1)), Some(77));
    assert_eq!(here.swarm(key(1)).unwrap().breakdown.remote, 2);
    // It announces here now: the other's farewell comes too late.
    told(&mut here, 1, &announce(2));
    assert!(!here.remote_left(key(1), id(2), 0));
    assert!(!here.remote_left(key(1), id(1), 78));
    assert!(here.remote_left(key(1), id(1), 77));
    assert_eq!(here.peers(), 2);
    let record = here.record(key(1), id(2)).unwrap();
    assert_eq!((record.supply.newest, record.port, record.transports), (4, 1000, TCP));
    // There it was known first; now it is remote there, and expires when nothing more is heard.
    there.handle_remote(10_000, &record, &[id(9)], &place, &mut answer).unwrap();
    assert!(there.record(key(1), id(2)).is_none());
    there.expire(50_000, 100);
    assert_eq!(there.peers(), 0);
}
