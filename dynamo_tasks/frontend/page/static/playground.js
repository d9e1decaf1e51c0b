// A conversation that survives a reload, a killed worker and a killed frontend: it resumes where it was.

import { $, el } from "./dom.js";
import { HttpError, call, events, pause } from "./http.js";

const STORED = "dynamo-tasks.playground";
const RETENTION = 600; // seconds for which an answer can be resumed
const TRIES = 60;
const FIELDS = ["model", "temperature", "max-tokens", "system", "tools"];
const LANGUAGES = { curl, Python: python, ".delay()": delay };

let thread = []; // {role, content, …} as the API has them; the answer that is being made is the last one
let open = null; // {id, last}: the request that is being answered, and the last event that was seen
let language = "curl";
let abort = null;

export function start() {
  restore();
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });
  $("ask").addEventListener("input", code);
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => {
    stop();
    thread = [];
    save();
    draw();
  });
  $("tabs").replaceChildren(...Object.keys(LANGUAGES).map((name) =>
    el("button", { type: "button", role: "tab", "aria-selected": String(name === language), onclick: () => choose(name) }, name)));
  draw();
  models();
  if (open) resume();
}

export async function models() {
  const chosen = $("model").dataset.wanted || $("model").value;
  try {
    const listed = (await (await call("/v1/models")).json()).data.map((one) => one.id);
    $("model").replaceChildren(...listed.map((name) => el("option", { value: name }, name)));
    if (listed.includes(chosen)) $("model").value = chosen;
    $("ask-state").textContent = listed.length ? "" : "no model is served at the moment";
  } catch (error) {
    $("ask-state").textContent = error.message;
  }
  code();
}

export function shown() {
  if (!$("model").options.length) models();
}

function body() {
  const asked = { model: $("model").value, messages: thread.map(plain), stream: true };
  if ($("system").value.trim()) asked.messages.unshift({ role: "system", content: $("system").value });
  if ($("temperature").value) asked.temperature = Number($("temperature").value);
  if ($("max-tokens").value) asked.max_tokens = Number($("max-tokens").value);
  if ($("tools").value.trim()) asked.tools = JSON.parse($("tools").value);
  return asked;
}

/** A message without what only this page knows of it. */
function plain({ role, content, tool_calls }) {
  return tool_calls ? { role, content, tool_calls } : { role, content };
}

async function send() {
  const text = $("message").value.trim();
  if (!text || open) return;
  thread.push({ role: "user", content: text });
  let asked;
  try {
    asked = body();
  } catch (error) {
    thread.pop();
    $("ask-state").textContent = `tools are no JSON: ${error.message}`;
    return;
  }
  $("message").value = "";
  const id = crypto.randomUUID?.() || String(Math.random()).slice(2);
  thread.push({ role: "assistant", content: "" });
  open = { id: null, last: null, body: { ...asked, background: true, retention: RETENTION }, once: `playground-${id}` };
  save();
  draw();
  await resume();
}

/** Read the answer to its end, whatever breaks in between: with the same key the same request is found again. */
async function resume() {
  busy(true);
  for (let tries = 0; open && tries < TRIES; tries++) {
    abort = new AbortController();
    try {
      const answer = open.id
        ? await call(`/v1/requests/${open.id}/stream`, { headers: open.last ? { "Last-Event-ID": open.last } : {}, signal: abort.signal })
        : await call("/v1/chat/completions", { method: "POST", body: open.body, headers: { "Idempotency-Key": open.once }, signal: abort.signal });
      open.id ||= answer.headers.get("x-request-id");
      save();
      if (answer.status === 204) return end(); // all of it was here before
      if (tries) note("connected again; the answer goes on where it was");
      if (await read(answer)) return end();
    } catch (error) {
      if (error.name === "AbortError") return end();
      if (error instanceof HttpError && ![429, 502, 503].includes(error.status)) return end(error.message);
    }
    if (tries === 0) note("the connection is lost; trying again");
    await pause(Math.min(250 * 2 ** tries, 3000));
  }
  end(open ? "given up" : "");
}

