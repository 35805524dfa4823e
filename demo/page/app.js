// Plays the demo channel in whatever way this browser can, and shows what the edge answered.

const LOG_ROWS = 200;
const PROBE_BYTES = 65536;

const video = document.getElementById("video");
const notice = document.getElementById("notice");
const log = document.getElementById("log");

/** What `cargo xtask up` knows and this page cannot: the signed URL, and whether npm brought hls.js. */
let facts = { protected: null, mp4_bytes: 0, hls_js: false, hls_js_missing: "unknown" };
let player = null;

// ---- figures

const seen = { requests: 0, bytes: 0, hits: 0, known: 0, times: [] };
/** Rows by URL, newest last: headers and timing of one request arrive apart. */
const rows = [];

function addRow(url) {
  const row = { url, tr: document.createElement("tr"), timed: false, headed: false };
  const path = new URL(url, location.href).pathname.split("/");
  for (const text of [path.slice(2).join("/") || path.join("/"), "", "", "", ""]) {
    row.tr.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  log.prepend(row.tr);
  rows.push(row);
  while (rows.length > LOG_ROWS) rows.shift().tr.remove();
  return row;
}

function cell(row, index, text) {
  row.tr.children[index].textContent = text;
}

/** Headers of an answer that a script may read. */
function answered(url, status, cacheStatus) {
  const row = rows.findLast((row) => row.url === url && !row.headed) ?? addRow(url);
  row.headed = true;
  cell(row, 1, status);
  if (cacheStatus) {
    const hit = /(^|;)\s*hit\b/.test(cacheStatus);
    const reason = /fwd=([\w-]+)/.exec(cacheStatus);
    cell(row, 2, hit ? "hit" : (reason?.[1] ?? "miss"));
    row.tr.title = cacheStatus;
    seen.known += 1;
    seen.hits += hit ? 1 : 0;
  }
  show();
}

/** Resource Timing of any request, the player's own as well. */
function timed(entry) {
  const row = rows.find((row) => row.url === entry.name && !row.timed) ?? addRow(entry.name);
  row.timed = true;
  if (entry.responseStatus) cell(row, 1, entry.responseStatus);
  cell(row, 3, entry.transferSize.toLocaleString());
  cell(row, 4, entry.duration.toFixed(1));
  seen.requests += 1;
  seen.bytes += entry.transferSize;
  seen.times.push(entry.duration);
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
      player = new Hls({
        xhrSetup: (xhr) =>
          xhr.addEventListener("load", () =>
            answered(xhr.responseURL, xhr.status, xhr.getResponseHeader("Cache-Status")),
          ),
      });
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

/** The same range as the player is about to need, for the headers that the player does not show. */
async function probe(position) {
  const length = facts.mp4_bytes;
  if (document.body.dataset.source !== "mp4" || !length) return;
  const start = Math.min(Math.floor(length * position), Math.max(0, length - PROBE_BYTES));
  const range = `bytes=${start}-${start + PROBE_BYTES - 1}`;
  const answer = await fetch("video.mp4", { headers: { Range: range }, cache: "no-store" });
  // Before its body is read its timing cannot have come: a row of its own, not one of the player's.
  addRow(answer.url);
  answered(answer.url, answer.status, answer.headers.get("Cache-Status"));
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
    probe(position).catch((error) => say(`The range could not be fetched: ${error.message}`));
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
