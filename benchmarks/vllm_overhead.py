"""What a token costs on top of vLLM: ``AsyncLLM`` itself, Celery tasks, this project's HTTP, and vLLM's own server.

    python -m benchmarks.vllm_overhead                          # a tiny model that is made on the spot
    python -m benchmarks.vllm_overhead --size small             # one whose steps take about as long as real ones
    python -m benchmarks.vllm_overhead --model /models/llama --arg dtype=bfloat16 --requests 4

All run at the same time, with the same engine arguments and the same prompts, and get their loads in turn: an
engine without a request costs nothing. Ratios are taken of loads of the same turn. Tasks
(``Worker.generate.delay(…).get()``) and HTTP go to the same worker. Beside the speed, the CPU time of all that is not
the engine is taken: that of the load generator is no part of it. Needs an environment with vLLM (docs/vllm.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import yaml

from benchmarks.procstat import Meter, descendants
from benchmarks.target import Target, TargetError, clean_environment
from benchmarks.tiny_model import SIZES, make_tiny_model

__all__ = ["main"]

_TINY: dict[str, Any] = {
    "dtype": "float32", "max_model_len": 512, "block_size": 32, "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
}  # fmt: skip


_ENGINE = "VLLM::"
"""How vLLM's engine processes are called."""


class Found(NamedTuple):
    """What one load has shown.

    Attributes:
        tok_per_s: Tokens per second.
        around_s: CPU seconds per million tokens around the engine: of all processes but the engine's.
        engine_s: CPU seconds per million tokens of the engine's processes, which wait by spinning.
    """

    tok_per_s: float
    around_s: float
    engine_s: float


class System(Protocol):
    """Answers loads."""

    name: str

    def measure(self, load: dict[str, Any]) -> Found:
        """Put one load on it."""


class Costs:
    """CPU time of a process and its descendants while a load runs."""

    def __init__(self, pid: int):
        found = descendants(pid)
        engine = {one for one in found if _title(one).startswith(_ENGINE)}
        self._meter = Meter({"engine": engine, "around": found - engine})
        self._meter.start()

    def found(self, tokens: int, tok_per_s: float) -> Found:
        """For so many tokens, at this speed."""
        used = {name: usage.cpu_s / tokens * 1e6 for name, usage in self._meter.stop().items()}
        return Found(tok_per_s, used["around"], used["engine"])


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


