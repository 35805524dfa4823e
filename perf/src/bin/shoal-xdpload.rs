//! What the XDP program costs for a packet of each verdict, beside a program that does nothing (BPF_PROG_TEST_RUN).
//!
//! Prints one JSON object. Needs what loading eBPF takes; runs on the CPU that it is started on.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::thread::sched_getcpu;
use serde_json::{Value, json};
use shoal_perf::frame::Frame;
use shoal_perf::namespace;
use shoal_probes::maps::Verdict;
use shoal_probes::{Channel, Limits, Owner, Probes, index};

/// Measures each verdict of the XDP program.
#[derive(Parser)]
struct Options {
    /// Runs of each case, each beside one of the program that does nothing.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Packets of a run.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Only this case, for a profile.
    #[arg(long)]
    only: Option<String>,
}

/// A packet, and what comes of it.
struct Case {
    name: &'static str,
    frame: Frame,
    verdict: Verdict,
    /// Whether the limits are on that all packets pass in an ordinary node.
    limits: Limits,
}

const NODE: &str = "192.0.2.1:3478";
const NODE6: &str = "[2001:db8::1]:3478";
const CLIENT: &str = "198.51.100.7:40000";
const CLIENT6: &str = "[2001:db8:7::7]:40000";
const STRANGER: &str = "203.0.113.9:40000";
const RELAY: &str = "192.0.2.1:50000";
const RELAY6: &str = "[2001:db8::1]:50000";
const PEER: &str = "198.51.100.9:9000";
const PEER6: &str = "[2001:db8:9::9]:9000";

/// What frames come in by, with next hops behind it.
const INTERFACE: &str = "node0";
const NETWORK: &str = "link add node0 type veth peer name outer0
link set node0 up
link set outer0 up
addr add 192.0.2.1/24 dev node0
addr add 2001:db8::1/64 dev node0 nodad
neigh add 192.0.2.4 lladdr 02:00:00:00:00:01 dev node0
neigh add 2001:db8::4 lladdr 02:00:00:00:00:01 dev node0
route add default via 192.0.2.4
route add default via 2001:db8::4
";

/// A Binding request without attributes, ChannelData of 160 bytes, and RTP.
const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const CHANNEL: [u8; 164] = {
    let mut bytes = [0; 164];
    (bytes[0], bytes[3]) = (0x40, 160);
    bytes
};
const RTP: [u8; 172] = [0x80; 172];

fn channel_data(number: u16, length: u16) -> Vec<u8> {
    [&number.to_be_bytes()[..], &length.to_be_bytes(), &vec![7; length.into()]].concat()
}

/// Networks on the block list, beside the one that is met.
const BLOCKED: u8 = 200;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.runs > 0 && options.packets > 0, "--runs, --packets: at least 1");
    let cpu = sched_getcpu();
    namespace::enter("cost")?;
    namespace::pin(cpu)?;
    NETWORK.lines().try_for_each(namespace::ip)?;
    namespace::forward()?;
    let cases = cases()?;
    let mut measured = Vec::new();
    for case in cases.into_iter().filter(|case| options.only.as_deref().is_none_or(|only| only == case.name)) {
        measured.push(measure(&case, &options).with_context(|| format!("case {}", case.name))?);
    }
    println!("{}", json!({ "cases": measured }));
    Ok(())
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let frame = |source: &str, destination: &str, payload: &[u8]| -> anyhow::Result<Frame> {
        Ok(Frame::new(source.parse()?, destination.parse()?, payload))
    };
    // No packet is over them, and each is looked at.
    let limits =
        Limits { source: u32::MAX, network: u32::MAX, new_source: u32::MAX, attack: u32::MAX, ..Limits::default() };
    let bindings = Limits { bindings: u32::MAX, ..limits };
    let case = |name, frame, verdict, limits| Case { name, frame, verdict, limits };
    Ok(vec![
        case("untouched", frame(CLIENT, "192.0.2.1:53", &RTP)?, Verdict::Untouched, limits),
        case("blocked", frame(STRANGER, RELAY, &RTP)?, Verdict::Blocked, limits),
        case("passed", frame(CLIENT, NODE, &CHANNEL)?, Verdict::Passed, limits),
        case("passed-ipv6", frame(CLIENT6, NODE6, &CHANNEL)?, Verdict::Passed, limits),
        case("passed-relay", frame(CLIENT, RELAY, &RTP)?, Verdict::Passed, limits),
        case("shape", frame(CLIENT, NODE, &RTP)?, Verdict::Shape, limits),
        case("source-rate", frame(CLIENT, RELAY, &RTP)?, Verdict::SourceRate, Limits { source: 1, ..limits }),
        case("answered", frame(CLIENT, NODE, &REQUEST)?, Verdict::Answered, bindings),
        case("relayed", frame(CLIENT, NODE, &channel_data(0x4100, 160))?, Verdict::Relayed, limits),
        case("relayed-1200", frame(CLIENT, NODE, &channel_data(0x4100, 1200))?, Verdict::Relayed, limits),
        case("relayed-to-client", frame(PEER, RELAY, &RTP)?, Verdict::Relayed, limits),
        case("relayed-to-ipv6", frame(CLIENT, NODE, &channel_data(0x4101, 160))?, Verdict::Relayed, limits),
        case("answered-ipv6", frame(CLIENT6, NODE6, &REQUEST)?, Verdict::Answered, bindings),
    ])
}

