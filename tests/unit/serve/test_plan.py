import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.planning.dryrun import render_plan
from dynamo_tasks.serve.planning.plan import PlanOptions, default_graph, make_plan
from dynamo_tasks.serve.processes.spec import ProcessPlan

GRAPH = """
from dynamo_tasks.sdk import api, depends, dynamo_endpoint, service

@service(dynamo={"namespace": "dynamo"}, workers=2, envs={"OMP_NUM_THREADS": "1", "HF_TOKEN": "hidden"})
class Worker:
    model: str = "tiny"
    api_key: str = ""

    @dynamo_endpoint()
    async def generate(self, request: dict):
        yield request

@service
class Processor:
    worker = depends(Worker)

@service(dynamo={"namespace": "dynamo"})
class Router:
    @dynamo_endpoint()
    async def route(self, request: dict):
        yield request

@service(dynamo={"namespace": "dynamo"})
class Frontend:
    processor = depends(Processor)
    router = depends(Router)
"""


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "plan_graph.py").write_text(GRAPH)
    monkeypatch.syspath_prepend(tmp_path)
    yield "plan_graph:Frontend"
    sys.modules.pop("plan_graph", None)


HTTP_GRAPH = """
from dynamo_tasks.sdk import api, depends, dynamo_endpoint, service

@service(dynamo={"namespace": "n"}, workers=2, http={"port": 3000})
class Both:
    @api
    async def ask(self): ...
    @dynamo_endpoint()
    async def generate(self, request: dict): ...

@service(dynamo={"namespace": "n"})
class Free:
    @api
    async def ask(self): ...
    @dynamo_endpoint()
    async def generate(self, request: dict): ...

@service(dynamo={"namespace": "n"})
class Alone:
    @api
    async def ask(self): ...

@service
class Plain:
    @api
    async def ask(self): ...

@service(dynamo={"namespace": "n"})
class Entry:
    both, free, alone, plain = depends(Both), depends(Free), depends(Alone), depends(Plain)
    @api
    async def ask(self): ...
    @dynamo_endpoint()
    async def generate(self, request: dict): ...
"""


@pytest.fixture
def http_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "plan_http.py").write_text(HTTP_GRAPH)
    monkeypatch.syspath_prepend(tmp_path)
    yield "plan_http:Entry"
    sys.modules.pop("plan_http", None)


@pytest.fixture
def agg() -> Iterator[str]:
    """The default graph; its classes get their own settings back."""
    yield "dynamo_tasks.services.agg:Frontend"
    plan("dynamo_tasks.services.agg:Frontend")


def plan(graph: str, **options: Any) -> ProcessPlan:
    return make_plan(PlanOptions(graph=graph, **options), environ={})


def commands(found: ProcessPlan) -> dict[str, str]:
    return {spec.name: " ".join(spec.argv).removeprefix(f"{sys.executable} -m ") for spec in found.processes}


def test_components_get_workers_and_the_entry_the_http_process(graph: str) -> None:
    found = plan(graph)
    program = "dynamo_tasks.queue.worker -A dynamo_tasks --quiet worker"
    worker = f"{program} --service plan_graph:{{}} -n {{}}@%h --loglevel warning"
    tail = " --without-gossip --without-mingle"
    assert commands(found) == {
        "Worker-0": worker.format("Worker", "Worker-0") + tail,
        "Worker-1": worker.format("Worker", "Worker-1") + tail,
        "Router-0": worker.format("Router", "Router-0") + tail,
        "Frontend": "dynamo_tasks.serve.host --service plan_graph:Frontend --host 127.0.0.1 --port 8000"
        " --loglevel warning",
    }
    assert found.http == "Frontend"
    assert found.components == {"dynamo.Worker": 2, "dynamo.Router": 1}
    assert found.processes[0].env["OMP_NUM_THREADS"] == "1"


