// Puts the page together: one stream of snapshots, three views.

import * as batches from "./batches.js";
import { $ } from "./dom.js";
import { HttpError, call, events, key, pause } from "./http.js";
import * as overview from "./overview.js";
import * as playground from "./playground.js";
import * as requests from "./requests.js";

const VIEWS = { overview, requests, batches, playground };

function show() {
  const wanted = location.hash.slice(1).split("/")[0];
  const name = wanted in VIEWS ? wanted : "overview";
  for (const view of Object.keys(VIEWS)) {
    $(view).hidden = view !== name;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  VIEWS[name].shown?.();
}

function state(kind, text) {
  $("link").className = `link ${kind}`;
  $("link").textContent = text;
}

const TOLD = 8000; // milliseconds for which what went wrong with a click stays
let toldUntil = 0;

/** What went wrong with what somebody has clicked. */
function tell(text) {
  toldUntil = Date.now() + TOLD;
  problem(text);
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function take(snapshot) {
  state(snapshot.error ? "down" : "up", snapshot.error ? "Redis is away" : ["live", snapshot.redis_url].filter(Boolean).join(" · "));
  if (snapshot.error || Date.now() > toldUntil) problem(snapshot.error || "");
  for (const view of Object.values(VIEWS)) view.take?.(snapshot);
}

async function follow() {
  for (;;) {
    try {
      const answer = await call("/page/live");
      for await (const event of events(answer)) if (event.data) take(JSON.parse(event.data));
      state("down", "connection lost; trying again");
    } catch (error) {
      if (error instanceof HttpError && error.status === 401) {
        state("down", "wants an API key");
        $("key-button").hidden = false;
        await ask();
        continue;
      }
      state("down", "no connection; trying again");
    }
    await pause(1000);
  }
}

/** Ask for the key until there is one. */
function ask() {
  const dialog = $("key-dialog");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "ok") key.set($("key-input").value.trim());
      $("key-input").value = "";
      if (key.get()) playground.models();
      resolve(key.get() ? undefined : pause(5000));
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

$("key-button").addEventListener("click", ask);
window.addEventListener("hashchange", show);
requests.start(tell);
batches.start(tell);
playground.start();
show();
follow();
