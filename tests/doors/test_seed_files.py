"""The classes, YAML files and the graph module of Dynamo's documentation load as they stand, in each pair."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.config import ResolvedConfig, resolve
from dynamo_tasks.sdk import ServiceConfig, load_graph
from dynamo_tasks.serve.planning.plan import PlanOptions, make_plan

GRAPH = """
from dynamo_tasks import dynamo_endpoint, service

@service(dynamo={"enabled": True, "namespace": "dynamo"}, resources={"gpu": 1, "memory": "1Gi"})
class VllmWorker:
    model_path: str = "/models/default"
    tensor_parallel_size: int = 8

    @dynamo_endpoint()
    async def generate(self, request: dict):
        yield request
"""

ENGINE = """
from dynamo_tasks import service
from dynamo_tasks.services.worker import Worker

@service(dynamo={"namespace": "production"})
class VllmWorker(Worker):
    engine: str = "mocker"
"""

FIRST = """
# configs/agg.yaml

VllmWorker:
  # 类属性
  model_path: /models/llama-7b
  tensor_parallel_size: 1

  # Dynamo 配置
  dynamo:
    namespace: production
    name: llama-worker

  # 服务参数
  ServiceArgs:
    workers: 2
    resources:
      gpu: 1
      cpu: "10"
"""

SECOND = """
VllmWorker :
  model : deepseek-ai/DeepSeek-R1-Distill-Llama-8B
  enable-prefix-caching : true
  ServiceArgs :
    workers : 4
    resources :
      gpu : 1
"""

HEAD = "from dynamo_tasks import async_on_start, depends, dynamo_endpoint, service\n"
CLASSES = {
    "first": """
@service(dynamo={"enabled": True, "namespace": "dynamo"}, resources={"gpu": 1})
class VllmWorker:
    model_path: str = "/models/default"
    def __init__(self):
        self.engine = None
    @async_on_start
    async def async_init(self):
        self.engine = None
    @dynamo_endpoint()
    async def generate(self, request: dict):
        yield request
""",
    "second": """
@service(dynamo={"namespace": "production"})
class VllmWorker:
    @dynamo_endpoint()
    async def generate(self, request):
        # 处理请求
        async for token in self.engine.generate(request):
            yield token
""",
}
FILES = {"first": FIRST, "second": SECOND}
GIVEN: dict[str, dict[str, Any]] = {
    "first": {"model_path": "/models/llama-7b", "tensor_parallel_size": 1},
    "second": {"model": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "enable_prefix_caching": True},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ServiceConfig, "_instance", None)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(("code", "file"), list(itertools.product(CLASSES, FILES)))
def test_the_seeds_classes_load_with_the_seeds_files(folder: Path, code: str, file: str) -> None:
    (folder / "pair.py").write_text(HEAD + CLASSES[code])
    (folder / "agg.yaml").write_text(FILES[file])
    plan = make_plan(PlanOptions(graph="pair:VllmWorker", config=folder / "agg.yaml"), environ={})
    worker = load_graph("pair:VllmWorker").entry
    instance = worker()
    assert {name: getattr(instance, name) for name in GIVEN[file]} == GIVEN[file]
    assert plan.config["VllmWorker"].resources["gpu"] == 1
    for name in GIVEN[file]:
        assert plan.config.origins[f"VllmWorker.{name}"].startswith(f"{folder}/agg.yaml:")
        assert ServiceConfig.get_instance().require("VllmWorker", name) == GIVEN[file][name]
    again = resolve({"VllmWorker": worker.schema()}, [])
    worker.configure(again["VllmWorker"])
    assert not any(hasattr(worker(), name) for name in GIVEN[file] if name != "model_path")


def resolved(folder: Path, code: str, text: str) -> ResolvedConfig:
    (folder / "seed_graph.py").write_text(code)
    (folder / "agg.yaml").write_text(text)
    plan = make_plan(PlanOptions(graph="seed_graph:VllmWorker", config=folder / "agg.yaml"), environ={})
    settings = plan.config["VllmWorker"]
    assert [spec.name for spec in plan.processes] == [f"VllmWorker-{n}" for n in range(settings.workers)]
    assert {spec.gpus for spec in plan.processes} == {1}
    return plan.config


def test_the_file_of_the_first_document(folder: Path) -> None:
    settings = resolved(folder, GRAPH, FIRST)["VllmWorker"]
    assert (settings.namespace, settings.component, settings.workers) == ("production", "llama-worker", 2)
    # Deep merge: the memory of the decorator stays.
    assert settings.resources == {"gpu": 1, "cpu": "10", "memory": "1Gi"}
    service = load_graph("seed_graph:VllmWorker").entry
    assert (service.inner.model_path, service.inner.tensor_parallel_size) == ("/models/llama-7b", 1)
    assert str(service.endpoint_id("generate")) == "production.llama-worker.generate"


def test_the_file_of_the_second_document(folder: Path) -> None:
    settings = resolved(folder, ENGINE, SECOND)["VllmWorker"]
    assert (settings.workers, settings.resources) == (4, {"gpu": 1})
    assert settings.attributes["engine_args"] == {"enable_prefix_caching": True}
    assert ServiceConfig.get_instance().as_args("VllmWorker") == [
        *("--model", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "--enable-prefix-caching"),
    ]


def test_the_graph_module_of_the_first_document(folder: Path) -> None:
    files = {
        "llm/components/worker.py": "@service(dynamo={'namespace': 'dynamo'})\nclass VllmWorker: pass\n",
        "llm/components/processor.py": "from .worker import VllmWorker\n"
        "@service(dynamo={'namespace': 'dynamo'})\nclass Processor:\n    worker = depends(VllmWorker)\n",
        "llm/components/frontend.py": "from .processor import Processor\n"
        "@service()\nclass Frontend:\n    processor = depends(Processor)\n",
        "llm/graphs/agg.py": "from ..components.worker import VllmWorker\n"
        "from ..components.processor import Processor\nfrom ..components.frontend import Frontend\n"
        "Frontend = Frontend\n",
    }
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from dynamo_tasks import depends, service\n" + code)
    graph = load_graph("llm.graphs.agg:Frontend")
    assert [service.name for service in graph] == ["VllmWorker", "Processor", "Frontend"]
