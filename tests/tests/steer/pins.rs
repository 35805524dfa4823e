//! The program for sockets, pinned: for one process after the other, and for a node that may load none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use shoal_packet::flow::Owners;
use shoal_probes::maps::CHANNELS;
use shoal_probes::{PinError, Pins, Probes, Steered, Steering};
use shoal_tests::bpffs::BpfFs;
use shoal_tests::lab::binary;
use shoal_tests::natlab::Server;
use shoal_tests::tool;

use crate::{
    BARE, LAG, Road, Sockets, assert_at_home, assert_fair, from_client, from_peer, left_to_kernel, object, relays,
};

/// The capabilities of the loader's unit, with which it runs as root.
const LOADER: [&str; 4] = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all", "--"];

/// The name of the program's pin.
const PROGRAM: &str = "shoal_steer";

/// A user that has nothing.
const NOBODY: u32 = 65_534;

fn loaded(pins: &Pins) -> Probes {
    let loaded = match object() {
        Some(object) => Probes::load_object_pinned(&object, pins, 7, CHANNELS),
        None => Probes::load_pinned(pins, 7, CHANNELS),
    };
    loaded.expect("root may load")
}

fn opened(pins: &Pins, owners: Owners) -> Option<Steering> {
    Steering::open(pins, owners).unwrap_or_else(|error| panic!("{error}"))
}

/// The one line of an error.
#[track_caller]
fn refused(pins: &Pins, says: &str) {
    let Err(error) = Steering::open(pins, Owners { seed: 1, shards: 2 }) else { panic!("it is opened: {says}") };
    let said = error.to_string();
    assert!(said.contains("is damaged or not of shoal") && said.contains(says) && said.lines().count() == 1, "{said}");
}

#[test]
fn what_is_pinned_steers_for_one_process_after_the_other() {
    const DATAGRAMS: usize = 20_000;
    Road::run("what_is_pinned_steers_for_one_process_after_the_other", |mut road| {
        let bpf = BpfFs::mount(road.lab.dir().join("bpf"));
        let pins = Pins::new(bpf.pins());
        let first = Owners { seed: road.rng.next_u64(), shards: 4 };
        assert!(opened(&pins, first).is_none(), "nothing is pinned");
        let mut probes = loaded(&pins);
        assert!(opened(&pins, first).is_none(), "the one for packets alone is pinned");
        probes.pin_steering().expect("root may load");
        drop(probes);
        let (v4, v6) = (road.lab.addresses(), road.lab.addresses_v6());
        let endpoints = [(v4[0], 3478), (v4[1], 3479), (v6[0], 3478), (v6[1], 3478), (v6[0], 3479)];
        let dead = Sockets::open(&road, first.shards, &endpoints);
        let mut steering = opened(&pins, first).expect("it is pinned");
        dead.steer(&mut steering);
        let (_, strays) = dead.exchange(&mut road, first, DATAGRAMS);
        assert_eq!(strays, 0);
        let all = Steered { owner: DATAGRAMS as u64, kernel: 0 };
        assert_eq!(steering.steered().expect("the map is there"), all);
        drop(steering);
        // The process is dead, and the kernel has not closed its sockets yet; the next one has other addresses in the places of its.
        let next = Owners { seed: road.rng.next_u64(), shards: 3 };
        let others = [endpoints[2], (v4[0], 3479), endpoints[0], endpoints[4], (v6[1], 3479)];
        let sockets = Sockets::open(&road, next.shards, &others);
        let mut steering = opened(&pins, next).expect("it is pinned");
        assert_eq!(steering.steered().expect("the map is there"), Steered::default(), "that was another's");
        sockets.steer(&mut steering);
        let (_, strays) = sockets.exchange(&mut road, next, DATAGRAMS);
        assert_eq!(strays, 0);
        assert_eq!(steering.steered().expect("the map is there"), all);
        // Now it has.
        drop(dead);
        let (shares, strays) = sockets.exchange(&mut road, next, DATAGRAMS);
        assert_eq!(strays, 0);
        shares.iter().for_each(|share| assert_fair(*share, DATAGRAMS as u64, 3.0));
        // A loader replaces the program, or takes all away, beside a process that has it.
        loaded(&pins).pin_steering().expect("root may load");
        let (_, strays) = sockets.exchange(&mut road, next, DATAGRAMS);
        pins.remove().expect("they are ours");
        let (_, more) = sockets.exchange(&mut road, next, DATAGRAMS);
        assert_eq!((strays, more), (0, 0));
        let counted = steering.steered().expect("the map is there");
        assert_eq!(counted, Steered { owner: 4 * DATAGRAMS as u64, kernel: 0 });
    });
}

#[test]
fn pins_that_do_not_belong_together_are_refused() {
    Road::run("pins_that_do_not_belong_together_are_refused", |road| {
        let bpf = BpfFs::mount(road.lab.dir().join("bpf"));
        let (pins, owners) = (Pins::new(bpf.pins()), Owners { seed: 1, shards: 2 });
        let renew = || loaded(&pins).pin_steering().expect("root may load");
        renew();
        assert!(opened(&pins, owners).is_some());
        // Another program, a map, and a map of another type.
        fs::rename(pins.program("shoal"), pins.program(PROGRAM)).expect("it is there");
        refused(&pins, "it is no program for sockets");
        fs::rename(pins.map("OUT"), pins.program(PROGRAM)).expect("it is there");
        refused(&pins, "programs/shoal_steer");
        renew();
        fs::rename(pins.map("PORTS"), pins.map("STEER_PLACE")).expect("it is there");
        refused(&pins, "its type is");
        // Without one; and one that is made anew is not the program's.
        fs::remove_file(pins.map("STEER_PLACE")).expect("it is there");
        refused(&pins, "it is not there");
        drop(loaded(&pins));
        assert!(opened(&pins, owners).is_none());
        renew();
        assert!(opened(&pins, owners).is_some(), "the loader puts it right");
        drop(loaded(&pins));
        assert!(opened(&pins, owners).is_some(), "its maps are the same");
        pins.remove_steering().expect("it is ours");
        assert!(opened(&pins, owners).is_none());
        pins.remove_steering().expect("it need not be there");
        // Who has it keeps others away, with all that it hands on.
        let held = pins.hold().expect("nobody has it");
        let again = held.try_clone().expect("there are descriptors");
        drop(held);
        assert!(matches!(pins.hold(), Err(PinError::Held(_))));
        drop(again);
        drop(pins.hold().expect("nobody has it any more"));
    });
}

