"""vLLM's sleep, against a core that notes what it is asked; how its errors are said."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.engines.vllm.failures import translated
from dynamo_tasks.engines.vllm.sleep_mode import Sleep
from dynamo_tasks.errors import (
    DynamoError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    UnavailableError,
)


class FakeCore:
    """What sleep needs of ``AsyncLLM``."""

    def __init__(self, fails_at: str = "") -> None:
        self.asked: list[Any] = []
        self._fails_at = fails_at

    async def _note(self, name: str, argument: Any) -> None:
        self.asked.append((name, argument))
        if name == self._fails_at:
            raise Exception(f"Call to {name} method failed: CUDA error")

    async def sleep(self, level: int) -> None:
        await self._note("sleep", level)

    async def wake_up(self, tags: list[str] | None = None) -> None:
        await self._note("wake_up", tags)

    async def collective_rpc(self, method: str) -> None:
        await self._note("collective_rpc", method)


@pytest.mark.parametrize(
    ("level", "woken"),
    [
        (1, [("wake_up", None)]),
        (2, [("wake_up", ["weights"]), ("collective_rpc", "reload_weights"), ("wake_up", ["kv_cache"])]),
    ],
)
def test_it_sleeps_and_what_was_dropped_is_loaded_again(level: int, woken: list[Any]) -> None:
    async def work() -> list[Any]:
        core, sleep = FakeCore(), Sleep({"enable_sleep_mode": True})
        await sleep.end(core)  # awake: nothing is asked
        await sleep.begin(core, level)
        assert sleep.level == level
        await sleep.end(core)
        assert sleep.level == 0
        return core.asked

    assert asyncio.run(work()) == [("sleep", level), *woken]


def test_a_core_that_fails_leaves_it_as_it_was() -> None:
    async def work() -> None:
        sleep = Sleep({"enable_sleep_mode": True})
        with pytest.raises(EngineError, match="vLLM could not sleep: Call to sleep method failed"):
            await sleep.begin(FakeCore("sleep"), 1)
        assert sleep.level == 0
        await sleep.begin(FakeCore(), 2)
        with pytest.raises(EngineError, match="vLLM could not load its weights"):
            await sleep.end(FakeCore("collective_rpc"))
        assert sleep.level == 2

    asyncio.run(work())


@pytest.mark.parametrize(
    ("arguments", "level", "says"),
    [
        ({}, 1, "started without enable_sleep_mode; .* CPU build has no sleep mode"),
        ({"enable_sleep_mode": True}, 3, "level must be 1 or 2, not 3"),
    ],
)
def test_what_it_cannot_do_is_refused_first(arguments: dict[str, Any], level: int, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        Sleep(arguments).check(level)


class _Base(Exception):
    pass


NAMES = ("EngineDeadError", "EngineGenerateError", "VLLMClientError", "GracefulHTTPError", "GenerationError")
API = SimpleNamespace(**{name: type(name, (_Base,), {}) for name in NAMES})
API.RetryableRequestError = type("RetryableRequestError", (API.GenerationError,), {})


def _wrapped(cause: BaseException) -> BaseException:
    """As vLLM raises what went wrong with one request."""
    error: BaseException = API.EngineGenerateError()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (API.EngineDeadError(), EngineDeadError, "it died: its process ended"),
        (API.VLLMClientError("too long"), InvalidRequestError, "too long"),
        (_wrapped(ValueError("no such regex")), InvalidRequestError, "no such regex"),
        (_wrapped(API.VLLMClientError("bad")), InvalidRequestError, "bad"),
        (_wrapped(KeyError("x")), EngineError, "vLLM: 'x'"),
        (_wrapped(API.GenerationError("oops")), EngineError, "vLLM: oops"),
        (API.GenerationError("oops"), EngineError, "vLLM: oops"),
        (API.GracefulHTTPError("busy"), UnavailableError, "vLLM: busy"),
        (API.RetryableRequestError("paused"), UnavailableError, "vLLM: paused"),
        (_wrapped(API.RetryableRequestError("paused")), UnavailableError, "vLLM: paused"),
    ],
)
def test_errors_of_vllm_are_said_as_ours(raised: Exception, kind: type[DynamoError], says: str) -> None:
    with (
        pytest.raises(kind, match=says) as caught,
        translated(API, lambda why: EngineDeadError(f"it died: {why}")),
    ):
        raise raised
    assert type(caught.value) is kind
