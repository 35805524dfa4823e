use shoal_stun::nat::Behaviour;

use super::sim::{Host, Kind, Plan, TICKET, World, id};
use super::*;
use crate::nat::PREDICTED;

const BYTES: u64 = 50_000;

const KINDS: [Kind; 7] = [
    Kind::Open,
    Kind::Firewall,
    Kind::FullCone,
    Kind::AddressRestricted,
    Kind::PortRestricted,
    Kind::Sequential(1),
    Kind::Symmetric,
];

/// Two peers: the second asks for the first, once that is registered.
fn meet(world: &mut World, serves: &Plan, connects: &Plan) {
    world.join(serves, Task::Serve(1));
    world.run(|world| world.node.knows(id(0)) || world.hosts[0].session.is_over());
    world.join(connects, Task::Connect(id(0), BYTES));
    world.run(|_| false);
}

fn finished(world: &World, host: usize) -> Option<&Finished> {
    world.hosts[host].events.iter().find_map(|event| match event {
        Event::Finished(finished) => Some(finished),
        _ => None,
    })
}

fn failure(world: &World, host: usize) -> Option<&Failure> {
    world.hosts[host].events.iter().find_map(|event| match event {
        Event::Failed(failure) => Some(failure),
        _ => None,
    })
}

/// What both say of it when it went well; panics if they do not agree.
fn agreed(world: &World) -> &Finished {
    let both = [0, 1].map(|host| finished(world, host));
    let [Some(served), Some(connected)] = both else {
        panic!("{both:?} {:?} {:?}", failure(world, 0), failure(world, 1))
    };
    for side in [served, connected] {
        assert_eq!((side.bytes, side.verdict, side.relay), (BYTES, Verdict::Right, connected.relay));
    }
    connected
}

/// Whether the page says that they need a relay.
fn needs_relay(one: Kind, other: Kind) -> bool {
    let behind_ports = |kind| !matches!(kind, Kind::Open | Kind::FullCone | Kind::AddressRestricted);
    (one == Kind::Symmetric && behind_ports(other)) || (other == Kind::Symmetric && behind_ports(one))
}

#[test]
fn each_pair_of_nats_connects_as_the_page_says() {
    for serves in KINDS {
        for connects in KINDS {
            let mut world = World::new(1);
            // Without a relay of its own: who asks has one.
            meet(&mut world, &Plan { turn: false, ..serves.into() }, &connects.into());
            let finished = agreed(&world);
            let relay = needs_relay(serves, connects);
            assert_eq!(finished.relay, relay, "{connects:?} to {serves:?}");
            assert_eq!(world.node.refused.get(&409).copied().unwrap_or(0), u32::from(relay));
            let took = finished.connected - finished.asked;
            // An introduction takes a round trip; a refused one, an allocation, its telling and the introduction five.
            let most = if relay { 350 } else { 180 };
            assert!(took <= most, "{connects:?} to {serves:?} took {took} ms");
            assert_eq!(world.node.relayed > 0, relay);
            assert_eq!(world.node.allocations(), 0, "nothing is left behind");
            assert!(!world.node.knows(id(0)) && !world.node.knows(id(1)));
        }
    }
}

#[test]
fn who_cannot_be_reached_has_a_relay_ready_if_it_can() {
    for connects in [Kind::PortRestricted, Kind::Symmetric] {
        let mut world = World::new(1);
        meet(&mut world, &Kind::Symmetric.into(), &Plan { turn: false, ..connects.into() });
        assert!(agreed(&world).relay && !world.node.refused.contains_key(&409));
    }
    let mut world = World::new(1);
    meet(&mut world, &Kind::Symmetric.into(), &Kind::FullCone.into());
    assert!(!agreed(&world).relay, "it is not taken where there is another way");
}

