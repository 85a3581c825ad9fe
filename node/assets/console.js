// Keeps an open page true: when the coordinator has news, the page asks for itself anew and takes over the parts that have changed.
// Without this script every page is the same, as of when it was loaded.
(() => {
  "use strict";
  const sign = document.getElementById("live");
  if (!sign || !window.EventSource) return;
  let updated = Date.now(), asking = false, again = false, away = false;

  const say = () => {
    const age = Math.round((Date.now() - updated) / 1000);
    const text = away ? "coordinator does not answer" : age < 3 ? "live" : "live, " + age + " s old";
    if (sign.textContent !== text) sign.textContent = text;
    sign.dataset.state = away ? "away" : "live";
  };

  // What somebody is at must not change under their hands.
  const busy = (part) =>
    part.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);

  const take = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const news = fresh.getElementById(part.id);
      if (!news || news.innerHTML === part.dataset.was || busy(part)) continue;
      const focus = document.activeElement;
      const path = part.contains(focus) ? [...part.querySelectorAll("a, button, summary")].indexOf(focus) : -1;
      const open = [...part.querySelectorAll("details")].map((one) => one.open);
      part.dataset.was = news.innerHTML;
      part.replaceChildren(...news.childNodes);
      part.querySelectorAll("details").forEach((one, at) => { if (open[at] !== undefined) one.open = open[at]; });
      if (path >= 0) part.querySelectorAll("a, button, summary")[path]?.focus({ preventScroll: true });
    }
    times();
  };

  const look = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
      if (answer.status === 401) { location.reload(); return; }
      if (answer.ok) {
        take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        updated = Date.now();
        away = false;
      }
    } catch { away = true; }
    asking = false;
    say();
    if (again) { again = false; setTimeout(look, 500); }
  };

  // Times are in UTC for who has no script; here they are in the reader's own zone, with the exact text as a title.
  const times = () => {
    for (const time of document.querySelectorAll("time:not([datetime])")) {
      const date = new Date(time.textContent.trim());
      if (Number.isNaN(date.getTime())) continue;
      time.setAttribute("datetime", time.textContent.trim());
      time.title = time.textContent.trim();
      time.textContent = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    }
  };

  for (const part of document.querySelectorAll("[data-live]")) part.dataset.was = part.innerHTML;
  times();
  // A page that is left, or kept for the way back, must not hold a connection: a browser has six for one host.
  let news = null;
  const listen = () => {
    news = new EventSource("/events");
    news.addEventListener("changed", (event) => { if (event.data !== "0" || Date.now() - updated > 2000) look(); else say(); });
    news.addEventListener("away", () => { away = true; say(); });
    news.onerror = () => { away = true; say(); };
  };
  listen();
  addEventListener("pagehide", () => news.close());
  addEventListener("pageshow", (event) => { if (event.persisted) { listen(); look(); } });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      document.getElementById("q").focus();
    }
  });
  setInterval(say, 1000);
  say();
})();
