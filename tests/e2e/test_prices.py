"""The price of a chat, by counts: commands, scripts and bytes of Redis, Python calls of frontend and worker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynamo_tasks.serve.cli import cli
from tests.support import web
from tests.support.counting import Costs, Meter, RedisCounts
from tests.support.prices import CASES, grown, page_table, shrunk
from tests.support.processes import ROOT, Frontend, Worker, together
from tests.support.server import RedisServer

NAMESPACE = "price"
TOKEN_MS = 3
KEYS = ("Frontend.require_api_keys=true", 'Frontend.prices={"mocker": {"input": 1.0, "output": 1000.0}}')
ROUNDS = 5
"""Of a busy machine: what actors do falls into every request of some of them."""


@pytest.fixture(scope="module")
def costs(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Costs]]:
    """What each case costs."""
    url, folder = redis_server.url, tmp_path_factory.mktemp("counted")
    env = {
        "DYNAMO_NAMESPACE": NAMESPACE,
        "COUNTED_CALLS": str(folder),
        "PYTHONPATH": f"{ROOT / 'tests/support/counted'}:{ROOT}",
    }
    engine = ("Worker.engine=mocker", f"Worker.engine_args.token_delay_ms={TOKEN_MS}")
    with (
        together(
            Worker(url, settings=engine, env=env),
            Frontend(url, env=env),
            Frontend(url, env=env, settings=KEYS),
        ) as (worker, plain, keyed),
        RedisCounts(redis_server) as redis,
    ):
        yield _measured(redis, folder, worker, plain, keyed, _key(url))


def _key(url: str) -> str:
    words = ["keys", "create", "--tenant", "acme", "--json", "--namespace", NAMESPACE]
    made = CliRunner().invoke(cli, words, env={"DYNAMO_REDIS_URL": url})
    return str(json.loads(made.output)["key"])


def _measured(
    redis: RedisCounts, folder: Path, worker: Worker, plain: Frontend, keyed: Frontend, key: str
) -> dict[str, Costs]:
    one, many, charged = _chat(plain, 1), _chat(plain, 64), _chat(keyed, 1, key)
    meter = Meter(redis, folder, {"frontend": plain, "worker": worker})
    meter_keyed = Meter(redis, folder, {"frontend": keyed, "worker": worker})
    for request in (one, many, charged) * 4:  # what is done once in a process is done
        request()
    best: dict[str, Costs] = {}
    for _ in range(ROUNDS):
        idle = meter.idle()
        found = (meter.measure(one, 21), meter.measure(many, 9, idle), meter_keyed.measure(charged, 21))
        for case, costs in zip(CASES, found, strict=True):
            known = best.setdefault(case, costs)
            best[case] = {name: min(known.get(name, 0), costs.get(name, 0)) for name in known | costs}
        if not any(grown(case, costs) for case, costs in best.items()):
            break
    return best


def _chat(frontend: Frontend, tokens: int, key: str = "") -> Callable[[], object]:
    body = {
        "model": "mocker",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": tokens,
        "stream": True,
    }
    headers = {"authorization": f"Bearer {key}"} if key else None
    return lambda: list(web.events(frontend.port, "POST", "/v1/chat/completions", body, headers))


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="other Pythons make other calls of the same source"
)
@pytest.mark.skipif(
    not os.environ.get("DYNAMO_TEST_PRICES"),
    reason="on a quiet machine, by DYNAMO_TEST_PRICES=1: on a busy one timers fall into every request",
)
@pytest.mark.parametrize("case", CASES)
def test_a_chat_costs_no_more_than_it_did(costs: dict[str, Costs], case: str) -> None:
    found = {name: round(value) for name, value in costs[case].items() if value >= 1}
    assert not grown(case, costs[case]), f"grew: {grown(case, costs[case])}; all: {found}"
    assert not shrunk(case, costs[case]), (
        f"shrank: lower tests/support/prices.py: {shrunk(case, costs[case])}; all: {found}"
    )


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    assert page_table() in page, f"docs/performance.md is to have:\n{page_table()}"
