"""Two real engines behind one frontend: shared prefixes, round robin against ``kv``; salts of tenants."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS

START_S = 300.0
GROUPS, TURNS = 7, 6
MODEL = "tiny"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[dict[str, Frontend]]:
    """A frontend for each mode, over the same two workers."""
    args = {**ENGINE_ARGS, "kv_events_config": {"enable_kv_cache_events": True}}
    settings = (
        f"Worker.model={tiny_model}", f"Worker.served_model_name={MODEL}",
        *(f"Worker.engine_args.{name}={json.dumps(value).strip(chr(34))}" for name, value in args.items()),
    )  # fmt: skip
    keys = 'Frontend.api_keys=[{"key": "a", "cache_namespace": "*"}, {"key": "b", "cache_namespace": "*"}]'
    with RedisServer(tmp_path_factory.mktemp("kv")) as server:
        workers = [Worker(server.url, settings=settings, name=name, wait=False) for name in ("one", "two")]
        with together(*workers) as (one, two):
            for worker in (one, two):
                worker.wait_ready(START_S)
            with together(
                Frontend(server.url, settings=("Frontend.router_mode=kv",)),
                Frontend(server.url, settings=("Frontend.router_mode=round_robin",)),
                Frontend(server.url, settings=("Frontend.router_mode=kv", keys)),
            ) as (kv, turns, tenants):
                yield {"kv": kv, "round_robin": turns, "tenants": tenants}


def ask(frontend: Frontend, prompt: str, key: str = "", **more: object) -> tuple[int, int, float]:
    """Tokens of the prompt, those that were cached, and the seconds until the answer's one token."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 1, **more}
    began = time.monotonic()
    status, _, answer = frontend.request("POST", "/v1/completions", body, headers)
    assert status == 200, answer
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return usage["prompt_tokens"], cached, time.monotonic() - began


def conversations(frontend: Frontend, name: str) -> tuple[float, float]:
    """Hit rate and median time to the first token of users that come again with all that was said before."""
    said = {user: f"{name} {user} tells: " + f"a long story of {user} " * 8 for user in range(GROUPS)}
    asked = cached = 0
    waits: list[float] = []
    for turn in range(TURNS):
        for user in said:
            said[user] += f" and in turn {turn} some more words of it."
            tokens, known, seconds = ask(frontend, said[user])
            asked, cached = asked + tokens, cached + known
            waits.append(seconds)
    return cached / asked, statistics.median(waits)


def test_kv_finds_more_of_the_prompts_in_caches(fleet: dict[str, Frontend]) -> None:
    ask(fleet["kv"], "warm up")
    found = {mode: conversations(fleet[mode], mode) for mode in ("round_robin", "kv")}
    print(
        {mode: f"hit rate {rate:.2f}, TTFT p50 {1000 * wait:.1f} ms" for mode, (rate, wait) in found.items()}
    )
    assert found["kv"][0] > 1.15 * found["round_robin"][0]


def test_tenants_never_share_a_prefix(fleet: dict[str, Frontend]) -> None:
    frontend, prompt = fleet["tenants"], "a secret that only one tenant knows " * 8
    until(lambda: ask(frontend, prompt, "a")[1] > 0, what="its own prefix is cached")
    assert [ask(frontend, prompt, "b", n=1)[1] for _ in range(1)] == [0]
    assert ask(frontend, prompt, "a", cache_salt="other")[1] == 0
