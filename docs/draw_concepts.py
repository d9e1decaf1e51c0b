"""Draw the concepts, from rows of text: ``python docs/draw_concepts.py`` writes ``docs/concepts/*.svg``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).with_name("concepts")
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.name{font-weight:600}.small{font-size:12px;fill:#555}"
INK, BLUE, ORANGE, RED, GREEN = "#555", "#3b6fd4", "#d4753b", "#c0392b", "#2e7d4f"

ACTORS = ["Client", "Frontend", "Redis", "Worker"]
STEPS = [
    ("Client", "Frontend", "POST /v1/chat/completions"),
    ("Frontend", "Redis", "submit: record + message, one script"),
    ("Redis", "Worker", "the message"),
    ("Worker", "Redis", "claim: owner, epoch, event 7-0"),
    ("Worker", "Redis", "tokens: XADD 7-1, 7-2, … and PUBLISH"),
    ("Redis", "Frontend", "pushes; gaps are read from the stream"),
    ("Frontend", "Client", "one SSE event for each, with its id"),
    ("Worker", "Redis", "finish: event end + state, one script"),
    ("Frontend", "Client", "data: [DONE]"),
    ("Worker", "Redis", "settle: Celery's completion is done; ack"),
]
"""Who tells whom what, from top to bottom."""

STATES = {
    "QUEUED": (40, 110, BLUE),
    "RUNNING": (350, 110, BLUE),
    "SUCCEEDED": (690, 30, GREEN),
    "FAILED": (690, 110, RED),
    "CANCELLED": (690, 190, INK),
    "EXPIRED": (350, 230, INK),
}
EDGES = [
    ("QUEUED", "RUNNING", "claim", -12),
    ("RUNNING", "QUEUED", "owner lost, retry, drain", 14),
    ("RUNNING", "SUCCEEDED", "finish", 0),
    ("RUNNING", "FAILED", "finish, deadline", 0),
    ("RUNNING", "CANCELLED", "cancel", 0),
    ("QUEUED", "EXPIRED", "expire", 0),
    ("QUEUED", "CANCELLED", "cancel", 24),
]

LANES = ["Worker A", "Redis", "Worker B", "Reader"]
SPANS = [
    ("Worker A", 0, 300, BLUE, "writes 7-1 … 7-41"),
    ("Redis", 0, 300, ORANGE, "RUNNING, owner A"),
    ("Redis", 300, 480, ORANGE, "no heartbeat"),
    ("Redis", 480, 600, ORANGE, "QUEUED"),
    ("Redis", 600, 900, ORANGE, "RUNNING, owner B"),
    ("Worker B", 600, 900, GREEN, "reads 7-1…41, writes 8-1 …"),
    ("Reader", 0, 300, INK, "reads 7-1 … 7-41"),
    ("Reader", 300, 600, "#bbb", "a gap, no error"),
    ("Reader", 600, 900, INK, "sees claim 8-0, reads on"),
]
MARKS = [(300, "kill -9"), (480, "two polls: dead; requeue"), (600, "claim: 8-0")]


def document(width: int, height: int, parts: list[str]) -> str:
    """An SVG with a white ground and a head for arrows."""
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>'
    )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([opened, f"<style>{STYLE}</style>", head, ground, *parts, "</svg>", ""])


def label(x: int, y: int, text: str, kind: str = "", anchor: str = "middle") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def box(x: int, y: int, width: int, height: int, colour: str, text: str) -> Iterator[str]:
    """A rectangle with its name in the middle."""
    shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="6"'
    yield f'<rect {shape} fill="{colour}" fill-opacity="0.12" stroke="{colour}"/>'
    yield label(x + width // 2, y + height // 2 + 5, text, "name")


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    """A line with a head."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" marker-end="url(#head)"/>'


def sequence() -> str:
    """The life of a request as a sequence."""
    places = {name: 90 + 280 * number for number, name in enumerate(ACTORS)}
    bottom = 80 + 38 * len(STEPS)
    parts: list[str] = []
    for name, x in places.items():
        parts += box(x - 60, 15, 120, 34, ORANGE if name == "Redis" else BLUE, name)
        parts.append(f'<line x1="{x}" y1="49" x2="{x}" y2="{bottom}" stroke="#bbb" stroke-dasharray="4 4"/>')
    for number, (start, end, text) in enumerate(STEPS):
        y = 88 + 38 * number
        parts.append(arrow(places[start], y, places[end], y))
        parts.append(label((places[start] + places[end]) // 2, y - 6, text, "small"))
    return document(places["Worker"] + 90, bottom + 10, parts)


def states() -> str:
    """The life of a request as states."""
    parts: list[str] = []
    for name, (x, y, colour) in STATES.items():
        parts += box(x, y, 130, 40, colour, name)
    for start, end, text, shift in EDGES:
        x1, y1, x2, y2 = *STATES[start][:2], *STATES[end][:2]
        right = x2 > x1
        begin, stop = (x1 + 130 if right else x1), (x2 if right else x2 + 130)
        ys, ye = y1 + 20 + shift, y2 + 20 + (shift if end != "CANCELLED" else 0)
        if (start, end) == ("QUEUED", "CANCELLED"):
            path = f"M105 150 C 150 215, 500 200, {stop} {y2 + 26}"
            parts.append(f'<path d="{path}" fill="none" stroke="{INK}" marker-end="url(#head)"/>')
            parts.append(label(300, 218, text, "small"))
        elif end == "EXPIRED":
            parts.append(
                f'<path d="M80 150 C 90 240, 200 250, {stop} {y2 + 20}" fill="none" '
                f'stroke="{INK}" marker-end="url(#head)"/>'
            )
            parts.append(label(175, 262, text, "small"))
        else:
            parts.append(arrow(begin, ys, stop, ye))
            parts.append(
                label((begin + stop) // 2, (ys + ye) // 2 + (18 if shift > 0 else -7), text, "small")
            )
    return document(860, 290, parts)


def recovery() -> str:
    """A recovery on a time line."""
    parts: list[str] = []
    rows = {name: 60 + 62 * number for number, name in enumerate(LANES)}
    for name, y in rows.items():
        parts.append(label(85, y + 24, name, "name", "end"))
    for lane, start, end, colour, text in SPANS:
        parts += box(100 + start, rows[lane], end - start - 4, 38, colour, text)
    for at, text in MARKS:
        x = 98 + at
        parts.append(f'<line x1="{x}" y1="40" x2="{x}" y2="310" stroke="{RED}" stroke-dasharray="5 4"/>')
        parts.append(label(x, 30, text, "small"))
    parts.append(
        label(
            100,
            335,
            "killed: 0.3 s in the median of the chaos run; frozen: 3 s, when the lease is over",
            "small",
            "start",
        )
    )
    return document(1020, 350, parts)


PICTURES: dict[str, Callable[[], str]] = {"sequence": sequence, "states": states, "recovery": recovery}

if __name__ == "__main__":
    for name, drawn in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(drawn())
