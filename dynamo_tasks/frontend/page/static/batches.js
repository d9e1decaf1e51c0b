// Batches: how far each is, and its end before its time.

import { $, clock, el, meter, number, refresh, span, table } from "./dom.js";
import { call } from "./http.js";

const COLUMNS = [["id"], ["state"], ["progress"], ["failed", "n"], ["answer tokens", "n"], ["model"], ["endpoint"], ["made"], ["took", "n"], [""]];
const KINDS = { completed: "good", failed: "bad", expired: "bad", cancelled: "dim", in_progress: "good" };
const DAY = 86400;

let problem = () => {};

export function start(report) {
  problem = report;
}

export function take(snapshot) {
  if ($("batches").hidden) return;
  refresh($("batch-rows"), table("batches", COLUMNS, snapshot.batches.map((row) => [
    el("code", {}, row.id), state(row), progress(row), el(row.failed ? "span.bad" : "span", {}, number(row.failed)), number(row.tokens),
    row.model || "–", row.endpoint, made(row, snapshot.time), span((row.ended || snapshot.time) - row.created), stop(row),
  ])));
}

/** The state; what is wrong with the input, where it is that, without its text. */
function state(row) {
  const mistakes = row.mistakes.map((one) => (one.line ? `line ${one.line}: ${one.code}` : one.code)).join(", ");
  const kind = KINDS[row.status] || "warn";
  return el("span", {}, el(`span.${kind}`, {}, row.status.replace("_", " ")), mistakes ? el("small.dim", {}, ` ${mistakes}`) : null);
}

function progress(row) {
  if (!row.total) return "–"; // its lines are not counted yet
  const ended = row.completed + row.failed;
  return el("span", {}, meter(ended / row.total, `${number(ended)} of ${number(row.total)} lines ended`),
    el("small.dim", {}, ` ${number(ended)} of ${number(row.total)}`));
}

function made(row, now) {
  const date = now - row.created > DAY ? `${new Date(row.created * 1000).toLocaleDateString("en-GB")} ` : "";
  return date + clock(row.created);
}

function stop(row) {
  if (row.status !== "validating" && row.status !== "in_progress") return null;
  return el("button", { type: "button", "aria-label": `Cancel batch ${row.id}`, onclick: () => cancel(row.id) }, "Cancel");
}

async function cancel(id) {
  try {
    await call(`/v1/batches/${encodeURIComponent(id)}/cancel`, { method: "POST" });
  } catch (error) {
    problem(error.message);
  }
}
