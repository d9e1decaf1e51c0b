"""API keys and settings."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

import pytest

from dynamo_tasks.errors import AuthenticationError, ConfigError
from dynamo_tasks.frontend.access.admission import ApiKeys, key_id
from dynamo_tasks.frontend.access.configured import keys_from
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from tests.support.frontend_fakes import FakeGateway, chat, in_process


def test_without_keys_everybody_may() -> None:
    assert ApiKeys(()).owner(b"") == ""


def test_the_owner_is_the_hash_of_the_key() -> None:
    assert ApiKeys(["a", "b"]).owner(b"b") == hashlib.sha256(b"b").hexdigest()


def test_a_key_may_be_given_as_its_hash() -> None:
    digest = hashlib.sha256(b"b").hexdigest()
    keys = ApiKeys(["a", f"sha256:{digest.upper()}"])
    assert keys.owner(b"b") == digest
    assert key_id(digest) == digest[:12]
    with pytest.raises(AuthenticationError):
        keys.owner(f"sha256:{digest}".encode())
    with pytest.raises(ConfigError, match="64 hex digits"):
        ApiKeys(["sha256:abc"])


def _scope(*headers: tuple[str, str]) -> dict[str, Any]:
    named = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "path": "/v1/models", "query_string": b"", "headers": named}


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer b")],
        [("authorization", "bearer  b ")],
        [("api-key", "b")],
        [("x-api-key", "b")],
        [("authorization", "Bearer b"), ("api-key", "b"), ("x-api-key", "b")],
        [("authorization", "Basic cHJveHk6"), ("x-api-key", "b")],
    ],
)
def test_the_key_may_come_in_each_header(headers: list[tuple[str, str]]) -> None:
    assert ApiKeys(["a", "b"]).admit(_scope(*headers)) == (hashlib.sha256(b"b").hexdigest(), 0)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ([], "wants an API key"),
        ([("authorization", "")], "wants an API key"),
        ([("authorization", "b")], "wants an API key"),
        ([("authorization", "Bearer")], "wants an API key"),
        ([("authorization", "Bearer ")], "wants an API key"),
        ([("authorization", "Basic b")], "wants an API key"),
        ([("api-key", " ")], "wants an API key"),
        ([("authorization", "Bearer c")], "is wrong"),
        ([("authorization", "Bearer \xff")], "is wrong"),
        ([("api-key", "Bearer b")], "is wrong"),
        ([("authorization", "Bearer a"), ("x-api-key", "b")], "different API keys"),
        ([("api-key", "b"), ("x-api-key", "wrong")], "different API keys"),
        ([("api-key", "a"), ("api-key", "b")], "different API keys"),
    ],
)
def test_no_key_a_wrong_one_or_two_are_refused(headers: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(AuthenticationError, match=says) as caught:
        ApiKeys(["a", "b"]).admit(_scope(*headers))
    assert "xff" not in str(caught.value)


def test_how_long_it_takes_does_not_show_which_key_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one is compared, in constant time, wherever the right one stands."""
    compared: list[bytes] = []
    honest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or honest(a, b))
    keys = ApiKeys(["a", "b", "c"])
    for right in "abc":
        keys.owner(right.encode())
    with pytest.raises(AuthenticationError):
        keys.owner(b"d")
    assert len(compared) == 4 * 3


def test_keys_are_never_shown() -> None:
    assert "hunter2" not in repr(ApiKeys(["hunter2"])) + repr(FrontendSettings(api_keys=("hunter2",)))


@pytest.mark.parametrize(
    ("option", "environ", "keys"),
    [
        (None, {}, ()),
        ("a", {}, ("a",)),
        (["a", "b,c"], {"DYNAMO_API_KEYS": "d"}, ("a", "b", "c")),
        (None, {"DYNAMO_API_KEYS": " d , e,"}, ("d", "e")),
    ],
)
def test_where_keys_come_from(option: object, environ: dict[str, str], keys: tuple[str, ...]) -> None:
    assert tuple(one.key for one in keys_from(option, environ)) == keys  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "environ"), [(" , ", {}), (None, {"DYNAMO_API_KEYS": ""})])
def test_empty_keys_do_not_open_the_door(option: str | None, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        keys_from(option, environ)


def test_limits_of_keys() -> None:
    given = ["plain", {"key": "own", "requests_per_minute": 5, "weight": 2}]
    keys = ApiKeys(keys_from(given, {}, {"requests_per_minute": 60, "concurrent_requests": 3}))
    limits = [keys.limits(keys.owner(f"{key}".encode())) for key in ("plain", "own")]
    assert limits == [
        KeyLimits(requests_per_minute=60, concurrent_requests=3),
        KeyLimits(requests_per_minute=5, concurrent_requests=3, weight=2),
    ]
    assert ApiKeys(()).limits("") == KeyLimits()


@pytest.mark.parametrize(
    ("given", "defaults", "message"),
    [
        (["a", "a"], {}, "twice"),
        ([{"requests_per_minute": 5}], {}, "needs its key"),
        ([{"key": "a", "rpm": 5}], {}, "rpm.*has the limits requests_per_minute"),
        ([{"key": "a", "weight": 0}], {}, "weight must be"),
        (["a"], {"requests_per_minute": -1}, "key_limits: requests_per_minute must be 0"),
        ([{"key": "a", "requests_per_minute": "many"}], {}, "Expected `int`"),
    ],
)
def test_limits_that_are_not_valid(given: list[object], defaults: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keys_from(given, {}, defaults)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, b"0ms"), (0.85, b"850ms"), (1.5, b"1.5s"), (12, b"12s"), (62.4, b"1m2s")]
)
def test_what_is_left_in_openais_words(seconds: float, text: bytes) -> None:
    headers = dict(Allowance(limit=60, remaining=7, reset=seconds).headers())
    assert headers[b"x-ratelimit-limit-requests"] == b"60"
    assert headers[b"x-ratelimit-remaining-requests"] == b"7"
    assert headers[b"x-ratelimit-reset-requests"] == text
    assert Allowance(limit=0).headers() == []


def test_routes_want_the_key_and_probes_do_not() -> None:
    async def main() -> None:
        gateway = FakeGateway()
        async with in_process(gateway, FrontendSettings(api_keys=("k",))) as client:
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/nope")):
                refused = await client.request(method, path)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.headers["x-request-id"]
            for path in ("/health", "/live", "/ready", "/metrics"):
                assert (await client.get(path)).status_code == 200
            headers = {"authorization": "Bearer k"}
            assert (
                await client.post("/v1/chat/completions", json=chat(), headers=headers)
            ).status_code == 200
            assert (
                gateway.submissions[0].owner_key
                == gateway.submissions[0].options.tenant
                == hashlib.sha256(b"k").hexdigest()
            )

    asyncio.run(main())


@pytest.mark.parametrize("bad", [{"body_limit": 0}, {"keep_alive": 0}, {"header_delay": -1}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        FrontendSettings(**bad)  # type: ignore[arg-type]
