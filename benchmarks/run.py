"""Measures dynamo-tasks, and peers beside it, under a matrix of loads.

Each repeat starts every system anew, warms it up, and runs all concurrencies; systems take turns within
a repeat, so that a machine that slows down slows all of them::

    python -m benchmarks.run --repeats 3
    python -m benchmarks.run --target own --target nvidia-dynamo --dynamo-venv ~/venvs/dynamo --out all.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.own import DynamoTasks
from benchmarks.peers.dynamo import NvidiaDynamo
from benchmarks.procstat import Meter
from benchmarks.report import Run, host_facts, markdown
from benchmarks.target import Target, TargetError

__all__ = ["Case", "cases", "main", "measure"]

_ROOT = Path(__file__).resolve().parents[1]
_PACED_STREAMS = 64
_MAX_REQUESTS = 5120


class Case(NamedTuple):
    """One cell of the matrix.

    Attributes:
        delay_ms: Of the engine, per token.
        concurrency: Streams at a time.
        requests: How many, after the warm-up.
        tokens: Of each.
    """

    delay_ms: float
    concurrency: int
    requests: int
    tokens: int


def cases(delays: Sequence[float], streams: Sequence[int], tokens: int, scale: float) -> list[Case]:
    """The matrix; paced engines only with many streams, as one paced stream measures the pace.

    Args:
        delays: Milliseconds per token; 0 = as fast as it can.
        streams: Concurrencies.
        tokens: Per request.
        scale: Factor on the number of requests.
    """
    return [
        Case(delay, count, max(count, int(scale * _requests(delay, count))), tokens)
        for delay in delays
        for count in streams
        if not delay or count >= min(_PACED_STREAMS, max(streams))
    ]


def _requests(delay_ms: float, streams: int) -> int:
    """Enough for several seconds: a paced stream takes seconds by itself."""
    return 4 * streams if delay_ms else min(_MAX_REQUESTS, max(200, 100 * streams))


def measure(target: Target, case: Case, prompt_mode: str) -> Run:
    """Warm up, then run the load and meter the processes meanwhile.

    Raises:
        TargetError: The load generator broke, or a process of the system ended.
    """
    _generate(target, case, prompt_mode, min(case.requests, 2 * case.concurrency))
    meter = Meter(target.groups())
    meter.start()
    load = _generate(target, case, prompt_mode, case.requests)
    usage = meter.stop()
    if meter.gone:
        raise TargetError(f"{target.name}: processes {meter.gone} ended during the run")
    return Run(target.name, case.delay_ms, case.concurrency, load, usage, target.start_s)


def _generate(target: Target, case: Case, prompt_mode: str, requests: int) -> Any:
    options = {
        "--url": target.url,
        "--model": target.model,
        "--concurrency": case.concurrency,
        "--requests": requests,
        "--max-tokens": case.tokens,
        "--prompt-mode": prompt_mode,
    }
    argv = [sys.executable, "-m", "benchmarks.loadgen", *(str(x) for pair in options.items() for x in pair)]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise TargetError(f"load generator: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def _targets(options: argparse.Namespace, delay_ms: float) -> Iterator[Target]:
    for name in options.target or ["own"]:
        if name == "own":
            yield DynamoTasks(
                delay_ms=delay_ms,
                workers=options.workers,
                redis_url=options.redis_url,
                flags=tuple(options.flag),
            )
        else:
            yield NvidiaDynamo(delay_ms=delay_ms, venv=options.dynamo_venv)


def _run_all(options: argparse.Namespace) -> Iterator[Run]:
    matrix = cases(options.delays, options.streams, options.tokens, options.scale)
    for repeat in range(options.repeats):
        for delay_ms in options.delays:
            for target in _targets(options, delay_ms):
                with target:
                    for case in (case for case in matrix if case.delay_ms == delay_ms):
                        run = measure(target, case, options.prompt_mode)
                        _progress(repeat, run)
                        yield run


def _progress(repeat: int, run: Run) -> None:
    print(
        f"[{repeat + 1}] {run.target}, {run.delay_ms:g} ms/token, {run.concurrency} streams: "
        f"{run.load['req_per_s']:.0f} req/s, {run.load['tok_per_s']:.0f} tok/s, "
        f"TTFT {run.load['ttft_p50_ms']:.1f} ms, {run.load['errors']} errors {run.load['error_texts'] or ''}",
        file=sys.stderr,
        flush=True,
    )


def _numbers(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> list[int | float]:
        values = [kind(part) for part in text.split(",")]
        if any(value < 0 for value in values):
            raise ValueError(text)
        return values

    parse.__name__ = f"comma list of {kind.__name__}"
    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", action="append", choices=("own", "nvidia-dynamo"), help="default: own")
    parser.add_argument("--dynamo-venv", type=Path, help="virtual environment of the peer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=_numbers(int), default=[1, 16, 64, 256], help="1,16,64,256")
    parser.add_argument("--delays", type=_numbers(float), default=[0.0, 25.0], help="ms per token: 0,25")
    parser.add_argument("--tokens", type=int, default=64, help="per request")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of requests")
    parser.add_argument("--prompt-mode", choices=("unique", "shared"), default="unique")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of dynamo-tasks")
    parser.add_argument("--redis-url", help="a server in place of the embedded one")
    parser.add_argument("--flag", action="append", default=[], help="one more argument of `serve`")
    parser.add_argument("--out", type=Path, help="JSON file with every run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix; 1 if requests failed, 2 if a system did not work."""
    parser = _parser()
    options = parser.parse_args(argv)
    if "nvidia-dynamo" in (options.target or []) and options.dynamo_venv is None:
        parser.error("--target nvidia-dynamo needs --dynamo-venv")
    runs: list[Run] = []
    broken = False
    try:
        for run in _run_all(options):
            runs.append(run)
    except TargetError as exc:
        print(f"benchmark: {exc}", file=sys.stderr)
        broken = True
    if runs:
        _publish(runs, options.out)
    return 2 if broken else int(any(run.load["errors"] for run in runs))


def _publish(runs: list[Run], out: Path | None) -> None:
    facts = host_facts(_ROOT)
    if out:
        out.write_text(json.dumps({"host": facts, "runs": [run.record() for run in runs]}, indent=1))
    print(f"{', '.join(f'{name} {value}' for name, value in facts.items())}\n\n{markdown(runs)}", end="")


if __name__ == "__main__":
    sys.exit(main())
