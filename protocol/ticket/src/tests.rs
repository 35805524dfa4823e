use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;

use crate::fuzzing::every_profile;
use crate::*;

const NOW: u64 = 1_700_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn key(id: &str, secret: &str) -> Key {
    Key { id: id.to_owned(), secret: secret.to_owned() }
}

fn policy(profiles: Vec<Profile>, secret: &str) -> TicketPolicy {
    TicketPolicy { profiles, keys: vec![key("k1", secret)], skew_s: 5, ttl_s: 300, rewrite_playlists: true }
}

fn own() -> TicketPolicy {
    policy(Vec::new(), SECRET)
}

fn verifier(policy: &TicketPolicy) -> Verifier {
    Verifier::new("demo", policy).unwrap()
}

fn claims() -> Claims<'static> {
    Claims { channel: "demo", path_prefix: "/demo/", expires: NOW, session: "viewer-1", network: None }
}

fn minted(claims: &Claims<'_>) -> String {
    mint(&key("k1", SECRET), claims).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A request for `url` (path and query) from 192.0.2.1 at `now`.
fn ask(url: &str, now: u64) -> Presented<'_> {
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (url, None),
    };
    Presented { path, query, cookie: None, header: None, client: address("192.0.2.1"), now }
}

fn profile(json: &str) -> Profile {
    serde_json::from_str(json).unwrap()
}

#[test]
fn vectors_of_other_vendors() {
    for (json, secret, url, time) in [
        (
            r#"{"profile": "tencent-live"}"#,
            "e12c46f2612d5106e2034781ab261ca3",
            "/live/test.m3u8?txSecret=f85a2ab363fe4deaffef9754d79da6fe&txTime=5C271099",
            0x5C27_1099,
        ),
        (
            r#"{"profile": "tencent-d", "time": "expiry"}"#,
            "dimtm5evg50ijsx2hvuwyfoiu65",
            "/test.jpg?sign=900a5049aa8ac1ab144527d9c2be4cea&t=1582791032",
            1_582_791_032,
        ),
        (
            r#"{"profile": "tencent-b", "time": "expiry"}"#,
            "DvYmqE81E1F9R791H6lmht",
            "/202407151533/d1f0b51c6894231fc12e054fcc7f0b3e/foo.jpg",
            1_721_028_780,
        ),
        (
            r#"{"profile": "aliyun-b", "time": "expiry"}"#,
            "aliyuncdnexp1234",
            "/201508150800/9044548ef1527deadafa49a890a377f0/4/44/44c0909bcfc20a01afaf256ca99a8b8b.mp3",
            1_439_596_800,
        ),
    ] {
        let profile = profile(json);
        let policy = policy(vec![profile.clone()], secret);
        let verifier = verifier(&policy);
        let pass = verifier.verify(&ask(url, time)).unwrap();
        assert_eq!((pass.expires, pass.form), (time, profile.name()));
        assert!(matches!(verifier.verify(&ask(url, time + 6)), Err(Refusal::Expired { .. })), "{url}");
        // And signed by us, it is the same URL but for the case of hex digits.
        let signed = sign_url(&policy, &profile, &SignRequest { expires: time, ..sign_request(pass.path) }).unwrap();
        if profile.name() == "tencent-live" {
            assert_eq!(signed, "/live/test.m3u8?txSecret=9603387445825a481e6b7496aced5746&txTime=5c271099");
        } else {
            assert_eq!(signed, url);
        }
        let upper = url.replace("d1f0b51c6894231fc12e054fcc7f0b3e", "D1F0B51C6894231FC12E054FCC7F0B3E");
        assert!(verifier.verify(&ask(&upper, time)).is_ok(), "a digest in upper case is the same digest");
    }
}

fn sign_request(path: &str) -> SignRequest<'_> {
    SignRequest {
        channel: "demo",
        path,
        query: None,
        path_prefix: "/demo/",
        expires: NOW,
        session: "viewer-1",
        network: None,
        client: Some(address("192.0.2.1")),
        nonce: "r4nd",
        uid: "0",
    }
}