#[test]
fn types_and_steps_are_found() {
    let (ei, apd) = (Some(Behaviour::EndpointIndependent), Some(Behaviour::AddressAndPortDependent));
    for (kind, name, mapping, filtering, step) in [
        (Kind::Open, NatType::OpenInternet, ei, ei, 0),
        (Kind::Firewall, NatType::SymmetricUdpFirewall, ei, apd, 0),
        (Kind::FullCone, NatType::FullCone, ei, ei, 0),
        (Kind::AddressRestricted, NatType::RestrictedCone, ei, Some(Behaviour::AddressDependent), 0),
        (Kind::PortRestricted, NatType::PortRestrictedCone, ei, apd, 0),
        (Kind::Symmetric, NatType::Symmetric, apd, apd, 0),
        (Kind::Sequential(1), NatType::Symmetric, apd, apd, 1),
        (Kind::Sequential(2), NatType::Symmetric, apd, apd, 2),
        (Kind::Sequential(-3), NatType::Symmetric, apd, apd, -3),
    ] {
        let mut world = World::new(1);
        world.join(&Plan { turn: false, ..kind.into() }, Task::Serve(1));
        world.run(|world| world.node.knows(id(0)));
        let session = &world.hosts[0].session;
        let nat = session.nat();
        assert_eq!((session.kind(), nat.mapping, nat.filtering, nat.step), (Some(name), mapping, filtering, step));
        let newest = if step == 0 { 0 } else { 30_000_u16.wrapping_add_signed(3 * step) };
        assert_eq!(nat.newest, newest, "four mappings were made");
    }
}

#[test]
fn ports_are_predicted_in_both_directions_and_with_any_step() {
    for step in [1, 2, -3, 100] {
        for (serves, connects) in [
            (Kind::Sequential(step), Kind::PortRestricted),
            (Kind::PortRestricted, Kind::Sequential(step)),
            (Kind::Sequential(step), Kind::Sequential(-step)),
            (Kind::Sequential(step), Kind::Firewall),
        ] {
            let mut world = World::new(1);
            meet(&mut world, &Plan { turn: false, ..serves.into() }, &Plan { turn: false, ..connects.into() });
            assert!(!agreed(&world).relay, "{connects:?} to {serves:?}");
        }
    }
}

#[test]
fn others_behind_the_same_nat_may_take_some_ports() {
    for (taken, direct) in [(0, true), (1, true), (PREDICTED - 1, true), (PREDICTED, false)] {
        let mut world = World::new(1);
        world.join(&Plan { turn: false, ..Kind::Sequential(1).into() }, Task::Serve(1));
        world.run(|world| world.node.knows(id(0)));
        world.hosts[0].nat.take_ports(taken);
        world.join(&Kind::PortRestricted.into(), Task::Connect(id(0), BYTES));
        world.run(|_| false);
        assert_eq!(!agreed(&world).relay, direct, "{taken} ports were taken");
    }
}

#[test]
fn a_second_introduction_predicts_from_where_the_first_left_off() {
    let mut world = World::new(1);
    world.join(&Plan { turn: false, ..Kind::Sequential(1).into() }, Task::Serve(2));
    world.run(|world| world.node.knows(id(0)));
    for nth in 1..=2 {
        world.join(&Plan { turn: false, ..Kind::PortRestricted.into() }, Task::Connect(id(0), BYTES));
        world.run(|world| world.hosts[nth].session.is_over());
        assert_eq!(finished(&world, nth).map(|finished| finished.relay), Some(false), "{:?}", failure(&world, nth));
    }
}

#[test]
fn what_is_unknown_is_tried_for_three_seconds_and_then_the_relay() {
    let unknown = Plan { discovers: false, turn: false, ..Kind::Symmetric.into() };
    let mut world = World::new(1);
    meet(&mut world, &unknown, &Plan { turn: true, ..unknown.clone() });
    let finished = agreed(&world);
    let took = finished.connected - finished.asked;
    assert!(finished.relay && (3_000..3_400).contains(&took), "{took} ms");
    assert_eq!((world.node.introduced, world.node.refused.get(&409)), (2, None));

    let mut world = World::new(1);
    meet(&mut world, &unknown, &unknown);
    assert_eq!(failure(&world, 1), Some(&Failure::NoWay));
    let mut world = World::new(1);
    meet(&mut world, &unknown, &Plan { discovers: false, ..Kind::FullCone.into() });
    assert!(!agreed(&world).relay, "and where it can be, it is");
}

