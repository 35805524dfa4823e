// Keeps what is live on a page fresh, while somebody may be looking at it and nobody works in it.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const pause = Math.max(5, Number(live.dataset.seconds) || 10) * 1000;
  let timer = 0;
  let running = false;

  function busy() {
    return live.contains(document.activeElement) || live.querySelector("details[open]") !== null
      || String(document.getSelection()) !== "";
  }

  async function refresh() {
    if (running || document.hidden || busy()) return;
    running = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "manual" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (fresh && !busy()) live.replaceChildren(...fresh.childNodes);
    } catch {
      // The next one may get through; what is shown says how old it is.
    } finally {
      running = false;
    }
  }

  function schedule() {
    clearInterval(timer);
    if (!document.hidden) timer = setInterval(refresh, pause);
  }

  document.addEventListener("visibilitychange", () => { schedule(); refresh(); });
  schedule();
})();
