"""``status`` as people read it: namespaces → components → instances, and the jobs of pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from dynamo_tasks.observe import mask_url

__all__ = ["render_job", "render_status"]

_JOB_COLUMNS = ("operator", "tasks", "in", "out", "skipped", "dead", "lag", "records/s")
_JOB_STATES = {"RUNNING": "green", "STOPPING": "yellow", "FAILED": "red"}


def render_job(job: Mapping[str, Any]) -> RenderableType:
    """Draw a job.

    Args:
        job: :class:`~dynamo_tasks.pipelines.graph.job.JobStatus` as a mapping.
    """
    state = str(job["state"])
    head = Text.assemble(
        "job ", (str(job["id"]), "bold"), "  ", (state.lower(), _JOB_STATES.get(state, "dim"))
    )
    if job.get("error"):
        head.append(f"  {job['error']}", "red")
    if unbegun := job.get("unbegun"):
        head.append(f"  {unbegun} tasks and services wait for a slot", "yellow")
    parts: list[RenderableType] = [head]
    if state in _JOB_STATES:  # what has ended well is one line
        parts.append(_operators(job["operators"]))
        parts += [_service(one) for one in job["services"]]
    return Group(*parts)


def _operators(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in _JOB_COLUMNS:
        table.add_column(column, justify="left" if column == "operator" else "right", no_wrap=True)
    for row in rows:
        numbers = (row[key] for key in ("parallelism", "records_in", "records_out", "skipped", "dead", "lag"))
        table.add_row(str(row["name"]), *map(str, numbers), f"{row['rate']:.1f}")
    return table


def _service(row: Mapping[str, Any]) -> Text:
    calls = f"{row['requests']} calls, {row['errors']} errors"
    facts = f"{calls}, {1000 * row['average_s']:.1f} ms, {row['queued']} waiting"
    return Text.assemble("service ", str(row["service"]), (f"  {facts}", "dim"))


_COLUMNS = ("instance", "lease", "process", "state", "in flight", "tokens/s", "http")
_HITS = "cached"
"""Column of the share of prompt tokens that the prefix cache had; shown where any had some."""
_NUMBERS = {"lease", "in flight", "tokens/s", _HITS}
_LOW_RATE = 1000
_STATES = {"ready": "green", "running": "green", "draining": "yellow", "starting": "yellow", "lost": "red"}


def render_status(shown: Mapping[str, Any]) -> RenderableType:
    """Draw a snapshot.

    Args:
        shown: In the shape of ``status --json``: ``redis_url``, ``memory``, ``namespaces`` (names), ``queued``
            (``namespace.Component`` → waiting requests) and ``instances``, each with ``namespace``,
            ``component``, ``endpoints``, ``instance_id``, ``host``, ``pid``, ``state``, ``in_flight``,
            ``load`` and, where known, ``lease`` (seconds left), ``tokens_per_s`` and ``http`` (an address);
            ``scales``, as :func:`dynamo_tasks.runtime.scales.scale_rows` gives them;
            ``lanes``, where there are several: ``lane``, ``redis_url``, ``state``, ``queued`` of each;
            ``jobs`` of pipelines, as :class:`~dynamo_tasks.pipelines.graph.job.JobStatus`.

    Returns:
        Something that a rich console prints.
    """
    queued = shown.get("queued") or {}
    head = Text(mask_url(str(shown["redis_url"])), "bold")
    if lanes := shown.get("lanes"):
        head = Text("\n").join(map(_lane, lanes))
    if memory := shown.get("memory"):
        head = Text("\n").join([head, _memory(memory)])
    tree = Tree(head)
    for namespace in _namespaces(shown):
        branch = tree.add(Text(namespace, "bold cyan"))
        for component in _components(shown, namespace):
            mine = [item for item in _instances(shown) if _address(item) == (namespace, component)]
            waiting = int(queued.get(f"{namespace}.{component}", 0))
            branch.add(_component(component, mine, waiting, _scale(shown, f"{namespace}.{component}")))
        for job in shown.get("jobs") or ():
            if job["namespace"] == namespace:
                branch.add(render_job(job))
    if not tree.children:
        return Group(tree, Text("no namespaces: nothing is served here", "dim"))
    return tree


def _lane(row: Mapping[str, Any]) -> Text:
    """One of several lanes."""
    if row["state"] == "away":
        return Text(f"lane {row['lane']}  {row['redis_url']}  {row['state']}", "bold red")
    return Text.assemble(
        (f"lane {row['lane']}  {row['redis_url']}", "bold"),
        f"  {row['queued']} queued{', drained' * (row['state'] == 'drained')}",
    )


def _memory(memory: Mapping[str, Any]) -> Text:
    used, limit = (float(memory[key]) / 2**20 for key in ("used", "limit"))
    of = "maxmemory" if memory["capped"] else "the machine; maxmemory is not set"
    rate, kept = int(memory["tokens_per_s"]), float(memory["retention_s"])
    text = f"memory {used:,.0f} of {limit:,.0f} MiB ({of}): room for {rate:,} tokens/s kept for {kept:.0f} s"
    return Text(text, "dim" if rate >= _LOW_RATE else "yellow")


def _instances(shown: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(shown["instances"], key=lambda item: (*_address(item), str(item["instance_id"])))


def _address(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item["namespace"]), str(item["component"])


def _namespaces(shown: Mapping[str, Any]) -> list[str]:
    return sorted({*map(str, shown["namespaces"]), *(_address(item)[0] for item in shown["instances"])})


def _components(shown: Mapping[str, Any], namespace: str) -> list[str]:
    # Requests may wait for a component that has no instance at the moment; or one is wanted, and starts.
    scaled = [str(row["component"]).partition(".") for row in shown.get("scales") or ()]
    waiting = [name.partition(".") for name, count in (shown.get("queued") or {}).items() if count]
    names = {component for space, _, component in (*waiting, *scaled) if space == namespace}
    alive = [address for address, _ in groupby(map(_address, _instances(shown)))]
    return sorted(names | {component for space, component in alive if space == namespace})


def _scale(shown: Mapping[str, Any], component: str) -> Mapping[str, Any] | None:
    return next((row for row in shown.get("scales") or () if row["component"] == component), None)


def _difference(scale: Mapping[str, Any] | None, there: int) -> str:
    """Say what is wanted, where something else is there; and why, as far as somebody knows."""
    if scale is None:
        return ""
    awake = there - scale.get("asleep", 0)
    if awake == scale["wanted"] and not scale["draining"] and not scale["note"]:
        return ""
    facts = [f", {scale['wanted']} wanted ({scale['by']})"]
    facts += [f", {scale[what]} {what}" for what in ("starting", "draining", "asleep") if scale.get(what)]
    return "".join(facts) + (f"; {scale['note']}" if scale["note"] else "")


def _component(
    name: str, instances: list[Mapping[str, Any]], queued: int, scale: Mapping[str, Any] | None
) -> RenderableType:
    rate = sum(_rate(item) for item in instances)
    head = Text.assemble((name, "bold"), f"  {_endpoints(instances)}")
    facts = f"  {_count(len(instances), 'instance')}, {queued} queued, {rate:.0f} tokens/s{_spare(instances)}"
    facts += _difference(scale, len(instances))
    head.append(facts, "dim" if instances else "yellow")
    return Group(head, _table(instances)) if instances else head


def _spare(instances: Iterable[Mapping[str, Any]]) -> str:
    """Say how many requests use spare capacity, and how many left it to others; nothing where none ever did."""
    loads = [item.get("load") or {} for item in instances]
    running, left = (sum(int(load.get(name, 0)) for load in loads) for name in ("preemptible", "preemptions"))
    return f", {running} on spare capacity, {left} preempted so far" if running or left else ""


def _endpoints(instances: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(name) for item in instances for name in item["endpoints"]}))


def _table(instances: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    instances = list(instances)
    with_http = any(item.get("http") for item in instances)
    with_hits = any(_load(item).get("prefix_hits") for item in instances)
    columns = [*_COLUMNS[:-1], *[_HITS] * with_hits, *_COLUMNS[-1:] * with_http]
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for item in instances:
        state = str(item["state"])
        cells: list[RenderableType] = [
            str(item["instance_id"]),
            _lease(item.get("lease")),
            _process(item),
            Text(state, _STATES.get(state.lower(), "")),
            f"{item['in_flight']}/{_load(item).get('capacity') or '?'}",
            f"{_rate(item):.0f}",
        ]
        hits = f"{100 * float(_load(item).get('prefix_hits') or 0):.0f} %"
        table.add_row(*cells, *[hits] * with_hits, *[str(item.get("http") or "")] * with_http)
    return table


def _process(item: Mapping[str, Any]) -> str:
    """Process id and host, with the system port where there is one."""
    port = item.get("system_port")
    return f"{item['pid']}@{item['host']}" + (f":{port}" if port else "")


def _lease(seconds: object) -> str:
    return f"{seconds:.1f} s" if isinstance(seconds, int | float) else "-"


def _load(item: Mapping[str, Any]) -> Mapping[str, Any]:
    load = item.get("load")
    return load if isinstance(load, Mapping) else {}


def _rate(item: Mapping[str, Any]) -> float:
    rate = item.get("tokens_per_s", _load(item).get("tokens_per_s"))
    return float(rate or 0.0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
