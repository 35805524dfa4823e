//! A real browser plays from the edge: MP4 with seeking, HLS by hls.js and by the browser itself, open and protected.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use shoal_tests::chromium;
use shoal_tests::lab::{Lab, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::process::Process;
use shoal_tests::tool;

const NAME: &str = "playback in Chromium";

/// A few seconds of video, and the start of a browser on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Plays `source`, from `seek` (a fraction) on if that is given, and reports when it has ended.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><video id="v" muted playsinline></video>
<script src="/hls.js"></script>
<script>
const ask = new URLSearchParams(location.search);
const video = document.getElementById("v");
const events = [];
let started = 0;
function report(how) {
  const played = [];
  for (let i = 0; i < video.played.length; i++) played.push([video.played.start(i), video.played.end(i)]);
  const error = video.error && video.error.message;
  fetch("/result?" + encodeURIComponent(JSON.stringify({
    how, error, played, events, duration: video.duration, at: video.currentTime, width: video.videoWidth })));
}
for (const name of ["loadedmetadata", "playing", "seeked", "stalled", "error"]) {
  video.addEventListener(name, () => events.push(name));
}
video.addEventListener("ended", () => report("ended"));
video.addEventListener("error", () => report("error"));
if (ask.get("seek")) {
  video.addEventListener("loadedmetadata", () => { video.currentTime = video.duration * ask.get("seek"); }, { once: true });
}
if (ask.get("player") === "hls.js") {
  const hls = new Hls();
  hls.on(Hls.Events.ERROR, (_, data) => { if (data.fatal) { events.push(data.details); report("error"); } });
  hls.loadSource(ask.get("source"));
  hls.attachMedia(video);
} else if (ask.get("player") === "own" && !video.canPlayType("application/vnd.apple.mpegurl")) {
  report("unsupported");
} else {
  video.src = ask.get("source");
}
video.playbackRate = 4;
video.play().catch((why) => { events.push(String(why)); });
</script>"#;

#[test]
fn chromium_plays_to_the_end_and_seeks() {
    let Some(chromium) = tool::need(NAME, "chromium") else { return };
    let Some(ffmpeg) = tool::need(NAME, "ffmpeg") else { return };
    let mut lab = Lab::start(4);
    let demo =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/media")).canonicalize().expect("the demo is there");
    make_long_film(&ffmpeg, lab.dir());
    let pages = Origin::start();
    pages.put(Object::literal("/play.html", PAGE).header("Content-Type", "text/html"));
    let hls_js = hls_js();
    pages.put(Object::literal("/hls.js", hls_js.clone().unwrap_or_default()).header("Content-Type", "text/javascript"));

    // A local folder is an origin, and the edge makes the players' URLs good.
    let folder = |path: &Path| json!([{"id": "disk", "url": format!("file:{}", path.display())}]);
    lab.put_channel(&json!({"id": "open", "prefix": "/open/", "origins": folder(&demo)}));
    lab.put_channel(&json!({"id": "long", "prefix": "/long/", "origins": folder(lab.dir())}));
    lab.put_channel(&json!({
        "id": "vip", "prefix": "/vip/", "origins": folder(&demo),
        "access": {"ticket": {"keys": [{"id": "k1", "secret": "a secret of sixteen or more"}]}}
    }));
    let ticket = lab.admin().ticket("vip", &json!({"path": "video.mp4"}));
    let browser = Browser { chromium, pages, dir: lab.dir().to_owned() };

    let mp4 = browser.play("mp4", &lab.url("/open/video.mp4"), None);
    assert_played_to_the_end(&mp4, 0.0);
    let before = lab.metrics().sum("shoal_http_requests_total", &[("status", "206")]);
    let sought = browser.play("mp4", &lab.url("/long/long.mp4"), Some("0.9"));
    assert_played_to_the_end(&sought, 0.9);
    assert!(sought["events"].as_array().is_some_and(|events| events.contains(&json!("seeked"))), "{sought}");
    let after = lab.metrics().sum("shoal_http_requests_total", &[("status", "206")]);
    assert!(after >= before + 2.0, "seeking takes a second range, not {} in all", after - before);
    let protected = browser.play("mp4", &lab.url(&format!("/vip/video.mp4?ticket={ticket}")), None);
    assert_played_to_the_end(&protected, 0.0);

    for source in ["/open/hls/index.m3u8".to_owned(), format!("/vip/hls/index.m3u8?ticket={ticket}")] {
        let own = browser.play("own", &lab.url(&source), None);
        if own["how"] == "unsupported" {
            println!("this browser plays no HLS by itself; MP4 was its own player's test");
        } else {
            assert_played_to_the_end(&own, 0.0);
        }
        if hls_js.is_some() {
            assert_played_to_the_end(&browser.play("hls.js", &lab.url(&source), None), 0.0);
        }
    }
    let refused = browser.play("mp4", &lab.url("/vip/video.mp4"), None);
    assert_eq!(refused["how"], "error", "without a ticket nothing plays: {refused}");
    lab.report_handovers("browser");
    assert!(lab.edge().poll().is_none());
}

fn assert_played_to_the_end(report: &Value, from: f64) {
    println!("{report}");
    assert_eq!(report["how"], "ended", "{report}");
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let duration = number(&report["duration"]);
    let last = report["played"].as_array().and_then(|spans| spans.last()).expect("something was played");
    // Audio may start a little late, and a player may go to the next key frame.
    let first = number(&last[0]);
    assert!((duration * from - 1.0..duration * from + 1.5).contains(&first), "played from {last}: {report}");
    assert!(number(&last[1]) > duration - 0.5, "played to {last} of {duration}");
    assert!(number(&report["width"]) > 0.0, "a picture was shown");
}

struct Browser {
    chromium: PathBuf,
    pages: Origin,
    dir: PathBuf,
}

impl Browser {
    /// Opens the page and waits for its report.
    fn play(&self, player: &str, source: &str, seek: Option<&str>) -> Value {
        self.pages.forget();
        let source = chromium::encode(source);
        let seek = seek.map_or(String::new(), |seek| format!("&seek={seek}"));
        let url = format!("{}play.html?player={player}&source={source}{seek}", self.pages.url());
        let mut command = Command::new(&self.chromium);
        chromium::headless(&mut command, &self.dir.join("profile"));
        command.arg("--autoplay-policy=no-user-gesture-required").arg(&url);
        let mut process = Process::start("chromium", &mut command, &self.dir.join("chromium.log"));
        let mut result = None;
        until(&format!("{player} plays {source}"), PATIENCE, || {
            result = self.pages.seen().iter().find_map(|seen| seen.target.strip_prefix("/result?").map(decode));
            assert!(process.poll().is_none(), "the browser ended:\n{}", process.output());
            result.is_some()
        });
        process.signal(Signal::TERM);
        process.wait(Duration::from_secs(5));
        let result = result.expect("it was just there");
        serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error}: {result}"))
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let code = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(code.unwrap_or(b'?'));
                rest = tail;
            }
            (byte, tail) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Test picture and tone: an MP4 that is far more than a player buffers, so that seeking takes a range of its own.
fn make_long_film(ffmpeg: &Path, dir: &Path) {
    let mut command = Command::new(ffmpeg);
    command.current_dir(dir).args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25"]);
    command.args(["-t", "40", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"]);
    command.args(["-b:v", "6M", "-minrate", "6M", "-maxrate", "6M", "-bufsize", "1M", "-x264-params", "nal-hrd=cbr"]);
    let output = tool::run(command.args(["-movflags", "+faststart", "long.mp4"]));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// hls.js from npm, kept between runs in the target folder, where it is not part of the project.
fn hls_js() -> Option<Vec<u8>> {
    let name = "playback with hls.js";
    let file = tool::npm(name, &["hls.js@1"])?.join("hls.js/dist/hls.min.js");
    Some(fs::read(&file).expect("npm brought it"))
}
