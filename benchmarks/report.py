"""From runs to figures: medians, ranges, a Markdown table."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.procstat import Usage

__all__ = ["Run", "costs", "host_facts", "markdown", "summarise"]


class Run(NamedTuple):
    """One measurement.

    Attributes:
        target: Name of the system.
        delay_ms: Of its engine, per token.
        concurrency: Streams at a time.
        load: The load generator's report.
        usage: CPU time and memory by role.
        start_s: From the start of the system to its first served request.
    """

    target: str
    delay_ms: float
    concurrency: int
    load: dict[str, Any]
    usage: dict[str, Usage]
    start_s: float

    @property
    def case(self) -> tuple[float, int, str]:
        """What makes two runs comparable, in the order of the table."""
        return (self.delay_ms, self.concurrency, self.target)

    def record(self) -> dict[str, Any]:
        """JSON-able, with the derived costs."""
        return {
            "target": self.target,
            "delay_ms": self.delay_ms,
            "concurrency": self.concurrency,
            "start_s": round(self.start_s, 3),
            "load": self.load,
            "costs": costs(self),
        }


def costs(run: Run) -> dict[str, dict[str, float]]:
    """Per role: ``cpu_s``, ``cpu_s_per_1k_requests``, ``cpu_s_per_1m_tokens``, ``rss_mb`` (10^6 bytes)."""
    requests = run.load["requests"] or 1
    tokens = run.load["tokens"] or 1
    return {
        role: {
            "cpu_s": round(usage.cpu_s, 3),
            "cpu_s_per_1k_requests": round(1e3 * usage.cpu_s / requests, 3),
            "cpu_s_per_1m_tokens": round(1e6 * usage.cpu_s / tokens, 2),
            "rss_mb": round(usage.rss_bytes / 1e6, 1),
        }
        for role, usage in run.usage.items()
    }


def summarise(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each case together; cases in the order of the table."""
    cases: dict[tuple[float, int, str], list[Run]] = {}
    for run in runs:
        cases.setdefault(run.case, []).append(run)
    return [cases[case] for case in sorted(cases)]


_HEAD = (
    "system",
    "ms/token",
    "streams",
    "req/s",
    "tok/s",
    "TTFT p50 / p99 ms",
    "ITL p50 / p99 ms",
    "CPU-s per 1000 requests",
    "CPU-s per 1M tokens",
    "RSS MB",
    "failed",
)


def markdown(runs: Iterable[Run]) -> str:
    """The table: medians, with the range of ``req/s`` and ``tok/s`` in parentheses."""
    cases = summarise(runs)
    roles = list(dict.fromkeys(role for case in cases for run in case for role in run.usage))
    rows = [_row(case) for case in cases]
    lines = [_HEAD, ["---"] * len(_HEAD), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\nCPU and memory columns: {' + '.join(roles)}, where a system has them.\n"


def _row(case: Sequence[Run]) -> list[str]:
    first = case[0]

    def load(name: str) -> Callable[[Run], float]:
        return lambda run: float(run.load[name])

    return [
        first.target,
        f"{first.delay_ms:g}",
        str(first.concurrency),
        _ranged(case, load("req_per_s")),
        _ranged(case, load("tok_per_s")),
        f"{_median(case, load('ttft_p50_ms'))} / {_median(case, load('ttft_p99_ms'))}",
        f"{_median(case, load('itl_p50_ms'))} / {_median(case, load('itl_p99_ms'))}",
        _by_role(case, "cpu_s_per_1k_requests"),
        _by_role(case, "cpu_s_per_1m_tokens"),
        _by_role(case, "rss_mb"),
        str(sum(run.load["errors"] + run.load["short"] for run in case)),
    ]


def _by_role(case: Sequence[Run], cost: str) -> str:
    def of(role: str) -> Callable[[Run], float]:
        return lambda run: costs(run)[role][cost]

    return " + ".join(_median(case, of(role)) for role in case[0].usage)


def _median(case: Sequence[Run], value: Callable[[Run], float]) -> str:
    return _figure(statistics.median(map(value, case)))


def _ranged(case: Sequence[Run], value: Callable[[Run], float]) -> str:
    values = [value(run) for run in case]
    middle = _figure(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_figure(min(values))}–{_figure(max(values))})"


def _figure(value: float) -> str:
    """Three significant digits are more than such a machine can repeat."""
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def host_facts(root: Path) -> dict[str, Any]:
    """Where and of what: CPU, memory, kernel, Python, commit, date.

    Args:
        root: The checkout.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(root),
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first_value("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _commit(root: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _first_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
