// Calls of this server: the API key, answers, and streams of server-sent events.

const KEY = "dynamo-tasks.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A call; throws an HttpError with the server's own words. */
export async function call(path, { body, headers, ...more } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...more, headers: sent, body: body && JSON.stringify(body) });
  if (answer.ok) return answer;
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* no JSON: the status says it */ }
  throw new HttpError(answer.status, message);
}

/** The events of a stream: {event, id, data, comment}. Comments come by themselves. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "", event = {};
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (left + value).split(/\r?\n/);
      left = lines.pop();
      for (const line of lines) {
        if (line.startsWith(":")) {
          yield { comment: line.slice(1).trim() };
        } else if (line) {
          const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
          event[name] = name === "data" && "data" in event ? `${event.data}\n${text}` : text;
        } else {
          if ("data" in event) yield event;
          event = {};
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
