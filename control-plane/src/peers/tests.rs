use super::*;

/// A table, and a clock that only this test moves.
struct Lab {
    peers: Peers,
    now: Instant,
}

impl Lab {
    fn new(most: usize) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        Self { peers: Peers { table: Mutex::new(Table::new(most)), metrics }, now: Instant::now() }
    }

    fn tell(&self, node: &str, connection: u64, observation: Observation) {
        self.peers.observe(self.now, node, connection, &[observation]);
    }

    /// Peers of a channel, and the nodes where they are.
    fn list(&self, channel: &str) -> Vec<(u8, Vec<String>)> {
        let peers = self.peers.list(self.now, "acme", channel, None, usize::MAX);
        let nodes = |peer: Peer| peer.registrations.into_iter().map(|at| at.node.as_ref().to_owned()).collect();
        peers.into_iter().map(|peer| (peer.id.0[0], nodes(peer))).collect()
    }

    fn find(&self, channel: &str, peer: u8) -> Option<Peer> {
        self.peers.find(self.now, "acme", channel, id(peer).parse().unwrap())
    }

    /// The same counted anew: both orders hold the same keys.
    fn check(&self) {
        let table = self.peers.lock(self.now);
        assert_eq!(table.entries.len(), table.turns.len());
        assert!(table.turns.iter().all(|(turn, key)| table.entries[key].turn == *turn));
    }

    fn counted(&self, line: &str) -> bool {
        String::from_utf8(self.peers.metrics.export().unwrap()).unwrap().lines().any(|found| found == line)
    }
}

fn id(first: u8) -> String {
    format!("{first:02x}{}", "0".repeat(38))
}

fn seen(channel: &str, peer: u8) -> Observation {
    Observation {
        tenant: "acme".to_owned(),
        channel: channel.to_owned(),
        peer: id(peer),
        address: "192.0.2.1:4000".parse().unwrap(),
        mapping: Behaviour::EndpointIndependent,
        filtering: Behaviour::AddressDependent,
        predictable: false,
        registered: true,
    }
}

fn gone(channel: &str, peer: u8) -> Observation {
    Observation { registered: false, ..seen(channel, peer) }
}

fn at(nodes: &[&str]) -> Vec<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

#[test]
fn ids_are_forty_digits_in_either_case() {
    let text = "00ff0123456789abcdefABCDEF00112233445566";
    let id: PeerId = text.parse().unwrap();
    assert_eq!(id.to_string(), text.to_ascii_lowercase());
    for wrong in ["", &text[1..], &format!("{text}0"), &format!("{text}00"), &text.replace('f', "g"), &"é".repeat(20)]
    {
        assert_eq!(wrong.parse::<PeerId>(), Err(NoPeerId), "{wrong}");
    }
}

#[test]
fn a_registration_comes_changes_and_goes() {
    let lab = Lab::new(10);
    lab.tell("n1", 1, seen("a", 7));
    let first = lab.find("a", 7).unwrap();
    assert_eq!((&*first.registrations[0].node, first.registrations[0].filtering), ("n1", Behaviour::AddressDependent));
    let moved = Observation { address: "[2001:db8::1]:9".parse().unwrap(), predictable: true, ..seen("a", 7) };
    lab.tell("n1", 1, moved);
    let second = lab.find("a", 7).unwrap();
    assert_eq!(second.registrations.len(), 1);
    assert_eq!(second.registrations[0].address.to_string(), "[2001:db8::1]:9");
    assert!(second.registrations[0].predictable);
    assert_eq!(second.registrations[0].since_ms, first.registrations[0].since_ms);
    lab.tell("n1", 1, gone("a", 7));
    assert_eq!((lab.find("a", 7), lab.peers.registrations(lab.now)), (None, 0));
    lab.check();
    assert!(lab.counted("shoal_control_peer_observations_total{result=\"registered\"} 2"));
    assert!(lab.counted("shoal_control_peer_observations_total{result=\"ended\"} 1"));
}

