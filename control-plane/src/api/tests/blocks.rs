//! Who is blocked.

use super::*;

#[tokio::test]
async fn blocks_are_told_to_nodes_until_they_end_or_are_taken_away() {
    let api = Api::new();
    let block = |body: Value| api.call("POST", "/api/v1/blocks", body);
    let before = api.store.snapshot().unwrap().version;
    let made = block(json!({"network": "192.0.2.7", "reason": "flood"})).await;
    assert_eq!((made.status, &made.json["network"]), (StatusCode::OK, &json!("192.0.2.7/32")), "{}", made.json);
    assert_eq!(made.json["until"], Value::Null);
    let timed = block(json!({"network": "2001:db8::/32", "seconds": 3600})).await;
    let ends = timed.json["until"].as_u64().unwrap() - timed.json["since"].as_u64().unwrap();
    assert_eq!(ends, 3600);
    // Once more is another time.
    block(json!({"network": "192.0.2.7/32", "seconds": 60})).await;
    let list = api.call("GET", "/api/v1/blocks", Value::Null).await;
    assert_eq!(list.json["items"].as_array().unwrap().len(), 2, "{}", list.json);
    let snapshot = api.store.snapshot().unwrap();
    assert!(snapshot.version > before && snapshot.blocks.len() == 2);
    assert!(snapshot.blocks.iter().all(|block| block.until.is_some()));

    let gone = api.call("DELETE", "/api/v1/blocks/192.0.2.7", Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let gone = api.call("DELETE", "/api/v1/blocks/2001:db8::%2F32", Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    api.call("DELETE", "/api/v1/blocks/192.0.2.7", Value::Null).await.is_problem(404, &["192.0.2.7/32", "/blocks"]);
    let after = api.store.snapshot().unwrap();
    assert!(after.version > snapshot.version && after.blocks.is_empty());
}

#[tokio::test]
async fn what_cannot_be_blocked_is_named_with_the_remedy() {
    let api = Api::new();
    for (body, words) in [
        (json!({"network": "192.0.2.7/24"}), ["network", "192.0.2.0/24"]),
        (json!({"network": "::/0"}), ["network", "everybody"]),
        (json!({"network": "127.0.0.1"}), ["network", "loopback"]),
        (json!({"network": "192.0.2.7", "seconds": 0}), ["seconds", "from 1"]),
        (json!({"network": "192.0.2.7", "seconds": u64::MAX}), ["seconds", "none for no end"]),
        (json!({"network": "192.0.2.7", "reason": "a\nb"}), ["reason", "one line"]),
        (json!({"network": "192.0.2.7", "why": "x"}), ["why", "reason"]),
        (json!({"seconds": 7}), ["network", ""]),
    ] {
        api.call("POST", "/api/v1/blocks", body).await.is_problem(422, &words);
    }
    let own = api.call("POST", "/api/v1/blocks", json!({"network": "127.0.0.1", "loopback": true})).await;
    assert_eq!(own.status, StatusCode::OK);
}
