//! Connections come and go in every way there is: nothing stays behind.

use std::env;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use shoal_tests::churn::Churn;
use shoal_tests::lab::Settings;
use shoal_tests::net;
use shoal_tests::origin::{Fault, Object, Origin, When};
use shoal_tests::resources::Resources;
use shoal_tests::rng::{Rng, seed};
use shoal_tests::tls::{Authority, NOW};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(nothing_stays_behind);

/// After this many the node has grown to the size that it needs.
const WARM_UP: usize = 3_000;

/// Memory may still settle a little; a leak of a kilobyte per connection would be far more.
const GROWTH: u64 = 8 << 20;

const SOON: Duration = Duration::from_secs(20);

/// `SHOAL_CHURN` says how many connections; 50,000 without.
fn nothing_stays_behind(shards: u32) {
    let connections = match env::var("SHOAL_CHURN") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SHOAL_CHURN is `{text}`; give a number of connections")),
        Err(_) => 50_000,
    };
    let mut rng = Rng::new(seed());
    let (origin, authority) = (Origin::start(), Authority::new());
    let (short, long) = (Object::new("/short", 3000), Object::new("/long", 2 << 20));
    let slow = Object::new("/slow", 3000).header("Cache-Control", "no-store");
    let slow = slow.fault(When::Always, Fault::SlowHead(Duration::from_millis(10)));
    origin.put(short.clone()).put(long.clone()).put(slow);
    let secure = net::free_port(net::own_address());
    let mut lab = Settings::new(shards)
        .set("tls.listen", &format!("[\"{secure}\"]"))
        .set("tls.certificates", &format!("[{}]", authority.issue("a", &["edge.test"], NOW).toml()))
        .start();
    lab.channel("c", &[&origin]);
    let churn = Churn {
        plain: lab.http(),
        secure,
        tls: vec![authority.client(&[&TLS12]), authority.client(&[&TLS13])],
        short: ("/c/short", short),
        long: ("/c/long", long),
        slow: "/c/slow",
    };
    churn.run(WARM_UP, &mut rng);
    let quiet = Resources { connections: 0, buffers: 0, flights: 0, ..settled(&mut lab, &origin) };
    let started = Instant::now();
    let ways = churn.run(connections, &mut rng);
    let took = started.elapsed();
    let after = quiet.expect_again(&mut lab, &[&origin], GROWTH, SOON);
    println!("{shards} shards: {connections} connections in {took:.1?}: {ways:#?}\nbefore: {quiet}\nafter:  {after}");
    let accepted = lab.metrics().sum("shoal_http_connections_accepted_total", &[]) as usize;
    // Some are gone before they are accepted.
    assert!(accepted > (WARM_UP + connections) / 10 * 9, "{accepted} accepted");
}

/// What the node holds once everybody is gone.
fn settled(lab: &mut shoal_tests::lab::Lab, origin: &Origin) -> Resources {
    let deadline = Instant::now() + SOON;
    let mut before = Resources::of(lab, &[origin]);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = Resources::of(lab, &[origin]);
        if now == (Resources { connections: 0, flights: 0, resident: now.resident, ..before.clone() }) {
            return now;
        }
        assert!(Instant::now() < deadline, "does not settle:\n{before}\n{now}");
        before = now;
    }
}
