"""Draw ``docs/architecture.svg``, from boxes and arrows as text: ``python docs/draw.py``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

TARGET = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 1150, 400
LINE = 17


class Box(NamedTuple):
    """One process: its upper left corner, its size, its lines with ``|`` between (the first one is its name)."""

    x: int
    y: int
    width: int
    height: int
    text: str
    kind: str = "process"


BOXES = {
    "clients": Box(20, 60, 160, 75, "HTTP clients|OpenAI's SDKs, curl,|EventSource"),
    "scripts": Box(20, 240, 160, 75, "Python|.delay(), chains,|DistributedRuntime"),
    "frontend": Box(
        270, 40, 210, 130,
        "Frontend process|HTTP, SSE, keys, limits|Processor: template, tokens|reader: pushes and gaps"
        "|recoverer, sweeper",
    ),
    "redis": Box(
        560, 90, 215, 215,
        "Redis|queues (lists)|ledger (hashes; one Lua|script per transition)|logs (streams)|pushes, commands (pub/sub)"
        "|leases (keys with a TTL)|registry, quotas, wait queues",
        "store",
    ),
    "worker": Box(
        910, 40, 220, 130,
        "Worker process|Celery's worker on asyncio|puller, pool, attempts|writer: one flush in flight"
        "|engine (vLLM, mocker, yours)|recoverer, sweeper",
    ),
    "plain": Box(910, 190, 220, 75, "Your own Celery workers|prefork, plain tasks,|chords, beat"),
    "router": Box(910, 285, 220, 75, "Router process, if wanted|chooses an instance,|forwards the request"),
    "serve": Box(270, 285, 210, 75, "dynamo-tasks serve|starts, watches and ends|the processes", "outside"),
}  # fmt: skip
ARROWS = [
    ("clients", "frontend", "HTTP, SSE"),
    ("frontend", "redis", "submit"),
    ("redis", "frontend", "tokens"),
    ("scripts", "redis", "submit, iterate"),
    ("redis", "worker", "message"),
    ("worker", "redis", "claim, tokens, end"),
    ("redis", "plain", "tasks, results"),
    ("redis", "router", "claim, forward"),
]
COLOURS = {
    "process": ("#eef4ff", "#3b6fd4"),
    "store": ("#fff3ea", "#d4753b"),
    "outside": ("#f4f4f4", "#777777"),
}
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.name{font-weight:600}.arrow{font-size:12px;fill:#555}"


def edge(box: Box, towards: Box, shift: int) -> tuple[int, int]:
    """Where an arrow leaves a box: on the side that faces the other one."""
    right = towards.x > box.x
    low, high = max(box.y, towards.y), min(box.y + box.height, towards.y + towards.height)
    middle = (low + high) // 2 if low < high else towards.y + towards.height // 2
    middle = min(max(middle, box.y + 12), box.y + box.height - 12)
    return (box.x + box.width if right else box.x), middle + shift


def draw_box(box: Box) -> list[str]:
    """A rectangle with its lines."""
    fill, stroke = COLOURS[box.kind]
    shape = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8"'
    made = [f'<rect {shape} fill="{fill}" stroke="{stroke}"/>']
    for number, line in enumerate(box.text.split("|")):
        name = ' class="name"' if number == 0 else ""
        made.append(f'<text x="{box.x + 12}" y="{box.y + 24 + number * LINE}"{name}>{escape(line)}</text>')
    return made


def draw_arrow(start: str, end: str, label: str) -> list[str]:
    """A line with a head, and its label above; the way back runs below the way there."""
    pair = [(one, two) for one, two, _ in ARROWS if {one, two} == {start, end}]
    shift = 0 if len(pair) == 1 else (-14, 14)[pair.index((start, end))]
    x1, y1 = edge(BOXES[start], BOXES[end], shift)
    x2, y2 = edge(BOXES[end], BOXES[start], shift)
    at = f'x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2 - 6}" text-anchor="middle"'
    return [
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#555" marker-end="url(#head)"/>',
        f'<text class="arrow" {at}>{escape(label)}</text>',
    ]


def picture() -> str:
    """The whole document."""
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>'
    )
    parts = [line for box in BOXES.values() for line in draw_box(box)]
    parts += [line for arrow in ARROWS for line in draw_arrow(*arrow)]
    open_ = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([open_, f"<style>{STYLE}</style>", head, ground, *parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(picture())
