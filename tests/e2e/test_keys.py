"""API keys that are made at run time, as strangers use them: the openai client, the command line, two frontends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.support.keys import CHAT, KeyDesk, ask, bearer
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

NAMESPACE = "run-time-keys"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
ALIASES = 'Frontend.models={"gpt-4o": "mocker"}'


@dataclass(frozen=True)
class Stack(KeyDesk):
    """Two frontends that want keys, and one that does not; a worker at 5 ms per token."""

    one: Frontend
    two: Frontend
    free: Frontend


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer) -> Iterator[Stack]:
    url, worker = redis_server.url, ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=5")
    closed = (*worker, "Frontend.require_api_keys=true", ALIASES)
    with together(
        Worker(url, settings=worker, env=ENV),
        Frontend(url, env=ENV, settings=closed),
        Frontend(url, env=ENV, settings=closed),
        Frontend(url, env=ENV, settings=worker),
    ) as (_, one, two, free):
        yield Stack(url, NAMESPACE, one, two, free)


def status(frontend: Frontend, key: str, **more: Any) -> int:
    return frontend.request("POST", CHAT, ask(**more), bearer(key))[0]


def _refused(frontend: Frontend, key: str) -> None:
    """Wait until a frontend knows that a key works no more: half a second, and what a busy machine adds."""
    until(lambda: status(frontend, key) == 401, 10.0)


def test_a_key_opens_every_frontend_until_it_is_revoked(stack: Stack) -> None:
    made = stack.create("--name", "first")
    assert [status(one, made["key"]) for one in (stack.one, stack.two)] == [200, 200]
    streams = stack.one.events("POST", CHAT, ask(stream=True, max_tokens=200), bearer(made["key"]))
    begun = next(streams)
    stack.keys("revoke", made["id"])
    for frontend in (stack.one, stack.two, stack.free):
        _refused(frontend, made["key"])
    # Who reads a stream gets the rest of it.
    assert begun
    assert [data for _, data in streams][-1] == "[DONE]"


def test_the_openai_client_has_its_key(stack: Stack) -> None:
    made = stack.create("--tenant", "acme")
    client = openai.OpenAI(base_url=f"{stack.one.base_url}/v1", api_key=made["key"], max_retries=0)
    answer = client.chat.completions.create(
        model="gpt-4o", max_tokens=3, messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 3
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key=made["key"][:-1] + "x").models.list()


def test_both_secrets_work_while_a_key_is_rotated_and_its_requests_stay_its_own(stack: Stack) -> None:
    made = stack.create("--name", "rotated")
    code, headers, _ = stack.one.request("POST", CHAT, ask(), bearer(made["key"]))
    assert code == 200
    new = stack.keys("rotate", made["id"], "--grace", "1h")
    until(lambda: status(stack.two, new["key"]) == 200, 2.0)
    assert status(stack.two, made["key"]) == 200
    path = f"/v1/requests/{headers['x-request-id']}"
    assert stack.two.request("GET", path, None, bearer(new["key"]))[0] == 200
    third = stack.keys("rotate", "rotated", "--grace", "0s")
    _refused(stack.two, new["key"])
    _refused(stack.one, made["key"])
    assert status(stack.one, third["key"]) == 200


def test_a_key_asks_for_its_models_alone(stack: Stack) -> None:
    made = stack.create("--model", "gpt-4o")
    assert status(stack.one, made["key"], model="gpt-4o") == 200
    code, _, body = stack.one.request("POST", CHAT, ask(), bearer(made["key"]))
    assert (code, body["error"]["code"]) == (404, "model_not_found")
    shown = stack.one.request("GET", "/v1/models", None, bearer(made["key"]))[2]["data"]
    assert [row["id"] for row in shown] == ["gpt-4o"]
    assert (
        stack.one.request("POST", "/tokenize", {"model": "mocker", "prompt": "a"}, bearer(made["key"]))[0]
        == 404
    )
    stack.keys("update", made["id"], "--model", "")
    until(lambda: status(stack.one, made["key"]) == 200, 2.0)


def test_keys_see_their_own_requests_alone_also_of_one_tenant(stack: Stack) -> None:
    mine, other = (stack.create("--tenant", "shared")["key"] for _ in range(2))
    headers = bearer(mine) | {"idempotency-key": "same"}
    first = stack.one.request("POST", CHAT, ask(), headers)[1]["x-request-id"]
    again = stack.two.request("POST", CHAT, ask(), bearer(other) | {"idempotency-key": "same"})[1]
    assert again["x-request-id"] != first
    assert stack.one.request("GET", f"/v1/requests/{first}", None, bearer(other))[0] == 404


def test_an_expired_key_is_refused(stack: Stack) -> None:
    made = stack.create("--expires", "1s")
    until(lambda: status(stack.one, made["key"]) == 401, 5.0)
    assert stack.keys("show", made["id"])["state"] == "expired"


def test_guesses_and_giants_are_refused(stack: Stack) -> None:
    guesses = ["sk-dt-" + "A" * 43, "sk-dt-", "x", "A" * 6000, "sk-dt-" + "é" * 43]
    assert {stack.one.request("GET", "/v1/models", None, bearer(one))[0] for one in guesses[:4]} == {401}
    assert stack.one.request("GET", "/v1/models")[0] == 401


def test_an_open_server_serves_all_and_knows_who_has_a_key(stack: Stack) -> None:
    made = stack.create()
    assert [status(stack.free, key) for key in ("any text", made["key"], "sk-dt-" + "A" * 43)] == [
        200,
        200,
        401,
    ]
    headers = stack.free.request("POST", CHAT, ask(), bearer(made["key"]))[1]
    path = f"/v1/requests/{headers['x-request-id']}"
    assert [stack.free.request("GET", path, None, bearer(key))[0] for key in ("any", made["key"])] == [
        404,
        200,
    ]


def test_a_secret_is_shown_once_and_kept_nowhere(stack: Stack, redis_server: RedisServer) -> None:
    made = stack.create("--name", "secret")
    secret = made["key"].removeprefix(made["prefix"])
    shown = stack.run("keys", "list") + json.dumps(stack.keys("list"))
    kept = redis_server.command("HGETALL", f"dt:{NAMESPACE}:keys").decode()
    assert secret not in shown + kept + stack.one.output + stack.two.output
    assert status(stack.one, made["key"]) == 200
    assert secret not in stack.one.output
    assert made["prefix"] in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nobody"], "no key"),
        (["create", "--expires", "soon"], "must be as 30d"),
        (["create", "--tenant", "a b"], "tenant"),
        (["create", "--tokens-per-day", "-1"], "tokens_per_day"),
        (["rotate", "nobody", "--grace", "x"], "must be a number with"),
    ],
)
def test_a_mistake_is_one_line(stack: Stack, arguments: list[str], says: str) -> None:
    said = stack.run("keys", *arguments, code=2)
    assert says in said
    assert said.count("\n") == 1
