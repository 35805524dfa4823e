//! Sessions between two ends in memory, and how sent records count.

use super::*;
use crate::testing::{Random, folder};
use crate::tls::reload::Files;
use crate::tls::tests::{Authority, NOW};
use crate::tls::{describe, provider};

/// Both ends' configurations; the client trusts `authority`.
fn configs(names: &[&str], days: (i64, i64), trusts: bool) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let (folder, authority) = (folder(), Authority::new());
    let files = Files::load(vec![authority.issue(&folder, "a", names, days)]).unwrap();
    let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_cert_resolver(files.resolver());
    let mut roots = rustls::RootCertStore::empty();
    let trusted = if trusts { authority } else { Authority::new() };
    roots.add(trusted.der()).unwrap();
    let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    (Arc::new(server), Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

fn pair(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (Session, Session) {
    let name = ServerName::try_from("a.test").unwrap();
    (Session::server(server).unwrap(), Session::client(client, name).unwrap())
}

/// What `session` has to send.
fn output(session: &Session) -> Vec<u8> {
    let mut wire = Vec::new();
    while session.tls.borrow().wants_write() {
        session.tls.borrow_mut().write_tls(&mut wire).unwrap();
    }
    wire
}

/// Carries records to and fro until neither side has any; what the client does not like, if anything.
fn agree(server: &Session, client: &Session) -> Result<(), rustls::Error> {
    loop {
        let (from_client, from_server) = (output(client), output(server));
        if from_client.is_empty() && from_server.is_empty() {
            return Ok(());
        }
        let told = server.receive(&mut &from_client[..], <[u8]>::len);
        client.receive(&mut &from_server[..], <[u8]>::len)?;
        told?;
    }
}

#[test]
fn bytes_arrive_in_order_whatever_the_pieces() {
    let (server, client) = configs(&["a.test"], NOW, true);
    let mut random = Random(5);
    for _ in 0..20 {
        let (server, client) = pair(&server, &client);
        agree(&server, &client).unwrap();
        assert!(!server.is_handshaking() && !client.is_handshaking());
        let head: Vec<u8> = (0..random.below(900)).map(|_| random.next() as u8).collect();
        let body: Vec<u8> = (0..random.below(300_000)).map(|_| random.next() as u8).collect();
        let (mut left, mut wire) = ((&head[..], &body[..]), Vec::new());
        while !left.0.is_empty() || !left.1.is_empty() {
            let taken = server.encrypt(left.0, left.1).unwrap();
            assert!((1..=BATCH_BYTES).contains(&taken));
            let of_head = taken.min(left.0.len());
            left = (&left.0[of_head..], &left.1[taken - of_head..]);
            wire.extend(output(&server));
        }
        // The reader takes as much as it likes, the network brings as much as it likes.
        let (mut got, mut at) = (Vec::new(), 0);
        while at < wire.len() {
            let piece = (random.below(40_000) as usize + 1).min(wire.len() - at);
            let mut arrived = &wire[at..at + piece];
            while !arrived.is_empty() || got.len() < head.len() + body.len() {
                let room = random.below(20_000) as usize + 1;
                let taken = client.receive(&mut arrived, |plain| {
                    let plain = &plain[..plain.len().min(room)];
                    got.extend_from_slice(plain);
                    plain.len()
                });
                if taken.unwrap() == 0 {
                    break;
                }
            }
            at += piece;
        }
        assert!(got == [head, body].concat(), "other bytes than were sent");
    }
}

#[test]
fn the_end_is_told_from_a_break() {
    let (server, client) = configs(&["a.test"], NOW, true);
    let (server, client) = pair(&server, &client);
    agree(&server, &client).unwrap();
    server.encrypt(b"last words", &[]).unwrap();
    server.tls.borrow_mut().send_close_notify();
    let mut got = Vec::new();
    let wire = output(&server);
    client.receive(&mut &wire[..wire.len() - 1], |plain| got.write(plain).unwrap()).unwrap();
    assert!(got == b"last words" && !client.is_closed());
    client.receive(&mut &wire[wire.len() - 1..], <[u8]>::len).unwrap();
    assert!(client.is_closed());
}

#[test]
fn certificates_that_do_not_verify_are_refused_with_the_reason() {
    for (names, days, trusts, said) in [
        (&["b.test", "*.c.test"][..], NOW, true, "for other names: "),
        (&["a.test"], (-9, -2), true, "has expired"),
        (&["a.test"], (2, 9), true, "not valid yet"),
        (&["a.test"], NOW, false, "not trusted here (upstream.roots)"),
    ] {
        let (server, client) = configs(names, days, trusts);
        let (server, client) = pair(&server, &client);
        let error = describe(&agree(&server, &client).unwrap_err());
        assert!(error.contains(said), "{error} lacks {said}");
    }
}

#[test]
fn a_record_altered_on_its_way_is_refused() {
    let (server, client) = configs(&["a.test"], NOW, true);
    let (server, client) = pair(&server, &client);
    agree(&server, &client).unwrap();
    server.encrypt(&[7; 1000], &[]).unwrap();
    let mut wire = output(&server);
    wire[500] ^= 1;
    let mut seen = 0;
    assert!(
        client
            .receive(&mut &wire[..], |plain| {
                seen += plain.len();
                plain.len()
            })
            .is_err()
    );
    assert_eq!(seen, 0);
}

#[test]
fn body_bytes_count_once_and_when_their_record_is_whole() {
    let added = 22;
    let mut random = Random(9);
    for _ in 0..1000 {
        let plain = random.below(BATCH_BYTES as u64) as usize + 1;
        let head = random.below(2 * plain as u64) as usize;
        let mut left = plain + plain.div_ceil(RECORD_BYTES) * added;
        let (mut batch, mut sent, mut counted) = (Batch::new(plain, head), 0, 0);
        while left > 0 {
            let bytes = (random.below(30_000) as usize + 1).min(left);
            (left, sent) = (left - bytes, sent + bytes);
            counted += batch.took(Flushed { bytes, left });
            let whole = (sent / (RECORD_BYTES + added) * RECORD_BYTES).min(plain);
            let expected = if left == 0 { plain } else { whole };
            assert_eq!(counted, expected.saturating_sub(head.min(plain)), "{sent} of {plain} with {head}");
        }
    }
}
