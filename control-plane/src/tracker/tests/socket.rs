//! The WebTorrent protocol over real connections, spoken by a client of a few lines (RFC 6455).

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Public, pass};
use crate::http;
use crate::tracker::{Key, OPEN_CHANNEL};

struct Served {
    public: Public,
    address: std::net::SocketAddr,
    _stop: watch::Sender<bool>,
}

async fn serve(public: Public) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listener, None, public.router.clone(), 100, stopped));
    Served { public, address, _stop: stop }
}

struct Client(TcpStream);

impl Client {
    async fn connect(served: &Served, path: &str) -> Self {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        Self(stream)
    }

    async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    async fn send_text(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        // A mask of zeros changes nothing.
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next message; none when the connection is closed.
    async fn receive(&mut self) -> Option<Value> {
        loop {
            let head = self.0.read_u16().await.ok()?.to_be_bytes();
            let length = match head[1] {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                length => u64::from(length),
            };
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            match head[0] {
                0x81 => return Some(serde_json::from_slice(&payload).unwrap()),
                0x88 => return None,
                _ => {}
            }
        }
    }
}

fn binary(byte: u8) -> String {
    char::from(byte).to_string().repeat(20)
}

fn announce(peer: u8, more: &Value) -> Value {
    let mut message = json!({"action": "announce", "info_hash": binary(200), "peer_id": binary(peer), "left": 1});
    for (key, value) in more.as_object().unwrap() {
        message[key] = value.clone();
    }
    message
}

fn offer(number: u8) -> Value {
    json!({"offer_id": binary(number), "offer": {"type": "offer", "sdp": format!("v={number}\r\n")}})
}

#[tokio::test]
async fn offers_and_answers_are_passed_on_within_the_swarm() {
    let served = serve(Public::open()).await;
    let mut one = Client::connect(&served, "/").await;
    let mut two = Client::connect(&served, "/announce").await;
    let mut stranger = Client::connect(&served, "/").await;
    one.send(&announce(1, &json!({"offers": [offer(50)]}))).await;
    let answer = one.receive().await.unwrap();
    let expected =
        json!({"action": "announce", "interval": 16, "complete": 0, "incomplete": 1, "info_hash": binary(200)});
    assert_eq!(answer, expected);
    stranger.send(&json!({"action": "announce", "info_hash": binary(201), "peer_id": binary(3)})).await;
    stranger.receive().await.unwrap();

    two.send(&announce(2, &json!({"numwant": 5, "offers": [offer(60), offer(61)]}))).await;
    assert_eq!(two.receive().await.unwrap()["incomplete"], 2);
    let offered = one.receive().await.unwrap();
    assert_eq!((&offered["peer_id"], &offered["info_hash"]), (&json!(binary(2)), &json!(binary(200))));
    assert_eq!(offered["offer"], offer(60)["offer"]);
    let answered =
        json!({"to_peer_id": binary(2), "offer_id": offered["offer_id"], "answer": {"type": "answer", "sdp": "w"}});
    // From another swarm it does not arrive, from this one it does.
    let mut foreign = answered.clone();
    foreign["answer"]["sdp"] = json!("foreign");
    stranger.send(&announce(3, &foreign)).await;
    one.send(&announce(1, &answered)).await;
    let came = two.receive().await.unwrap();
    assert_eq!((&came["answer"]["sdp"], &came["peer_id"]), (&json!("w"), &json!(binary(1))));

    one.send(&json!({"action": "scrape", "info_hash": binary(200)})).await;
    assert_eq!(
        one.receive().await.unwrap()["files"][binary(200)],
        json!({"complete": 0, "incomplete": 2, "downloaded": 0})
    );
    one.send(&json!({"action": "scrape"})).await;
    assert_eq!(one.receive().await.unwrap()["files"].as_object().unwrap().len(), 2);
    one.send_text("{\"action\":\"announce\"}").await;
    assert_eq!(one.receive().await.unwrap()["failure reason"], "peer_id is missing");

    // Who goes has left, whether it says so or not.
    drop(one);
    let key = Key { tenant: "everybody", channel: OPEN_CHANNEL, info_hash: shoal_swarm::InfoHash([200; 20]) };
    while served.public.app.tracker.scrape(key).incomplete > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    two.send(&announce(2, &json!({"event": "stopped"}))).await;
    assert_eq!(two.receive().await.unwrap()["incomplete"], 0);
    assert!(served.public.metric("shoal_tracker_relayed_total{kind=\"offer\"} 1"));
    assert!(served.public.metric("shoal_tracker_relayed_total{kind=\"answer\"} 1"));
    assert!(served.public.metric("shoal_tracker_dropped_total{reason=\"stranger\"} 1"));
}

#[tokio::test]
async fn a_bad_pass_is_told_in_the_protocols_words() {
    let served = serve(Public::new(|_| {})).await;
    for path in ["/", "/v1/tracker/nonsense", "/v1/tracker/nonsense/announce"] {
        let mut client = Client::connect(&served, path).await;
        let told = client.receive().await.unwrap();
        assert!(told["failure reason"].as_str().unwrap().contains("pass"), "{told}");
        assert_eq!(client.receive().await, None);
    }
    let mut client = Client::connect(&served, &format!("/v1/tracker/{}", pass("s1", false, 600))).await;
    client.send(&announce(1, &json!({}))).await;
    assert_eq!(client.receive().await.unwrap()["incomplete"], 1);
    assert_eq!(served.public.app.tracker.viewers("acme", "room1"), 1);
}

#[tokio::test]
async fn a_relay_only_viewer_offers_relays_alone() {
    let served = serve(Public::new(|_| {})).await;
    let mut one = Client::connect(&served, &format!("/v1/tracker/{}/announce", pass("s1", false, 600))).await;
    let mut two = Client::connect(&served, &format!("/v1/tracker/{}/announce", pass("s2", true, 600))).await;
    one.send(&announce(1, &json!({}))).await;
    one.receive().await.unwrap();
    let sdp = |kind: &str| {
        let line = format!("a=candidate:1 1 udp 1 203.0.113.9 5 typ {kind} raddr 192.0.2.77 rport 9");
        json!([{"offer_id": "x", "offer": {"type": "offer", "sdp": format!("v=0\r\nc=IN IP4 192.0.2.77\r\n{line}\r\n")}}])
    };
    two.send(&announce(2, &json!({"offers": sdp("srflx")}))).await;
    assert_eq!(two.receive().await.unwrap()["incomplete"], 2);
    assert!(two.receive().await.unwrap()["failure reason"].as_str().unwrap().contains("relay candidate"));
    two.send(&announce(2, &json!({"offers": sdp("relay")}))).await;
    let offered = one.receive().await.unwrap()["offer"]["sdp"].as_str().unwrap().to_owned();
    assert!(offered.contains("203.0.113.9") && !offered.contains("192.0.2.77"), "{offered}");
}

#[tokio::test]
async fn queues_and_memberships_are_bounded_and_a_silent_reader_stops_nobody() {
    let served = serve(Public::new(|config| {
        config.tracker.open = "everybody".to_owned();
        config.tracker.queue = 4;
        config.tracker.peers_per_connection = 2;
        config.tracker.sdp_bytes = 50_000;
        config.tracker.offers = 1;
    }))
    .await;
    let mut one = Client::connect(&served, "/").await;
    for number in 1..=3 {
        one.send(&json!({"action": "announce", "info_hash": binary(number), "peer_id": binary(1)})).await;
        let refused = one.receive().await.unwrap().get("failure reason").is_some();
        assert_eq!(refused, number == 3);
    }
    // One reads nothing any more; the other sends it 40 MB.
    let mut two = Client::connect(&served, "/").await;
    let large = json!({"offer_id": "x", "offer": {"type": "offer", "sdp": "x".repeat(40_000)}});
    let message = json!({"action": "announce", "info_hash": binary(1), "peer_id": binary(2), "offers": [large, large]});
    for _ in 0..1_000 {
        two.send(&message).await;
        assert_eq!(two.receive().await.unwrap()["incomplete"], 2);
    }
    let text = String::from_utf8(served.public.app.metrics.export().unwrap()).unwrap();
    let count = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let relayed = count("shoal_tracker_relayed_total{kind=\"offer\"}");
    let dropped = count("shoal_tracker_dropped_total{reason=\"queue\"}");
    assert_eq!((relayed + dropped, dropped > 500), (1_000, true), "{relayed} {dropped}");
    assert_eq!(count("shoal_tracker_dropped_total{reason=\"many\"}"), 1_000);
}