def test_settings_reach_every_process(graph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("Worker: {ServiceArgs: {workers: 1}}\n")
    monkeypatch.chdir(tmp_path)
    found = plan(
        graph, config=Path("c.yaml"), flags=("--Router.ServiceArgs.workers=1",), model="big", node_suffix="-7"
    )
    settings = f"--config {tmp_path}/c.yaml --set Worker.model=big --set Router.ServiceArgs.workers=1"
    assert list(commands(found)) == ["Worker-0", "Router-0", "Frontend"]
    assert all(settings in command for command in commands(found).values())
    assert "-n Worker-0-7@%h" in commands(found)["Worker-0"]
    assert found.config["Worker"].attributes["model"] == "big"


def test_http_processes_share_their_port(graph: str, agg: str) -> None:
    for target in (graph, agg):
        found = plan(target, flags=("--Frontend.ServiceArgs.workers=2",))
        http = [spec for spec in found.processes if spec.service == found.http]
        assert [spec.name for spec in http] == ["Frontend-0", "Frontend-1"]
        assert all("--port 8000 --reuse-port" in " ".join(spec.argv) for spec in http)


def test_every_component_with_http_methods_serves_them(http_graph: str) -> None:
    found = plan(http_graph, flags=("--Both.ServiceArgs.http.port=8100",), host="127.0.0.1", port=8005)
    specs = {spec.name: spec for spec in found.processes}
    assert {name: spec.env.get("DYNAMO_HTTP") for name, spec in specs.items()} == {
        "Both-0": "127.0.0.1:8100", "Both-1": "127.0.0.1:8100", "Free-0": "127.0.0.1:0", "Alone": None,
        "Entry-0": "127.0.0.1:8005",
    }  # fmt: skip
    assert found.http == "Entry"
    assert f" --host 127.0.0.1 --port {specs['Alone'].port} " in commands(found)["Alone"]
    assert specs["Alone"].port not in (0, 8005, None)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--Both.ServiceArgs.http.port=8000", "Both.ServiceArgs.http.port: 8000 is the port of Entry"),
        ("--Both.ServiceArgs.http.port=3001", "ServiceArgs.http.port: 3001 is the port of"),
        ("--Both.ServiceArgs.http.port=70000", "must be a port of at most 65535, not 70000"),
        ("--Both.ServiceArgs.http.address=x", "ServiceArgs.http has no key 'address'"),
    ],
)
def test_ports_are_checked_before_anything_starts(http_graph: str, flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        plan(http_graph, flags=(flag, "--Alone.ServiceArgs.http.port=3001"))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--Worker.engin=echo", "did you mean 'engine'?"),
        ("--Worker.engine=mock", "'mocker'"),
        ("--Worker.engine_args.nope=1", "engine 'echo' has no argument 'nope'"),
    ],
)
def test_settings_of_the_engine_are_checked_before_anything_starts(agg: str, flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        plan(agg, flags=(flag,))


def test_only_the_chosen_services(graph: str) -> None:
    assert list(commands(plan(graph, services=("Router",)))) == ["Router-0"]
    assert plan(graph, services=("Router",)).http is None
    assert list(commands(plan(graph, services=("Frontend",)))) == ["Frontend"]


def test_a_disabled_component_has_no_process(graph: str) -> None:
    found = plan(graph, flags=("--Router.dynamo.enabled=false",))
    assert list(commands(found)) == ["Worker-0", "Worker-1", "Frontend"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"services": ("Ruter",)}, "'Ruter'.*Router"),
        ({"services": ("Processor",)}, "nothing to start: Processor"),
        ({"flags": ("--Worker.modle=x",)}, "--Worker.modle.*model"),
        ({"flags": ("--Wrker.model=x",)}, "Worker"),
        ({"config": Path("/no/such.yaml")}, "/no/such.yaml: No such file"),
        ({"flags": ("--Worker.dynamo.namespace=A B",)}, "allowed: a-z"),
    ],
)
def test_mistakes_are_clear(graph: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        plan(graph, **options)


def test_wrong_graph_names_are_clear(graph: str) -> None:
    with pytest.raises(ConfigError, match="no module 'no_such'"):
        plan("no_such:Frontend")
    with pytest.raises(ConfigError, match=r"'Fronted'.*Frontend"):
        plan("plan_graph:Fronted")


def test_a_model_needs_a_taker(graph: str) -> None:
    with pytest.raises(ConfigError, match="--model: no component"):
        plan("plan_graph:Router", model="big")


def test_a_worker_alone_is_a_graph(graph: str) -> None:
    assert list(commands(plan("plan_graph:Worker"))) == ["Worker-0", "Worker-1"]


def test_the_default_graph_is_the_projects_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert default_graph() == "dynamo_tasks.services.agg:Frontend"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert default_graph() == "workers.agg:Frontend"


def test_dry_run_shows_origins_and_hides_secrets(graph: str) -> None:
    console = Console(width=1000, record=True, file=sys.stderr)
    console.print(
        render_plan(plan(graph, flags=("--Worker.api_key=geheim", "--Worker.model=big"))), soft_wrap=True
    )
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "model = big # --Worker.model" in lines
    assert "ServiceArgs.workers = 2 # @service of Worker" in lines
    assert any(
        line.startswith("Worker-0: DYNAMO_SECRET_SETTINGS='***' HF_TOKEN='***' OMP_NUM") for line in lines
    )
    text = "\n".join(lines)
    assert "Worker.api_key=" not in text  # in no command line
    assert "geheim" not in text
    assert "hidden" not in text
