"""One class under two ``@service`` calls, services as bases, settings applied twice: nothing is shared by mistake."""

from __future__ import annotations

import abc
import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Generic, TypeVar
from unittest import mock

import pytest

from dynamo_tasks.config import flags_layer, resolve
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import Graph, api, depends, dynamo_endpoint, load_graph, service

T = TypeVar("T")

MODULE = """
from dynamo_tasks import depends, dynamo_endpoint, service, async_on_start

class W:
    model: str = "tiny"
    engine_args: dict = {}
    config_extras = "engine_args"

    @async_on_start
    async def load(self):
        self.loaded = self.model

    @dynamo_endpoint()
    async def who(self, request: dict):
        return [self.loaded, self.engine_args, type(self).__name__]

P = service(dynamo={"namespace": "production"}, name="P")(W)
D = service(dynamo={"namespace": "development"}, name="D")(W)
Same1 = service(dynamo={"namespace": "same1"})(W)
Same2 = service(dynamo={"namespace": "same2"})(W)

@service(dynamo={"namespace": "entry"})
class Both:
    p = depends(P)
    d = depends(D)

    @dynamo_endpoint()
    async def ask(self, request: dict):
        return [await self.p.who({}), await self.d.who({})]
"""


class Written:
    model: str = "tiny"
    count = 0

    def __init__(self, number: int = 0) -> None:
        self.number = number

    @dynamo_endpoint()
    async def who(self, request: dict[str, Any]) -> str:
        return self.model

    @api
    async def ask(self) -> str:
        return self.model


P = service(dynamo={"namespace": "production"})(Written)
D = service(dynamo={"namespace": "development"})(Written)


@service(dynamo={"namespace": "decorated"})
class Decorated:
    model: str = "small"

    def __init__(self, number: int = 0) -> None:
        self.number = number


class Child(Decorated):
    def __init__(self) -> None:
        Decorated.__init__(self, 3)


def configured(one: Any, *flags: str) -> Any:
    one.configure(
        resolve({one.name: one.schema()}, [flags_layer([f"--{one.name}.{f}" for f in flags])])[one.name]
    )
    return one


@pytest.fixture
def two() -> tuple[Any, Any, type]:
    class W(Written):
        pass

    make = [service(dynamo={"namespace": name}, name=name.upper())(W) for name in ("one", "two")]
    return make[0], make[1], W


def test_calls_go_to_the_namespace_of_their_own_service() -> None:
    for one, namespace in ((P, "production"), (D, "development")):
        address = f"{namespace}.Written.who"
        assert str(one.who.id) == str(one.get_endpoint("who").id) == str(one.endpoint_id("who")) == address
        assert one.who is one.get_endpoint("who")
        assert one.who.service is one.inner.who.service is one
        assert one.who.task.name == one.who.s({}).task == address
    with pytest.raises(ConfigError, match="has no @service"):
        _ = Written.who.id


def test_settings_are_of_one_service_alone(two: tuple[Any, Any, type]) -> None:
    one, other, written = two
    configured(one, "model=big", "dynamo.namespace=far", "dynamo.name=Big")
    assert (one.model, one().model, str(one.who.id)) == ("big", "big", "far.Big.who")
    assert (other.model, other().model, written().model) == ("tiny", "tiny", "tiny")
    assert str(other.who.id) == "two.TWO.who"
    configured(one)
    assert (one.model, one().model, str(one.who.id)) == ("tiny", "tiny", "one.ONE.who")


def test_a_service_that_is_declared_after_another_was_configured_has_its_own_defaults(two: Any) -> None:
    one, _, written = two
    configured(one, "model=big")
    late = service(dynamo={"namespace": "late"}, name="Late")(written)

    @service(dynamo={"namespace": "child"})
    class Heir(one):
        @dynamo_endpoint()
        async def more(self, request: Any) -> str:
            return await super().who(request) + "!"

    assert late.schema().attributes == Heir.schema().attributes == {"model": "tiny", "count": 0}
    assert configured(late).model == configured(Heir).model == "tiny"
    assert one.model == "big"
    assert {str(e.id) for e in Heir.get_dynamo_endpoints().values()} == {"child.Heir.who", "child.Heir.more"}


def test_attributes_that_are_set_on_a_service_are_its_class_s(two: Any) -> None:
    one, other, written = two
    one.model, one.fresh = "set", 1
    assert (one.model, one().model, one().fresh, configured(one).model) == ("set", "set", 1, "set")
    assert configured(one, "model=flag").model == "flag"
    assert (other.model, written.model, hasattr(written, "fresh")) == ("tiny", "tiny", False)
    with mock.patch.object(other, "model", "mocked"), mock.patch.object(other, "count", 7):
        assert (other().model, other().count) == ("mocked", 7)
    assert (other().model, other().count, configured(other).model) == ("tiny", 0, "tiny")
    one.count += 1
    assert (one().count, other().count) == (1, 0)
    del one.fresh
    assert not hasattr(one(), "fresh")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (P, Written, True), (Written, P, False), (P, D, False), (D, P, False), (P, P, True), (Child, Decorated, True),
        (Decorated, Child, False), (Decorated, Decorated, True), (int, P, False), (P.inner, Written, True),
    ],
)  # fmt: skip
def test_subclasses(left: Any, right: Any, expected: bool) -> None:
    assert issubclass(left, right) is expected
    made = left()
    assert isinstance(made, right) is expected
    assert not isinstance(made, Child) or made.number == 3


@pytest.mark.parametrize("one", [P, D, Decorated], ids=lambda one: one.namespace_name)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_services_and_their_instances_can_be_pickled(one: Any, protocol: int) -> None:
    assert pickle.loads(pickle.dumps(one, protocol)) is one  # noqa: S301
    instance = pickle.loads(pickle.dumps(one(5), protocol))  # noqa: S301
    assert (type(instance), instance.number) == (one.inner, 5)
    assert copy.copy(one) is copy.deepcopy(one) is one
    assert copy.deepcopy(one(6)).number == 6


