// Requests at work, answered ones and dead letters; one of them can be watched, cancelled, tried again.

import { $, clock, el, number, refresh, span, table } from "./dom.js";
import { call, events } from "./http.js";

let problem = () => {};
let stopWatching = () => {};

export function start(report) {
  problem = report;
  $("watch-close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => event.key === "Escape" && !$("watch").hidden && close());
}

export function take(snapshot) {
  if ($("requests").hidden) return;
  refresh($("running"), table("requests at work",
    [["id"], ["state"], ["endpoint"], ["attempt", "n"], ["instance"], ["since", "n"], [""]],
    snapshot.requests.map((row) => [link(row.id), row.state, row.endpoint, row.attempts, row.instance || "–",
      span(snapshot.time - row.created), el("button", { type: "button", onclick: () => cancel(row.id), "aria-label": `Cancel request ${row.id}` }, "Cancel")])));
  refresh($("recent"), table("answered requests",
    [["id"], ["at"], ["api"], ["model"], ["status", "n"], ["tokens", "n"], ["took", "n"]],
    snapshot.recent.map((row) => [link(row.id), clock(row.at), row.api, row.model || "–",
      el(row.status < 400 ? "span.good" : "span.bad", {}, row.status), number(row.tokens), span(row.seconds)])));
  refresh($("dead"), table("dead letters",
    [["died"], ["error"], [""], ["attempts", "n"], ["endpoint"], ["id"]],
    snapshot.dead_requests.map((row) => [clock(row.died), el("span.bad", {}, row.error || "–"), snapshot.admin ? again(row.id) : null,
      row.attempts, row.endpoint, link(row.id)])));
  $("dead-letters").hidden = !snapshot.dead_requests.length;
}

function link(id) {
  return el("button.plain", { type: "button", onclick: () => watch(id), "aria-label": `Watch request ${id}` }, id);
}

function again(id) {
  return el("button", { type: "button", onclick: () => retry(id), "aria-label": `Retry request ${id}` }, "Retry");
}

async function retry(id) {
  try {
    await call(`/page/dead/${encodeURIComponent(id)}/retry`, { method: "POST" });
  } catch (error) {
    problem(error.message);
  }
}

async function cancel(id) {
  try {
    await call(`/v1/requests/${encodeURIComponent(id)}`, { method: "DELETE" });
  } catch (error) {
    problem(error.message);
  }
}

function close() {
  stopWatching();
  $("watch").hidden = true;
}

/** Show the stream of a request, from its start on, as long as it is kept. */
export async function watch(id) {
  stopWatching();
  const abort = new AbortController();
  stopWatching = () => abort.abort();
  const text = el("div.text", { "aria-live": "off" }), facts = el("p.dim", {}, "reading");
  const copy = el("button", { type: "button", onclick: () => navigator.clipboard?.writeText(id) }, "Copy id");
  const stop = el("button", { type: "button", onclick: () => cancel(id) }, "Cancel request");
  $("watch-body").replaceChildren(el("p", {}, el("code", {}, id)), el("div.bar", {}, copy, stop), facts, text);
  $("watch").hidden = false;
  $("watch-close").focus();
  let count = 0;
  try {
    const answer = await call(`/v1/requests/${encodeURIComponent(id)}/stream`, { signal: abort.signal });
    if (answer.status === 204) facts.textContent = "it has ended";
    else {
      for await (const event of events(answer)) {
        if (event.comment?.startsWith("attempt")) text.append(el("span.gap", {}, `${event.comment}: another worker goes on`));
        if (event.data && event.data !== "[DONE]") text.append(pieces(event.data));
        if (event.id) facts.textContent = `${++count} events; the last one is ${event.id}`;
      }
      facts.textContent += "; ended";
    }
  } catch (error) {
    if (error.name !== "AbortError") facts.textContent = error.message;
  }
}

/** The text in an event, whichever API it is of; else the event itself. */
export function pieces(data) {
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return data;
  }
  if (Array.isArray(value.choices)) {
    return value.choices.map((one) => {
      const delta = one.delta || { content: one.text };
      const calls = (delta.tool_calls || []).map((item) => `${item.function?.name ? `\n→ ${item.function.name} ` : ""}${item.function?.arguments || ""}`);
      return (delta.reasoning_content || "") + (delta.content || "") + calls.join("");
    }).join("");
  }
  if (value.error) return `\n${value.error.message}\n`;
  if (typeof value.type === "string") return typeof value.delta === "string" ? value.delta : value.delta?.text || "";
  return `${JSON.stringify(value)}\n`;
}
