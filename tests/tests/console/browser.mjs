// Drives the console as people do, and writes what it found; see ../console.rs.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const told = JSON.parse(process.argv[2]);
const require = createRequire(`${told.modules}/x.js`);
const puppeteer = require("puppeteer-core");
const axe = readFileSync(`${told.modules}/axe-core/axe.min.js`, "utf8");
const report = { said: "", refreshed: false, pages: [], overflow: [], violations: [], logged: [], strangers: [] };

const browser = await puppeteer.launch({
  executablePath: told.chromium,
  userDataDir: told.profile,
  protocolTimeout: 120000,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking"],
});
const page = await browser.newPage();
page.setDefaultTimeout(90000);
page.on("pageerror", (error) => report.logged.push(`${page.url()}: ${error}`));
page.on("console", (message) => {
  // Pages that say no by their status are said so there, too.
  if (["error", "warning"].includes(message.type()) && !/status of 4\d\d/.test(message.text())) {
    report.logged.push(`${page.url()}: ${message.text()}`);
  }
});
page.on("request", (request) => {
  if (!request.url().startsWith(told.base) && !request.url().startsWith("data:")) report.strangers.push(request.url());
});

const active = () => page.evaluate(() => {
  const element = document.activeElement;
  return { tag: element.tagName, id: element.id, text: element.textContent.trim(), class: element.className };
});

// Presses Tab until the focus is where it is wanted; everything on the way must show that it has the focus.
async function tabTo(wanted, what) {
  for (let pressed = 0; pressed < 80; pressed++) {
    await page.keyboard.press("Tab");
    const now = await active();
    if (now.tag === "BODY") continue;
    const visible = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    });
    if (!visible) throw new Error(`the focus on ${JSON.stringify(now)} cannot be seen`);
    if (wanted(now)) return;
  }
  throw new Error(`Tab does not lead to ${what} on ${page.url()}`);
}

async function press(key) {
  await Promise.all([page.waitForNavigation(), page.keyboard.press(key)]);
}

async function logIn(name) {
  await page.goto(`${told.base}/console/login`);
  await tabTo((now) => now.id === "f-name", "the name");
  await page.keyboard.type(name);
  await tabTo((now) => now.id === "f-password", "the password");
  await page.keyboard.type(told.password);
  await press("Enter");
  if (page.url() !== `${told.base}/console`) throw new Error(`no log-in: ${page.url()}`);
}

async function logOut() {
  await page.evaluate(() => document.getElementById("main").focus());
  await Promise.all([page.waitForNavigation(), page.click("form[action='/console/logout'] button")]);
}

// Looks at the page as it is, in both widths, light and dark.
async function look(name) {
  // No touch screen: the browser would load the page again for it, and send its form again.
  for (const [width, height] of [[1280, 800], [360, 740]]) {
    await page.setViewport({ width, height });
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.screenshot({ path: `${told.shots}/${name}-${width}-${scheme}.png`, fullPage: true });
      await page.evaluate(axe);
      const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
      for (const { id, impact, nodes } of found.violations) {
        if (["serious", "critical"].includes(impact)) {
          report.violations.push(`${name} ${width} ${scheme}: ${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
        }
      }
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) report.overflow.push(`${name} at ${width}: ${wide} px`);
    report.pages.push(`${name} ${width}`);
  }
  await page.setViewport({ width: 1280, height: 800 });
}

async function visit(name, path) {
  const answer = await page.goto(told.base + path);
  if (answer.status() !== 200) throw new Error(`${path}: ${answer.status()}`);
  await look(name);
}

try {
  // A stranger.
  await page.setViewport({ width: 1280, height: 800 });
  await page.goto(`${told.base}/`);
  await look("login");
  await page.keyboard.press("Tab");
  if ((await active()).class !== "skip") throw new Error("the first Tab is not for the skip link");
  // What is looked for is found: a field without its label.
  await page.evaluate(() => document.querySelector("label[for=f-name]").remove());
  await look("broken");
  if (!report.violations.some((text) => text.startsWith("broken") && text.includes("label"))) throw new Error("axe finds nothing");
  report.violations = report.violations.filter((text) => !text.startsWith("broken"));
  // An operator switches a channel off, without a mouse.
  await logIn("operator");
  await tabTo((now) => now.text === "Channels", "the channels");
  await press("Enter");
  await tabTo((now) => now.text === "news", "the channel");
  await press("Enter");
  await tabTo((now) => now.text === "Switch off…", "the switch");
  await press("Enter");
  await look("switch-off");
  await page.evaluate(() => document.activeElement.blur());
  await tabTo((now) => now.tag === "BUTTON" && now.text === "Switch news off", "the button");
  await press("Enter");
  report.said = await page.$eval("[role=status]", (element) => element.textContent.trim());
  await look("channel-off");
  await logOut();
  // A viewer's page, kept fresh by itself.
  await logIn("viewer");
  await page.evaluate(() => { document.getElementById("live").firstElementChild.dataset.old = "1"; });
  await page.waitForFunction(() => !document.querySelector("[data-old]"), { timeout: 60000 });
  report.refreshed = true;
  await look("overview-viewer");
  await logOut();
  // An admin sees all of it.
  await logIn("admin");
  for (const [name, path] of [
    ["overview", "/console"],
    ["channels", "/console/channels"],
    ["channel", "/console/channels/sports"],
    ["origins", "/console/channels/sports/origins"],
    ["mint", "/console/channels/sports/mint"],
    ["purge", "/console/channels/sports/purge"],
    ["regions", "/console/regions"],
    ["nodes", "/console/nodes"],
    ["drain", "/console/nodes/edge-berlin-1/drain"],
    ["swarms", "/console/swarms"],
    ["swarm", "/console/swarms/sports"],
    ["reconciliation", "/console/reconciliation"],
    ["refusals", "/console/refusals"],
    ["audit", "/console/audit"],
    ["users", "/console/users"],
    ["user", "/console/users/viewer"],
    ["tokens", "/console/tokens"],
    ["token-delete", "/console/tokens/grafana/delete"],
    ["account", "/console/account"],
  ]) {
    await visit(name, path);
  }
  // Errors stand beside their fields, and a chart's figures are a table.
  await page.goto(`${told.base}/console/channels/sports/origins`);
  await page.$eval("#f-url0", (element) => { element.value = "ftp://nowhere"; });
  await Promise.all([page.waitForNavigation(), page.click("main form button")]);
  if (!(await page.$("#f-url0[aria-invalid=true]")) || !(await page.$("#e-url0"))) throw new Error("no error beside the field");
  await look("origins-wrong");
  await page.goto(`${told.base}/console/tokens`);
  await page.type("#f-name", "robot");
  await Promise.all([page.waitForNavigation(), page.click("main form button")]);
  await look("token-made");
  await page.goto(`${told.base}/console/channels/sports`);
  await page.click("figure details summary");
  await look("channel-figures");
  await page.goto(`${told.base}/console/channels/none`);
  await look("missing");
  writeFileSync(told.report, JSON.stringify(report));
} catch (error) {
  console.log(error);
  console.log(JSON.stringify(report, null, 1));
  await page.screenshot({ path: `${told.shots}/failed.png` }).catch(() => {});
  process.exitCode = 1;
} finally {
  await browser.close();
}