/// Runs the loader at the hub; what it wrote.
fn load(road: &Road<'_>, pins: &Path, arguments: &[&str]) {
    let [program, rest @ ..] = LOADER;
    let mut command = road.lab.hub().command(program);
    command.args(rest).arg(binary("shoal-xdp")).arg("--pins").arg(pins).args(arguments);
    let output = tool::run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
}

#[test]
fn the_loader_pins_it_where_there_is_something_to_steer() {
    let test = "the_loader_pins_it_where_there_is_something_to_steer";
    if tool::need(test, "setpriv").is_none() {
        return;
    }
    Road::run(test, |road| {
        let bpf = BpfFs::mount(road.lab.dir().join("bpf"));
        let (pins, file) = (Pins::new(bpf.pins()), road.lab.dir().join("loader.toml"));
        let own = file.to_str().expect("it is in ASCII");
        for (text, is_pinned) in [
            ("", true),
            ("[udp]\nsteer = false\n", false),
            ("[shards]\ncount = 2\n", true),
            ("[shards]\ncount = 1\n", false),
        ] {
            fs::write(&file, text).expect("the lab's own folder is writable");
            load(&road, pins.root(), &["--config", own, "load", "side1"]);
            assert_eq!(pins.program(PROGRAM).exists(), is_pinned, "{text:?}");
            assert!(pins.program("shoal").exists());
        }
        // As it does to one more interface; and it is given away with the rest.
        load(&road, pins.root(), &["attach", "lo"]);
        assert!(pins.program(PROGRAM).exists());
        pins.give(NOBODY, Some(NOBODY)).expect("root may");
        let found = fs::metadata(pins.program(PROGRAM)).expect("it is there");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    });
}

#[test]
fn without_capabilities_flows_are_steered_by_what_a_loader_has_pinned() {
    const DATAGRAMS: usize = 30_000;
    let test = "without_capabilities_flows_are_steered_by_what_a_loader_has_pinned";
    if tool::need(test, "setpriv").is_none() {
        return;
    }
    Road::run(test, |mut road| {
        let bpf = BpfFs::mount(road.lab.dir().join("bpf"));
        let pins = Pins::new(bpf.pins());
        load(&road, pins.root(), &["load", "side1"]);
        let xdp = format!(
            "[xdp]\ninterfaces = [\"side1\"]\npins = {}\nanswer = false\nattack_packets = 0\n",
            json!(pins.root())
        );
        // The first is killed; what it has left is nothing to the next.
        for nth in 0..2 {
            let mut server = Server::shoal_with(road.lab, &xdp, &json!([]), &BARE);
            assert_eq!(left_to_kernel(&mut server), [""; 0]);
            let relays = relays(&mut road, &server, 16);
            let started = road.metrics();
            assert_eq!(started.sum("shoal_xdp_interfaces", &[("mode", "native")]), 1.0);
            road.send_to_node(DATAGRAMS, from_client);
            let sent = ("shoal_udp_datagrams_total", [("direction", "out")]);
            let before = road.metrics().sum(sent.0, &sent.1);
            road.send_to_node(DATAGRAMS, |road| {
                let nth = road.rng.below(relays.len() as u64) as usize;
                from_peer(road, &relays[nth])
            });
            std::thread::sleep(LAG);
            let metrics = road.metrics();
            assert_at_home(&started, &metrics);
            assert_eq!(metrics.sum(sent.0, &sent.1) - before, DATAGRAMS as f64, "each is relayed");
            let owner = metrics.sum("shoal_udp_steered_total", &[("to", "owner")]);
            println!("{nth}: {owner} messages to their owners' sockets");
            // And what the relays took.
            let expected = DATAGRAMS as f64..DATAGRAMS as f64 * 1.1;
            assert!(expected.contains(&owner), "{owner}");
            server.process().kill();
        }
        // Another program in its place: the log says so, and all are served.
        fs::rename(pins.program("shoal"), pins.program(PROGRAM)).expect("it is there");
        let mut server = Server::shoal_with(road.lab, &xdp, &json!([]), &BARE);
        drop(relays(&mut road, &server, 2));
        let lines = left_to_kernel(&mut server);
        assert!(
            lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("no program for sockets"),
            "{lines:?}"
        );
        server.process().kill();
        // As it is where a loader pins none.
        fs::remove_file(pins.program(PROGRAM)).expect("it is there");
        let mut server = Server::shoal_with(road.lab, &xdp, &json!([]), &BARE);
        let started = road.metrics();
        road.send_to_node(DATAGRAMS / 10, from_client);
        std::thread::sleep(LAG);
        let lines = left_to_kernel(&mut server);
        assert!(lines.len() == 2 && lines[1].contains("INFO") && lines[1].contains("CAP_BPF"), "{lines:?}");
        let metrics = road.metrics();
        assert_at_home(&started, &metrics);
        assert_eq!(metrics.get("shoal_udp_steered_total", &[]), Some(0.0));
    });
}
