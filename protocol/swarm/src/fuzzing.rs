//! What the fuzz targets and the replay of their corpus call.

use crate::ids::InfoHash;
use crate::query::{self, Event};
use crate::replica::{self, Change};
use crate::swarms::{Announce, Answer, Config, Count, Key, Place, Swarms};
use crate::{bencode, form, sdp, web};

/// Takes `input` as the query of an announce and of a scrape, and checks what must hold for any.
///
/// # Panics
/// When it does not hold.
pub fn announce_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(found) = query::announce(text) {
        // What was read is announced, and the answer is a dictionary.
        let mut swarms = Swarms::new(Config::default(), 1);
        let mut answer = Answer::default();
        let announce = Announce {
            key: Key { tenant: "t", channel: "c", info_hash: found.info_hash },
            peer_id: found.peer_id,
            session: found.key,
            address: [127, 0, 0, 1].into(),
            port: found.port,
            transports: crate::Transports::NONE.with(crate::Transport::Tcp),
            connection: 0,
            nat: None,
            node: 0,
            supply: None,
            complete: found.left.map(|left| left == 0),
            event: found.event,
            failed: &[],
            want: found.numwant.map_or(50, |want| want as usize),
            relay_only: false,
            remote: false,
            place: &|_| Place::default(),
        };
        swarms.handle_announce(0, &announce, &mut answer).expect("there is room");
        assert_eq!(swarms.peers(), usize::from(found.event != Event::Stopped));
        assert!(answer.peers.is_empty(), "nobody is told of itself");
        let mut out = Vec::new();
        bencode::announce(&answer, bencode::Form::Compact, &mut out);
        assert!(out.starts_with(b"d8:complete") && out.ends_with(b"5:peers0:e"));
    }
    if let Ok(hashes) = query::scrape(text) {
        assert!(!hashes.is_empty() && hashes.len() <= query::MAX_SCRAPE);
        let counts: Vec<(InfoHash, Count)> = hashes.iter().map(|hash| (*hash, Count::default())).collect();
        let mut out = Vec::new();
        bencode::scrape(&counts, &mut out);
        assert!(out.starts_with(b"d5:filesd20:") && out.ends_with(b"ee"));
    }
}

/// Takes `input` as a message over a WebSocket: what is passed on is JSON, and the same as what came.
///
/// # Panics
/// When it does not hold.
pub fn web_message(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut out = Vec::new();
    let message = match web::read(text) {
        Ok(message) => message,
        Err(error) => {
            web::failure("announce", None, &error.to_string(), &mut out);
            let _: serde_json::Value = serde_json::from_slice(&out).expect("a failure is JSON");
            return;
        }
    };
    assert!(message.offers.len() <= web::MAX_OFFERS);
    let hashes = match &message.hashes {
        web::Hashes::None => Vec::new(),
        web::Hashes::One(hash) => vec![*hash],
        web::Hashes::Many(hashes) => hashes.clone(),
    };
    let counts: Vec<(InfoHash, Count)> = hashes.iter().map(|hash| (*hash, Count::default())).collect();
    web::scraped(&counts, 16, &mut out);
    let _: serde_json::Value = serde_json::from_slice(&out).expect("a scrape is JSON");
    let (Some(hash), Some(peer_id)) = (hashes.first(), message.peer_id) else { return };
    let given = message.offers.iter().map(|offer| (offer.id, offer.offer, "offer"));
    for (id, value, key) in given.chain(message.answer.map(|(_, id, answer)| (id, answer, "answer"))) {
        out.clear();
        match key {
            "offer" => web::relayed_offer(hash, &peer_id, id, value, &mut out),
            _ => web::relayed_answer(hash, &peer_id, id, value, &mut out),
        }
        let relayed: serde_json::Value = serde_json::from_slice(&out).expect("what is passed on is JSON");
        let same: serde_json::Value = serde_json::from_str(value.get()).expect("it was JSON");
        assert_eq!(relayed[key], same);
        let back: String = hash.0.iter().map(|byte| char::from(*byte)).collect();
        assert_eq!(relayed["info_hash"], back);
        if let Ok(stripped) = sdp::relay_only(value) {
            let stripped: serde_json::Value = serde_json::from_str(stripped.get()).expect("it is JSON");
            for line in stripped["sdp"].as_str().expect("there is one").lines() {
                assert!(
                    !line.starts_with("a=candidate:") || line.contains(" typ relay raddr 0.0.0.0 rport 0"),
                    "{line}"
                );
            }
        }
    }
}

/// Takes `input` as a JSON announce: what is read is written as what is read.
///
/// # Panics
/// When it does not hold.
pub fn json_announce(input: &[u8]) {
    let Ok(found) = serde_json::from_slice::<form::Announce>(input) else { return };
    let written = serde_json::to_vec(&found).expect("it can be written");
    assert_eq!(serde_json::from_slice::<form::Announce>(&written).expect("it can be read"), found);
    if found.check().is_ok() {
        assert!(found.failed.len() <= form::MAX_FAILED && found.transports.len() <= form::MAX_TRANSPORTS);
    }
}

/// Takes `input` as a batch of another instance's changes: what is read is written as what is read, and can be taken in.
///
/// # Panics
/// When it does not hold.
pub fn replica_batch(input: &[u8]) {
    let mut swarms = Swarms::new(Config::default(), 1);
    let mut answer = Answer::default();
    let mut again = Vec::new();
    replica::begin(&mut again);
    let changes: Vec<Change<'_>> = replica::read(input).map_while(Result::ok).collect();
    for change in &changes {
        match change {
            Change::Is { record, node, failed } => {
                replica::is(record, node, failed, &mut again);
                // A session may have too many peers, and an id may be somebody else's.
                let _ = swarms.handle_remote(0, record, failed, &|_| Place::default(), &mut answer);
                assert!(answer.peers.is_empty(), "nobody asked for peers");
            }
            Change::Left { key, peer_id, connection } => {
                replica::left(*key, *peer_id, *connection, &mut again);
                swarms.remote_left(*key, *peer_id, *connection);
            }
        }
    }
    assert!(swarms.peers() <= changes.len());
    let written: Result<Vec<Change<'_>>, _> = replica::read(&again).collect();
    assert_eq!(written.as_ref(), Ok(&changes));
}
