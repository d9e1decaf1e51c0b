// Line plots of the last five minutes, on canvas.

import { el } from "./dom.js";

const KEPT = 300;
const COLOURS = ["--accent", "--warn", "--good"];

export class Plot {
  /** lines: names; format: a value as text. */
  constructor(title, lines, format) {
    this.lines = lines.map((name) => ({ name, values: [] }));
    this.format = format;
    this.canvas = el("canvas", { role: "img", "aria-label": title });
    this.now = this.lines.map((line, place) => {
      const label = el("i", {}, line.name);
      label.style.setProperty("--stroke", `var(${COLOURS[place]})`);
      return label;
    });
    this.title = title;
    this.element = el("figure", {}, el("figcaption", {}, el("b", {}, title), ...this.now), this.canvas);
  }

  /** One value for each line; null = nothing to show at this second. */
  add(...values) {
    this.lines.forEach((line, place) => {
      line.values.push(values[place]);
      if (line.values.length > KEPT) line.values.shift();
      const last = values[place];
      this.now[place].textContent = `${line.name} ${last === null ? "–" : this.format(last)}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}: ${this.now.map((one) => one.textContent).join(", ")}`);
    if (this.canvas.offsetParent !== null) this.draw();
  }

  draw() {
    const { canvas } = this, scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight, style = getComputedStyle(canvas);
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const most = Math.max(...this.lines.flatMap((line) => line.values.filter((value) => value !== null)), 0) || 1;
    const top = nice(most);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = pen.strokeStyle = style.getPropertyValue("--dim");
    pen.globalAlpha = 0.25;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(14 + (height - 20) * (1 - share)) + 0.5;
      pen.beginPath();
      pen.moveTo(0, y);
      pen.lineTo(width, y);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    pen.fillText(this.format(top), 0, 10);
    this.lines.forEach((line, place) => {
      pen.strokeStyle = style.getPropertyValue(COLOURS[place]);
      pen.lineWidth = 1.6;
      pen.beginPath();
      let drawing = false;
      line.values.forEach((value, at) => {
        if (value === null) {
          drawing = false;
          return;
        }
        const x = width - ((line.values.length - 1 - at) * width) / (KEPT - 1), y = 14 + (height - 20) * (1 - value / top);
        if (drawing) pen.lineTo(x, y);
        else pen.moveTo(x, y);
        drawing = true;
      });
      pen.stroke();
    });
  }
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** The quantile of what cumulative histograms grew by, in seconds; null where nothing came. */
export function quantile(share, now, before) {
  const bounds = Object.keys(now || {}).map((text) => [text === "+Inf" ? Infinity : Number(text), text]);
  bounds.sort((first, second) => first[0] - second[0]);
  const grown = bounds.map(([bound, text]) => [bound, now[text] - ((before || {})[text] || 0)]);
  const total = grown.length ? grown[grown.length - 1][1] : 0;
  if (total <= 0) return null;
  let low = 0, counted = 0;
  for (const [bound, count] of grown) {
    if (count >= share * total) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((share * total - counted) / Math.max(count - counted, 1e-9));
    }
    [low, counted] = [bound, count];
  }
  return low;
}
