// One peer of bittorrent-tracker's client, unmodified. Arguments: folder with node_modules, tracker, letter that its ids are made
// of, port. It prints what happens as lines of JSON, and stays until it is killed.
import { register } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, tracker, letter, port] = process.argv.slice(2);

// The client's own WebRTC for Node wants a binary that its install script downloads; another one takes its place.
const wrtc = pathToFileURL(`${modules}/@roamhq/wrtc/lib/index.js`).href;
const polyfill = `import wrtc from "${wrtc}";
  export const { RTCPeerConnection, RTCSessionDescription, RTCIceCandidate } = wrtc;`;
const url = `data:text/javascript,${encodeURIComponent(polyfill)}`;
const hook = `export async function resolve(specifier, context, next) {
  if (specifier !== "webrtc-polyfill") return next(specifier, context);
  return { url: ${JSON.stringify(url)}, format: "module", shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
const { default: Client } = await import(`${modules}/bittorrent-tracker/client.js`);

const say = (what) => console.log(JSON.stringify(what));
const client = new Client({
  infoHash: "f1".repeat(20),
  peerId: Buffer.alloc(20, letter),
  announce: [tracker],
  port: Number(port),
});
client.on("error", (error) => say({ error: error.message }));
client.on("warning", (warning) => say({ warning: warning.message }));
client.on("update", ({ complete, incomplete, interval }) => say({ update: { complete, incomplete, interval } }));
client.on("scrape", ({ complete, incomplete, downloaded }) => say({ scrape: { complete, incomplete, downloaded } }));
client.on("peer", (peer) => {
  // By HTTP an address, by WebSocket a connection that is being made.
  if (typeof peer === "string") return say({ peer });
  peer.on("connect", () => peer.send(`hello from ${letter}`));
  peer.on("data", (data) => say({ data: Buffer.from(data).toString() }));
  peer.on("error", () => {});
});
client.start();
client.once("update", () => {
  client.scrape();
  client.once("scrape", () => client.complete());
});
// The client by HTTP would not keep the process alive.
setInterval(() => {}, 60_000);