/// Every profile with every meaning of its settings.
fn every_setting() -> Vec<Profile> {
    let mut profiles = every_profile();
    profiles.push(Profile::Shoal);
    for (name, more) in [
        ("tencent-a", r#""param": "s""#),
        ("tencent-b", r#""ttl_s": 7"#),
        ("tencent-c", r#""order": "path-time""#),
        ("tencent-c", r#""order": "time-path""#),
        ("tencent-d", r#""time_format": "hex", "signature_param": "a", "time_param": "b""#),
        ("tencent-d", r#""time_format": "decimal", "ttl_s": 1000000"#),
        ("aliyun-a", r#""param": "s""#),
        ("aliyun-b", r#""ttl_s": 7"#),
        ("aliyun-c", r#""ttl_s": 60"#),
    ] {
        for time in ["issued", "expiry"] {
            profiles.push(profile(&format!(r#"{{"profile": "{name}", "time": "{time}", {more}}}"#)));
        }
    }
    profiles
}

#[test]
fn what_is_signed_verifies() {
    for profile in every_setting() {
        let policy = policy(vec![profile.clone()], SECRET);
        let verifier = verifier(&policy);
        for (path, query) in [("/demo/a%20b.m3u8", None), ("/demo/live/x.mp4", Some("x=1&sign=old&ticket=old"))] {
            let request = SignRequest { query, ..sign_request(path) };
            let url = sign_url(&policy, &profile, &request).unwrap();
            let pass = verifier.verify(&ask(&url, NOW - 60)).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((pass.path, pass.form), (path, profile.name()));
            assert!(pass.expires <= NOW && pass.expires + 60 > NOW, "{url}: {}", pass.expires);
            let session = pass.session.unwrap();
            assert_eq!(session.as_str() == "viewer-1", profile == Profile::Shoal);

            // The edges of its life.
            assert!(verifier.verify(&ask(&url, pass.expires + 5)).is_ok());
            let late = verifier.verify(&ask(&url, pass.expires + 6)).unwrap_err();
            assert_eq!(late, Refusal::Expired { form: profile.name(), expires: pass.expires, now: pass.expires + 6 });

            // The signature is for this path, with this secret, and is found by `strip_query`.
            let live = profile.name() == "tencent-live";
            let other = if live { url.replacen(".m", "x.m", 1) } else { url.replace("/demo/", "/other/") };
            assert!(verifier.verify(&ask(&other, NOW - 60)).is_err(), "{other}");
            let other = Verifier::new(
                "demo",
                &TicketPolicy { keys: vec![key("k1", &SECRET.replace('0', "x"))], ..policy.clone() },
            );
            assert_eq!(other.unwrap().verify(&ask(&url, NOW)), Err(Refusal::Signature { form: profile.name() }));
            let left = ask(&url, NOW).query.map(|query| verifier.strip_query(query).into_owned());
            assert!(matches!(left.as_deref(), None | Some("" | "x=1" | "x=1&sign=old")), "{left:?}");

            // Every character of it counts; not those of a path that a live stream's or a folder's signature is not for.
            let unsigned = |at: usize| match profile.name() {
                "tencent-live" => at < "/demo/".len() || (path.rfind('.').unwrap()..path.len()).contains(&at),
                "shoal" => ("/demo/".len()..path.len()).contains(&at),
                _ => false,
            };
            let signed = |(at, old): &(usize, char)| old.is_ascii_alphanumeric() && !unsigned(*at);
            for (at, old) in url.char_indices().filter(signed).filter(|_| query.is_none()) {
                let mut altered = url.clone();
                altered.replace_range(at..=at, if old == '1' { "2" } else { "1" });
                let result = verifier.verify(&ask(&altered, NOW - 60));
                assert!(result.is_err(), "{altered} passes as {url}: {result:?}");
            }
        }
    }
}

#[test]
fn every_bit_of_a_ticket_counts() {
    let verifier = verifier(&own());
    for network in [None, Some("192.0.2.0/24"), Some("2001:db8::/32")] {
        let network: Option<IpNet> = network.map(|text| text.parse().unwrap());
        let client = network.map_or(address("192.0.2.1"), |network| network.addr());
        let ticket = minted(&Claims { network, ..claims() });
        let request = Presented { client, ..ask("/demo/x", NOW) };
        assert!(verifier.verify(&Presented { header: Some(&ticket), ..request }).is_ok());
        let bytes = URL_SAFE_NO_PAD.decode(&ticket).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let altered = URL_SAFE_NO_PAD.encode(bytes);
            assert!(verifier.verify(&Presented { header: Some(&altered), ..request }).is_err(), "bit {bit}");
        }
        // Also those that the last character has to spare, and every other text of the same length or near it.
        for at in 0..ticket.len() {
            for with in "Az09-_=+/ %".chars() {
                let mut altered = ticket.clone();
                altered.replace_range(at..=at, &with.to_string());
                let result = verifier.verify(&Presented { header: Some(&altered), ..request });
                assert!(result.is_err() || altered == ticket, "{altered}");
            }
            assert!(verifier.verify(&Presented { header: ticket.get(..at), ..request }).is_err());
        }
        for altered in
            [format!("{ticket}A"), format!("{ticket}="), format!("{ticket}{ticket}"), "A".repeat(MAX_TICKET + 9)]
        {
            assert!(verifier.verify(&Presented { header: Some(&altered), ..request }).is_err(), "{altered}");
        }
    }
}

#[test]
fn a_ticket_lives_to_its_last_second_and_the_skew() {
    let ticket = minted(&claims());
    for (skew_s, late) in [(0, 1), (5, 6), (60, 61)] {
        let verifier = verifier(&TicketPolicy { skew_s, ..own() });
        let at = |now| verifier.verify(&Presented { header: Some(&ticket), ..ask("/demo/x", now) });
        assert!(at(0).is_ok() && at(NOW).is_ok() && at(NOW + late - 1).is_ok());
        let refusal = at(NOW + late).unwrap_err();
        assert_eq!((refusal.reason(), refusal.rank()), ("expired", 4));
        assert_eq!(refusal.to_string(), format!("the shoal signature expired {late} s ago; get a new signed URL"));
        assert!(at(u64::MAX).is_err());
    }
    let far = minted(&Claims { expires: (1 << 40) - 1, ..claims() });
    assert_eq!(
        verifier(&own()).verify(&Presented { header: Some(&far), ..ask("/demo/x", NOW) }).unwrap().expires,
        (1 << 40) - 1
    );
}

#[test]
fn a_ticket_opens_its_channel_paths_and_network_only() {
    let demo = verifier(&own());
    let refuse = |verifier: &Verifier, claims: &Claims<'_>, path: &str, client: &str| {
        let ticket = minted(claims);
        let request = Presented { header: Some(&ticket), client: address(client), ..ask(path, NOW) };
        verifier.verify(&request).err().map(|refusal| refusal.reason())
    };
    let other = Verifier::new("demo2", &own()).unwrap();
    assert_eq!(refuse(&demo, &claims(), "/demo/x", "::1"), None);
    assert_eq!(refuse(&other, &claims(), "/demo/x", "::1"), Some("signature"));
    for (prefix, path, right) in [
        ("/a", "/a", None),
        ("/a", "/a/b", None),
        ("/a", "/ab", Some("path")),
        ("/a/", "/a/../b", Some("path")),
        ("/a/", "/a/%2e%2e/b", Some("path")),
        ("/", "/x", None),
    ] {
        assert_eq!(refuse(&demo, &Claims { path_prefix: prefix, ..claims() }, path, "::1"), right, "{prefix} {path}");
    }
    for (network, client, right) in [
        ("192.0.2.0/24", "192.0.2.255", None),
        ("192.0.2.0/24", "::ffff:192.0.2.1", None),
        ("192.0.2.77/24", "192.0.2.1", None),
        ("192.0.2.0/24", "192.0.3.0", Some("network")),
        ("192.0.2.1/32", "192.0.2.2", Some("network")),
        ("192.0.2.0/24", "2001:db8::1", Some("network")),
        ("2001:db8::/32", "2001:db8:ffff::1", None),
        ("2001:db8::/32", "2001:db9::1", Some("network")),
        ("::/0", "192.0.2.1", Some("network")),
        ("0.0.0.0/0", "192.0.2.1", None),
    ] {
        let network = Some(network.parse().unwrap());
        assert_eq!(refuse(&demo, &Claims { network, ..claims() }, "/demo/x", client), right, "{network:?} {client}");
    }
}

#[test]
fn a_remembered_ticket_is_still_checked_for_all_but_its_signature() {
    let demo = verifier(&own());
    let ticket = minted(&Claims { network: Some("192.0.2.0/24".parse().unwrap()), ..claims() });
    let ask = |verifier: &Verifier, memory: &mut Memory, ticket: &str, path: &str, client: &str, now: u64| {
        let request = Presented { header: Some(ticket), client: address(client), ..ask(path, now) };
        let remembered = verifier.verify_with(&request, memory);
        // Whatever came before, the answer is that of a verifier that remembers nothing.
        assert_eq!(remembered, verifier.verify(&request), "{ticket} {path} {client} {now}");
        remembered.map(|pass| pass.session).map_err(|refusal| refusal.reason())
    };
    let mut memory = Memory::default();
    for _ in 0..3 {
        let pass = ask(&demo, &mut memory, &ticket, "/demo/x", "192.0.2.1", NOW);
        assert_eq!(pass.unwrap().unwrap().as_str(), "viewer-1");
        assert_eq!(ask(&demo, &mut memory, &ticket, "/other/x", "192.0.2.1", NOW), Err("path"));
        assert_eq!(ask(&demo, &mut memory, &ticket, "/demo/x", "192.0.3.1", NOW), Err("network"));
        assert_eq!(ask(&demo, &mut memory, &ticket, "/demo/x", "192.0.2.1", NOW + 6), Err("expired"));
    }
    // One that was altered anywhere is another, also with the right one in memory.
    for at in 0..ticket.len() {
        for with in "Az09-_".chars() {
            let mut altered = ticket.clone();
            altered.replace_range(at..=at, &with.to_string());
            let pass = ask(&demo, &mut memory, &altered, "/demo/x", "192.0.2.1", NOW);
            assert!(pass.is_err() || altered == ticket, "{altered}");
        }
        assert!(ask(&demo, &mut memory, &ticket[..at], "/demo/x", "192.0.2.1", NOW).is_err());
    }
    // Of the same viewer or of another: what is remembered is replaced.
    let other = minted(&Claims { session: "viewer-2", ..claims() });
    for (ticket, session) in [(&ticket, "viewer-1"), (&other, "viewer-2"), (&ticket, "viewer-1")] {
        let pass = ask(&demo, &mut memory, ticket, "/demo/x", "192.0.2.1", NOW);
        assert_eq!(pass.unwrap().unwrap().as_str(), session);
    }
    // A policy that was replaced may have other keys, and another channel has.
    let replaced = verifier(&TicketPolicy { keys: vec![key("k1", &SECRET.replace('0', "x"))], ..own() });
    let elsewhere = Verifier::new("demo2", &own()).unwrap();
    for verifier in [&replaced, &elsewhere, &replaced] {
        assert_eq!(ask(verifier, &mut memory, &ticket, "/demo/x", "192.0.2.1", NOW), Err("signature"));
        assert_eq!(ask(verifier, &mut memory, "", "/demo/x", "192.0.2.1", 0), Err("malformed"));
    }
    assert!(ask(&demo.clone(), &mut memory, &ticket, "/demo/x", "192.0.2.1", NOW).is_ok());
}

#[test]
fn keys_rotate() {
    let (old, new) = (key("2024", SECRET), key("2025", &SECRET.replace('0', "x")));
    let ticket = |key: &Key| mint(key, &claims()).unwrap();
    let check = |keys: &[&Key], ticket: &str| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        let result = verifier(&TicketPolicy { keys, ..own() })
            .verify(&Presented { header: Some(ticket), ..ask("/demo/x", NOW) })
            .map(|_| ());
        result.map_err(|refusal| refusal.to_string())
    };
    assert_eq!(check(&[&new, &old], &ticket(&old)), Ok(()));
    assert_eq!(check(&[&new, &old], &ticket(&new)), Ok(()));
    assert_eq!(
        check(&[&new], &ticket(&old)),
        Err("the ticket is signed with key `2024`, which this channel does not know (any more); get a new signed URL"
            .to_owned())
    );
    // A key that is reused for another secret.
    assert!(check(&[&key("2024", &new.secret)], &ticket(&old)).unwrap_err().starts_with("wrong shoal signature"));
    // Third-party signatures name no key: each is tried.
    let profile = every_profile().remove(0);
    let both = TicketPolicy { profiles: vec![profile.clone()], keys: vec![new.clone(), old.clone()], ..own() };
    for signer in [&old, &new] {
        let policy = TicketPolicy { keys: vec![signer.clone()], ..both.clone() };
        let url = sign_url(&policy, &profile, &sign_request("/demo/x.flv")).unwrap();
        assert!(verifier(&both).verify(&ask(&url, NOW)).is_ok());
    }
    // The first key signs.
    let signed = sign_url(&both, &Profile::Shoal, &sign_request("/demo/x.flv")).unwrap();
    assert_eq!(signed, format!("/demo/x.flv?ticket={}", ticket(&new)));
}

#[test]
fn a_ticket_may_come_in_query_cookie_or_header() {
    let verifier = verifier(&own());
    let (good, stale) = (minted(&claims()), minted(&Claims { expires: NOW - 100, ..claims() }));
    let in_query = |ticket: &str| format!("/demo/x?a=b&ticket={ticket}&c");
    let in_cookie = |ticket: &str| format!("a=b; ticket={ticket}; c=d");
    let (url, cookie) = (in_query(&good), in_cookie(&good));
    for request in [
        ask(&url, NOW),
        Presented { cookie: Some(&cookie), ..ask("/demo/x", NOW) },
        Presented { header: Some(&good), ..ask("/demo/x", NOW) },
        // The place that was renewed decides.
        Presented { cookie: Some(&cookie), header: Some(&stale), ..ask(&in_query(&stale), NOW) },
        Presented { cookie: Some(&in_cookie("x")), ..ask(&url, NOW) },
        Presented { header: Some(&good), ..ask(&in_query(""), NOW) },
    ] {
        let pass = verifier.verify(&request).unwrap();
        assert_eq!((pass.ticket, pass.path, pass.form), (Some(good.as_str()), "/demo/x", "shoal"));
        assert_eq!(pass.session.unwrap().as_str(), "viewer-1");
        assert_eq!(verifier.playlist_ticket(&pass, &request).unwrap(), format!("ticket={good}"));
    }
    assert_eq!(verifier.verify(&ask("/demo/x", NOW)), Err(Refusal::Missing));
    assert_eq!(verifier.verify(&ask(&in_query(""), NOW)), Err(Refusal::Malformed { form: "shoal" }));
    // Of two that are bad the more telling is told.
    let (url, cookie) = (in_query("x"), in_cookie(&stale));
    let request = Presented { cookie: Some(&cookie), ..ask(&url, NOW) };
    assert_eq!(verifier.verify(&request).unwrap_err().reason(), "expired");
    let nameless = minted(&Claims { session: "", ..claims() });
    assert_eq!(verifier.verify(&Presented { header: Some(&nameless), ..ask("/demo/x", NOW) }).unwrap().session, None);
}

#[test]
fn playlists_of_third_party_urls_get_a_ticket_for_their_folder() {
    for profile in every_profile() {
        let policy = policy(vec![profile.clone()], SECRET);
        let verifier = verifier(&policy);
        let url = sign_url(&policy, &profile, &sign_request("/demo/live/x.m3u8")).unwrap();
        let request = ask(&url, NOW - 60);
        let pass = verifier.verify(&request).unwrap();
        let ticket = verifier.playlist_ticket(&pass, &request).unwrap();
        assert_eq!(verifier.playlist_ticket(&pass, &request).as_ref(), Some(&ticket), "the same every time");
        let own = ticket.strip_prefix("ticket=").unwrap();

        // A relative URI keeps the signature in the path, an absolute one does not.
        let in_path = path_signature(request.path).map_or("", |found| found.signature);
        for (path, right) in [
            (format!("{in_path}/demo/live/1.ts"), "/demo/live/1.ts"),
            ("/demo/live/1.ts".to_owned(), "/demo/live/1.ts"),
        ] {
            let segment = Presented { path: &path, query: Some(&ticket), ..request };
            let segment_pass = verifier.verify(&segment).unwrap();
            assert_eq!((segment_pass.path, segment_pass.form), (right, "shoal"));
            assert_eq!((segment_pass.session, segment_pass.expires), (pass.session, pass.expires));
            // A second playlist below it hands the same ticket on.
            assert_eq!(verifier.playlist_ticket(&segment_pass, &segment), Some(format!("ticket={own}")));
        }
        let outside = Presented { path: "/demo/other/1.ts", query: Some(&ticket), ..request };
        assert_eq!(verifier.verify(&outside).unwrap_err().reason(), "path");
        // Bound to the client as the signature was.
        let elsewhere = Presented { path: "/demo/live/1.ts", query: Some(&ticket), client: address("::1"), ..request };
        let bound = profile.name() == "nginx-secure-link";
        assert_eq!(verifier.verify(&elsewhere).err().map(|refusal| refusal.reason()), bound.then_some("network"));
        assert_eq!(pass.binds_client, bound);
    }
    // A folder that no ticket can name.
    let policy = policy(vec![every_profile().remove(1)], SECRET);
    let path = format!("/demo/{}/x.m3u8", "y".repeat(MAX_PREFIX));
    let url = sign_url(&policy, &policy.profiles[0], &sign_request(&path)).unwrap();
    let (verifier, request) = (verifier(&policy), ask(&url, NOW - 60));
    assert_eq!(verifier.playlist_ticket(&verifier.verify(&request).unwrap(), &request), None);
}

#[test]
fn aliyun_c_in_the_query() {
    let policy = policy(vec![profile(r#"{"profile": "aliyun-c"}"#)], SECRET);
    let verifier = verifier(&policy);
    let url = sign_url(&policy, &policy.profiles[0], &sign_request("/demo/x.mp4")).unwrap();
    let found = path_signature(&url).unwrap();
    let query = format!("{}?KEY1={}&KEY2={}", found.rest, found.digest, found.time);
    assert_eq!(verifier.verify(&ask(&query, NOW)).unwrap().path, "/demo/x.mp4");
    let wrong = format!("{query}0");
    assert_eq!(verifier.verify(&ask(&wrong, NOW)).unwrap_err().reason(), "signature");
}

#[test]
fn path_signatures_mean_nothing_to_other_channels() {
    let path = "/202407151533/d1f0b51c6894231fc12e054fcc7f0b3e/demo/foo.jpg";
    let ticket = minted(&Claims { path_prefix: "/202407151533/", ..claims() });
    let pass = verifier(&own())
        .verify(&Presented { header: Some(&ticket), ..ask(path, NOW) })
        .map(|pass| pass.path.to_owned());
    assert_eq!(pass.as_deref(), Ok(path));
    // Nor does the other shape to a channel of one.
    let dated = verifier(&policy(vec![profile(r#"{"profile": "tencent-c"}"#)], SECRET));
    assert!(dated.verify(&Presented { header: Some(&ticket), ..ask(path, NOW) }).is_ok());
    assert_eq!(dated.verify(&ask(path, NOW)), Err(Refusal::Missing));
}

#[test]
fn malformed_signatures_of_others() {
    let verifier = verifier(&policy(every_profile(), SECRET));
    let digest = "0123456789abcdef0123456789abcdef";
    for (url, right) in [
        (format!("/x.flv?txSecret={digest}&txTime=xyz"), "malformed"),
        (format!("/x.flv?txSecret={digest}&txTime="), "malformed"),
        (format!("/x.flv?txSecret={digest}&txTime=-1"), "malformed"),
        (format!("/x.flv?txSecret={digest}&txTime=10000000000000000"), "malformed"),
        (format!("/x.flv?txSecret={}&txTime=5C271099", &digest[1..]), "malformed"),
        (format!("/x.flv?txSecret={digest}"), "missing"),
        (format!("/x?auth_key=1-2-3-{digest}-4"), "malformed"),
        (format!("/x?auth_key=1-2-{digest}"), "malformed"),
        (format!("/x?auth_key=-2-3-{digest}"), "malformed"),
        (format!("/x?auth_key=+1-2-3-{digest}"), "malformed"),
        (format!("/x?auth_key=1-2-3-{digest}"), "signature"),
        (format!("/202413151533/{digest}/x"), "malformed"),
        (format!("/202412151533/{digest}/x"), "signature"),
        (format!("/{digest}/5c271099/x"), "signature"),
        ("/x?md5=AAAAAAAAAAAAAAAAAAAAAA&expires=1".to_owned(), "signature"),
        ("/x?md5=AAAAAAAAAAAAAAAAAAAAAB&expires=1".to_owned(), "malformed"),
        ("/x?md5=AAAAAAAAAAAAAAAAAAAAAA==&expires=1".to_owned(), "malformed"),
        ("/x?md5=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&expires=1".to_owned(), "malformed"),
    ] {
        assert_eq!(verifier.verify(&ask(&url, NOW)).unwrap_err().reason(), right, "{url}");
    }
}

#[test]
fn bad_policies_name_field_value_and_remedy() {
    let with = |change: fn(&mut TicketPolicy)| {
        let mut policy = own();
        change(&mut policy);
        Verifier::new("demo", &policy).unwrap_err().to_string()
    };
    for (message, right) in [
        (with(|policy| policy.keys.clear()), "keys: none: give at least one key; the first one signs"),
        (with(|policy| policy.keys = vec![key("k", SECRET); 17]), "keys: 17 of them: give up to 16, remove old ones"),
        (
            with(|policy| policy.keys[0].id = "a.b".to_owned()),
            "keys[0].id: `a.b` is no key id: give 1 to 16 of a-z A-Z 0-9 - _",
        ),
        (with(|policy| policy.keys[0].id.clear()), "keys[0].id: `` is no key id: give 1 to 16 of a-z A-Z 0-9 - _"),
        (with(|policy| policy.keys.push(key("k1", SECRET))), "keys[1].id: `k1` is taken already: give another"),
        (
            with(|policy| policy.keys[0].secret = "hunter2".to_owned()),
            "keys[0].secret: of 7 bytes is too short: give at least 16, better 32 random ones",
        ),
        (with(|policy| policy.ttl_s = 0), "ttl_s: 0 would expire at once: give 1 or more seconds"),
        (with(|policy| policy.skew_s = 3601), "skew_s: 3601 is too much: give up to 3600 seconds"),
        (with(|policy| policy.profiles = vec![Profile::Shoal; 17]), "profiles: 17 of them: give up to 16"),
        (
            with(|policy| {
                policy.profiles = vec![Profile::Shoal, profile(r#"{"profile": "tencent-a", "param": "a&b"}"#)]
            }),
            "profiles[1].param: `a&b` is no parameter name: give 1 to 32 of A-Z a-z 0-9 _ - .",
        ),
        (
            with(|policy| policy.profiles = vec![profile(r#"{"profile": "aliyun-a", "param": "ticket"}"#)]),
            "profiles[0].param: `ticket` is taken already: give a name of its own",
        ),
        (
            with(|policy| policy.profiles = vec![profile(r#"{"profile": "tencent-d", "time_param": "sign"}"#)]),
            "profiles[0].time_param: `sign` is taken already: give a name of its own",
        ),
        (
            with(|policy| policy.profiles = vec![profile(r#"{"profile": "tencent-b", "ttl_s": 0}"#)]),
            "profiles[0].ttl_s: 0 would expire at once: give 1 or more seconds",
        ),
        (
            with(|policy| {
                policy.profiles = vec![profile(
                    r#"{"profile": "nginx-secure-link", "expression": "$secure_link_expires$host$secret"}"#,
                )];
            }),
            "profiles[0].expression: `$host` is not known: use $secret, $secure_link_expires, $uri, $remote_addr or $arg_NAME",
        ),
    ] {
        assert_eq!(message, right);
    }
    assert!(Verifier::new("", &own()).unwrap_err().to_string().contains("give 1 to 64"));
    let short = policy(vec![profile(r#"{"profile": "aliyun-a"}"#)], "sixsix");
    assert!(Verifier::new("demo", &short).is_ok(), "customers bring short keys along");
    assert!(Verifier::new("demo", &policy(short.profiles, "five5")).is_err());
}

#[test]
fn what_cannot_be_signed_is_named() {
    let live = every_profile().remove(0);
    let nginx = every_profile().pop().unwrap();
    for (profile, request, right) in [
        (&Profile::Shoal, SignRequest { path: "x", ..sign_request("") }, "path: `x`"),
        (&Profile::Shoal, SignRequest { path: "/x?y", ..sign_request("") }, "path: `/x?y`"),
        (&Profile::Shoal, SignRequest { query: Some("a b"), ..sign_request("/x") }, "query: `a b`"),
        (&Profile::Shoal, SignRequest { path_prefix: "x", ..sign_request("/x") }, "path_prefix: `x`"),
        (&Profile::Shoal, SignRequest { path_prefix: "/a/%2e./b", ..sign_request("/x") }, "path_prefix: `/a/%2e./b`"),
        (&Profile::Shoal, SignRequest { session: "a b", ..sign_request("/x") }, "session: `a b`"),
        (&Profile::Shoal, SignRequest { expires: NOW * 1000, ..sign_request("/x") }, "expires: 1700000000000"),
        (&Profile::Shoal, SignRequest { channel: "", ..sign_request("/x") }, "keys[0]: channel"),
        (&live, SignRequest { path: "/live/", ..sign_request("") }, "path: `/live/` names no stream"),
        (&nginx, SignRequest { client: None, ..sign_request("/x") }, "client: not given"),
        (&every_profile()[1], SignRequest { nonce: "a-b", ..sign_request("/x") }, "nonce: `a-b`"),
        (&every_profile()[1], SignRequest { expires: 299, ..sign_request("/x") }, "expires: 299"),
        (&every_profile()[2], SignRequest { expires: 1 << 40, ..sign_request("/x") }, "expires: "),
        (&every_profile()[3], SignRequest { expires: 1 << 40, ..sign_request("/x") }, "expires: "),
    ] {
        let error = sign_url(&own(), profile, &request).unwrap_err().to_string();
        assert!(error.starts_with(right), "{error}");
    }
    let error = mint(&key("not an id", SECRET), &claims()).unwrap_err().to_string();
    assert_eq!(error, "key: id `not an id`: give 1 to 16 of A-Z a-z 0-9 - _");
}

#[test]
fn secrets_do_not_show() {
    let policy = policy(every_profile(), SECRET);
    let verifier = verifier(&policy);
    let shown = format!("{policy:?} {verifier:?}");
    assert!(!shown.contains(SECRET) && shown.contains("k1"), "{shown}");
    // No refusal helps to forge: the right signature is in none of them.
    for profile in every_profile() {
        let policy = TicketPolicy { profiles: vec![profile.clone()], ..policy.clone() };
        let url = sign_url(&policy, &profile, &sign_request("/demo/x.mp4")).unwrap();
        for now in [NOW, NOW + 1000] {
            let wrong = url.replace("x.mp4", "y.mp4");
            if let Err(refusal) = Verifier::new("demo", &policy).unwrap().verify(&ask(&wrong, now)) {
                let right = sign_url(&policy, &profile, &sign_request("/demo/y.mp4")).unwrap();
                let digest = right.split(['/', '-', '=', '&']).max_by_key(|part| part.len()).unwrap();
                assert!(digest.len() >= 22 && !format!("{refusal} {refusal:?}").contains(digest));
            }
        }
    }
}

/// The vectors of docs/ticket.md, in its JSON blocks.
#[test]
fn documented_vectors() {
    let doc = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ticket.md")).unwrap();
    let mut forms = std::collections::BTreeSet::new();
    for block in doc.split("```json vectors\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let vectors: Vec<serde_json::Value> = serde_json::from_str(block).unwrap();
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap_or_default();
            let profile: Profile = serde_json::from_value(vector["profile"].clone()).unwrap();
            let policy =
                TicketPolicy { keys: vec![key(text("key"), text("secret"))], ..policy(vec![profile.clone()], SECRET) };
            let request = SignRequest {
                channel: text("channel"),
                path: text("path"),
                query: None,
                path_prefix: text("prefix"),
                expires: vector["expires"].as_u64().unwrap(),
                session: text("session"),
                network: vector["network"].as_str().map(|network| network.parse().unwrap()),
                client: vector["client"].as_str().map(address),
                nonce: text("rand"),
                uid: text("uid"),
            };
            assert_eq!(sign_url(&policy, &profile, &request).unwrap(), text("url"));
            let verifier = Verifier::new(text("channel"), &policy).unwrap();
            let client = request.client.or(request.network.map(|network| network.addr())).unwrap_or(address("::1"));
            let pass = verifier
                .verify(&Presented { client, ..ask(text("url"), request.expires) })
                .map(|pass| pass.path.to_owned());
            assert_eq!(pass.as_deref(), Ok(request.path));
            forms.insert(profile.name());
        }
    }
    let every: std::collections::BTreeSet<_> = every_setting().iter().map(Profile::name).collect();
    assert_eq!(forms, every, "each profile has a vector");
}

#[test]
fn corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/ticket");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{} files in {folder}", paths.len());
    let inputs: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    inputs.iter().for_each(|input| fuzzing::ticket(input));
    // splitmix64, so that the mutations are the same everywhere.
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) as usize % below
    };
    for round in 0..MUTATIONS {
        let mut input = inputs[round % inputs.len()].clone();
        for _ in 0..=random(3) {
            let at = random(input.len() + 1);
            let end = (at + random(3)).min(input.len());
            let with = b"/%.-_=&;\n0aAzZ9 ?ticket"[random(22)];
            input.splice(at..end, std::iter::repeat_n(with, random(3)));
        }
        fuzzing::ticket(&input);
    }
}

/// Mutated inputs tried on each run.
const MUTATIONS: usize = 20_000;

#[test]
fn a_ticket_is_renewed_for_the_same_and_only_while_it_is_good() {
    let mut policy = own();
    let network: IpNet = "192.0.2.0/24".parse().unwrap();
    let old = minted(&Claims { network: Some(network), ..claims() });
    policy.keys.insert(0, key("k2", "another secret of 32 characters!"));
    let verifier = verifier(&policy);
    let client = address("192.0.2.1");
    let new = verifier.renew(&old, client, NOW, NOW + 300).unwrap();
    let later = Presented { header: Some(&new), ..ask("/demo/x", NOW + 300) };
    let pass = verifier.verify(&later).unwrap();
    assert_eq!((pass.expires, pass.session.unwrap().as_str(), pass.binds_client), (NOW + 300, "viewer-1", true));
    assert!(matches!(verifier.verify(&Presented { path: "/other/x", ..later }), Err(Refusal::Path { .. })));
    assert!(matches!(verifier.renew(&old, client, NOW + 6, NOW + 300), Err(Refusal::Expired { .. })));
    assert!(matches!(verifier.renew(&old, address("198.51.100.1"), NOW, NOW + 9), Err(Refusal::Network { .. })));
    assert!(matches!(verifier.renew("x", client, NOW, NOW + 9), Err(Refusal::Malformed { .. })));
    // Signed with the newest key: the old one may go.
    policy.keys.truncate(1);
    assert!(Verifier::new("demo", &policy).unwrap().verify(&later).is_ok());
}

#[test]
fn an_explanation_tells_what_is_hashed_and_neither_key_nor_right_signature() {
    for profile in every_setting() {
        let policy = policy(vec![profile.clone()], SECRET);
        let verifier = verifier(&policy);
        let url = sign_url(&policy, &profile, &sign_request("/demo/a%20b.m3u8")).unwrap();
        let tried = verifier.explain(&ask(&url, NOW - 60));
        let own = tried.iter().find(|tried| tried.form == profile.name()).unwrap();
        assert_eq!((own.key.as_deref(), &own.refused), (Some("k1"), &None), "{url}");
        let late = verifier.explain(&ask(&url, NOW + 10_000_000));
        let late = late.iter().find(|tried| tried.form == profile.name()).unwrap();
        assert!(matches!(late.refused, Some(Refusal::Expired { .. })) && late.key.is_some(), "{url}");
        if profile != Profile::Shoal {
            let hashed = own.hashed.clone().unwrap().replace("{key}", SECRET);
            let digest = <md5::Md5 as md5::Digest>::digest(hashed);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(own.given.as_ref(), Some(&digest), "{url}");
            assert_eq!(tried[0].refused, Some(Refusal::Missing));
        }
        // With another key the explanation is the same, and does not say what would be right.
        let other = TicketPolicy { keys: vec![key("k9", &SECRET.replace('0', "x"))], ..policy.clone() };
        let tried = Verifier::new("demo", &other).unwrap().explain(&ask(&url, NOW - 60));
        let wrong = tried.iter().find(|tried| tried.form == profile.name()).unwrap();
        assert_eq!(wrong.key, None);
        assert_eq!((&wrong.given, &wrong.hashed), (&own.given, &own.hashed));
        assert!(matches!(wrong.refused, Some(Refusal::Signature { .. } | Refusal::UnknownKey { .. })), "{wrong:?}");
        assert!(!format!("{tried:?}").contains(&SECRET.replace('0', "x")));
    }
    let verifier = verifier(&policy(every_profile(), SECRET));
    let nothing = verifier.explain(&ask("/demo/x.ts", NOW));
    assert!(nothing.len() > 9 && nothing.iter().all(|tried| tried.refused == Some(Refusal::Missing)));
    let malformed = verifier.explain(&ask("/demo/x.ts?ticket=x&sign=y&t=z", NOW));
    assert!(malformed.iter().any(|tried| matches!(tried.refused, Some(Refusal::Malformed { .. }))));
}
