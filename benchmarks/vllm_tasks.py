"""Celery tasks to a worker that runs vLLM: ``Worker.generate.delay(…)``, many at the same time.

One thread sends them; whenever one has ended, the next is sent (``result.then``). Driven over stdin and stdout as
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
    _load(model, concurrency=1, requests=2, max_tokens=2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_load(model, **json.loads(line))), flush=True)


def _load(model: str, *, concurrency: int, **load: Any) -> dict[str, Any]:
    requests = list(token_prompts(model, **load))
    unsent, running = iter(requests), deque[Any]()

    def send_next(_: Any = None) -> None:
        for ids, tokens in unsent:
            payload = {"prompt_token_ids": ids, "max_tokens": tokens, "ignore_eos": True}
            running.append(Worker.generate.delay(payload))
            running[-1].then(send_next)
            return

    began, tokens = time.perf_counter(), 0
    for _ in range(concurrency):
        send_next()
    while running:
        tokens += len(running.popleft().get(timeout=600)["token_ids"])
    return {"wall_s": time.perf_counter() - began, "tokens": tokens}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
