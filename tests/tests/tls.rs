//! TLS to viewers and to origins: the same bytes, the same counts, and every way in which it must not work.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use shoal_tests::client::{self, Conn, End, Reading, Request};
use shoal_tests::lab::{self, Lab, Settings, until};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Framing, Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::tls::{self, Authority, NOW, Pair};
use shoal_tests::{net, tool, with_one_and_four_shards};

with_one_and_four_shards!(
    curl_gets_the_same_bytes_by_both_versions,
    names_get_their_certificates_and_changes_are_served,
    sessions_are_resumed_on_every_shard,
    random_ranges_and_their_ledger,
    what_is_no_tls_is_told_so_or_closed,
    origins_are_verified,
    behind_a_proxy,
);

const BLOCK: u64 = 64 << 10;

/// A node that serves these certificates, and where.
fn settings(shards: u32, pairs: &[&Pair]) -> (Settings, SocketAddr) {
    let address = net::free_port(net::own_address());
    let pairs: Vec<String> = pairs.iter().map(|pair| pair.toml()).collect();
    let settings = Settings::new(shards)
        .set("tls.listen", &format!("[\"{address}\"]"))
        .set("tls.certificates", &format!("[{}]", pairs.join(", ")));
    (settings, address)
}

fn handshakes(lab: &Lab, labels: &[(&str, &str)]) -> f64 {
    lab.metrics().sum("shoal_tls_handshakes_total", labels)
}

fn failures(lab: &Lab, reason: &str) -> f64 {
    lab.metrics().sum("shoal_tls_handshake_failures_total", &[("reason", reason)])
}

fn curl_gets_the_same_bytes_by_both_versions(shards: u32) {
    let Some(curl) = tool::need("curl over TLS", "curl") else { return };
    let authority = Authority::new();
    let (settings, at) = settings(shards, &[&authority.issue("a", &["edge.test"], NOW)]);
    let (lab, origin) = (settings.start(), Origin::start());
    let object = Object::new("/a.mp4", 40 * BLOCK + 7);
    let truth = object.bytes(0);
    origin.put(object);
    lab.channel("vod", &[&origin]);
    let url = format!("https://edge.test:{}/vod/a.mp4", at.port());
    let run = |more: &[&str]| {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--noproxy", "*", "--cacert"]);
        command.arg(authority.roots()).arg("--resolve").arg(format!("edge.test:{}:{}", at.port(), at.ip()));
        let output = tool::run(command.args(more).arg(&url));
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for versions in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        assert!(run(&versions) == truth, "{versions:?}: other bytes");
        let part = run(&[&versions[..], &["--range", "65000-200000"]].concat());
        assert!(part == truth[65000..=200_000], "{versions:?}: another range");
        // One connection for all of them.
        let again = run(&[&versions[..], &[&url, &url]].concat());
        assert!(again == [&truth[..], &truth, &truth].concat(), "{versions:?}: other bytes on a kept connection");
    }
    for version in ["1.2", "1.3"] {
        assert_eq!(handshakes(&lab, &[("version", version)]), 3.0);
    }
}

/// The certificate that a client is shown who asks for `name`.
fn shown(at: SocketAddr, authority: &Authority, name: &str) -> Option<Vec<u8>> {
    let stream = tls::connect(at, &authority.client(&[&TLS13]), name).ok()?;
    Some(stream.conn.peer_certificates()?.first()?.to_vec())
}

