"""@service: the seed's interface, naming, configuration, linking, and bad declarations."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dynamo_tasks.config import env_layer, flags_layer, resolve
from dynamo_tasks.errors import ConfigError, InvalidNameError, UnknownEndpointError
from dynamo_tasks.sdk import (
    DynamoConfig,
    DynamoEndpoint,
    DynamoService,
    ServiceState,
    api,
    async_on_start,
    collect_hooks,
    depends,
    dynamo_endpoint,
    endpoint,
    liveness,
    on_shutdown,
    probe,
    readiness,
    run_hooks,
    service,
)


def make_worker() -> Any:
    class Base:
        @endpoint
        async def health(self) -> dict:
            return {"ok": True}

        @dynamo_endpoint()
        async def generate(self, request):
            yield 0

    @service(
        dynamo={"namespace": "dynamo"},
        resources={"gpu": 1},
        workers=2,
        traffic={"timeout": 300},
        envs=[{"name": "A", "value": "1"}],
        labels={"team": "x"},
    )
    class Worker(Base):
        """Makes text."""

        model: str = "tiny"
        engine_args: dict[str, Any] = {}  # noqa: RUF012
        config_extras = "engine_args"
        _private = 1
        LIMIT: ClassVar[int] = 3
        unset: Path

        @dynamo_endpoint("chat/completions")
        async def chat(self, request: dict):
            yield 1

        @dynamo_endpoint()
        async def generate(self, request: dict):
            yield 2

        @api(route="/ask", method="get")
        def ask(self) -> str:
            return "hi"

        @property
        def prop(self) -> int:
            return 1

    return Worker


def test_interface_of_the_seed():
    worker = make_worker()
    assert isinstance(worker, DynamoService)
    assert worker.name == "Worker"
    assert worker.inner.__name__ == "Worker"
    assert worker.is_dynamo_component()
    assert not worker.is_linked()
    assert set(worker.get_dynamo_endpoints()) == {"health", "generate", "chat/completions"}
    assert worker.has_endpoint("generate")
    assert not worker.has_endpoint("nope")
    assert worker.get_endpoint("nope") is None
    assert (worker.component_name, worker.namespace_name) == ("Worker", "dynamo")
    assert worker.dynamo_address() == ("dynamo", "Worker")
    assert worker.dynamo_config == DynamoConfig("dynamo", "Worker", True)
    assert worker.dynamo_config == DynamoConfig(True, "dynamo", "Worker")
    assert DynamoConfig(True) == DynamoConfig(None, None, True)
    assert worker.config["resources"] == {"gpu": 1}
    assert worker.config["labels"] == {"team": "x"}
    assert worker.envs == {"A": "1"}
    assert worker.apis["ask"].route == "/ask"
    assert worker.apis["ask"].method == "GET"
    assert worker.state is ServiceState.CREATED
    assert worker.__doc__ == "Makes text."


def test_constructor_of_the_seed():
    class Plain:
        pass

    built = DynamoService(
        {"workers": 3}, Plain, None, [{"name": "A", "value": 1}], DynamoConfig(True, "ns", "comp")
    )
    assert built.dynamo_address() == ("ns", "comp")
    assert built.settings.workers == 3
    assert built.envs == {"A": "1"}


def test_plain_service():
    @service
    class Helper:
        pass

    assert not Helper.is_dynamo_component()
    assert (Helper.namespace_name, Helper.component_name) == ("default", "Helper")
    with pytest.raises(ConfigError, match="is no component"):
        Helper.dynamo_address()
    assert not service(dynamo={"enabled": False, "namespace": "x"})(type("Off", (), {})).is_dynamo_component()


def test_attributes_fall_through_and_calling_constructs():
    worker = make_worker()
    assert worker.model == "tiny"
    assert isinstance(worker.generate, DynamoEndpoint)
    assert worker.generate is worker.get_endpoint("generate")
    instance = worker()
    assert isinstance(instance, worker.inner)
    assert isinstance(instance, worker)
    assert instance.ask() == "hi"
    with pytest.raises(AttributeError, match="did you mean 'generate'"):
        worker.genrate  # noqa: B018


def test_inherited_endpoints_belong_to_each_service():
    @service(dynamo={"namespace": "a"})
    class Parent:
        @dynamo_endpoint()
        async def generate(self, request):
            yield 1

    @service(dynamo={"namespace": "b"})
    class Child(Parent):
        pass

    assert str(Parent.generate.id) == "a.Parent.generate"
    assert str(Child.generate.id) == "b.Child.generate"
    assert isinstance(Child(), Parent)


def test_endpoint_ids():
    worker = make_worker()
    assert str(worker.chat.id) == "dynamo.Worker.chat/completions"
    assert worker.endpoint_id("chat").url == "dyn://dynamo.Worker.chat/completions"
    with pytest.raises(
        UnknownEndpointError, match=r"did you mean 'generate'\? \(available: chat/completions"
    ):
        worker.endpoint_id("generte")
    with pytest.raises(ConfigError, match="has no @service"):
        _ = DynamoEndpoint(lambda_like).id


def lambda_like(self, request):
    return request


def test_schema_and_configure():
    worker = make_worker()
    schema = worker.schema()
    assert schema.attributes == {"model": "tiny", "engine_args": {}, "LIMIT": 3}
    assert schema.annotations["model"] is str
    assert schema.annotations["unset"] is Path
    assert schema.extras == "engine_args"
    layers = [
        flags_layer(["--Worker.model=big", "--Worker.max-num-seqs=4", "--Worker.unset=/x"]),
        env_layer({"DYNAMO_NAMESPACE": "staging", "DYNAMO_WORKER__DYNAMO__NAME": "w2"}),
    ]
    resolved = resolve({"Worker": schema}, layers)
    worker.configure(resolved["Worker"])
    assert str(worker.generate.id) == "dynamo.w2.generate"
    assert (worker().model, worker.model) == ("big", "big")
    assert worker().engine_args == {"max_num_seqs": 4}
    assert worker().unset == Path("/x")
    assert worker.state is ServiceState.CONFIGURED
    assert worker.schema().attributes["model"] == "tiny"
    worker.configure(resolve({"Worker": schema}, [])["Worker"])
    assert (worker.model, worker.engine_args, worker.namespace_name) == ("tiny", {}, "dynamo")


def test_hooks_run_in_order_over_the_mro():
    ran: list[str] = []

    class Base:
        @async_on_start
        def first(self) -> None:
            ran.append("first")

        @async_on_start
        async def second(self) -> None:
            ran.append("second")

        @async_on_start
        async def dropped(self) -> None:
            ran.append("dropped")

        @on_shutdown()
        async def bye(self) -> None:
            ran.append("bye")

    @service(dynamo={})
    class Worker(Base):
        alive = True

        @async_on_start()
        async def third(self) -> None:
            ran.append("third")

        @async_on_start
        async def second(self) -> None:
            ran.append("second of Worker")

        async def dropped(self) -> None:
            ran.append("not a hook")

        @liveness
        async def is_alive(self) -> bool:
            return self.alive

        @readiness
        def is_ready(self) -> None:
            return None

    instance = Worker()
    asyncio.run(Worker.on_startup(instance))
    assert ran == ["first", "second of Worker", "third"]
    assert Worker.state is ServiceState.INITIALIZED
    assert asyncio.run(probe(instance, "liveness"))
    assert asyncio.run(probe(instance, "readiness"))
    instance.alive = False
    assert not asyncio.run(probe(instance, "liveness"))
    asyncio.run(Worker.on_shutdown(instance))
    assert ran[-1] == "bye"
    assert collect_hooks(Worker.inner, "shutdown") == ["bye"]
    with pytest.raises(ConfigError, match="is Stopping; it cannot become Running"):
        Worker.advance(ServiceState.RUNNING)


def test_failing_hook_stops_the_rest():
    class Worker:
        ran = False

        @async_on_start
        async def one(self) -> None:
            raise OSError("no device")

        @async_on_start
        async def two(self) -> None:
            self.ran = True

    instance = Worker()
    with pytest.raises(OSError, match="no device"):
        asyncio.run(run_hooks(instance, "start"))
    assert not instance.ran


def declare(body: dict[str, Any] | None = None, **arguments: Any) -> Any:
    return service(**arguments)(type("Worker", (), body or {}))


def two_of_a_name() -> dict[str, Any]:
    class Body:
        @dynamo_endpoint("x")
        async def a(self): ...

        @dynamo_endpoint("x")
        async def b(self): ...

    return dict(vars(Body))


def method_named(name: str) -> dict[str, Any]:
    def method(self, request):
        return request

    method.__name__ = name
    return {name: dynamo_endpoint()(method)}


@pytest.mark.parametrize(
    ("make", "error", "part"),
    [
        (lambda: declare(dynamo={"namespace": "Prod"}), InvalidNameError, "'P' at position 0"),
        (lambda: declare(dynamo={"name": "a.b"}), InvalidNameError, "'.' at position 1"),
        (lambda: declare(dynamo={"namespace": ""}), InvalidNameError, "namespace name is empty"),
        (lambda: declare(dynamo={"namspace": "x"}), ConfigError, "did you mean 'namespace'"),
        (lambda: declare(dynamo=True), ConfigError, "must be a mapping of enabled, namespace, name"),
        (lambda: declare(dynamo={"enabled": "yes"}), ConfigError, "dynamo.enabled must be bool"),
        (lambda: declare(workers=0), ConfigError, "@service of Worker: Worker.ServiceArgs.workers"),
        (lambda: declare(resources={"gpus": 1}), ConfigError, "did you mean 'gpu'"),
        (lambda: declare(resources=3), ConfigError, "resources must be a mapping"),
        (lambda: declare(traffic={"timeout": -1}), ConfigError, "timeout must be a number above 0"),
        (lambda: declare(envs=["A=1"]), ConfigError, "envs must be a mapping, or a list"),
        (lambda: declare(resurces={}), ConfigError, "did you mean 'resources'"),
        (lambda: service(3), ConfigError, "decorates a class, not 3"),
        (lambda: declare(two_of_a_name()), ConfigError, "a and b are both named 'x'"),
        (lambda: declare({"config_extras": "nope"}), ConfigError, "must name a dict attribute"),
        (lambda: declare(method_named("configure")), ConfigError, "rename the method"),
        (lambda: dynamo_endpoint("a b")(lambda_like), InvalidNameError, "' ' at position 1"),
        (lambda: dynamo_endpoint("")(lambda_like), InvalidNameError, "endpoint name is empty"),
        (lambda: dynamo_endpoint(3)(lambda_like), InvalidNameError, "must be a string"),
        (lambda: dynamo_endpoint(policy="replya")(lambda_like), ConfigError, "did you mean 'replay'"),
        (lambda: dynamo_endpoint(aggregate=list)(lambda_like), ConfigError, "add(value) and result()"),
        (lambda: dynamo_endpoint(time_limti=3)(lambda_like), ConfigError, "did you mean 'time_limit'"),
        (lambda: dynamo_endpoint()(3), ConfigError, "decorates a method"),
        (lambda: api("ask")(lambda_like), ConfigError, "begins with '/'"),
        (lambda: api(method="PSOT")(lambda_like), ConfigError, "did you mean 'POST'"),
        (lambda: async_on_start(3), ConfigError, "start hook is a method"),
        (lambda: depends("dyn://a.b"), InvalidNameError, "expected namespace.Component.endpoint"),
        (lambda: depends(dict), ConfigError, "takes a class under @service"),
        (lambda: depends(None), ConfigError, "takes a class under @service"),
    ],
)
def test_bad_declarations(make, error, part):
    with pytest.raises(error) as info:
        make()
    assert part in str(info.value)


def test_import_is_light():
    code = (
        "import sys, time; t = time.process_time(); import dynamo_tasks.sdk; t = time.process_time() - t;"
        "heavy = {'celery', 'kombu', 'redis', 'torch', 'starlette', 'yaml', 'asyncio', 'pydantic'};"
        "heavy &= set(sys.modules); yard = time.process_time(); sum(i * i for i in range(1_000_000));"
        "print(sorted(heavy), t, time.process_time() - yard)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in "abc"
    ]
    outputs = [run.stdout.strip().rsplit(" ", 2) for run in runs]
    assert {heavy for heavy, _, _ in outputs} == {"[]"}
    # a core that is shared is slower: then against a loop of some 40 ms
    assert any(float(seconds) < max(0.1, 4 * float(yard)) for _, seconds, yard in outputs)
