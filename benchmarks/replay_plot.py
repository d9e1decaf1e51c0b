"""A picture of replays: ``python -m benchmarks.replay_plot figures.svg TITLE=figures.json …`` draws mean times to the
first token as ``benchmarks.replay --out`` wrote them, each trace by its slowest policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["drawn", "main"]

_ROW, _NAMES, _BARS, _HEAD = 18, 150, 330, 26


def drawn(traces: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """An SVG with a group of bars for each trace."""
    height = sum(_HEAD + _ROW * len(rows) for _, rows in traces) + 10
    parts = [*_groups(traces)]
    size = f'width="{_NAMES + _BARS + 160}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _groups(traces: Sequence[tuple[str, list[dict[str, Any]]]]) -> Iterator[str]:
    y = 0
    for title, rows in traces:
        y += _HEAD
        yield f'<text x="4" y="{y - 8}" font-weight="bold">{title}</text>'
        most = max(row["ttft_mean_ms"] for row in rows)
        for row in rows:
            mean = row["ttft_mean_ms"]
            width = max(1, round(_BARS * mean / most))
            colour = "#c66" if row["policy"] in ("round_robin", "dynamo_kv") else "#48a"
            yield f'<text x="{_NAMES - 6}" y="{y + 13}" text-anchor="end">{row["policy"]}</text>'
            yield f'<rect x="{_NAMES}" y="{y + 2}" width="{width}" height="{_ROW - 4}" fill="{colour}"/>'
            told = f"{mean:.0f} ms" if mean < 10_000 else f"{mean / 1000:.1f} s"
            yield f'<text x="{_NAMES + width + 6}" y="{y + 13}">{told}, reuse {row["reuse"]:.2f}</text>'
            y += _ROW


def main(argv: Sequence[str]) -> None:
    """Draw ``argv[1:]``, ``title=file`` each, into ``argv[0]``."""
    named = [one.partition("=") for one in argv[1:]]
    Path(argv[0]).write_text(drawn([(title, json.loads(Path(path).read_text())) for title, _, path in named]))


if __name__ == "__main__":
    main(sys.argv[1:])
