// Tiles, plots, components with their instances, and what happened to them.

import { $, clock, el, meter, number, refresh, span, table } from "./dom.js";
import { Plot, quantile } from "./plots.js";

const WINDOW = 30; // seconds over which latencies are taken
const MOST_EVENTS = 60;

const plots = {
  tokens: new Plot("Tokens per second", ["all"], (value) => number(value)),
  load: new Plot("Requests", ["running", "queued"], (value) => number(value)),
  first: new Plot("Time to first token", ["p50", "p99"], span),
  gap: new Plot("Between tokens", ["p50", "p99"], span),
};
$("plots").append(...Object.values(plots).map((plot) => plot.element));

const history = [];
const log = [];
let known = null;

export function take(snapshot) {
  history.push(snapshot.latency);
  if (history.length > WINDOW) history.shift();
  const instances = snapshot.components.flatMap((one) => one.instances);
  const sum = (rows, value) => rows.reduce((total, row) => total + value(row), 0);
  const rate = sum(instances, (row) => row.tokens_per_s);
  const running = sum(snapshot.components, (one) => one.running), queued = sum(snapshot.components, (one) => one.queued);
  const [first, gap] = ["time_to_first_token_seconds", "inter_token_seconds"].map((name) =>
    [0.5, 0.99].map((share) => quantile(share, snapshot.latency[name], history[0][name])));
  plots.tokens.add(rate);
  plots.load.add(running, queued);
  plots.first.add(...first);
  plots.gap.add(...gap);
  notice(snapshot, instances);
  if ($("overview").hidden) return;
  tiles([
    ["Instances", number(instances.length)], ["Running", number(running)], ["Queued", number(queued)],
    ["Tokens/s", number(rate)], ["First token p50", span(first[0])], ["Between tokens p50", span(gap[0])],
    ["Dead letters", snapshot.dead ? el("a", { href: "#requests" }, number(snapshot.dead)) : "0"], ["Redis memory", memory(snapshot.memory)],
  ]);
  refresh($("topology"), ...snapshot.components.map(component), ...(snapshot.components.length ? [] : [
    el("p.empty", {}, "Nothing is served here yet.")]));
}

export function shown() {
  for (const plot of Object.values(plots)) plot.draw();
}

function tiles(rows) {
  $("tiles").replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function memory(found) {
  if (!found) return "–";
  const mib = (bytes) => number(bytes / 2 ** 20);
  return el("span", {}, `${mib(found.used)} `, el("small", {}, `of ${mib(found.limit)} MiB`));
}

const COLUMNS = [["instance"], ["state"], ["model"], ["process"], ["in flight", "n"], ["tokens/s", "n"], ["KV cache"],
  ["prefix hits", "n"], ["lease", "n"]];

function component(one) {
  const facts = `${one.namespace} · ${counted(one.instances.length, "instance")} · ${one.running} running · ${one.queued} queued`
    + wanted(one.scale, one.instances.length);
  return el("div.component", {}, el("h3", {}, one.name, el("span", {}, facts)),
    table("instances", COLUMNS, one.instances.map((row) => [
      row.instance_id, stateOf(row), row.model || "–", `${row.pid}@${row.host}`,
      `${row.in_flight}/${row.load.capacity || "?"}`, number(row.tokens_per_s),
      meter(row.load.kv_usage, `KV cache in use`), `${Math.round(100 * row.load.prefix_hits)} %`, span(row.lease),
    ])));
}

/** What is wanted, where something else is there; and why, as far as somebody knows. */
function wanted(scale, there) {
  const share = scale && scale.share ? ` · turns on ${scale.share}` : "";
  if (!scale || (scale.wanted === there - scale.asleep && !scale.draining && !scale.note)) return share;
  const states = ["starting", "draining", "asleep"].filter((state) => scale[state]).map((state) => ` · ${scale[state]} ${state}`);
  return ` · ${scale.wanted} wanted (${scale.by})${states.join("")}${share}${scale.note ? ` · ${scale.note}` : ""}`;
}

const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function kindOf(state) {
  return { healthy: "good", running: "good", ready: "good", lost: "bad", unhealthy: "bad" }[state] || "warn";
}

function stateOf(row) {
  return el(`span.${kindOf(row.state)}`, {}, row.state);
}

/** Compare with the snapshot before: who came, who went, how; which requests another attempt continues. */
function notice(snapshot, instances) {
  const now = { instances: new Map(), requests: new Map() };
  for (const row of instances) now.instances.set(row.instance_id, row);
  for (const row of snapshot.requests) now.requests.set(row.id, row);
  if (known && !snapshot.error) {
    for (const [id, row] of now.instances) {
      const before = known.instances.get(id);
      if (!before) say(snapshot.time, "good", `${row.component} ${id} serves (pid ${row.pid})`);
      else if (before.state !== row.state) say(snapshot.time, kindOf(row.state), `${row.component} ${id}: ${before.state} → ${row.state}`);
    }
    for (const [id, row] of known.instances) {
      if (now.instances.has(id)) continue;
      const ended = row.state === "draining" || row.state === "stopping";
      say(snapshot.time, ended ? "dim" : "bad", `${row.component} ${id} ${ended ? "has drained and ended" : "is gone"}`);
    }
    const moved = [...now.requests.values()].filter((row) => row.attempts > Math.max(known.requests.get(row.id)?.attempts ?? Infinity, 1));
    if (moved.length) say(snapshot.time, "warn", `${counted(moved.length, "request")} taken up by another attempt`);
  }
  if (!snapshot.error) known = now;
}

function say(time, kind, text) {
  log.unshift(el("li", {}, el("time", {}, clock(time)), el(`span.${kind}`, {}, text)));
  log.length = Math.min(log.length, MOST_EVENTS);
  $("timeline").replaceChildren(...log);
}

$("timeline").append(el("li.empty", {}, "Nothing has happened since this page was opened."));
