"""Classes as people write them: as services of pipelines, and under ``@service``."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import os
from typing import Any

import pytest

from dynamo_tasks.config import flags_layer, load_yaml, resolve
from dynamo_tasks.errors import ConfigError, InvalidNameError
from dynamo_tasks.pipelines import LocalEnvironment, MapFunction, connect
from dynamo_tasks.pipelines.calls.service_methods import method_names
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.sdk import (
    DynamoConfig,
    async_on_start,
    collect_hooks,
    dynamo_endpoint,
    on_shutdown,
    service,
)
from dynamo_tasks.sdk.endpoints.calls import LocalEndpoint


class Encoder:
    def __call__(self, x: int) -> int:
        return x


class Everything:
    """One attribute of every make; those that begin with ``m_`` can be called."""

    model = "m"
    number = 3
    table: dict[str, int] = {"a": 1}  # noqa: RUF012
    nothing = None
    encoder = Encoder()
    m_partial = functools.partial(int, base=16)
    m_builtin = len
    m_lambda = lambda self, x: x  # noqa: E731

    class Config:
        size = 1

    class Mode(enum.Enum):
        FAST = 1

    def __init__(self) -> None:
        self.made = True

    def process(self, x: str) -> dict[str, Any]:
        return {"x": x, "model": self.model, "size": self.Config.size, "prop": self.prop}

    @property
    def prop(self) -> int:
        return self.number

    @functools.cached_property
    def later(self) -> int:
        return 1

    @staticmethod
    def m_static(x: int) -> int:
        return x + 1

    @classmethod
    def m_class(cls, x: str) -> str:
        return f"{cls.model}{x}"

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def m_cached(self, x: int) -> int:
        return x * 2

    def _add(self, x: int, y: int) -> int:
        return x + y

    m_method = functools.partialmethod(_add, 1)


@dataclasses.dataclass
class Data:
    model: str = "m"
    items: list[int] = dataclasses.field(default_factory=lambda: [1])

    def process(self, x: int) -> list[Any]:
        return [self.model, *self.items, x]


@dataclasses.dataclass(frozen=True)
class Frozen:
    model: str = "m"

    def process(self, x: int) -> list[Any]:
        return [self.model, x]


CALLS = {
    "process": ("q", {"x": "q", "model": "m", "size": 1, "prop": 3}),
    "m_partial": ("ff", 255), "m_builtin": ([1, 2], 2),
    "m_lambda": (5, 5), "m_static": (1, 2), "m_class": ("x", "mx"), "m_cached": (2, 4), "m_method": (2, 3),
}  # fmt: skip


def test_the_methods_of_a_service_are_its_functions() -> None:
    assert set(method_names(Everything)) == set(CALLS)
    assert method_names(Data) == ["process"]


# Python 3.13 warns of what a later one will make of a partial in a class.
@pytest.mark.filterwarnings("ignore:functools.partial will be")
def test_services_of_every_make_answer() -> None:
    env = LocalEnvironment("makes")
    env.register_service("all", Everything)
    env.register_service("data", Data, model="n")
    env.register_service("frozen", Frozen)
    with connect(env) as shop:
        for method, (argument, expected) in CALLS.items():
            assert shop.call_service("all", argument, method=method) == expected
        assert shop.call_service("data", 2) == ["n", 1, 2]
        assert shop.call_service("frozen", 2) == ["m", 2]
        for name in ("model", "Config", "prop", "encoder", "nothing"):
            with pytest.raises(Exception, match=f"no method '{name}'"):
                shop.call_service("all", 1, method=name)


class Twice(MapFunction):
    def execute(self, record: int) -> int:
        return record * 2


def test_the_results_of_a_batch_can_be_read_again() -> None:
    env = LocalEnvironment("again")
    env.from_batch([1, 2, 3]).map(Twice()).collect()
    job = env.submit()
    first, second = job.results(), job.results()
    assert [next(first), next(second)] == [2, 2]
    assert [*first, *second] == [4, 6, 4, 6]
    job.wait(30)
    assert list(job.results()) == list(job.results()) == [2, 4, 6]


class Wrapped:
    """Endpoints and hooks below and above ``@staticmethod`` and ``@classmethod``."""

    name_ = "w"

    @staticmethod
    @dynamo_endpoint()
    async def over(request: dict[str, Any]) -> Any:
        return ["over", request]

    @dynamo_endpoint()
    @staticmethod
    async def below(request: dict[str, Any]) -> Any:
        return ["below", request]

    @classmethod
    @dynamo_endpoint("named")
    async def of_class(cls, request: dict[str, Any]) -> Any:
        return [cls.name_, request]

    @staticmethod
    @dynamo_endpoint()
    def nothing() -> int:
        return 1

    @staticmethod
    @async_on_start
    async def first() -> None: ...

    @async_on_start
    @classmethod
    def second(cls) -> None: ...

    @on_shutdown
    @staticmethod
    def last() -> None: ...


async def _answers(one: Any) -> list[Any]:
    instance = one()
    found = [await LocalEndpoint(one.get_endpoint(n), instance)({"x": 1}) for n in ("over", "below", "named")]
    return [*found, await LocalEndpoint(one.get_endpoint("nothing"), instance)()]


def test_static_endpoints_are_endpoints() -> None:
    import asyncio

    made = service(dynamo={"namespace": "static"})(Wrapped)
    assert set(made.get_dynamo_endpoints()) == {"over", "below", "named", "nothing"}
    assert str(made.over.id) == "static.Wrapped.over"
    x = {"x": 1}
    assert asyncio.run(_answers(made)) == [["over", x], ["below", x], ["w", x], 1]
    with pytest.raises(Exception, match="request: Expected `object`"):
        made.over.validate("text")
    assert collect_hooks(made.inner, "start") == ["first", "second"]
    assert collect_hooks(made.inner, "shutdown") == ["last"]


def _logged(method: Any) -> Any:
    @functools.wraps(method)
    def logged(*args: Any) -> Any:
        return method(*args)

    return logged


@pytest.mark.parametrize("over", [property, functools.cached_property, _logged, functools.partial])
def test_what_hides_an_endpoint_is_refused(over: Any) -> None:
    def generate(self: Any, request: Any) -> Any:
        return request

    body = {"generate": over(dynamo_endpoint()(generate))}
    with pytest.raises(ConfigError, match=r"W.generate: a \w+ stands over the DynamoEndpoint 'generate'"):
        service(dynamo={})(type("W", (), body))


def test_a_worker_for_each_cpu(tmp_path: Any) -> None:
    cpus = len(os.sched_getaffinity(0))
    made = service(dynamo={}, workers="cpu_count")(type("W", (), {}))
    assert made.settings.workers == cpus
    (tmp_path / "c.yaml").write_text("W: {ServiceArgs: {workers: cpu_count}}")
    for layer in (load_yaml(tmp_path / "c.yaml"), flags_layer(["--W.ServiceArgs.workers=cpu_count"])):
        assert resolve({"W": service(dynamo={})(type("W", (), {})).schema()}, [layer])["W"].workers == cpus
    with pytest.raises(ConfigError, match="workers must be a whole number"):
        service(dynamo={}, workers="all")(type("W", (), {}))


@pytest.mark.parametrize(
    ("topic", "subject"),
    [
        ("kv_events", ("own", "b", "kv_events")), ("namespace", ("own", "b", "namespace")),
        ("namespace.dynamo.component.a.kv_events", ("dynamo", "a", "kv_events")),
        ("namespace.dynamo.kv_events", ("dynamo", "", "kv_events")),
        ("namespace.dynamo.component", ("dynamo", "", "component")),
    ],
)  # fmt: skip
def test_full_subjects_are_somebody_elses(topic: str, subject: tuple[str, str, str]) -> None:
    assert tuple(Subject.of("own", "b", topic)) == subject
    if "." in topic:
        assert str(Subject.of("own", "b", topic)) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "a.b",
        "namespace.x",
        "namespace.dynamo.component.a",
        "namespace.Bad.x",
        "namespace.a.component.b.c.d",
        3,
        "",
    ],
)
def test_subjects_that_are_none(topic: Any) -> None:
    with pytest.raises(InvalidNameError):
        Subject.of("own", "b", topic)


def test_dynamo_config_has_the_documents_order() -> None:
    given = DynamoConfig("ns", "comp", True)
    assert [field.name for field in dataclasses.fields(given)] == ["namespace", "name", "enabled"]
    assert (
        given == DynamoConfig(namespace="ns", name="comp", enabled=True) == DynamoConfig(True, "ns", "comp")
    )
    made = service(dynamo=given)(type("W", (), {}))
    assert made.dynamo_address() == ("ns", "comp")
    assert not service(dynamo=DynamoConfig("ns", "comp"))(type("W", (), {})).is_dynamo_component()


def test_an_endpoint_takes_one_request() -> None:
    def declared(method: Any) -> Any:
        return service(type("Asked", (), {"ask": dynamo_endpoint("ask")(method)}))

    def logged(method: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await method(*args, **kwargs)

        return call

    async def ask(self: Any, request: int) -> int:
        return request

    for method in (
        lambda self, request, more: request, lambda self, request, *, more: request, lambda self, *, more: more,
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="takes one argument, the request; 'more' needs a default"):
            declared(method)
    for method in (ask, logged(ask), lambda self, request, more=1, *, most=2: request):
        found = declared(method)
        client = LocalEndpoint(found.get_dynamo_endpoints()[found.ask.name], found())
        assert asyncio.run(_first(client, 5)) == 5


async def _first(client: LocalEndpoint, request: Any) -> Any:
    return await client(request)


def test_types_of_the_function_in_which_a_class_is_declared() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    @service
    class Local:
        @dynamo_endpoint()
        async def ask(self, request: Point) -> int:
            return request.x

    assert Local.ask.validate({"x": 3}) == Point(3)
