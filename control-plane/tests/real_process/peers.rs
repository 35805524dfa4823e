//! Peers that nodes tell of over the link.

use serde_json::{Value, json};
use shoal_link::DataMessage;
use shoal_link::observation::{Behaviour, Observation};

use crate::ctl::Ctl;
use crate::support::{Control, Dir, Node, until};

fn seen(peer: u32) -> Observation {
    Observation {
        tenant: "default".to_owned(),
        channel: "a".to_owned(),
        peer: format!("{peer:040x}"),
        address: format!("192.0.2.1:{}", 1000 + peer % 60_000).parse().unwrap(),
        mapping: Behaviour::EndpointIndependent,
        filtering: Behaviour::AddressAndPortDependent,
        predictable: false,
        registered: true,
    }
}

/// The nodes where a peer is registered.
fn nodes(control: &Control, peer: u32) -> Option<Vec<Value>> {
    let (status, body) = control.call("GET", &format!("/api/v1/channels/a/peers/{peer:040x}"), &Value::Null);
    let registrations = body["registrations"].as_array().cloned().unwrap_or_default();
    (status == 200).then(|| registrations.into_iter().map(|mut at| at["node"].take()).collect())
}

#[test]
fn peers_are_told_of_until_they_or_their_nodes_are_gone() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    let ctl = Ctl::new(&dir, &control);
    let mut one = Node::join(&dir.socket(), "one", 1, None);
    let mut two = Node::join(&dir.socket(), "two", 1, None);
    assert_eq!(control.get("/api/v1/channels/a/peers"), json!({"items": [], "next": null}));
    one.send(&DataMessage::Observed((1..=2500).map(seen).collect()));
    until("all are there", || (control.metric("shoal_control_peer_registrations") == Some(2500.0)).then_some(()));
    two.send(&DataMessage::Observed(vec![seen(1), Observation { predictable: true, ..seen(3000) }]));
    until("the other node's are there", || nodes(&control, 3000));
    assert_eq!(nodes(&control, 1), Some(vec![json!("one"), json!("two")]));
    assert_eq!(ctl.json(&["peers", "a"]).as_array().unwrap().len(), 2501);
    let table = ctl.good(&["peers", "a", &format!("{:040x}", 3000)]);
    for word in ["two", "192.0.2.1:4000", "endpoint-independent", "address-and-port-dependent", "predictable"] {
        assert!(table.lines().nth(1).unwrap().contains(word), "no {word} in {table}");
    }
    let (code, _, err) = ctl.run(&["peers", "none"]);
    assert!(code == 1 && err.contains("404"), "{err}");

    one.send(&DataMessage::Observed(vec![Observation { registered: false, ..seen(2) }]));
    until("its end is known", || nodes(&control, 2).is_none().then_some(()));

    // A node that comes back tells again what it has; the rest is forgotten, but not at once.
    drop(one);
    until("the node is away", || control.node("one").is_none().then_some(()));
    assert_eq!(nodes(&control, 3), Some(vec![json!("one")]));
    let mut one = Node::join(&dir.socket(), "one", 2, None);
    one.send(&DataMessage::Observed(vec![seen(1), seen(4)]));
    until("what it has not told again is gone", || nodes(&control, 3).is_none().then_some(()));
    assert_eq!(nodes(&control, 4), Some(vec![json!("one")]));
    assert_eq!(nodes(&control, 1), Some(vec![json!("one"), json!("two")]));
    assert_eq!(control.metric("shoal_control_peer_registrations"), Some(4.0));
}

#[test]
fn a_node_that_tells_nonsense_is_not_believed_and_not_cut_off() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    let wrong = vec![
        Observation { peer: "x".to_owned(), ..seen(1) },
        Observation { channel: "No Name".to_owned(), ..seen(1) },
        Observation { tenant: "t".repeat(1000), ..seen(1) },
        seen(1),
    ];
    node.send(&DataMessage::Observed(wrong));
    until("the good one is there", || nodes(&control, 1));
    let refused = "shoal_control_peer_observations_total{result=\"refused\"}";
    assert_eq!(control.metric(refused), Some(3.0));
    assert_eq!(control.metric("shoal_control_peer_registrations"), Some(1.0));
    assert!(control.node("edge").is_some());
}