/** Take events; true once the last one was there. */
async function read(answer) {
  for await (const event of events(answer)) {
    if (event.comment?.startsWith("attempt")) note(`${event.comment}: another worker goes on with this text`);
    if (event.data === "[DONE]") return true;
    if (event.data) {
      const value = JSON.parse(event.data);
      if (value.error) throw new HttpError(500, value.error.message);
      for (const choice of value.choices || []) take(choice.delta);
    }
    if (event.id) open.last = event.id;
    save();
  }
  return false;
}

function take(delta) {
  const last = thread[thread.length - 1];
  if (delta.reasoning_content) last.reasoning_content = (last.reasoning_content || "") + delta.reasoning_content;
  if (delta.content) last.content += delta.content;
  for (const piece of delta.tool_calls || []) {
    last.tool_calls ||= [];
    const found = (last.tool_calls[piece.index] ||= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (piece.id) found.id = piece.id;
    if (piece.function?.name) found.function.name += piece.function.name;
    found.function.arguments += piece.function?.arguments || "";
  }
  drawLast();
}

function note(text) {
  (thread[thread.length - 1].notes ||= []).push({ at: thread[thread.length - 1].content.length, text });
  drawLast();
}

function end(problem = "") {
  if (problem && thread.length) note(problem);
  open = null;
  abort = null;
  busy(false);
  save();
  code();
}

function stop() {
  if (!open) return;
  if (open.id) call(`/v1/requests/${open.id}`, { method: "DELETE" }).catch(() => {});
  open = null;
  abort?.abort();
}

function busy(on) {
  $("send").disabled = on;
  $("stop").disabled = !on;
  $("ask-state").textContent = on ? "answering" : "";
}

function draw() {
  $("thread").replaceChildren(...thread.map(turn));
  code();
}

function drawLast() {
  const last = $("thread").lastElementChild;
  if (last) last.replaceWith(turn(thread[thread.length - 1]));
}

function turn(message) {
  const parts = [el("small", {}, message.role)];
  if (message.reasoning_content) parts.push(el("div.think", {}, message.reasoning_content));
  let from = 0;
  for (const { at, text } of message.notes || []) {
    parts.push(message.content.slice(from, at), el("span.gap", {}, text));
    from = at;
  }
  parts.push(message.content.slice(from));
  for (const one of message.tool_calls || []) parts.push(el("pre", {}, `${one.function.name}(${one.function.arguments})`));
  return el(`div.turn.${message.role}`, {}, ...parts);
}

function save() {
  const fields = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  sessionStorage.setItem(STORED, JSON.stringify({ thread, open, fields }));
}

function restore() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED)) || {};
    thread = stored.thread || [];
    open = stored.open || null;
    for (const [id, value] of Object.entries(stored.fields || {})) if (value && id !== "model") $(id).value = value;
    $("model").dataset.wanted = stored.fields?.model || "";
  } catch { /* what an older page has stored */ }
}

// The same call, in other words.

function choose(name) {
  language = name;
  for (const tab of $("tabs").children) tab.setAttribute("aria-selected", String(tab.textContent === name));
  code();
}

function code() {
  let asked;
  try {
    asked = body();
  } catch {
    return;
  }
  if (open) asked.messages.pop();
  else asked.messages.push({ role: "user", content: $("message").value || "Hello!" });
  $("code").textContent = LANGUAGES[language](asked);
}

function curl(asked) {
  const text = JSON.stringify(asked, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${location.origin}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n` +
    `  -H "Authorization: Bearer $DYNAMO_API_KEY" \\\n  -d '${text}'`;
}

function literal(value) {
  return JSON.stringify(value, null, 4).replace(/^/gm, "    ").trim()
    .replace(/(?<=[:[,]\s*)true\b/g, "True").replace(/(?<=[:[,]\s*)false\b/g, "False").replace(/(?<=[:[,]\s*)null\b/g, "None");
}

function python({ stream, ...asked }) {
  const fields = Object.entries(asked).map(([name, value]) => `    ${name}=${literal(value)},\n`).join("");
  return `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="…")\n` +
    `for chunk in client.chat.completions.create(\n${fields}    stream=True,\n):\n` +
    `    print(chunk.choices[0].delta.content or "", end="")`;
}

function delay({ stream, model, ...asked }) {
  return `from workers.agg import Worker\n\nresult = Worker.generate.delay(\n    ${literal(asked)}\n)\n` +
    `for chunk in result:\n    print(chunk["text"], end="")`;
}