#[test]
fn losses_cost_time_and_nothing_else() {
    for seed in 0..12 {
        let pairs = [(Kind::PortRestricted, Kind::PortRestricted), (Kind::Symmetric, Kind::Symmetric)];
        for (serves, connects) in pairs {
            let mut world = World::new(seed);
            world.lost = 100;
            meet(&mut world, &Plan { turn: false, ..serves.into() }, &connects.into());
            agreed(&world);
        }
    }
}

#[test]
fn nothing_but_relayed_addresses_is_used_in_a_channel_that_is_relay_only() {
    let private = |kind: Kind| Plan { channel: "private", relay_only: true, ..kind.into() };
    let mut world = World::new(1);
    meet(&mut world, &private(Kind::Open), &private(Kind::PortRestricted));
    let finished = agreed(&world);
    assert!(finished.relay && finished.path.relayed);
    assert_eq!(finished.introduction.address, None);
    let past = |host: &Host| host.nat.sent_to().any(|to| !world.node.has(to.ip()));
    assert!(!world.hosts.iter().any(past), "a packet went past the relay");

    let mut world = World::new(1);
    meet(&mut world, &Plan { turn: false, relay_only: false, ..private(Kind::Open) }, &private(Kind::Open));
    let Some(Failure::Refused(refusal)) = failure(&world, 1) else { panic!("{:?}", failure(&world, 1)) };
    assert_eq!(refusal.code, 409, "the other has no relayed address");
    let mut world = World::new(1);
    world.join(&Plan { turn: false, ..private(Kind::Open) }, Task::Serve(1));
    world.run(|_| false);
    assert_eq!(failure(&world, 0), Some(&Failure::NoRelay(None)));
}

#[test]
fn refusals_are_told_as_they_are() {
    let open = Plan { turn: false, ..Kind::Open.into() };
    let club = |ticket| Plan { channel: "club", ticket, ..open.clone() };
    for (serves, connects, code) in [
        (club(Some(TICKET)), club(Some("another")), 403),
        (club(Some(TICKET)), club(None), 403),
        (club(Some(TICKET)), open.clone(), 404),
        (Plan { turn: false, ..Kind::Symmetric.into() }, Plan { turn: false, ..Kind::Symmetric.into() }, 409),
    ] {
        let mut world = World::new(1);
        meet(&mut world, &serves, &connects);
        let Some(Failure::Refused(refusal)) = failure(&world, 1) else { panic!("{:?}", failure(&world, 1)) };
        assert_eq!(refusal.code, code);
        assert_eq!(world.hosts[1].session.refusals().last(), Some(refusal));
    }
    let mut world = World::new(1);
    meet(&mut world, &club(Some(TICKET)), &club(Some(TICKET)));
    agreed(&world);
}

#[test]
fn too_many_introductions_are_waited_out() {
    let mut world = World::new(1);
    world.node.too_many = 2;
    meet(&mut world, &Kind::Open.into(), &Kind::Open.into());
    let finished = agreed(&world);
    assert_eq!(world.node.refused.get(&429), Some(&2));
    assert!((2_000..2_500).contains(&(finished.connected - finished.asked)));
}

#[test]
fn a_node_that_was_restarted_learns_everything_again() {
    let mut world = World::new(1);
    world.join(&Kind::Open.into(), Task::Serve(1));
    world.run(|world| world.node.knows(id(0)));
    world.node.forget();
    let until = world.now + 16_000;
    world.run(|world| world.now >= until);
    assert!(world.node.knows(id(0)), "half a lifetime later it is known again");
    world.join(&Kind::Open.into(), Task::Connect(id(0), BYTES));
    world.run(|world| world.node.knows(id(1)));
    world.node.forget();
    world.run(|world| world.hosts[1].session.is_over());
    let Some(Failure::Refused(refusal)) = failure(&world, 1) else { panic!("{:?}", failure(&world, 1)) };
    assert_eq!(refusal.code, 404, "this peer has registered again at once, the other one not yet");
    assert_eq!(world.node.refused.get(&401).copied(), Some(4), "two first Registers, a later one, an Introduce");
}

