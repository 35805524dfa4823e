//! What the fuzz target and the replay of its corpus call.

use std::net::{IpAddr, Ipv4Addr};

use crate::*;

const CHANNEL: &str = "fuzz";
const NOW: u64 = 1_700_000_000;

/// Every profile there is, at its defaults.
pub fn every_profile() -> Vec<Profile> {
    let (time, ttl_s) = (TimeMeaning::Issued, None);
    let name = str::to_owned;
    vec![
        Profile::TencentLive { signature_param: name("txSecret"), time_param: name("txTime") },
        Profile::TencentA { param: name("sign"), time, ttl_s },
        Profile::TencentB { time, ttl_s },
        Profile::TencentC { order: FieldOrder::TimePath, time, ttl_s },
        Profile::TencentD {
            signature_param: name("sign"),
            time_param: name("t"),
            time_format: TimeFormat::Decimal,
            time,
            ttl_s,
        },
        Profile::AliyunA { param: name("auth_key"), time, ttl_s },
        Profile::AliyunB { time, ttl_s },
        Profile::AliyunC { signature_param: name("KEY1"), time_param: name("KEY2"), time, ttl_s },
        Profile::NginxSecureLink {
            expression: name("$secure_link_expires$uri$remote_addr$arg_x $secret"),
            signature_param: name("md5"),
            expires_param: name("expires"),
        },
    ]
}

/// Takes `input` as the lines path, query, cookie and header of a request, then as claims, and checks what must hold
/// for any of them. Input that is no UTF-8 is passed over.
///
/// # Panics
/// When it does not hold.
pub fn ticket(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let path = lines.next().unwrap_or_default();
    let (query, cookie, header) = (lines.next(), lines.next(), lines.next());
    let policy = TicketPolicy {
        profiles: every_profile(),
        keys: vec![Key { id: "k1".to_owned(), secret: "a secret for fuzzing".to_owned() }],
        skew_s: 5,
        ttl_s: 300,
        rewrite_playlists: true,
    };
    let verifier = match Verifier::new(CHANNEL, &policy) {
        Ok(verifier) => verifier,
        Err(error) => panic!("{error}"),
    };
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let presented = Presented { path, query, cookie, header, client, now: NOW };
    match verifier.verify(&presented) {
        Ok(pass) => {
            assert!(path.ends_with(pass.path), "a pass only takes a signature off the front");
            if let Some(ticket) = verifier.playlist_ticket(&pass, &presented) {
                let presented =
                    Presented { path: pass.path, query: Some(&ticket), cookie: None, header: None, ..presented };
                assert!(verifier.verify(&presented).is_ok(), "a playlist's ticket opens the playlist");
            }
        }
        Err(refusal) => assert!(!refusal.to_string().contains('\n'), "a refusal is one line"),
    }
    if let Some(found) = path_signature(path) {
        assert_eq!(format!("{}{}", found.signature, found.rest), path);
        assert!(found.rest.starts_with('/'));
    }
    if let Some(query) = query {
        let stripped = verifier.strip_query(query);
        assert_eq!(verifier.strip_query(&stripped), stripped, "nothing is left to strip");
    }
    claims(&verifier, &policy, path, query.unwrap_or_default(), client);
}

/// What is minted verifies, and in any other channel does not.
fn claims(verifier: &Verifier, policy: &TicketPolicy, path_prefix: &str, session: &str, client: IpAddr) {
    let claims = Claims { channel: CHANNEL, path_prefix, expires: NOW, session, network: Some(client.into()) };
    let Some(Ok(ticket)) = policy.keys.first().map(|key| mint(key, &claims)) else { return };
    let presented = Presented { path: path_prefix, query: None, cookie: None, header: Some(&ticket), client, now: NOW };
    // A prefix that looks like a path signature is taken for one when it is asked for.
    if path_signature(path_prefix).is_none() {
        let session_back =
            verifier.verify(&presented).map(|pass| pass.session.map(|id| id.to_string()).unwrap_or_default());
        assert_eq!(session_back.as_deref(), Ok(session));
    }
    let other =
        Verifier::new("other", policy).map(|other| other.verify(&presented).is_ok_and(|pass| pass.ticket.is_some()));
    assert_eq!(other, Ok(false), "a ticket opens one channel");
}
