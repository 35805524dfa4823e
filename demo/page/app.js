// Plays the demo channel in whatever way this browser can, and shows what the edge answered.

const LOG_ROWS = 200;
const SLICE_BYTES = 65536;

const video = document.getElementById("video");
const notice = document.getElementById("notice");
const log = document.getElementById("log");

/** What `cargo xtask up` knows and this page cannot: the signed URL, and whether npm brought hls.js. */
let facts = { protected: null, mp4_bytes: 0, hls_js: false, hls_js_missing: "unknown" };
let player = null;

// ---- figures

const seen = { requests: 0, bytes: 0, hits: 0, known: 0, times: [] };

/** One request that has ended, the player's own as well. The edge names the cache's part in Server-Timing. */
function timed(entry) {
  const cache = entry.serverTiming.find((part) => part.name === "cache")?.description;
  const path = new URL(entry.name).pathname.split("/");
  const row = document.createElement("tr");
  for (const text of [
    path.slice(2).join("/") || path.join("/"),
    entry.responseStatus || "",
    cache ?? "",
    entry.transferSize.toLocaleString(),
    entry.duration.toFixed(1),
  ]) {
    row.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  log.prepend(row);
  while (log.rows.length > LOG_ROWS) log.deleteRow(-1);
  seen.requests += 1;
  seen.bytes += entry.transferSize;
  seen.times.push(entry.duration);
  if (cache) {
    seen.known += 1;
    seen.hits += cache === "hit" ? 1 : 0;
  }
  show();
}

function show() {
  const text = (id, value) => (document.getElementById(id).textContent = value);
  text("requests", seen.requests.toLocaleString());
  text("bytes", seen.bytes < 1e6 ? `${(seen.bytes / 1e3).toFixed(1)} kB` : `${(seen.bytes / 1e6).toFixed(2)} MB`);
  if (seen.known) text("hits", `${Math.round((100 * seen.hits) / seen.known)} %`);
  if (seen.times.length) {
    const sorted = seen.times.toSorted((a, b) => a - b);
    text("median", `${sorted[sorted.length >> 1].toFixed(1)} ms`);
  }
}

new PerformanceObserver((list) => list.getEntries().forEach(timed)).observe({ type: "resource", buffered: true });

// ---- playing

function say(text) {
  notice.textContent = text;
}

/** For tests and curious people: what plays, and how it goes, as attributes of <body>. */
function state(value) {
  document.body.dataset.state = value;
}

for (const event of ["playing", "waiting", "ended", "seeked"]) {
  video.addEventListener(event, () => state(event));
}
video.addEventListener("error", () => {
  if (!video.currentSrc) return;
  state("error");
  say(`The browser cannot play this: ${video.error?.message || "unknown error"}`);
});

function stop() {
  player?.destroy();
  player = null;
  video.removeAttribute("src");
  video.load();
}

async function loadHls() {
  if (!window.Hls) {
    const script = Object.assign(document.createElement("script"), { src: "hls.min.js" });
    const loaded = new Promise((good, bad) => Object.assign(script, { onload: good, onerror: bad }));
    document.head.append(script);
    await loaded;
  }
  return window.Hls;
}

async function playHls(url) {
  if (facts.hls_js) {
    const Hls = await loadHls();
    if (Hls.isSupported()) {
      player = new Hls();
      player.on(Hls.Events.ERROR, (_, data) => {
        if (!data.fatal) return;
        state("error");
        say(`hls.js gave up: ${data.details}${data.response ? ` (status ${data.response.code})` : ""}`);
      });
      player.loadSource(url);
      player.attachMedia(video);
      return "hls.js";
    }
  }
  if (video.canPlayType("application/vnd.apple.mpegurl")) {
    video.src = url;
    return "the browser's own HLS";
  }
  return null;
}

async function choose(name) {
  stop();
  state("loading");
  document.body.dataset.source = name;
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choose === name));
  }
  if (name === "mp4") {
    video.src = "video.mp4";
    say("MP4 with Range requests.");
  } else {
    const how = await playHls(name === "protected" ? facts.protected : "hls/index.m3u8");
    if (!how) {
      const why = facts.hls_js_missing ? ` (${facts.hls_js_missing})` : "";
      await choose("mp4");
      say(`This browser has no HLS of its own and hls.js is not here${why}, so this is the MP4.`);
      return;
    }
    say(name === "protected" ? `Signed URL, played by ${how}.` : `Played by ${how}.`);
  }
  // Refused where the browser wants a click first; the controls are there.
  video.play().catch(() => {});
}

/** Asks for a slice at the position: a video this short is loaded whole before anybody seeks in it. */
async function slice(position) {
  const length = facts.mp4_bytes;
  if (document.body.dataset.source !== "mp4" || !length) return;
  const start = Math.min(Math.floor(length * position), Math.max(0, length - SLICE_BYTES));
  const range = `bytes=${start}-${start + SLICE_BYTES - 1}`;
  const answer = await fetch("video.mp4", { headers: { Range: range }, cache: "no-store" });
  await answer.arrayBuffer();
}

for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => choose(button.dataset.choose));
}
for (const button of document.querySelectorAll("[data-seek]")) {
  button.addEventListener("click", () => {
    if (!Number.isFinite(video.duration)) return;
    const position = button.dataset.seek === "random" ? Math.random() : Number(button.dataset.seek);
    video.currentTime = position * video.duration;
    video.play().catch(() => {});
    slice(position).catch((error) => say(`The range could not be fetched: ${error.message}`));
  });
}

try {
  const answer = await fetch("demo.json", { cache: "no-store" });
  facts = await answer.json();
} catch {
  say("demo.json is missing: was this page started by `cargo xtask up`?");
}
document.querySelector('[data-choose="protected"]').disabled = !facts.protected;

// index.html#mp4 starts with the MP4.
const wanted = location.hash.slice(1);
await choose(["hls", "protected", "mp4"].includes(wanted) ? wanted : "hls");
