//! CMCD (CTA-5004) on requests for slices: what players say of their playback reaches the operator's sums, and neither the cache's
//! keys nor the origin.

use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{Settings, channel, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(what_players_say_is_summed_up_and_goes_no_further);

/// Nodes tell every ten seconds.
const PATIENCE: Duration = Duration::from_secs(40);

fn what_players_say_is_summed_up_and_goes_no_further(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 10_000));
    let lab = Settings::new(shards).start();
    let mut vod = channel("vod", &[&origin]);
    vod["cache"] = json!({"query_allow": ["*"]});
    vod["forward"] = json!({"headers": ["*"]});
    lab.put_channel(&vod);
    let sids = ["6e2fb550", "6e2fb551", "6e2fb552"];
    for (number, sid) in sids.iter().enumerate() {
        // By the query, encoded as players do, and once with a stall.
        let said = format!("/vod/a?CMCD=bl%3D{number}000%2Csid%3D%22{sid}%22");
        assert_eq!(client::expect(lab.http(), &Request::get(&said)).status(), 200);
        let stalled = format!("/vod/a?CMCD=bs%2Csid%3D%22{sid}%22%2Csu");
        assert_eq!(client::expect(lab.http(), &Request::get(&stalled)).status(), 200);
        // By headers.
        let by_headers = Request::get("/vod/a")
            .header("CMCD-Session", &format!("sid=\"{sid}\",sf=h"))
            .header("CMCD-Request", "mtp=25400")
            .header("CMCD-Object", "br=3200,ot=v");
        assert_eq!(client::expect(lab.http(), &by_headers).status(), 200);
    }
    // Nonsense is nobody's, and no reason to refuse anything.
    for path in ["/vod/a?CMCD=%00%ff", "/vod/a?CMCD=", "/vod/a?CMCD=%2C%2C%3D%22"] {
        assert_eq!(client::expect(lab.http(), &Request::get(path)).status(), 200);
    }
    assert_eq!(origin.requests("/a"), 1, "one object, whatever players said");
    let seen = origin.seen();
    let told = |text: &str| text.to_ascii_lowercase().contains("cmcd");
    assert!(
        seen.iter().all(|seen| !told(&seen.target) && !seen.headers.iter().any(|(name, _)| told(name))),
        "{seen:?}"
    );

    let sums = || {
        let list = lab.admin().call("GET", "/api/v1/reports?group=sdk,channel&step=day&from=0", None);
        let items = list["items"].as_array().expect("a list").clone();
        items.into_iter().find(|sum| sum["sdk"] == "cmcd-1").unwrap_or(Value::Null)
    };
    until("the sums are there", PATIENCE, || sums()["stalls"] == 3);
    let sums = sums();
    assert_eq!(sums["channel"], "vod", "{sums}");
    // Three sessions, which are not viewers: nobody vouches for them.
    assert_eq!(sums["viewers"], 0, "{sums}");
}
