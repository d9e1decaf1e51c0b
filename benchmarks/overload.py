"""Twice as much as there is capacity for: what is refused, what is served and how fast, and does memory stay flat?

::

    python -m benchmarks.overload --minutes 10
    python -m benchmarks.overload --minutes 0.5 --alike      # the single requests have the flood's API key

A real stack (``dynamo-tasks serve`` with the mocker, which is paced like an engine) gets an open-loop flood of one API
key, and a request of another one every 200 ms. The exit status is 1 if a stream broke, or the memory of a process grew;
the server's by more than the records of ended requests, which stay for a day.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

from benchmarks.load import percentile
from benchmarks.overload_client import Tenant, drive
from benchmarks.own import DynamoTasks
from benchmarks.procstat import read_usage

__all__ = ["main"]

_SINGLE_EVERY = 0.2
_SAMPLE_EVERY = 2.0
_MIB = 1 << 20
_GROWTH_MIB = 24
"""A process whose last quarter is so much above its second one has grown; allocators move by less."""
_RECORD_MIB = 2500 / _MIB
"""Of an ended request, on the server."""


class Memory(threading.Thread):
    """Samples the resident memory of each process."""

    def __init__(self, groups: dict[str, set[int]]):
        super().__init__(daemon=True)
        self._groups = groups
        self._over = threading.Event()
        self.samples: dict[str, list[float]] = {}

    def run(self) -> None:
        """Until it is stopped."""
        while not self._over.wait(_SAMPLE_EVERY):
            for role, pids in self._groups.items():
                for pid in sorted(pids):
                    usage = read_usage(pid)
                    if usage is not None:
                        self.samples.setdefault(f"{role} {pid}", []).append(usage.rss_bytes / _MIB)

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self.join()


def grown(samples: Sequence[float]) -> float:
    """MiB by which the mean of the last quarter is above that of the second one."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return sum(last) / len(last) - sum(second) / len(second)


def _row(name: str, cells: Sequence[Any]) -> str:
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


def _quantiles(values: Sequence[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return " / ".join(f"{percentile(ordered, q):.2f}" for q in (50, 99))


def _table(tenants: dict[str, Tenant], memory: Memory, options: argparse.Namespace, capacity: float) -> str:
    seconds = options.minutes * 60
    done = sum(tenant.outcomes["ok"] for tenant in tenants.values())
    lines = [
        f"capacity {capacity:.0f} requests/s, offered {sum(1 / t.every for t in tenants.values()):.0f}, "
        f"served {done / seconds:.0f} requests/s = {done * options.tokens / seconds:.0f} tokens/s",
        "",
        "| API key | requests | answers | TTFT s p50 / p99 | whole s p50 / p99 |",
        "|---|---|---|---|---|",
    ]
    for name, tenant in tenants.items():
        answers = ", ".join(f"{code}: {count}" for code, count in tenant.outcomes.most_common())
        cells = (tenant.outcomes.total(), answers, _quantiles(tenant.first), _quantiles(tenant.whole))
        lines.append(_row(name, cells))
    lines += ["", "| process | RSS MiB start | min | max | end | grown |", "|---|---|---|---|---|---|"]
    for name, samples in memory.samples.items():
        cells = [f"{v:.1f}" for v in (samples[0], min(samples), max(samples), samples[-1], grown(samples))]
        lines.append(_row(name, cells))
    return "\n".join(lines)


def _flags(options: argparse.Namespace) -> tuple[str, ...]:
    keys = json.dumps(["flood", "single"])
    return (
        f"--Worker.ServiceArgs.concurrency={options.slots}",
        f"--Worker.ServiceArgs.traffic.concurrency={options.slots * options.workers}",
        f"--Worker.ServiceArgs.traffic.max_queue={options.max_queue}",
        f"--Frontend.api_keys={keys}",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--factor", type=float, default=2.0, help="offered load over capacity")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16, help="of each worker")
    parser.add_argument("--tokens", type=int, default=25, help="of each request")
    parser.add_argument("--delay", type=float, default=20.0, help="ms per token")
    parser.add_argument("--max-queue", type=int, default=200, help="requests that may wait")
    parser.add_argument(
        "--alike", action="store_true", help="single requests have the flood's key: no fairness"
    )
    return parser.parse_args()


def main() -> int:
    """Run it; the exit status."""
    options = _options()
    capacity = options.workers * options.slots / (options.tokens * options.delay / 1000)
    single = Tenant("flood" if options.alike else "single", _SINGLE_EVERY)
    flood = Tenant("flood", 1 / (options.factor * capacity - 1 / _SINGLE_EVERY))
    target = DynamoTasks(delay_ms=options.delay, workers=options.workers, flags=_flags(options))
    target.api_key = "single"
    with target:
        memory = Memory(target.groups())
        memory.start()
        load = drive(target.url, target.model, options.tokens, [flood, single], options.minutes * 60)
        asyncio.run(load)
        memory.stop()
    print(_table({"flood": flood, "single": single}, memory, options, capacity))
    broken = sum(
        n for t in (flood, single) for code, n in t.outcomes.items() if code.startswith(("broken", "5"))
    )
    records = _RECORD_MIB * sum(tenant.outcomes["ok"] for tenant in (flood, single))
    return int(bool(broken) or any(_too_much(name, s, records) for name, s in memory.samples.items()))


def _too_much(name: str, samples: Sequence[float], records: float) -> bool:
    return grown(samples) > _GROWTH_MIB + (records if name.startswith("redis") else 0)


if __name__ == "__main__":
    raise SystemExit(main())
