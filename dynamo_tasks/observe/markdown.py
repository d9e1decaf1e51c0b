"""Writes the catalogue as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynamo_tasks.observe.catalogue import LOG_EVENTS, METRICS, SPANS
from dynamo_tasks.observe.schema import PREFIX

__all__ = ["telemetry_markdown"]

_HEAD = f"""\
# Telemetry

Written by `python -m dynamo_tasks.observe > docs/telemetry.md`; don't edit it by hand.

## Metrics

Each process has its own: a frontend at `GET /metrics`, any process at its system port
([observability.md](observability.md)). Every name begins with `{PREFIX}`
(left out here). `endpoint` is `namespace.Component.endpoint`, `state` a terminal state of a request.
"""

_LOG = """\
## Log events

One record each, of the logger `dynamo_tasks.<area>` (the part before the dot). The message is
`name key=value …`; `record.event` and `record.fields` hold the parts. Passwords in URLs are masked.
"""

_SPAN = """\
## Spans
"""


def telemetry_markdown() -> str:
    """The text of ``docs/telemetry.md``."""
    metrics = [(f"`{m.name}`", m.kind, m.unit, _code(m.labels), m.meaning) for m in METRICS.values()]
    events = [(f"`{e.name}`", e.level_name, _code(e.fields), e.meaning) for e in LOG_EVENTS.values()]
    spans = [(f"`{s.name}`", s.process, s.kind, _code(s.attributes), s.meaning) for s in SPANS.values()]
    return (
        "\n".join(
            (
                _HEAD,
                _table(("metric", "kind", "unit", "labels", "meaning"), metrics),
                _LOG,
                _table(("event", "level", "fields", "meaning"), events),
                _SPAN,
                _table(("span", "process", "kind", "attributes", "meaning"), spans).rstrip("\n"),
            )
        )
        + "\n"
    )


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
