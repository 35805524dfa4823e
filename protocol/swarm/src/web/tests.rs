use serde_json::{Value, json};

use super::*;
use crate::ids::{InfoHash, PeerId};
use crate::query::{Event, MAX_SCRAPE};
use crate::swarms::{Answer, Count};

fn binary(id: &[u8; 20]) -> String {
    id.iter().map(|byte| char::from(*byte)).collect()
}

const ODD: [u8; 20] =
    [0, 1, 31, 32, b'"', b'\\', b'/', 127, 128, 160, 191, 192, 200, 255, 10, 13, b'a', b'z', b'0', b'9'];

#[test]
fn an_announce_as_browsers_write_it() {
    let message = json!({
        "numwant": 2, "uploaded": 0, "downloaded": 0, "left": null, "event": "started", "action": "announce",
        "info_hash": binary(&ODD), "peer_id": binary(&[200; 20]), "trackerid": "x",
        "offers": [
            {"offer": {"type": "offer", "sdp": "v=0\r\n\"\u{e4}\""}, "offer_id": binary(&ODD)},
            {"offer": {"type": "offer", "sdp": "v=1"}, "offer_id": "two"}]
    });
    let text = message.to_string();
    let found = read(&text).unwrap();
    assert_eq!((found.action, &found.hashes), (Action::Announce, &Hashes::One(InfoHash(ODD))));
    assert_eq!((found.peer_id, found.left, found.event), (Some(PeerId([200; 20])), None, Event::Update));
    assert_eq!((found.numwant, found.offers.len(), found.answer.is_none()), (Some(2), 2, true));

    let mut out = Vec::new();
    relayed_offer(&InfoHash(ODD), &PeerId([200; 20]), found.offers[0].id, found.offers[0].offer, &mut out);
    let relayed: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        relayed,
        json!({"action": "announce", "info_hash": binary(&ODD), "peer_id": binary(&[200; 20]),
            "offer_id": message["offers"][0]["offer_id"], "offer": message["offers"][0]["offer"]})
    );
}

#[test]
fn an_answer_and_a_leave() {
    let text = json!({
        "action": "announce", "info_hash": binary(&[1; 20]), "peer_id": binary(&[2; 20]), "to_peer_id": binary(&[3; 20]),
        "offer_id": "abc", "answer": {"type": "answer", "sdp": "x"}
    })
    .to_string();
    let (to, id, answer) = read(&text).unwrap().answer.unwrap();
    assert_eq!((to, id.get()), (PeerId([3; 20]), "\"abc\""));
    let mut out = Vec::new();
    relayed_answer(&InfoHash([1; 20]), &PeerId([2; 20]), id, answer, &mut out);
    let relayed: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(relayed["answer"], json!({"type": "answer", "sdp": "x"}));
    let text = json!({"action": "announce", "info_hash": binary(&[1; 20]), "peer_id": binary(&[2; 20]),
        "event": "stopped", "left": 0.5, "numwant": -1});
    let text = text.to_string();
    let found = read(&text).unwrap();
    assert_eq!((found.event, found.left, found.numwant), (Event::Stopped, Some(0), None));
}

#[test]
fn scrapes_of_one_several_and_all() {
    let one = json!({"action": "scrape", "info_hash": binary(&ODD)}).to_string();
    assert_eq!(read(&one).unwrap().hashes, Hashes::One(InfoHash(ODD)));
    let many = json!({"action": "scrape", "info_hash": vec![binary(&ODD); 99]}).to_string();
    assert_eq!(read(&many).unwrap().hashes, Hashes::Many(vec![InfoHash(ODD); MAX_SCRAPE]));
    for all in [json!({"action": "scrape"}), json!({"action": "scrape", "info_hash": null})] {
        assert_eq!(read(&all.to_string()).unwrap().hashes, Hashes::None);
    }
    let mut out = Vec::new();
    let count = Count { complete: 1, incomplete: 2, downloaded: 3 };
    scraped(&[(InfoHash(ODD), count), (InfoHash([7; 20]), Count::default())], 16, &mut out);
    let found: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(found["files"][binary(&ODD)], json!({"complete": 1, "incomplete": 2, "downloaded": 3}));
    assert_eq!(found["files"][binary(&[7; 20])]["complete"], 0);
}

#[test]
fn what_is_no_message_is_refused_with_the_reason() {
    let long = binary(&[1; 20]) + "x";
    for (text, words) in [
        ("", "EOF"),
        ("[]", "the message"),
        ("{}", "action is missing"),
        (r#"{"action":"dance"}"#, "unknown action"),
        (r#"{"action":"announce"}"#, "peer_id is missing"),
        (&json!({"action": "announce", "peer_id": binary(&[1; 20])}).to_string(), "info_hash is missing"),
        (&json!({"action": "announce", "peer_id": long}).to_string(), "invalid length 21"),
        (&json!({"action": "announce", "peer_id": "€".repeat(20)}).to_string(), "no byte"),
        (&json!({"action": "announce", "peer_id": 7}).to_string(), "20 characters"),
        (
            &json!({"action": "announce", "info_hash": binary(&ODD), "peer_id": binary(&ODD), "answer": {}})
                .to_string(),
            "to_peer_id",
        ),
        (&"[".repeat(100_000), "the message"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text:.60}: {error}");
    }
}

#[test]
fn answers_and_failures_are_json() {
    let mut out = Vec::new();
    announced(&InfoHash(ODD), &Answer { interval_s: 16, complete: 4, incomplete: 5, ..Answer::default() }, &mut out);
    let found: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        found,
        json!({"action": "announce", "interval": 16, "complete": 4, "incomplete": 5, "info_hash": binary(&ODD)})
    );
    let mut out = Vec::new();
    failure("announce", Some(&InfoHash(ODD)), "a \"reason\"", &mut out);
    let found: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(found["failure reason"], "a \"reason\"");
}
