//! The UDP services, with clients that other people wrote.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::{net, tool, with_one_and_four_shards};

with_one_and_four_shards!(clients_of_both_dialects_are_told_their_address_and_that_there_is_no_nat);
with_one_and_four_shards!(junk_is_counted_and_clients_are_served_meanwhile);

const PORT: u16 = 3478;

/// A node with two UDP addresses and two ports.
fn node(shards: u32) -> (Lab, [IpAddr; 2]) {
    let addresses = [net::own_address(), net::own_address()];
    let lab = Settings::new(shards)
        .set("udp.addresses", &format!("[\"{}\", \"{}\"]", addresses[0], addresses[1]))
        .set("udp.port", &PORT.to_string())
        .set("udp.alternate_port", &(PORT + 1).to_string())
        .start();
    (lab, addresses)
}

fn said(command: &mut Command) -> String {
    let start = Instant::now();
    let output = tool::run(command);
    let said = tool::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    println!("{command:?}: {:?} after {:?}\n{said}", output.status.code(), start.elapsed());
    said
}

fn clients_of_both_dialects_are_told_their_address_and_that_there_is_no_nat(shards: u32) {
    let (lab, [first, second]) = node(shards);
    let from = net::own_address().to_string();
    if let Some(stun) = tool::need("RFC 3489 by stun-client", "stun") {
        let said = said(Command::new(stun).args([&format!("{first}:{PORT}"), "-v"]));
        assert!(said.contains("Primary: Open"), "{said}");
    }
    if let Some(client) = tool::need("Binding by turnutils_stunclient", "turnutils_stunclient") {
        // It waits for ever for what does not come.
        let mut command = Command::new("timeout");
        command.arg("20").arg(client).args(["-p", &PORT.to_string(), "-L", &from, &first.to_string()]);
        let said = said(&mut command);
        assert!(said.contains("reflexive addr") && said.contains(&from), "{said}");
        assert!(said.contains("RFC 5780 response 2"), "{said}");
    }
    if let Some(client) = tool::need("RFC 5780 by turnutils_natdiscovery", "turnutils_natdiscovery") {
        let port = PORT.to_string();
        let said = said(Command::new(client).args(["-m", "-f", "-p", &port, "-L", &from, &first.to_string()]));
        assert!(said.contains(&format!("Other addr: : {second}")), "{said}");
        for found in ["No NAT! (Endpoint Independent Mapping)", "NAT with Endpoint Independent Filtering!"] {
            assert!(said.contains(found), "{said}");
        }
    }
    let metrics = lab.metrics();
    let answers = |dialect| metrics.sum("shoal_stun_answers_total", &[("dialect", dialect), ("result", "success")]);
    assert!(answers("stun") > 0.0 && answers("classic") > 0.0);
}

fn socket() -> UdpSocket {
    UdpSocket::bind((net::own_address(), 0)).expect("loopback has free ports")
}

fn junk_is_counted_and_clients_are_served_meanwhile(shards: u32) {
    let (lab, [first, _]) = node(shards);
    let junk = socket();
    for nth in 0..2000u32 {
        junk.send_to(&nth.to_be_bytes().repeat(nth as usize % 300), (first, PORT)).expect("loopback takes it");
    }
    let client = socket();
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("the time is not zero");
    let mut request = [0u8; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    client.send_to(&request, (first, PORT)).expect("loopback takes it");
    let mut answer = [0u8; 256];
    let (length, from) = client.recv_from(&mut answer).expect("a Binding request is answered");
    assert!(length > 20 && answer[..2] == [1, 1] && from == (first, PORT).into());
    until("all of it was counted", Duration::from_secs(5), || {
        let metrics = lab.metrics();
        let received = metrics.sum("shoal_udp_datagrams_total", &[("direction", "in")]);
        let lost = metrics.sum("shoal_udp_receive_queue_drops_total", &[]);
        let dropped = metrics.sum("shoal_udp_drops_total", &[]);
        received + lost == 2001.0 && dropped + 1.0 == received
    });
}
