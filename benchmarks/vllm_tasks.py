"""Celery tasks to a worker that runs vLLM: ``Worker.generate.delay(…).get()``, many at the same time.

One thread sends them, and waits for the oldest one before it sends the next. Driven over stdin and stdout as
``benchmarks.vllm_direct`` is, with the same prompts; talks to the server of ``DYNAMO_HOME``.

    python -m benchmarks.vllm_tasks '"DIR"'
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

from benchmarks.vllm_direct import token_prompts
from dynamo_tasks.services.agg import Worker

__all__ = ["main"]


def main(model: str) -> None:
    """Serve lines until stdin ends."""
    _load(model, 1, 2, 2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(
            json.dumps(_load(model, asked["concurrency"], asked["requests"], asked["max_tokens"])), flush=True
        )


def _load(model: str, concurrency: int, requests: int, max_tokens: int) -> dict[str, Any]:
    prompts = list(token_prompts(model, requests))
    waiting: deque[Any] = deque()
    tokens, began = 0, time.perf_counter()
    for ids in prompts:
        if len(waiting) == concurrency:
            tokens += _tokens(waiting.popleft())
        payload = {"prompt_token_ids": ids, "max_tokens": max_tokens, "ignore_eos": True}
        waiting.append(Worker.generate.delay(payload))
    tokens += sum(map(_tokens, waiting))
    return {"wall_s": time.perf_counter() - began, "requests": requests, "tokens": tokens}


def _tokens(task: Any) -> int:
    return len(task.get(timeout=600)["token_ids"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