fn measure(case: &Case, options: &Options) -> anyhow::Result<Value> {
    let mut probes = Probes::load(1)?;
    for (node, other) in [(NODE, "192.0.2.2:3479"), (NODE6, "[2001:db8::2]:3479")] {
        let node: SocketAddr = node.parse()?;
        probes.add_endpoint(node, true, Some(other.parse()?))?;
        probes.add_address(node.ip())?;
    }
    probes.add_relay_ports(50_000..=50_099)?;
    for nth in 0..BLOCKED {
        probes.block(format!("10.{nth}.0.0/16").parse()?)?;
        probes.block(format!("2001:db8:b{nth:x}::/48").parse()?)?;
    }
    probes.block("203.0.113.0/24".parse()?)?;
    probes.set_limits(&case.limits)?;
    let frame = case.frame.bytes();
    let mut relay = probes.relays(1)?.pop().context("one hand was asked for")?;
    relay.own(0, 1, Owner { tenant: "bench", user: "" })?;
    for (peer, relayed) in [(PEER, RELAY), (PEER6, RELAY6)] {
        let (client, server) = (CLIENT.parse()?, NODE.parse()?);
        let (number, peer): (u16, SocketAddr) = (if peer == PEER { 0x4100 } else { 0x4101 }, peer.parse()?);
        let channel = Channel { number, client, server, relayed: relayed.parse()?, peer };
        relay.bind(&channel, 0, 1, u64::MAX)?;
    }
    // What is relayed has to leave by what it came in by, and that has to run a program.
    probes.attach_empty(INTERFACE)?;
    let interface = Some(index(INTERFACE)?);
    // A rate of one in a second has to be used up first.
    probes.run(&frame, 2)?;
    let changes = matches!(case.verdict, Verdict::Answered | Verdict::Relayed);
    probes.prepare_again(&frame)?;
    let (mut ours, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let before = probes.verdicts()?;
        if changes {
            let [again, reset] = probes.run_again(interface, &frame, options.packets)?;
            ours.push(again as f64);
            empty.push(reset as f64);
        } else {
            ours.push(probes.run(&frame, options.packets)?.ns as f64);
            empty.push(probes.run_empty(&frame, options.packets)?.ns as f64);
        }
        let after = probes.verdicts()?;
        let counted = after[case.verdict as usize] - before[case.verdict as usize];
        let packets = u64::from(options.packets);
        ensure!(counted >= packets * 999 / 1000, "only {counted} of {packets} were {}", case.verdict.name());
    }
    Ok(json!({ "case": case.name, "ns": median(ours), "empty_ns": median(empty), "changes": changes }))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