#[test]
fn channels_tenants_and_nodes_are_kept_apart() {
    let lab = Lab::new(100);
    for (node, connection, channel, peer) in
        [("n1", 1, "a", 2), ("n2", 2, "a", 2), ("n1", 1, "a", 1), ("n1", 1, "aa", 1), ("n1", 1, "b", 3)]
    {
        lab.tell(node, connection, seen(channel, peer));
    }
    lab.tell("n1", 1, Observation { tenant: "other".to_owned(), ..seen("a", 9) });
    assert_eq!(lab.list("a"), [(1, at(&["n1"])), (2, at(&["n1", "n2"]))]);
    assert_eq!(lab.list("aa"), [(1, at(&["n1"]))]);
    assert_eq!(lab.list("c"), []);
    assert_eq!((lab.find("a", 9), lab.find("b", 1)), (None, None));
    // One node's word ends what is registered there, and nowhere else.
    lab.tell("n1", 1, gone("a", 2));
    assert_eq!(lab.find("a", 2).unwrap().registrations[0].node.as_ref(), "n2");
    lab.check();
}

#[test]
fn a_list_comes_in_pages() {
    let lab = Lab::new(1000);
    for peer in 0..=255 {
        lab.tell("n1", 1, seen("a", peer));
        lab.tell("n2", 2, seen("a", peer));
    }
    lab.tell("n1", 1, seen("b", 0));
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = lab.peers.list(lab.now, "acme", "a", after, 100);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        found.extend(page.into_iter().map(|peer| (peer.id.0[0], peer.registrations.len())));
    }
    assert_eq!(found, (0..=255).map(|peer| (peer, 2)).collect::<Vec<_>>());
}

#[test]
fn what_a_node_had_outlives_its_connection_for_a_while() {
    let mut lab = Lab::new(100);
    for (node, connection, peer) in [("n1", 1, 1), ("n1", 1, 2), ("n1", 1, 3), ("n2", 2, 1)] {
        lab.tell(node, connection, seen("a", peer));
    }
    lab.peers.disconnected(lab.now, 1);
    lab.now += GRACE / 2;
    assert_eq!(lab.list("a").len(), 3);
    // It is back, and tells what it has: one has left meanwhile without a word, and one says so.
    lab.tell("n1", 3, seen("a", 1));
    lab.tell("n1", 3, gone("a", 2));
    lab.now += GRACE / 2 - Duration::from_millis(1);
    assert_eq!(lab.list("a"), [(1, at(&["n1", "n2"])), (3, at(&["n1"]))]);
    lab.now += Duration::from_millis(1);
    assert_eq!(lab.list("a"), [(1, at(&["n1", "n2"]))]);
    lab.check();
    // What it told again stays, until the later connection ends too.
    lab.now += GRACE;
    assert_eq!(lab.list("a").len(), 1);
    lab.peers.disconnected(lab.now, 3);
    lab.peers.disconnected(lab.now, 2);
    lab.now += GRACE;
    assert_eq!(lab.peers.registrations(lab.now), 0);
    lab.check();
}

#[test]
fn an_older_connection_s_word_does_not_count() {
    let lab = Lab::new(100);
    lab.tell("n1", 5, seen("a", 1));
    lab.tell("n1", 4, gone("a", 1));
    lab.tell("n1", 4, Observation { predictable: true, ..seen("a", 1) });
    assert!(!lab.find("a", 1).unwrap().registrations[0].predictable);
    assert!(lab.counted("shoal_control_peer_observations_total{result=\"late\"} 2"));
}

#[test]
fn beyond_the_limit_the_oldest_is_forgotten() {
    let lab = Lab::new(3);
    for peer in [1, 2, 3] {
        lab.tell("n1", 1, seen("a", peer));
    }
    // Told of again: no longer the oldest.
    lab.tell("n1", 1, seen("a", 1));
    lab.tell("n1", 1, seen("b", 4));
    assert_eq!((lab.list("a").len(), lab.find("a", 2)), (2, None));
    lab.tell("n1", 1, seen("b", 5));
    assert_eq!((lab.list("a"), lab.list("b").len()), (vec![(1, at(&["n1"]))], 2));
    lab.check();
    assert!(lab.counted("shoal_control_peer_registrations_dropped_total 2"));
}

#[test]
fn names_that_are_none_are_left_out() {
    let lab = Lab::new(3);
    for wrong in [
        Observation { peer: "peer".to_owned(), ..seen("a", 1) },
        Observation { tenant: String::new(), ..seen("a", 1) },
        seen("No Name", 1),
        seen(&"a".repeat(65), 1),
    ] {
        lab.tell("n1", 1, wrong);
    }
    assert_eq!(lab.peers.registrations(lab.now), 0);
    assert!(lab.counted("shoal_control_peer_observations_total{result=\"refused\"} 4"));
}