class Driven:
    """A process that puts loads on an engine itself, asked by JSON lines."""

    def __init__(self, name: str, module: str, argument: Any, log: Path, env: dict[str, str] | None = None):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(argument)], env={**clean_environment(), **(env or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        """The next JSON line; vLLM prints others."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise TargetError(f"{self.name} ended ({self._process.wait()})")

    def _serving(self) -> int:
        """The process that serves the load, with its children."""
        return self._process.pid

    def measure(self, load: dict[str, Any]) -> Found:
        assert self._process.stdin
        costs = Costs(self._serving())
        print(json.dumps(load), file=self._process.stdin, flush=True)
        found = self._answer()
        return costs.found(found["tokens"], found["tokens"] / found["wall_s"])


class Tasks(Driven):
    """Celery tasks, sent by an application to the worker of ``server``."""

    def __init__(self, server: Server, model: str, home: Path):
        self._server = server
        super().__init__(
            "tasks", "benchmarks.vllm_tasks", model, home / "tasks.log",
            {"DYNAMO_HOME": str(server.home)},
        )  # fmt: skip

    def _serving(self) -> int:
        return self._server.pid("server")


class Server(Target):
    """A server with OpenAI's API."""

    start_timeout_s = 600.0

    def __init__(self, name: str, argv: list[str]):
        super().__init__(delay_ms=0)
        self.name = name
        self._argv = argv

    def start(self, home: Path) -> None:
        argv = [argument.replace("{port}", str(self.port)) for argument in self._argv]
        self.spawn("server", argv, {"DYNAMO_HOME": str(home)})

    def groups(self) -> dict[str, set[int]]:
        return {"server": descendants(self.pid("server"))}

    def measure(self, load: dict[str, Any]) -> Found:
        costs = Costs(self.pid("server"))
        asked = {"url": self.url, "model": self.model, **load}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.loadgen", *flags, "--ignore-eos"], stdout=subprocess.PIPE, check=True
        )  # fmt: skip
        found = json.loads(done.stdout)
        if found["errors"] or found["short"]:
            raise TargetError(f"{self.name}: {found['error_texts'] or 'answers were too short'}")
        return costs.found(found["tokens"], found["tok_per_s"])


def _own(arguments: dict[str, Any]) -> Server:
    flags = [f"--Worker.{name}={_text(value)}" for name, value in arguments.items() if name != "model"]
    argv = [sys.executable, "-m", "dynamo_tasks", "serve", "--port", "{port}", "--model", arguments["model"]]
    return Server("HTTP", [*argv, *flags])


def _theirs(arguments: dict[str, Any]) -> Server:
    flags: list[str] = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        flags += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", "{port}"]
    return Server("vLLM's server", [*argv, "--disable-log-stats", *flags])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


Rows = list[tuple[int, dict[str, list[Found]]]]


NAMES = ["AsyncLLM", "tasks", "HTTP", "vLLM's server"]


def _speeds(rows: Rows) -> str:
    """Medians in tokens per second, and the ratios of tasks and HTTP to what is below and beside them."""
    direct, tasks, own, theirs = NAMES
    pairs = [(tasks, direct), (own, direct), (tasks, theirs), (own, theirs)]
    heads = [*(f"{name}, tok/s" for name in NAMES), *(f"{one} / {other}" for one, other in pairs)]
    lines = _head(["concurrency", *heads])
    for concurrency, found in rows:
        speeds = {name: [one.tok_per_s for one in found[name]] for name in NAMES}
        median = {name: statistics.median(values) for name, values in speeds.items()}
        cells = [f"{median[name]:.0f} ({min(speeds[name]):.0f}-{max(speeds[name]):.0f})" for name in NAMES]
        ratios = [_ratio(speeds[one], speeds[other]) for one, other in pairs]
        lines.append(f"| {concurrency} | " + " | ".join([*cells, *ratios]) + " |")
    return "\n".join(lines)


def _ratio(one: list[float], other: list[float]) -> str:
    """The median of the ratios of loads that came in the same turn: a machine that slows down slows both."""
    ratios = sorted(a / b for a, b in zip(one, other, strict=True))
    return f"{statistics.median(ratios):.0%} ({ratios[0]:.0%}-{ratios[-1]:.0%})"


def _costs(rows: Rows) -> str:
    """Medians of CPU seconds per million tokens."""
    lines = _head(["CPU-s per 1M tokens, at", *(f"{name}: around + engine" for name in NAMES)])
    for concurrency, found in rows:
        cells = [
            f"{statistics.median(one.around_s for one in found[name]):.0f} + "
            f"{statistics.median(one.engine_s for one in found[name]):.0f}"
            for name in NAMES
        ]
        lines.append(f"| {concurrency} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _head(columns: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder; one is made by default")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny", help="of the model that is made")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="of AsyncEngineArgs")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--requests", type=int, default=16, help="per connection, at least 32 in all")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--spread", type=float, default=0.5, help="how much the answers' lengths differ, 0 to 1"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measured loads of each system per round")
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="how often all is started anew: one start may be luckier than another",
    )
    return parser.parse_args()


def _measure(systems: list[System], concurrency: int, options: argparse.Namespace) -> dict[str, list[Found]]:
    """All systems in turn, again and again."""
    found: dict[str, list[Found]] = {system.name: [] for system in systems}
    load = {
        "concurrency": concurrency, "requests": max(32, options.requests * concurrency),
        "max_tokens": options.max_tokens, "spread": options.spread,
    }  # fmt: skip
    for repeat in range(options.repeats + 1):
        for system in systems:
            one = system.measure(load)
            if repeat:  # the first one warms up
                found[system.name].append(one)
    return found


def _round(options: argparse.Namespace, order: int) -> Rows:
    """Start all systems, measure each concurrency, stop them.

    Args:
        options: Of the command line.
        order: How many of the systems go to the end of each turn: whoever is first gets a machine that has rested.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as entered:
        home = Path(folder)
        model = options.model or str(make_tiny_model(home / options.size, size=options.size))
        given = {
            name: yaml.safe_load(value) for name, _, value in (arg.partition("=") for arg in options.arg)
        }
        arguments = {"model": model, "max_num_seqs": max(options.concurrency)}
        arguments |= ({} if options.model else _TINY) | given
        direct = Driven("AsyncLLM", "benchmarks.vllm_direct", arguments, home / "direct.log")
        entered.enter_context(direct)
        own = entered.enter_context(_own(arguments))
        tasks = entered.enter_context(Tasks(own, model, home))
        systems: list[System] = [direct, tasks, own, entered.enter_context(_theirs(arguments))]
        turned = systems[order:] + systems[:order]
        return [(concurrency, _measure(turned, concurrency, options)) for concurrency in options.concurrency]


def _together(rounds: list[Rows]) -> Rows:
    """All that was found, by concurrency and system."""
    return [
        (rows[0][0], {name: [one for _, found in rows for one in found[name]] for name in NAMES})
        for rows in zip(*rounds, strict=True)
    ]


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    rows = _together([_round(options, number % len(NAMES)) for number in range(options.rounds)])
    print(_speeds(rows), _costs(rows), sep="\n\n")


if __name__ == "__main__":
    main()