def test_one_that_no_module_has_is_refused_with_its_name(two: Any) -> None:
    with pytest.raises(pickle.PicklingError, match="service ONE is pickled by its name"):
        pickle.dumps(two[0])


def test_classes_of_every_make_can_be_services_twice() -> None:
    seen: list[Any] = []

    class Registering:
        def __init_subclass__(cls, *, key: str) -> None:
            seen.append((cls.__name__, key))

    class Keyed(Registering, key="k"):
        pass

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def run(self) -> int: ...

    class Concrete(Abstract):
        def run(self) -> int:
            return 1

    @dataclasses.dataclass
    class Data:
        a: int = 1

    class Of(Generic[T]):
        pass

    class Slots:
        __slots__ = ("a",)

        def __init__(self) -> None:
            self.a = 1

    for cls in (Keyed, Concrete, Data, Of, Slots):
        first, second = (service(dynamo={"namespace": n}, name=n)(cls) for n in ("one", "two"))
        assert isinstance(first(), cls)
        assert isinstance(second(), cls)
        assert not isinstance(first(), second)
        assert (first.inner.__name__, first.inner.__qualname__) == (cls.__name__, cls.__qualname__)
        assert (first.__name__, first.__module__, first.__doc__) == (cls.__name__, __name__, cls.__doc__)
    assert seen == [("Keyed", "k")]
    with pytest.raises(TypeError, match="key"):

        class _Later(service(Keyed)):
            pass


def test_a_generic_service_is_subscripted_as_its_class() -> None:
    @service(dynamo={"namespace": "generic"})
    class Box(Generic[T]):
        @dynamo_endpoint
        async def get(self, request: dict[str, int]) -> int:
            return 1

    @service(dynamo={"namespace": "generic"})
    class Ints(Box[int]):
        pass

    assert str(Ints.get.id) == "generic.Ints.get"
    assert issubclass(Ints, Box)
    assert isinstance(Box[int](), Box)
    with pytest.raises(TypeError, match="is not generic"):
        P[int]
    with pytest.raises(TypeError, match="not iterable"):
        list(Box)


def test_two_of_one_name_in_one_graph_are_refused_with_a_way_to_differ() -> None:
    @service
    class Entry:
        p = depends(P)
        d = depends(D)

    with pytest.raises(ConfigError, match=r"two services of the graph are named 'Written'.*@service\(name="):
        load_graph(Entry)


def test_links_tell_services_of_one_name_apart() -> None:
    @service
    class Entry:
        p = depends(P)

    with pytest.raises(ConfigError, match="Entry does not depend on Written"):
        Entry.link(D)
    assert Entry.link(P) is P


def test_two_graphs_with_one_class(two: Any) -> None:
    graphs = []
    for one, model in zip(two[:2], ("a", "b"), strict=True):
        entry = service(name=f"Entry{one.name}")(type("Entry", (), {"w": depends(one)}))
        graph: Graph = load_graph(entry)
        graph.configure(resolve(graph.schemas(), [flags_layer([f"--{one.name}.model={model}"])]))
        graphs.append(graph)
    assert [graph[name].model for graph, name in zip(graphs, ("ONE", "TWO"), strict=True)] == ["a", "b"]


def test_what_runs_is_the_service_that_was_called(tmp_path: Path) -> None:
    """Eagerly, by both their addresses and by a third service that depends on both."""
    (tmp_path / "twice.py").write_text(MODULE)
    script = """
import json, twice
from dynamo_tasks import app
app.conf.task_always_eager = True
one = lambda service: service.who.delay({}).get()
print(json.dumps([one(twice.P), one(twice.D), one(twice.Same1), one(twice.Same2), twice.Both.ask.delay({}).get()]))
"""
    env = {"DYNAMO_SERVICE_CONFIG": '{"P": {"model": "big", "top-k": 3}, "D": {"model": "mid"}}'}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].replace('"', "'") == str(
        [
            ["big", {"top_k": 3}, "W"], ["mid", {}, "W"], ["tiny", {}, "W"], ["tiny", {}, "W"],
            [["big", {"top_k": 3}, "W"], ["mid", {}, "W"]],
        ]
    )  # fmt: skip


def test_a_service_can_be_made_a_service_again() -> None:
    other = service(dynamo={"namespace": "other"}, name="Other")(Decorated)
    configured(Decorated, "model=big")
    assert (str(other.inner.__mro__[-2]), other.model) == (str(Decorated.written), "small")
    assert other.written is Decorated.written
    assert (other.dynamo_address(), Decorated.dynamo_address()) == (
        ("other", "Other"),
        ("decorated", "Decorated"),
    )
    configured(Decorated)


def test_settings_reach_the_init_of_a_dataclass() -> None:
    @service(dynamo={"namespace": "data"})
    @dataclasses.dataclass
    class Data:
        first: int
        model: str = "m"
        items: list[int] = dataclasses.field(default_factory=lambda: [1])
        size: int = 1

    configured(Data, "model=big", "items=[2, 3]")
    assert dataclasses.asdict(Data(0)) == {"first": 0, "model": "big", "items": [2, 3], "size": 1}
    assert (Data(0, "own").model, Data(0, model="own").model) == ("own", "own")
    configured(Data, "first=7")
    assert dataclasses.asdict(Data()) == {"first": 7, "model": "m", "items": [1], "size": 1}


def test_a_service_in_annotations() -> None:
    assert (P.inner | None) == (P | None)
    assert (int | P) == (int | P.inner)
    assert isinstance(D(), P | D)
