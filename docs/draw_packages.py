"""Draw the packages, from what their files import: ``python docs/draw_packages.py`` writes ``docs/packages/*.svg``.

A box is a wing with its files, or a file that stands beside them. An arrow goes down, from who imports to what is
imported; where a longer way leads there as well, it is left out.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1] / "dynamo_tasks"
TARGET = Path(__file__).with_name("packages")
LINE, GAP, DOWN, PAD = 16, 22, 46, 12
CHARACTER = 7.2
STYLE = "text{font:12px ui-monospace,monospace;fill:#222}.name{font-weight:600}"
Graph = dict[str, set[str]]


class Box(NamedTuple):
    """A wing or a file, at its place."""

    x: float
    y: float
    width: float
    height: float
    lines: list[str]


def packages() -> list[str]:
    """Names of the packages, in the order of the alphabet."""
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def _modules(package: str) -> dict[str, Path]:
    """Dotted name below the package → file; those that only gather names are left out."""
    folder = ROOT / package
    files = sorted(folder.rglob("*.py"))
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in files
        if path.name != "__init__.py"
    }


def _imports(path: Path) -> set[str]:
    """Dotted names that a file imports when it runs: modules, and what may be modules of packages."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    guards = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    hidden = {below for guard in guards for below in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@cache
def _arrows(package: str) -> Graph:
    """Module → modules of the same package that it imports."""
    modules, prefix = _modules(package), f"dynamo_tasks.{package}."
    return {
        name: {
            one for found in _imports(path) if (one := found.removeprefix(prefix)) in modules and one != name
        }
        for name, path in modules.items()
    }


def _between(package: str) -> Graph:
    """Wing or file → wings and files that it imports."""
    made: Graph = defaultdict(set)
    for name, below in _arrows(package).items():
        wing = name.partition(".")[0]
        made[wing] |= {one.partition(".")[0] for one in below} - {wing}
    return dict(made)


def levels(graph: Graph) -> dict[str, int]:
    """How far above the ground each node stands; nodes in a circle stand as if they were the first that is met."""
    known: dict[str, int] = {}

    def level(node: str, above: tuple[str, ...]) -> int:
        if node not in known:
            below = [level(one, (*above, node)) for one in sorted(graph[node]) if one not in (*above, node)]
            known[node] = max(below, default=-1) + 1
        return known[node]

    for node in sorted(graph):
        level(node, ())
    return known


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    new = [start]
    while new:
        for one in graph[new.pop()] - seen:
            seen.add(one)
            new.append(one)
    return seen


def _direct(graph: Graph, start: str) -> set[str]:
    """What a node reaches on no longer way."""
    return {
        one
        for one in graph[start]
        if not any(one in _reachable(graph, other) for other in graph[start] - {one})
    }


def _lines(package: str, node: str) -> list[str]:
    """The name of a wing, and its files: each above those that it imports."""
    inside = {name: set() for name in _arrows(package) if name.startswith(f"{node}.")}
    if not inside:
        return [f"{node}.py"]
    graph = {name: _arrows(package)[name] & inside.keys() for name in inside}
    height = levels(graph)
    files = sorted(inside, key=lambda name: (-height[name], name))
    return [f"{node}/", *(f"{name.partition('.')[2]}.py" for name in files)]


def _rows(package: str, graph: Graph) -> list[list[str]]:
    height = levels(graph)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for node in sorted(graph):
        rows[-1 - height[node]].append(node)
    return rows


def place(package: str, graph: Graph) -> tuple[dict[str, Box], float, float]:
    """The boxes, and the size of the picture."""
    lines = {node: _lines(package, node) for node in graph}
    widths = {node: 2 * PAD + CHARACTER * max(map(len, text)) for node, text in lines.items()}
    rows = _rows(package, graph)
    lengths = [sum(widths[node] + GAP for node in row) + GAP for row in rows]
    boxes, y = {}, float(GAP)
    for row, length in zip(rows, lengths, strict=True):
        x = GAP + (max(lengths) - length) / 2
        tall = max(len(lines[node]) for node in row) * LINE + PAD
        for node in row:
            boxes[node] = Box(x, y, widths[node], len(lines[node]) * LINE + PAD, lines[node])
            x += widths[node] + GAP
        y += tall + DOWN
    return boxes, max(lengths), y - DOWN + GAP


def _draw_box(box: Box) -> list[str]:
    shape = f'x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6"'
    made = [f'<rect {shape} fill="#eef4ff" stroke="#3b6fd4"/>']
    for number, line in enumerate(box.lines):
        name = ' class="name"' if number == 0 else ""
        at = f'x="{box.x + PAD:.0f}" y="{box.y + PAD + 5 + number * LINE:.0f}"'
        made.append(f"<text {at}{name}>{escape(line)}</text>")
    return made


def _draw_arrow(start: Box, end: Box) -> str:
    x1, y1 = start.x + start.width / 2, start.y + start.height
    x2, y2 = end.x + end.width / 2, end.y
    bend = (y2 - y1) / 2
    way = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    return f'<path d="{way}" fill="none" stroke="#888" marker-end="url(#head)"/>'


def picture(package: str) -> str:
    """The SVG of one package."""
    graph = _between(package)
    boxes, width, height = place(package, graph)
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#888"/></marker></defs>'
    )
    arrows = [
        _draw_arrow(boxes[node], boxes[one]) for node in sorted(graph) for one in sorted(_direct(graph, node))
    ]
    drawn = [line for box in boxes.values() for line in _draw_box(box)]
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    open_ = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([open_, f"<style>{STYLE}</style>", head, ground, *arrows, *drawn, "</svg>", ""])


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for name in packages():
        (TARGET / f"{name}.svg").write_text(picture(name))