#[test]
fn registrations_are_kept_for_as_long_as_it_takes() {
    let mut world = World::new(1);
    world.join(&Kind::PortRestricted.into(), Task::Serve(1));
    world.run(|world| world.now >= 100_000);
    assert!(world.node.knows(id(0)));
    let expected = (100_000 - 4_500) / 15_000 + 1;
    assert!(world.node.granted.abs_diff(expected) <= 1, "{} Registers in 100 s", world.node.granted);
    assert!(world.sent < 30, "{} packets in 100 s", world.sent);
}

#[test]
fn a_way_that_is_taken_is_kept_open() {
    let mut world = World::new(1);
    world.join(&Kind::PortRestricted.into(), Task::Serve(0));
    world.run(|world| world.node.knows(id(0)));
    world.join(&Kind::PortRestricted.into(), Task::Connect(id(0), BYTES));
    world.run(|world| world.hosts[1].session.is_over());
    let (before, until) = (world.sent, world.now + 50_000);
    world.run(|world| world.now >= until);
    // Three to the node, three to the peer.
    assert!((5..=8).contains(&(world.sent - before)), "{}", world.sent - before);
}

#[test]
fn who_has_no_relay_and_needs_one_is_told_why() {
    let mut world = World::new(1);
    let wrong = Plan { password: Some("guessed"), ..Kind::Symmetric.into() };
    meet(&mut world, &Plan { turn: false, ..Kind::Symmetric.into() }, &wrong);
    let Some(Failure::NoRelay(Some(refusal))) = failure(&world, 1) else { panic!("{:?}", failure(&world, 1)) };
    assert_eq!(refusal.code, 401);
}

#[test]
fn blocked_udp_and_dead_nodes_are_noticed() {
    let mut world = World::new(1);
    world.join(&Kind::Blocked.into(), Task::Connect(id(7), 1));
    world.run(|_| false);
    assert_eq!(failure(&world, 0), Some(&Failure::UdpBlocked));
    assert!(world.now < 3_000, "{}", world.now);

    let mut world = World::new(1);
    world.node.dead = true;
    world.join(&Plan { discovers: false, ..Kind::Open.into() }, Task::Connect(id(7), 1));
    world.run(|_| false);
    assert_eq!(failure(&world, 0), Some(&Failure::Silent));
}

#[test]
fn two_that_ask_for_each_other_are_introduced_once_and_both_send() {
    for kind in [Kind::PortRestricted, Kind::Symmetric] {
        let mut world = World::new(1);
        world.join(&kind.into(), Task::Connect(id(1), BYTES));
        world.join(&kind.into(), Task::Connect(id(0), BYTES));
        world.run(|_| false);
        for nth in 0..2 {
            let Some(finished) = finished(&world, nth) else { panic!("{kind:?} {:?}", failure(&world, nth)) };
            assert_eq!((finished.verdict, finished.bytes), (Verdict::Right, BYTES));
        }
    }
}

#[test]
fn several_peers_are_served_at_once() {
    let mut world = World::new(3);
    world.join(&Plan { turn: false, ..Kind::PortRestricted.into() }, Task::Serve(5));
    world.run(|world| world.node.knows(id(0)));
    let kinds = [Kind::Open, Kind::PortRestricted, Kind::AddressRestricted, Kind::Symmetric, Kind::Sequential(2)];
    for kind in kinds {
        world.join(&kind.into(), Task::Connect(id(0), BYTES));
    }
    world.run(|_| false);
    for (nth, kind) in kinds.into_iter().enumerate() {
        let finished = finished(&world, nth + 1).unwrap_or_else(|| panic!("{:?}", failure(&world, nth + 1)));
        assert_eq!((finished.relay, finished.verdict), (kind == Kind::Symmetric, Verdict::Right), "{kind:?}");
    }
    assert!(world.hosts[0].session.is_over());
}
