// Batches: how far each is, and its end before its time.

import { $, clock, el, meter, number, refresh, span, table } from "./dom.js";
import { call } from "./http.js";

// What one looks for and clicks comes first: a phone shows the first columns.
const COLUMNS = [["state"], ["progress"], [""], ["failed", "n"], ["made"], ["took", "n"], ["answer tokens", "n"], ["model"], ["endpoint"], ["id"]];
const KINDS = { completed: "good", failed: "bad", expired: "bad", cancelled: "dim", in_progress: "good" };
const DAY = 86400;

let problem = () => {};

export function start(report) {
  problem = report;
}

export function take(snapshot) {
  if ($("batches").hidden) return;
  refresh($("batch-rows"), table("batches", COLUMNS, snapshot.batches.map((row) => [
    el(`span.${KINDS[row.status] || "warn"}`, {}, row.status.replace("_", " ")), progress(row), stop(row),
    el(row.failed ? "span.bad" : "span", {}, number(row.failed)), made(row, snapshot.time),
    took(row, snapshot.time), tokens(row), row.model || "–", row.endpoint.replace("/v1/", ""), el("code", {}, row.id),
  ])));
}

/** How many lines have ended; what is wrong with the input, where it is that, without its text. */
function progress(row) {
  const mistakes = row.mistakes.map((one) => (one.line ? `line ${one.line}: ${one.code}` : one.code)).join(", ");
  if (!row.total) return el("small.dim", {}, mistakes || "–"); // its lines are not counted yet
  const ended = row.completed + row.failed;
  return el("span", {}, meter(ended / row.total, `${number(ended)} of ${number(row.total)} lines ended`),
    el("small.dim", {}, ` ${number(ended)} of ${number(row.total)}`));
}

/** Its times are whole seconds. */
function took(row, now) {
  const seconds = Math.round((row.ended || now) - row.created);
  return seconds < 1 ? "< 1 s" : span(seconds);
}

/** Answers are counted when a part of the lines has been gathered: before the first one nothing is known. */
function tokens(row) {
  return !row.tokens && row.completed && !row.ended ? "–" : number(row.tokens);
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