fn names_get_their_certificates_and_changes_are_served(shards: u32) {
    let authority = Authority::new();
    let first = authority.issue("first", &["edge.test"], NOW);
    let wild = authority.issue("wild", &["*.edge.test", "other.test"], NOW);
    let (settings, at) = settings(shards, &[&first, &wild]);
    let lab = settings.start();
    assert_eq!(shown(at, &authority, "edge.test"), Some(first.der().to_vec()));
    assert_eq!(shown(at, &authority, "a.edge.test"), Some(wild.der().to_vec()));
    assert_eq!(shown(at, &authority, "other.test"), Some(wild.der().to_vec()));
    assert_eq!(shown(at, &authority, "nobody.test"), None, "the first one does not name it");
    until("the client's alert is counted", Duration::from_secs(5), || failures(&lab, "alert") == 1.0);

    let newer = authority.issue("newer", &["edge.test"], (-1, 30));
    let replace = |from: &Pair| {
        fs::copy(&from.certificate, &first.certificate).expect("the files are ours");
        fs::copy(&from.key, &first.key).expect("the files are ours");
    };
    let expiry = || lab.metrics().sum("shoal_tls_certificate_expiry_time_seconds", &[]);
    let reloads = |result| lab.metrics().sum("shoal_tls_certificate_reloads_total", &[("result", result)]);
    let before = expiry();
    replace(&newer);
    let served = newer.der().to_vec();
    until("the new certificate is served", Duration::from_secs(10), || {
        shown(at, &authority, "edge.test").is_some_and(|shown| shown == served)
    });
    assert!(expiry() < before && reloads("loaded") == 1.0);
    // A key of another certificate: the old pair stays.
    fs::copy(&wild.key, &first.key).expect("the files are ours");
    until("the bad pair is reported", Duration::from_secs(10), || reloads("failed") == 1.0);
    assert_eq!(shown(at, &authority, "edge.test"), Some(served));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(reloads("failed"), 1.0, "said once");
}

fn sessions_are_resumed_on_every_shard(shards: u32) {
    let authority = Authority::new();
    let (settings, at) = settings(shards, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.start();
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let config = authority.client(&[version]);
        for nth in 0..20 {
            let mut stream = tls::connect(at, &config, "edge.test").expect("a session");
            // The ticket of TLS 1.3 comes with the answer, at the latest.
            stream.write_all(b"GET / HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").expect("open");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer, and close_notify");
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            let kind = if nth == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(stream.conn.handshake_kind(), Some(kind), "connection {nth} by TLS {name}");
        }
        assert_eq!(handshakes(&lab, &[("version", name), ("kind", "resumed")]), 19.0);
    }
}

