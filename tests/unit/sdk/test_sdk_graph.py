"""Graphs: order, links, loading by name, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dynamo_tasks.config import flags_layer, resolve
from dynamo_tasks.errors import ConfigError, InvalidNameError
from dynamo_tasks.sdk import depends, load_graph, load_service, service


def make(label: str, *needs: Any, component: bool = True, **dynamo: Any) -> Any:
    body = {need.name.lower(): depends(need) for need in needs}
    return service(dynamo=dynamo if component else None)(type(label, (), body))


def names(services: Any) -> list[str]:
    return [one.name for one in services]


def test_dependencies_come_first():
    worker = make("Worker")
    tools = make("Tools", component=False)
    processor = make("Processor", worker, tools)
    frontend = make("Frontend", processor, worker)
    graph = load_graph(frontend)
    assert names(graph) == ["Worker", "Tools", "Processor", "Frontend"]
    assert names(graph.components()) == ["Worker", "Processor", "Frontend"]
    assert names(graph.in_process()) == ["Tools"]
    assert graph.entry is frontend
    assert graph.name == "Frontend"
    assert graph["Worker"] is worker
    with pytest.raises(ConfigError, match="did you mean 'Worker'"):
        graph["Wroker"]


def test_links_drop_what_is_not_linked():
    worker, router = make("Worker"), make("Router")
    processor = make("Processor", worker, router)
    frontend = make("Frontend", processor)
    assert frontend.link(processor).link(worker) is worker
    assert names(load_graph(frontend)) == ["Worker", "Processor", "Frontend"]
    with pytest.raises(ConfigError, match=r"Frontend does not depend on Worker"):
        frontend.link(worker)
    with pytest.raises(ConfigError, match="does not depend on"):
        frontend.link(3)


def test_circle_is_refused_with_its_path():
    worker = make("Worker")
    processor = make("Processor", worker)
    frontend = make("Frontend", processor)
    worker.dependencies["back"] = depends(processor)
    with pytest.raises(ConfigError, match="circle: Processor -> Worker -> Processor"):
        load_graph(frontend)


def test_two_of_one_name_or_address():
    first, second = make("Worker"), make("Worker")
    with pytest.raises(ConfigError, match="two services of the graph are named 'Worker'"):
        load_graph(make("Frontend", make("Processor", first), second))
    with pytest.raises(ConfigError, match=r"A and B are both the component default\.same"):
        load_graph(make("Frontend", make("A", name="same"), make("B", name="same")))


def test_configure_applies_to_all_and_names_the_origin_of_a_bad_name():
    graph = load_graph(make("Frontend", make("Worker")))
    graph.configure(resolve(graph.schemas(), [flags_layer(["--Worker.dynamo.namespace=prod"])]))
    assert graph["Worker"].dynamo_address() == ("prod", "Worker")
    bad = resolve(graph.schemas(), [flags_layer(["--Worker.dynamo.namespace=Prod"])])
    with pytest.raises(InvalidNameError, match=r"--Worker\.dynamo\.namespace: Worker: namespace name 'Prod'"):
        graph.configure(bad)
    same = resolve(graph.schemas(), [flags_layer(["--Worker.dynamo.name=Frontend"])])
    with pytest.raises(ConfigError, match=r"are both the component default\.Frontend"):
        graph.configure(same)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "graphs_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "agg.py").write_text(
        "from dynamo_tasks.sdk import depends, service\n"
        "@service(dynamo={})\nclass Worker:\n    pass\n"
        "@service(dynamo={})\nclass Frontend:\n    worker = depends(Worker)\n"
        "NUMBER = 3\n"
    )
    (folder / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "graphs_under_test"
    for name in [name for name in sys.modules if name.startswith("graphs_under_test")]:
        del sys.modules[name]


def test_load_by_name_from_the_current_directory(package):
    graph = load_graph(f"{package}.agg:Frontend")
    assert names(graph) == ["Worker", "Frontend"]
    assert load_service(f"{package}.agg:Worker") is graph["Worker"]


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("", "expected module:Class"),
        (":Frontend", "expected module:Class"),
        ("a b:Frontend", "expected module:Class"),
        ("..:Frontend", "expected module:Class"),
        (
            "graphs_under_test.agg",
            "names no service; expected graphs_under_test.agg:Class (known: Frontend, Worker)",
        ),
        ("graphs_under_test.agg:Frontnd", "no service 'Frontnd'; did you mean 'Frontend'"),
        ("graphs_under_test.agg:NUMBER", "is int, no class under @service"),
        ("graphs_under_test.ag:Frontend", "no module 'graphs_under_test.ag'; did you mean 'agg'"),
        ("not_a_module_here:Frontend", "no module 'not_a_module_here'"),
        ("graphs_under_test.agg.deeper:X", "no module 'graphs_under_test.agg.deeper'"),
        ("graphs_under_test.broken:Frontend", "needs 'a_module_that_is_not_there', which is not installed"),
    ],
)
def test_bad_targets(package, target, part):
    with pytest.raises(ConfigError) as info:
        load_graph(target)
    assert part in info.value.message


def test_not_a_service():
    with pytest.raises(ConfigError, match="begins with a class under @service"):
        load_graph(dict)  # type: ignore[arg-type]
