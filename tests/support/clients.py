"""Servers for the clients of others: what they are given, and what they may need to know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.processes import Frontend, Worker, together

__all__ = ["KEY", "RATED", "Served", "serving"]

KEY, RATED = "sk-clients", "sk-rated"
_MOCKER = (
    "Worker.engine=mocker",
    "Worker.engine_args.token_delay_ms=2",
    "Worker.engine_args.max_model_len=16384",
)


class Served:
    """A server as its clients know it.

    Attributes:
        url: Without a path.
        key: An API key without limits.
        model: The name of the model.
    """

    key, model = KEY, "mocker"

    def __init__(self, frontend: Frontend, workers: list[Worker]):
        self.frontend = frontend
        self.workers = workers
        self.url = frontend.base_url


@contextmanager
def serving(
    url: str,
    namespace: str,
    *,
    keys: tuple[Any, ...] = (KEY,),
    workers: int = 2,
    settings: tuple[str, ...] = _MOCKER,
    env: dict[str, str] | None = None,
    service: str = "workers.agg:Worker",
) -> Iterator[Served]:
    """Workers and a frontend, for as long as the block runs.

    Args:
        url: Of Redis.
        namespace: Of their own.
        keys: API keys.
        workers: How many.
        settings: Of each worker.
        env: More of their environment.
        service: That the workers run.
    """
    env = {"DYNAMO_NAMESPACE": namespace, **(env or {})}
    started = [Worker(url, settings=settings, env=env, name=f"w{n}", service=service) for n in range(workers)]
    front = Frontend(url, env=env, settings=(f"Frontend.api_keys={json.dumps(keys)}",))
    with together(front, *started) as (frontend, *_):
        yield Served(frontend, started)
