"use strict";
// Keeps the page fresh: it is fetched again, and what has changed in it is put in place. Whatever is shown was escaped
// by the server, and a parsed document runs no script. What the reader has scrolled stays where it is.
(() => {
  const EVERY = 2000; // ms
  const state = document.getElementById("state");
  const parser = new DOMParser();
  async function refresh() {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
        const fresh = parser.parseFromString(await answer.text(), "text/html");
        for (const part of document.querySelectorAll("[data-live]")) {
          const next = fresh.getElementById(part.id);
          if (next && next.innerHTML !== part.innerHTML) part.replaceChildren(...next.childNodes);
        }
        document.body.classList.remove("stale");
      } catch (problem) {
        document.body.classList.add("stale");
        state.textContent = `no answer from the relay (${problem.message}); what you see is old`;
      }
    }
    setTimeout(refresh, EVERY);
  }
  setTimeout(refresh, EVERY);
})();
