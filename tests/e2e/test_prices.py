"""The price of a chat, by counts: commands, scripts and bytes of Redis, Python calls of frontend and worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import web
from tests.support.counting import Costs, Meter
from tests.support.keys import KeyDesk
from tests.support.prices import CASES, grown, page_table, shrunk
from tests.support.processes import ROOT, Frontend, Worker, together
from tests.support.server import RedisServer
from tests.support.tapped import Tap

NAMESPACE = "price"
TOKEN_MS = 3
KEYS = ("Frontend.require_api_keys=true", 'Frontend.prices={"mocker": {"input": 1.0, "output": 1000.0}}')
ROUNDS = 5
"""On a busy machine, where others' work is in every request of the first."""


@pytest.fixture(scope="module")
def costs(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Costs]]:
    """What each case costs."""
    folder = tmp_path_factory.mktemp("counted")
    env = {
        "DYNAMO_NAMESPACE": NAMESPACE,
        "COUNTED_CALLS": str(folder),
        "PYTHONPATH": f"{ROOT / 'tests/support/counted'}:{ROOT}",
    }
    engine = ("Worker.engine=mocker", f"Worker.engine_args.token_delay_ms={TOKEN_MS}")
    with (
        Tap(redis_server) as tap,
        together(
            Worker(tap.url, settings=engine, env=env),
            Frontend(tap.url, env=env),
            Frontend(tap.url, env=env, settings=KEYS),
        ) as (worker, plain, keyed),
    ):
        key = KeyDesk(redis_server.url, NAMESPACE).create("--tenant", "acme")["key"]
        yield _measured(tap, folder, worker, plain, keyed, key)


def _measured(
    tap: Tap, folder: Path, worker: Worker, plain: Frontend, keyed: Frontend, key: str
) -> dict[str, Costs]:
    requests = (_chat(plain, 1), _chat(plain, 64), _chat(keyed, 1, key))
    for request in requests * 4:  # what is done once in a process is done
        request()
    meters = [Meter(tap, folder, {"frontend": one, "worker": worker}) for one in (plain, plain, keyed)]
    found: dict[str, Costs] = {}
    for _ in range(ROUNDS):
        for case, meter, request, times in zip(CASES, meters, requests, (21, 9, 21), strict=True):
            if case not in found or grown(case, found[case]):
                found[case] = meter.measure(request, times)
        if not any(grown(case, costs) for case, costs in found.items()):
            break
    return found


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
