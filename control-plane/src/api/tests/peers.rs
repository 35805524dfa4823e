//! Peers that nodes tell of.

use std::time::Instant;

use shoal_link::observation::{Behaviour, Observation};

use super::*;

fn seen(channel: &str, peer: u8) -> Observation {
    Observation {
        tenant: "acme".to_owned(),
        channel: channel.to_owned(),
        peer: format!("{peer:040x}"),
        address: "192.0.2.1:4000".parse().unwrap(),
        mapping: Behaviour::AddressAndPortDependent,
        filtering: Behaviour::Unknown,
        predictable: true,
        registered: true,
    }
}

#[tokio::test]
async fn peers_of_a_channel_are_told_in_pages() {
    let api = Api::new();
    let mut document = channel("a");
    document["tenant"] = json!("acme");
    api.call("POST", "/api/v1/channels", document).await;
    let all: Vec<Observation> = (1..=3).map(|peer| seen("a", peer)).collect();
    api.app.peers.observe(Instant::now(), "n1", 1, &all);
    api.app.peers.observe(Instant::now(), "n2", 2, &all[..1]);
    let get = |path: &str| {
        let path = format!("/api/v1/channels/{path}");
        let api = &api;
        async move { api.call("GET", &path, Value::Null).await }
    };

    let page = get("a/peers?limit=2").await;
    let (first, second) = (format!("{:040x}", 1), format!("{:040x}", 2));
    assert_eq!((page.json["items"].as_array().unwrap().len(), &page.json["next"]), (2, &json!(second)));
    assert_eq!(page.json["items"][0]["registrations"].as_array().unwrap().len(), 2);
    let rest = get(&format!("a/peers?limit=2&after={second}")).await;
    assert_eq!((rest.json["items"].as_array().unwrap().len(), &rest.json["next"]), (1, &Value::Null));

    let one = get(&format!("a/peers/{first}")).await;
    assert_eq!((one.status, &one.json), (StatusCode::OK, &page.json["items"][0]));
    let told = &one.json["registrations"][0];
    assert_eq!((&told["node"], &told["address"]), (&json!("n1"), &json!("192.0.2.1:4000")));
    assert_eq!((&told["mapping"], &told["filtering"]), (&json!("address_and_port_dependent"), &json!("unknown")));
    assert_eq!(told["predictable"], true);

    get(&format!("a/peers/{:040x}", 9)).await.is_problem(404, &["no peer", "a/peers"]);
    get("a/peers/x").await.is_problem(404, &["no peer `x`"]);
    get("none/peers").await.is_problem(404, &["none"]);
    get(&format!("none/peers/{first}")).await.is_problem(404, &["none"]);
    get("a/peers?after=x").await.is_problem(400, &["after", "40"]);
    get("a/peers?limit=1001").await.is_problem(400, &["limit"]);
    let metrics = api.call("GET", "/metrics", Value::Null).await.json;
    assert!(metrics.as_str().unwrap().contains("shoal_control_peer_registrations 4\n"));
}
