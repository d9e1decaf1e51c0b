"""CPU per token of an engine and its consumers alone: no queue, no server, no HTTP.

python benchmarks/engine_micro.py [--engine mocker] [--tokens 64] [--concurrency 1 64 256] [--uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from dynamo_tasks.engines import Engine, GenerateRequest, create_engine


async def _consume(engine: Engine, request: GenerateRequest) -> tuple[int, int]:
    tokens = deltas = 0
    async for delta in engine.generate(request):
        tokens += len(delta.token_ids)
        deltas += 1
    return tokens, deltas


async def _round(engine: Engine, concurrency: int, tokens: int, prompt: int, salt: int) -> tuple[int, int]:
    requests = [
        GenerateRequest(
            request_id=f"{salt}-{i}",
            prompt_token_ids=list(f"{salt}/{i} ".encode().ljust(prompt, b"x")),
            max_tokens=tokens,
        )
        for i in range(concurrency)
    ]
    counts = await asyncio.gather(*[_consume(engine, request) for request in requests])
    return sum(count[0] for count in counts), sum(count[1] for count in counts)


async def _measure(args: argparse.Namespace) -> None:
    engine = await create_engine(args.engine)
    print(f"{args.engine}, {args.tokens} tokens, prompts of {args.prompt} tokens")
    print(
        "| concurrency | µs CPU / token | µs CPU / request | tok/s | tokens / delta |\n|---|---|---|---|---|"
    )
    for concurrency in args.concurrency:
        await _round(engine, concurrency, args.tokens, args.prompt, 0)
        rounds = max(3, args.requests // concurrency)
        cpu, wall, total, deltas = time.process_time(), time.perf_counter(), 0, 0
        for number in range(1, rounds + 1):
            count = await _round(engine, concurrency, args.tokens, args.prompt, number)
            total, deltas = total + count[0], deltas + count[1]
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(
            f"| {concurrency} | {cpu / total * 1e6:.2f} | {cpu / rounds / concurrency * 1e6:.0f} "
            f"| {total / wall:,.0f} | {total / deltas:.2f} |"
        )
    await engine.stop()


def _run(work: Coroutine[Any, Any, None], uvloop: bool) -> None:
    if uvloop:
        import uvloop as loops

        loops.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="mocker")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--uvloop", action="store_true")
    parsed = parser.parse_args()
    _run(_measure(parsed), parsed.uvloop)
