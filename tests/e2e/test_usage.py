"""Limits of tokens, budgets and the ledger of usage: over two frontends, through kills, each request once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.keys import CHAT, KeyDesk, ask, bearer, counted_row, usage_rows
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

NAMESPACE = "usage"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
PRICES = 'Frontend.prices={"mocker": {"input": 1.0, "output": 1000.0}}'


@dataclass(frozen=True)
class Stack(KeyDesk):
    """Two frontends that want keys, two workers at 5 ms per token."""

    server: RedisServer
    workers: tuple[Worker, Worker]
    one: Frontend
    two: Frontend

    def held(self, owner: str) -> bool:
        return self.server.command("EXISTS", f"dt:{NAMESPACE}:held:{owner}") != b":0\r\n"


WORKER = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=5")


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer) -> Iterator[Stack]:
    url, http = redis_server.url, (*WORKER, "Frontend.require_api_keys=true", PRICES)
    with together(
        Worker(url, settings=WORKER, env=ENV),
        Worker(url, settings=WORKER, env=ENV),
        Frontend(url, env=ENV, settings=http),
        Frontend(url, env=ENV, settings=http),
    ) as (first, second, one, two):
        yield Stack(url, NAMESPACE, redis_server, (first, second), one, two)


def test_each_request_is_counted_with_its_tokens_and_cost(stack: Stack) -> None:
    made = stack.create("--tenant", "acme", "--name", "=counted")
    usage = [
        one.request("POST", CHAT, ask(), bearer(made["key"]))[2]["usage"] for one in (stack.one, stack.two)
    ]
    row = counted_row(stack.two, made["key"], 2)
    prompt = sum(one["prompt_tokens"] for one in usage)
    assert (row["requests"], row["errors"], row["input_tokens"], row["output_tokens"]) == (2, 0, prompt, 6)
    assert row["cost"] == pytest.approx((prompt * 1.0 + 6 * 1000.0) / 1e6)
    assert (row["key_id"], row["tenant"], row["ttft_count"]) == (made["id"], "acme", 2)
    assert 0 < row["ttft_ms_sum"] < 20_000


def test_all_apis_count(stack: Stack) -> None:
    key = stack.create()["key"]
    messages = [{"role": "user", "content": "hi"}]
    bodies = {
        "/v1/completions": {"model": "mocker", "prompt": "hi", "max_tokens": 2},
        "/v1/responses": {"model": "mocker", "input": "hi", "max_output_tokens": 2},
        "/v1/messages": {"model": "mocker", "messages": messages, "max_tokens": 2},
        "/v1/embeddings": {"model": "mocker", "input": "some words"},
    }
    answers = [stack.one.request("POST", path, body, bearer(key)) for path, body in bodies.items()]
    assert [code for code, _, _ in answers] == [200] * 4, answers
    row = counted_row(stack.two, key, 4)
    assert (row["requests"], row["output_tokens"]) == (4, 6)
    assert row["input_tokens"] >= 4


def test_a_killed_worker_counts_each_request_once(stack: Stack) -> None:
    made = stack.create("--tokens-per-day", "100000")
    requests = 6
    with Worker(stack.server.url, settings=WORKER, env=ENV) as third:
        third.wait_ready()
        with ThreadPoolExecutor(requests) as pool:
            answers = [
                pool.submit(stack.one.request, "POST", CHAT, ask(max_tokens=300), bearer(made["key"]))
                for _ in range(requests)
            ]
            until(lambda: stack.server.command("SCARD", f"dt:{NAMESPACE}:running:Worker") == b":6\r\n", 20.0)
            third.kill()
            found = [answer.result(60) for answer in answers]
    assert [code for code, _, _ in found] == [200] * requests
    row = counted_row(stack.two, made["key"], requests)
    assert (row["requests"], row["errors"], row["output_tokens"]) == (requests, 0, 300 * requests)


def test_a_cancelled_request_gives_back_what_it_did_not_use(stack: Stack) -> None:
    made = stack.create("--tokens-per-minute", "10000")
    stream = stack.one.events(
        "POST", CHAT, ask(max_tokens=5000, stream=True, abandon_after=0), bearer(made["key"])
    )
    assert next(stream)
    stream.close()
    row = counted_row(stack.two, made["key"], 1)
    assert row["errors"] == 1
    assert 0 < row["output_tokens"] < 5000
    headers = stack.two.request("POST", CHAT, ask(), bearer(made["key"]))[1]
    assert int(headers["x-ratelimit-remaining-tokens"]) > 5000


def test_tokens_per_minute_are_one_limit_over_all_frontends(stack: Stack) -> None:
    key = stack.create("--tokens-per-minute", "300")["key"]
    answers = [
        frontend.request("POST", CHAT, ask(max_tokens=120), bearer(key))
        for frontend in (stack.one, stack.two, stack.one)
    ]
    assert [code for code, _, _ in answers[:2]] == [200, 200]
    code, headers, body = answers[2]
    assert (code, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-limit-tokens"] == "300"
    assert 0 <= int(headers["x-ratelimit-remaining-tokens"]) < 120
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    large = stack.one.request("POST", CHAT, ask(max_tokens=1000), bearer(key))
    assert large[2]["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("limit", [("--tokens-per-day", "60"), ("--cost-per-day", "0.06")])
def test_a_budget_of_a_day_is_not_overdrawn(stack: Stack, limit: tuple[str, str]) -> None:
    key = stack.create(*limit)["key"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: stack.one.request("POST", CHAT, ask(max_tokens=12), bearer(key)), range(8))
        )
    refused = [body["error"]["code"] for code, _, body in answers if code == 429]
    assert refused
    assert set(refused) == {"insufficient_quota"}
    row = counted_row(stack.two, key, 8 - len(refused))
    assert row["output_tokens"] == 12 * (8 - len(refused))
    if limit[0] == "--tokens-per-day":
        assert row["input_tokens"] + row["output_tokens"] <= 60
    else:
        assert row["cost"] <= 0.06
    code, headers, _ = stack.two.request("POST", CHAT, ask(max_tokens=50), bearer(key))
    assert code == 429
    assert 1 <= int(headers["retry-after"]) <= 86400


def test_what_is_refused_or_repeated_reserves_nothing(stack: Stack) -> None:
    made = stack.create("--tokens-per-day", "100000")
    headers = bearer(made["key"]) | {"idempotency-key": "once"}
    for body, code in ((ask(), 200), (ask(), 200), (ask(max_tokens=4), 409), (ask(model="none"), 404)):
        assert stack.one.request("POST", CHAT, body, headers)[0] == code
    assert counted_row(stack.two, made["key"], 1)["requests"] == 1
    owner = stack.server.command("HGET", f"dt:{NAMESPACE}:keys", f"k:{made['id']}").split(b"\r\n")[1]
    until(lambda: not stack.held(json.loads(owner)["owner"]), 5.0)


def test_a_key_sees_its_own_and_an_admin_all(stack: Stack) -> None:
    mine, other = stack.create(), stack.create("--tenant", "other")
    admin = stack.create("--admin")["key"]
    for made in (mine, other):
        assert stack.one.request("POST", CHAT, ask(), bearer(made["key"]))[0] == 200
        counted_row(stack.two, made["key"], 1)
    assert [row["key_id"] for row in usage_rows(stack.two, mine["key"])] == [mine["id"]]
    assert usage_rows(stack.two, mine["key"], f"?key={other['id']}") == []
    assert [row["key_id"] for row in usage_rows(stack.two, admin, "?tenant=other")] == [other["id"]]
    seen: list[str] = []
    after = ""
    while True:
        page = stack.one.request("GET", f"/v1/usage?limit=1{after}", None, bearer(admin))[2]
        seen += [row["key_id"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert {mine["id"], other["id"]} <= set(seen)
    assert len(seen) == len(set(seen))


def test_metrics_by_tenant(stack: Stack) -> None:
    made = stack.create("--tenant", "measured", "--tokens-per-day", "100")
    for tokens, code in ((5, 200), (500, 429)):
        assert stack.one.request("POST", CHAT, ask(max_tokens=tokens), bearer(made["key"]))[0] == code

    def shown() -> set[str]:
        code, _, body = stack.one.request("GET", "/metrics")
        text = body if isinstance(body, str) else body.decode()
        assert code == 200
        return {line for line in text.splitlines() if 'tenant="measured"' in line and "_total" in line}

    wanted = {
        'dynamo_tasks_tenant_requests_total{tenant="measured"} 2.0',
        'dynamo_tasks_tenant_tokens_total{kind="completion",tenant="measured"} 5.0',
        'dynamo_tasks_tenant_refused_total{code="insufficient_quota",tenant="measured"} 1.0',
    }
    until(lambda: wanted <= shown(), 5.0, lambda: str(shown()))


def test_csv_and_the_command_have_the_same_rows(stack: Stack) -> None:
    made = stack.create("--name", "=1+1")
    admin = stack.create("--admin")["key"]
    assert stack.one.request("POST", CHAT, ask(), bearer(made["key"]))[0] == 200
    row = counted_row(stack.two, made["key"], 1)
    code, headers, body = stack.one.request(
        "GET", f"/v1/usage?format=csv&key={made['id']}", None, bearer(admin)
    )
    assert (code, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    text = body if isinstance(body, str) else body.decode()
    [found] = csv.DictReader(io.StringIO(text))
    assert (found["key_name"], found["requests"]) == ("'=1+1", "1")
    [said] = json.loads(stack.run("usage", "--key", made["id"], "--json"))
    assert said == row
    assert found == next(iter(csv.DictReader(io.StringIO(stack.run("usage", "--key", made["id"], "--csv")))))
    assert made["id"] in stack.run("usage")


@pytest.mark.parametrize(
    "query",
    ["?start_date=x", "?start_date=2026-1-1", "?start_date=9999-12-31", "?end_date=1970-01-01&start_date=1971-01-01",
     "?nothing=1", "?format=xml", "?limit=0", "?after=usage_2026-01-01_none"],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(stack: Stack, query: str) -> None:
    key = stack.create()["key"]
    code, _, body = stack.one.request("GET", f"/v1/usage{query}", None, bearer(key))
    assert (code, body["error"]["type"]) == (400, "invalid_request_error")
