import asyncio
import importlib.util
import sys
from typing import Any

import pytest

from dynamo_tasks.engines import Engine, create_engine
from dynamo_tasks.engines.echo import EchoEngine
from dynamo_tasks.engines.mocker.engine import MockerEngine
from dynamo_tasks.errors import ConfigError, EngineError, InvalidRequestError


def test_by_name() -> None:
    assert isinstance(create_engine("echo"), EchoEngine)
    engine = create_engine("mocker", model="org/m", num_blocks=8, block_size=4)
    assert isinstance(engine, MockerEngine)
    assert (engine.card.name, engine.card.max_model_len, engine.max_num_seqs) == ("org/m", 32, 256)
    assert create_engine("echo", model="a", served_model_name="b").card.name == "b"


def test_awaiting_starts() -> None:
    async def main() -> None:
        for name in ("echo", "mocker"):
            engine = await create_engine(name)
            engine.check_health()
            await engine.stop()

    asyncio.run(main())


def test_module_and_class() -> None:
    engine = create_engine("dynamo_tasks.engines.echo:EchoEngine", **{"max-num-seqs": 3})
    assert (type(engine), engine.max_num_seqs) == (EchoEngine, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("moker", "unknown engine 'moker'; nearest: 'mocker'; known: echo, mocker, vllm"),
        ("", "must be a string"),
        ("nowhere.to.be:Found", "cannot import 'nowhere.to.be'"),
        ("dynamo_tasks.engines.echo:Nothing", "has no Engine class 'Nothing'"),
        ("dynamo_tasks.engines.echo:EchoArgs", "has no Engine class 'EchoArgs'"),
    ],
)
def test_unknown_engine(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        create_engine(name)


@pytest.mark.parametrize(
    ("engine", "args", "param", "says"),
    [
        (
            "mocker",
            {"blocksize": 3},
            "blocksize",
            "nearest: 'block_size'; known: block_size, device, enable_",
        ),
        ("echo", {"seed": 3}, "seed", "has no argument 'seed'"),
        (
            "mocker",
            {"block_size": "3"},
            "block_size",
            "argument block_size of engine 'mocker': Expected `int`",
        ),
        ("mocker", {"block_size": 0}, "block_size", ">= 1"),
        ("mocker", {"token_delay_ms": -1}, "token_delay_ms", ">= 0"),
        ("echo", {"max_num_seqs": True}, "max_num_seqs", "Expected `int`, got `bool`"),
        ("mocker", {"max_model_len": 9, "num_blocks": 2, "block_size": 4}, "max_model_len", "= 8 tokens"),
        ("mocker", {"max_num_batched_tokens": 8}, "max_num_batched_tokens", "less than max_num_seqs 256"),
    ],
)
def test_bad_arguments(engine: str, args: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        create_engine(engine, **args)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["vllm", "/models/llama", "org/name"])
def test_vllm_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs vLLM, which is not installed: pip install"):
        create_engine(name)


class Own(EchoEngine):
    embed = Engine.embed


def test_own_engine_with_default_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_engine_of_a_test", sys.modules[__name__])
    engine = create_engine("own_engine_of_a_test:Own", model="m")

    async def main() -> None:
        with pytest.raises(EngineError, match="not started"):
            engine.check_health()
        with pytest.raises(InvalidRequestError, match="does not make embeddings"):
            await engine.embed(["a"], None)

    asyncio.run(main())
