"""Aliases, splits and fallbacks of models: which model a request goes to, and what its client is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from dynamo_tasks.errors import (
    ConfigError,
    DynamoError,
    IdempotencyConflictError,
    InvalidRequestError,
    NoInstancesError,
    QueueFullError,
)
from dynamo_tasks.frontend.gateway import ServedModel
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.names import EndpointId
from tests.support.frontend_fakes import FakeGateway, chat, in_process

SPLIT = [{"name": "llama", "weight": 90}, {"name": "qwen", "weight": 10}]
NAMES = ModelNames.read(
    {"gpt-4o": SPLIT, "gpt-4": "gpt-4o", "llama": [{"name": "llama", "weight": 3}, "qwen"], "mini": "qwen"},
    {"gpt-4o": ["qwen"], "qwen": ["llama", "tiny"], "mini": "tiny"},
)
PLAIN = ModelNames.read({"gpt-4o": "llama"}, {"gpt-4o": ["qwen", "tiny"]})


def test_a_split_follows_its_weights_and_the_seed() -> None:
    names = ModelNames.read({"gpt-4o": SPLIT}, {})
    drawn = Counter(names.candidates("gpt-4o", str(seed))[0] for seed in range(2000))
    assert drawn["llama"] + drawn["qwen"] == 2000
    assert 130 < drawn["qwen"] < 280
    assert all(
        len({*map(str, (names.candidates("gpt-4o", seed) for _ in range(3)))}) == 1 for seed in "abcdef"
    )


def test_names_are_followed_to_models() -> None:
    assert NAMES.candidates("tiny", "x") == ["tiny"]
    assert NAMES.candidates("mini", "x")[0] == "qwen"
    assert set(NAMES.candidates("mini", "x")) >= {"qwen", "tiny"}
    itself = Counter(NAMES.candidates("llama", str(seed))[0] for seed in range(400))
    assert 40 < itself["qwen"] < 170
    assert itself["llama"] > 200
    for seed in map(str, range(50)):
        assert NAMES.candidates("gpt-4", seed)[0] in ("llama", "qwen")
        assert "qwen" in NAMES.candidates("gpt-4", seed)  # a name on the way has fallbacks
        assert len(set(NAMES.candidates("gpt-4", seed))) == len(NAMES.candidates("gpt-4", seed))
    assert PLAIN.candidates("gpt-4o", "x") == ["llama", "qwen", "tiny"]


@pytest.mark.parametrize(
    ("models", "fallbacks", "says"),
    [
        ({"a": "b", "b": "c", "c": "a"}, {}, "a → b → c → a is a circle"),
        ({"a": "a"}, {}, "a → a is a circle"),
        ({"a": ["b", "c"], "c": ["c", "a"]}, {}, "is a circle"),
        ({"a": []}, {}, "models.a must name 1 to 32"),
        ({"a": ["b", "b"]}, {}, "names a model twice"),
        ({"a": {"name": "b", "weigth": 3}}, {}, "weigth"),
        ({"a": [{"name": "b", "weight": 0}]}, {}, "above 0"),
        ({"a": [{"name": "b", "weight": "x"}]}, {}, "float"),
        ({"a": 3}, {}, "a name, or a list"),
        ({"": "b"}, {}, "not the name of a model"),
        ({"a": "x" * 300}, {}, "not the name of a model"),
        ({"a": [str(place) for place in range(40)]}, {}, "1 to 32"),
        ({str(place): "b" for place in range(1001)}, {}, "at most 1000"),
        (["a"], {}, "models must be an object"),
        ({}, {"a": []}, "fallbacks.a must be a list"),
        ({}, {"a": ["a"]}, "must name other models"),
        ({}, {"a": ["b", "b"]}, "must name other models"),
        ({}, {"a": {"b": 1}}, "fallbacks.a must be a list"),
    ],
)
def test_what_is_wrong_is_refused_at_the_start(models: Any, fallbacks: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ModelNames.read(models, fallbacks)


def test_many_ways_to_a_name_cost_little() -> None:
    layers = {
        f"{layer}-{place}": [f"{layer + 1}-0", f"{layer + 1}-1"] for layer in range(25) for place in (0, 1)
    }
    names = ModelNames.read(layers, {})
    assert len(names.shown(_served("25-0", "25-1"))) == 52


def _served(*names: str) -> dict[str, ServedModel]:
    endpoint = EndpointId("dynamo", "Worker", "generate")
    lengths = {"llama": 100, "qwen": 50}
    return {
        name: ServedModel(ModelCard(name, max_model_len=lengths.get(name, 0)), 1, {"generate": endpoint})
        for name in names
    }


def test_names_are_listed_as_long_as_one_of_their_models_is_served() -> None:
    shown = NAMES.shown(_served("llama", "qwen"))
    assert set(shown) == {"llama", "qwen", "gpt-4o", "gpt-4", "mini"}
    assert (shown["gpt-4o"].card.name, shown["gpt-4o"].card.max_model_len) == ("llama", 50)
    assert set(NAMES.shown(_served("tiny"))) == {"tiny", "mini", "qwen"}
    assert PLAIN.shown({}) == {}


def _ask(
    names: ModelNames, model: str, served: tuple[str, ...], refusals: dict[str, DynamoError], **headers: str
) -> tuple[FakeGateway, int, Any, dict[str, str]]:
    async def main() -> tuple[FakeGateway, int, Any, dict[str, str]]:
        gateway = FakeGateway()
        gateway.names, gateway.served, gateway.refusals = names, _served(*served), refusals
        async with in_process(gateway, FrontendSettings(names=names)) as client:
            answer = await client.post("/v1/chat/completions", json=chat(model=model), headers=headers)
            listed = await client.get("/v1/models")
            assert [row["id"] for row in listed.json()["data"]] == sorted(names.shown(gateway.served))
        return gateway, answer.status_code, answer.json(), dict(answer.headers)

    return asyncio.run(main())


FULL, AWAY = (
    QueueFullError("the queue is full", retry_after=3),
    NoInstancesError("nobody is there", retry_after=1),
)


@pytest.mark.parametrize(
    ("served", "refusals", "model"),
    [
        (("llama", "qwen", "tiny"), {}, "llama"),
        (("qwen", "tiny"), {}, "qwen"),
        (("tiny",), {}, "tiny"),
        (("llama", "qwen"), {"llama": FULL}, "qwen"),
        (("llama", "qwen", "tiny"), {"llama": FULL, "qwen": AWAY}, "tiny"),
        (("llama", "qwen"), {"llama": IdempotencyConflictError("another body")}, "qwen"),
    ],
)
def test_the_first_that_can_takes_it(
    served: tuple[str, ...], refusals: dict[str, DynamoError], model: str
) -> None:
    gateway, status, body, headers = _ask(PLAIN, "gpt-4o", served, refusals)
    assert (status, body["model"], headers["x-dynamo-model"]) == (200, "gpt-4o", model)
    (submission,) = gateway.submissions
    assert submission.payload["model"] == model


@pytest.mark.parametrize(
    ("served", "refusals", "status", "code"),
    [
        ((), {}, 503, "no_instances"),
        (("other",), {}, 404, "model_not_found"),
        (("llama", "qwen", "tiny"), {"llama": AWAY, "qwen": AWAY, "tiny": FULL}, 429, "queue_full"),
        (("llama",), {"llama": FULL}, 429, "queue_full"),
        (("llama", "qwen"), {"llama": InvalidRequestError("bad")}, 400, "invalid_request_error"),
        (
            ("llama", "qwen", "tiny"),
            {name: IdempotencyConflictError("x") for name in ("llama", "qwen", "tiny")}, 409, "idempotency_conflict",
        ),
        (
            ("qwen", "tiny"), {name: IdempotencyConflictError("x") for name in ("qwen", "tiny")}, 503, "no_instances",
        ),
    ],
)  # fmt: skip
def test_the_error_of_the_last_one_is_told(
    served: tuple[str, ...], refusals: dict[str, DynamoError], status: int, code: str
) -> None:
    gateway, got, body, headers = _ask(PLAIN, "gpt-4o", served, refusals)
    assert (got, body["error"]["code"]) == (status, code)
    assert "x-dynamo-model" not in headers
    assert gateway.submissions == []


def test_an_idempotency_key_chooses_alike() -> None:
    names = ModelNames.read({"gpt-4o": ["llama", "qwen"]}, {})
    chosen = set()
    for key in ("one", "two", "three", "four", "five", "six", "seven"):
        models = {
            _ask(names, "gpt-4o", ("llama", "qwen"), {}, **{"idempotency-key": key})[3]["x-dynamo-model"]
            for _ in range(3)
        }
        assert len(models) == 1
        chosen |= models
    assert chosen == {"llama", "qwen"}


def test_a_name_of_nothing_else_has_no_header() -> None:
    _, status, body, headers = _ask(NAMES, "tiny", ("tiny",), {})
    assert (status, body["model"], "x-dynamo-model" in headers) == (200, "tiny", False)
