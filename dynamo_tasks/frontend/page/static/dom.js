// Small helpers: elements from text, never from HTML, so that no name or answer becomes markup.

export const $ = (id) => document.getElementById(id);

/** el("td.n", {title: "…"}, child, …): an element; children are elements or text. */
export function el(kind, attributes = {}, ...children) {
  const [name, ...classes] = kind.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute.startsWith("on")) made.addEventListener(attribute.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(attribute, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A table: columns are [title, "n" for numbers]; rows are lists of cells. */
export function table(caption, columns, rows) {
  if (!rows.length) return el("p.empty", {}, `No ${caption}.`);
  const cell = (kind, place) => (columns[place][1] ? `${kind}.${columns[place][1]}` : kind);
  return el("div.scroll", {},
    el("table", { "aria-label": caption },
      el("thead", {}, el("tr", {}, ...columns.map(([title], place) => el(cell("th", place), { scope: "col" }, title)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, place) => el(cell("td", place), {}, value)))))));
}

/** Put new content into a place that is refreshed all the time, so that nobody who uses it notices: what is pressed or
 * marked stays; focus (by aria-label, else by text) and places of scrolling are kept. */
export function refresh(place, ...content) {
  const marked = getSelection();
  if (place.matches(":active") || (!marked.isCollapsed && place.contains(marked.anchorNode))) return;
  const name = (one) => one.ariaLabel || one.textContent;
  const focused = place.contains(document.activeElement) ? name(document.activeElement) : null;
  const scrolled = [...place.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  place.replaceChildren(...content);
  place.querySelectorAll(".scroll").forEach((one, index) => { if (scrolled[index]) one.scrollLeft = scrolled[index]; });
  if (focused !== null) [...place.querySelectorAll("button, a")].find((one) => name(one) === focused)?.focus({ preventScroll: true });
}

export function meter(share, label) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
  const fill = el("span");
  fill.style.width = `${percent}%`;
  return el("span", {}, el("span.meter", { role: "img", "aria-label": label }, fill), `${percent} %`);
}

export const number = (value, digits = 0) =>
  value === null || value === undefined || Number.isNaN(value) ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
