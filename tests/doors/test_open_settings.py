"""Keys that a class does not declare, slips that are told, and text as people type it."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pydantic
import pytest

from dynamo_tasks.config import Layer, env_layer, flags_layer, resolve
from dynamo_tasks.config.suggest import is_slip
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import depends, dynamo_endpoint, service
from dynamo_tasks.serve.planning.plan import PlanOptions, make_plan


@dataclasses.dataclass
class Sizes:
    a: int = 1
    max_len: int = 2


class Cache(msgspec.Struct):
    size: int = 1


class Model(pydantic.BaseModel):
    x: int = 1
    inner: Sizes = Sizes()


@service(dynamo={"namespace": "open"})
class Open:
    model_path: str = "m"
    top_k: int = 1
    eager: bool = False
    dc: Sizes = Sizes(a=5)
    many: list[Sizes] = []  # noqa: RUF012
    by_name: dict[str, Sizes] = {}  # noqa: RUF012
    maybe: Sizes | None = None
    struct: Cache = Cache()
    model: Model = Model(x=7)
    untyped = Sizes(a=9)
    helper = depends("dyn://a.B.c")

    @property
    def prop(self) -> int:
        return 1

    @dynamo_endpoint()
    async def generate(self, request: dict) -> dict:
        return request


def attributes(*flags: str, one: Any = Open, env: dict[str, str] | None = None) -> dict[str, Any]:
    layers = [flags_layer([f"--{one.name}.{flag}" for flag in flags]), env_layer(env or {})]
    return resolve({one.name: one.schema()}, layers)[one.name].attributes


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("top_p=0.5", "top_p", 0.5), ("enable-prefix-caching=true", "enable_prefix_caching", True),
        ("new={a: 1}", "new", {"a": 1}), ("tp=2", "tp", 2), ("new.deep=1", "new", {"deep": 1}),
        ("dc.a=7", "dc", Sizes(7)), ("dc.max-len=7", "dc", Sizes(5, 7)), ("dc={a: 3}", "dc", Sizes(3)),
        ("many=[{a: 2}]", "many", [Sizes(2)]), ("by_name={x: {max-len: 2}}", "by_name", {"x": Sizes()}),
        ("maybe.a=3", "maybe", Sizes(3)), ("struct.size=3", "struct", Cache(3)), ("untyped.a=3", "untyped", Sizes(3)),
        ("model.x=3", "model", Model(x=3)), ("model.inner.a=3", "model", Model(x=7, inner=Sizes(3))),
    ],
)  # fmt: skip
def test_keys_that_are_taken(flag: str, name: str, value: Any) -> None:
    found = attributes(flag)[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("model_paht=x", "did you mean 'model_path'"), ("modl_path=x", "did you mean 'model_path'"),
        ("Model_Path=x", "did you mean 'model_path'"), ("modelpath=x", "did you mean 'model_path'"),
        ("service-args.workers=2", "did you mean 'ServiceArgs'"),
        ("ServiceArg.workers=2", "did you mean 'ServiceArgs'"),
        ("dynamoo.name=x", "did you mean 'dynamo'"), ("generate=1", "has no key 'generate'"),
        ("helper=1", "has no key 'helper'"), ("prop=1", "has no key 'prop'"), ("_private=1", "has no key '_private'"),
        ("dc.aa=7", "Open.dc has no key 'aa'; did you mean 'a'"), ("dc.a=x", "Open.dc.a must be Sizes"),
        ("many=[{aa: 2}]", "Open.many[0] has no key 'aa'"), ("by_name={x: {b: 2}}", "Open.by_name.x has no key 'b'"),
        ("maybe.aa=3", "did you mean 'a'"), ("struct.sice=3", "did you mean 'size'"),
        ("model.xx=3", "Open.model has no key 'xx'; did you mean 'x'"),
        ("model.x=q", "x: Input should be a valid integer"),
        ("model.inner.aa=3", "Open.model.inner has no key 'aa'"), ("untyped.aa=3", "did you mean 'a'"),
    ],
)  # fmt: skip
def test_slips_are_reported(flag: str, says: str) -> None:
    with pytest.raises(ConfigError) as info:
        attributes(flag)
    assert says in info.value.message
    assert info.value.message.startswith(f"--Open.{flag.partition('=')[0]}: ")


def test_environment_variables_find_fields_and_make_keys() -> None:
    env = {
        "DYNAMO_OPEN__DC__MAX_LEN": "9",
        "DYNAMO_OPEN__TENSOR_PARALLEL_SIZE": "2",
        "DYNAMO_OPEN__NEW__KEY": "1",
    }
    found = attributes(env=env)
    assert (found["dc"], found["tensor_parallel_size"], found["new"]) == (Sizes(5, 9), 2, {"key": 1})


TEXTS = [
    "a #b",
    "Answer: yes",
    "{question}",
    "[a]",
    " a ",
    "a\nb",
    "#x",
    "- a",
    "*a",
    "007",
    "yes",
    "1e3",
    "null",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_taken_as_it_was_typed(text: str) -> None:
    """By a flag as by a variable."""
    assert attributes(f"model_path={text}") == attributes(env={"DYNAMO_OPEN__MODEL_PATH": text})
    assert attributes(f"model_path={text}")["model_path"] == text


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("on", True), ("FALSE", False)])
def test_switches_are_taken_as_shells_write_them(text: str, value: bool) -> None:
    assert attributes(f"eager={text}")["eager"] is value
    assert attributes(env={"DYNAMO_OPEN__EAGER": text})["eager"] is value


def test_keys_of_yaml_are_text() -> None:
    for key in (True, None, 3):
        with pytest.raises(ConfigError, match="has no key"):
            resolve({"Open": Open.schema()}, [Layer("agg.yaml", {"Open": {key: 1}})])


def test_what_nobody_sets_stays_the_object_that_it_is() -> None:
    found = attributes("top_k=3")
    assert found["dc"] is Open.dc
    assert found["model"] is Open.model


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("--Worker.service_args.workers=2", "did you mean 'ServiceArgs'"),
        ("--Worker.engin=mocker", "did you mean 'engine'"), ("--Worker.modle=x", "did you mean 'model'"),
        ("--Worker.token_delay=1", "token_delay"), ("--Frontend.keep_aliv=3", "did you mean 'keep_alive'"),
        ("--Frontend.anything=3", "Frontend has no key 'anything'"),
        ("--Processor.anything=3", "has no key 'anything'"),
    ],
)  # fmt: skip
def test_ready_made_services_refuse_what_they_do_not_know(
    key: str, says: str, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: make_plan(PlanOptions(graph="workers.agg:Frontend"), environ={}))
    with pytest.raises(ConfigError, match=says):
        make_plan(
            PlanOptions(graph="workers.agg:Frontend", flags=("--Worker.engine=mocker", key)), environ={}
        )


@pytest.mark.parametrize(
    ("name", "word", "slip"),
    [
        ("engin", "engine", True), ("enginee", "engine", True), ("enigne", "engine", True), ("engone", "engine", True),
        ("Engine", "engine", True), ("engine", "engine", False), ("top_p", "top_k", False),
        ("model", "model_path", False),
        ("layer1", "layer2", False), ("tp", "dp", False), ("x", "y", False), ("models", "model", True),
        ("", "model", False),
    ],
)  # fmt: skip
def test_slips_and_other_words(name: str, word: str, slip: bool) -> None:
    assert is_slip(name, [word]) is slip