fn random_ranges_and_their_ledger(shards: u32) {
    let mut rng = Rng::new(seed());
    let (authority, origin) = (Authority::new(), Origin::start());
    let mut targets = Vec::new();
    for (name, framing) in [("plain", Framing::Length), ("chunked", Framing::Chunked)] {
        for size in [0, 1, 1000, BLOCK - 1, BLOCK, 5 * BLOCK + 7, 40 * BLOCK] {
            let object = Object { framing, ..Object::new(&format!("/{name}/{size}"), size) };
            origin.put(object.clone());
            targets.push(Target { prefix: "/vod", object, origin: &origin, kind: name, must_succeed: true });
        }
    }
    let (settings, at) = settings(shards, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.start();
    lab.channel("vod", &[&origin]);
    let through = tls::put_on(at, &authority.client(&[&TLS13, &TLS12]), "edge.test");
    let tally = Load { clients: 16, slow: 2, requests: 1500, block: BLOCK }.run(through, &targets, &mut rng);
    println!("{tally}");
    let received = tally.complete_bytes["/vod"];
    let counted = || lab.admin().ledger("vod", "client").body_bytes;
    until("the ledger has what viewers received", Duration::from_secs(10), || counted() >= received);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(counted(), received);
    let usage = lab.admin().ledger("vod", "client");
    assert!(usage.wire_bytes > usage.body_bytes + 100 * usage.requests, "records are on the wire, too: {usage:?}");

    // Aborted: what was counted beyond what was read is bounded by the buffers on the way, the relay's included.
    let aborts: u64 = 8;
    let mut read = received;
    for nth in 0..aborts {
        let mut conn = Conn::open_from(through, None, Some(32 << 10)).expect("the relay listens");
        let reading = Reading { stop_after: Some(100_000 + nth * 12_345), ..Reading::default() };
        let answer = conn.ask_reading(&Request::get(&format!("/vod/plain/{}", 40 * BLOCK)), reading);
        let answer = answer.expect("an answer");
        assert_eq!(answer.end, End::Stopped);
        read += answer.body.len() as u64;
    }
    thread::sleep(Duration::from_millis(2500));
    let over = counted().saturating_sub(read);
    assert!(counted() >= read && over <= aborts * 40 * BLOCK, "{over} bytes too many in {aborts} transfers");
    until("nothing is left open", Duration::from_secs(10), || lab.metrics().sum("shoal_http_connections", &[]) == 0.0);
}

fn what_is_no_tls_is_told_so_or_closed(shards: u32) {
    let authority = Authority::new();
    let (settings, at) = settings(shards, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.set("http.head_timeout_ms", "700").set("tls.min_version", "\"1.3\"").start();

    // The peer may know before it is counted.
    let counted = |what: &str| until(what, Duration::from_secs(5), || failures(&lab, what) == 1.0);
    let plain = client::expect(at, &Request::get("/vod/a"));
    assert_eq!(plain.status(), 400);
    assert!(plain.text().contains("https://"), "{}", plain.text());
    counted("plain_http");

    let closes = |first: &[u8]| {
        let mut stream = TcpStream::connect(at).expect("the edge listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.write_all(first).expect("the edge reads");
        let begun = Instant::now();
        // An alert may come before the end, and a reset instead of it.
        drop(stream.read_to_end(&mut Vec::new()));
        begun.elapsed()
    };
    assert!(closes(b"\0\0\0\0") < Duration::from_secs(5));
    counted("not_tls");
    assert!(closes(b"\x16\x03\x01\0\x05hello") < Duration::from_secs(5));
    counted("malformed");
    // Half a handshake has the time of a head.
    let waited = closes(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    assert!((Duration::from_millis(500)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
    counted("timeout");
    assert!(tls::connect(at, &authority.client(&[&TLS12]), "edge.test").is_err(), "1.3 is the least");
    counted("incompatible");
    drop(TcpStream::connect(at).expect("the edge listens"));
    counted("closed");

    let mut config = (*authority.client(&[&TLS13])).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(tls::connect(at, &config.into(), "edge.test").is_err(), "nothing but HTTP/1.1 is spoken");
    until("nothing is left open", Duration::from_secs(10), || lab.metrics().sum("shoal_http_connections", &[]) == 0.0);
}

fn origins_are_verified(shards: u32) {
    let (authority, stranger, origin) = (Authority::new(), Authority::new(), Origin::start());
    let sizes = [0, 1, BLOCK, 9 * BLOCK + 5];
    for (name, framing) in [("plain", Framing::Length), ("chunked", Framing::Chunked), ("close", Framing::Close)] {
        for size in sizes {
            origin.put(Object { framing, ..Object::new(&format!("/{name}/{size}"), size) });
        }
    }
    let roots = format!("\"{}\"", authority.roots().display());
    let lab = Settings::new(shards).set("upstream.roots", &roots).start();
    let channel = |id: &str, pair: &Pair, host: Option<&str>| {
        let (at, connections) = tls::take_off(origin.addr(), pair);
        let mut channel = lab::channel(id, &[&origin]);
        channel["origins"][0]["url"] = json!(format!("https://{at}/"));
        if let Some(host) = host {
            channel["origins"][0]["host"] = json!(host);
        }
        lab.put_channel(&channel);
        connections
    };
    let good = authority.issue("good", &["origin.test"], NOW);
    let connections = channel("good", &good, Some("origin.test"));
    for name in ["plain", "chunked", "close"] {
        for size in sizes {
            let path = format!("/{name}/{size}");
            let answer = client::expect(lab.http(), &Request::get(&format!("/good{path}")));
            assert_eq!((answer.status(), answer.end), (200, End::Complete), "{path}");
            assert!(answer.body == Object::new(&path, size).bytes(0), "{path}: other bytes than the origin's");
        }
    }
    assert_eq!(
        origin.seen().last().and_then(|seen| seen.header("host").map(str::to_owned)),
        Some("origin.test".into())
    );
    let (made, asked) = (connections.load(Ordering::Relaxed), origin.seen().len() as u64);
    assert!(made < asked, "{made} connections for {asked} requests: none was used twice");

    for (id, pair, host, said) in [
        ("name", &good, Some("other.test"), "for other names"),
        ("address", &good, None, "for other names"),
        ("old", &authority.issue("old", &["origin.test"], (-9, -2)), Some("origin.test"), "has expired"),
        ("stranger", &stranger.issue("x", &["origin.test"], NOW), Some("origin.test"), "not trusted"),
    ] {
        channel(id, pair, host);
        let asked = origin.seen().len();
        let answer = client::expect(lab.http(), &Request::get(&format!("/{id}/plain/1")));
        assert_eq!(answer.status(), 502);
        assert!(answer.text().contains(said), "{id}: {} lacks {said}", answer.text());
        assert_eq!(origin.seen().len(), asked, "nothing is asked of an origin that is not verified");
        let errors = [("channel", id), ("kind", "tls")];
        assert!(lab.metrics().sum("shoal_upstream_errors_total", &errors) > 0.0);
    }
}

fn behind_a_proxy(shards: u32) {
    let authority = Authority::new();
    let (settings, at) = settings(shards, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.set("http.proxy_protocol", "true").with_access_log().start();
    // PROXY protocol 2: a TCP connection over IPv4 from 192.0.2.7.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 192, 0, 2, 8, 0x10, 0, 1, 0xbb]);
    let mut stream = TcpStream::connect(at).expect("the edge listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream.write_all(&header).expect("the edge reads");
    let name = rustls::pki_types::ServerName::try_from("edge.test").expect("a good name");
    let session = rustls::ClientConnection::new(authority.client(&[&TLS13]), name).expect("a session");
    let mut stream = rustls::StreamOwned::new(session, stream);
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let log = lab.dir().join("access.log");
    until("the client's own address is logged", Duration::from_secs(5), || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("192.0.2.7"))
    });
}

/// A client may close its direction with the request; the answer still comes, and then the end.
#[test]
fn who_says_goodbye_early_is_answered() {
    let (authority, origin) = (Authority::new(), Origin::start());
    let object = Object::new("/a", 5 * BLOCK);
    let truth = object.bytes(0);
    origin.put(object);
    let (settings, at) = settings(1, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.start();
    lab.channel("vod", &[&origin]);
    let mut stream = tls::connect(at, &authority.client(&[&TLS13]), "edge.test").expect("a session");
    let begun = Instant::now();
    stream.write_all(b"GET /vod/a HTTP/1.1\r\nHost: edge.test\r\n\r\n").expect("open");
    stream.conn.send_close_notify();
    stream.flush().expect("open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and close_notify");
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&truth), "another answer");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    until("it is counted as closed in order", Duration::from_secs(5), || {
        lab.metrics().sum("shoal_http_connections_closed_total", &[("reason", "peer")]) >= 1.0
    });
}

/// `--check` reads the files.
#[test]
fn files_are_checked() {
    let authority = Authority::new();
    let good = authority.issue("good", &["a.test"], NOW);
    let old = authority.issue("old", &["a.test"], (-9, -2));
    let (settings, _) = settings(1, &[&good, &old]);
    let lab = settings.start();
    let check = || tool::run(lab.edge_command().arg("--check"));
    let fine = check();
    assert!(fine.status.success());
    let said = tool::stdout(&fine);
    assert!(said.contains("warning: tls.certificates[1]: ") && said.contains("has expired"), "{said}");
    for (change, expected) in [
        (&(|| fs::copy(&old.key, &good.key).map(drop)) as &dyn Fn() -> std::io::Result<()>, "is not that of the first"),
        (&|| fs::remove_file(&good.key), "cannot read"),
        (&|| fs::write(&good.certificate, "no certificate"), "has no certificate in PEM"),
    ] {
        change().expect("the files are ours");
        let output = check();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("tls.certificates[0]") && said.contains(expected), "{said}");
    }
}

/// OpenSSL's client takes part, too.
#[test]
fn openssl_resumes_its_sessions() {
    let Some(openssl) = tool::need("openssl", "openssl") else { return };
    let authority = Authority::new();
    let (settings, at) = settings(2, &[&authority.issue("a", &["edge.test"], NOW)]);
    let lab = settings.start();
    let session = lab.dir().join("session.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        for (option, expected) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let mut command = Command::new(&openssl);
            command.args(["s_client", "-connect", &at.to_string(), "-servername", "edge.test", version, "-ign_eof"]);
            command.args(["-verify_return_error", "-CAfile"]).arg(authority.roots()).arg(option).arg(&session);
            let request = lab.dir().join("request");
            fs::write(&request, "GET /x HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").expect("our folder");
            let output = tool::run(command.stdin(fs::File::open(&request).expect("just written")));
            let said = tool::stdout(&output);
            assert!(said.contains(expected) && said.contains("HTTP/1.1 503 "), "{version} {option}: {said}");
        }
    }
}
