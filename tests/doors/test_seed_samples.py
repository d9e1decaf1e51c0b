"""Every sample of the documents on Dynamo's services and components, run as it stands there.

The only change is that of the imports, which the compatibility tables name. SAGE's sample is
tests/unit/pipelines/sage_example.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Worker, environment
from tests.support.server import RedisServer

IMPORTS = {
    "dynamo.sdk": "dynamo_tasks.sdk",
    "dynamo.runtime": "dynamo_tasks",
}
REQUEST = {"prompt": "hi", "max_tokens": 3}

COMPONENTS = """
from dynamo.runtime import DistributedRuntime

async def main():
    runtime = await DistributedRuntime.create()

    # 创建命名空间
    namespace = runtime.namespace("production")

    # 创建组件
    component = namespace.component("worker")

    # 创建端点
    endpoint = component.endpoint("generate")
"""

NAMESPACES = """
from dynamo.runtime import DistributedRuntime

async def main():
    runtime = await DistributedRuntime.create()
    # Python 中创建命名空间
    namespace = runtime.namespace("production")
    namespace_dev = runtime.namespace("development")
    processor = runtime.namespace("dynamo").component("processor")
    print(processor.etcd_path(), processor.service_name(), processor.path())
"""

EVENTS = """
from dynamo.runtime import DistributedRuntime

async def main():
    runtime = await DistributedRuntime.create()
    comp_a = runtime.namespace("dynamo").component("a")
    comp_b = runtime.namespace("dynamo").component("b")
    events = await comp_b.subscribe("namespace.dynamo.component.a.kv_events")
    await comp_a.publish("kv_events", {"block": 1})
    async for event in events:
        print(event.data())
        break
"""

DUAL = """
import bentoml
from collections.abc import AsyncIterator
from dynamo.sdk import service, dynamo_endpoint

@service(
    dynamo={"enabled": True, "namespace": "dynamo"},
    # BentoML 原生参数
    resources={"gpu": 1},
    workers=1,
    traffic={"timeout": 300},
)
class MyService:
    # BentoML API(HTTP)
    @bentoml.api
    def http_endpoint(self, ctx: bentoml.Context) -> str:
        return "..."

    # Dynamo 端点(RPC)
    @dynamo_endpoint()
    async def rpc_endpoint(self, request: dict) -> AsyncIterator[dict]:
        yield {...}

print(sorted(MyService.apis), sorted(MyService.get_dynamo_endpoints()), MyService.is_dynamo_component())
"""

INTERFACE = """
from dynamo_tasks.sdk import DynamoService
from tests.integration.services.seed_example import Processor, VllmWorker

for DS in (VllmWorker, Processor):
    assert isinstance(DS, DynamoService)
    assert DS.is_dynamo_component() == DS._dynamo_config.enabled == True
    assert DS.get_dynamo_endpoints() == DS._dynamo_endpoints
    assert DS.is_linked() == DS._linked == False
    assert DS.component_name == (DS._dynamo_config.name or DS.name)
    assert DS.namespace_name == (DS._dynamo_config.namespace or "default") == "dynamo"
assert VllmWorker.has_endpoint("generate") and VllmWorker.get_endpoint("generate").name == "generate"
assert not Processor.has_endpoint("generate") and Processor.get_endpoint("generate") is None
print("as documented")
"""

CALLS = """
import json
from dynamo_tasks import app
from tests.integration.services.seed_example import Processor, VllmWorker

app.conf.task_always_eager = EAGER
request = json.loads(REQUEST)
generated = VllmWorker.generate.delay(request)
streamed, whole = list(generated), generated.get(timeout=60)
answers = [streamed, whole, Processor.process.delay(request).get(timeout=60)] if EAGER else [streamed, whole]
print(json.dumps(answers))
"""


def ran(code: str, folder: Path, url: str = "redis://127.0.0.1:1", **env: str) -> str:
    for theirs, ours in IMPORTS.items():
        code = code.replace(f"from {theirs} import", f"from {ours} import")
    if "async def main" in code:
        code += "\nimport asyncio\nasyncio.run(main())\n"
    path = folder / "sample.py"
    path.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(path)], cwd=folder, env=environment(url, **env), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_components(redis_server: RedisServer, tmp_path: Path) -> None:
    ran(COMPONENTS, tmp_path, redis_server.url)
    named = ran(NAMESPACES, tmp_path, redis_server.url)
    assert named.split() == ["dynamo/components/processor", "dynamo|processor", "dynamo/processor"]


def test_events_by_their_full_subject(redis_server: RedisServer, tmp_path: Path) -> None:
    assert ran(EVENTS, tmp_path, redis_server.url) == "{'block': 1}\n"


def test_the_interface(tmp_path: Path) -> None:
    assert ran(INTERFACE, tmp_path) == "as documented\n"


def test_both_modes(tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    assert ran(DUAL, tmp_path) == "['http_endpoint'] ['rpc_endpoint'] True\n"


@pytest.fixture(scope="module")
def worker(redis_server: RedisServer) -> Iterator[Worker]:
    service = "tests.integration.services.seed_example:VllmWorker"
    settings = ("VllmWorker.model_path=mocker",)
    with Worker(redis_server.url, service=service, settings=settings) as process:
        yield process


def _is_tokens(values: list[dict[str, object]]) -> bool:
    known = {"text", "token_ids", "index", "finish_reason", "usage"}
    return bool(values) and all(
        isinstance(one, dict) and {"text", "token_ids"} <= set(one) <= known for one in values
    )


def _ids(values: list[dict[str, list[int]]]) -> list[int]:
    return [token for value in values for token in value["token_ids"]]


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "queue"])
def test_what_the_worker_of_the_example_yields(
    redis_server: RedisServer, tmp_path: Path, worker: Worker, eager: bool
) -> None:
    code = CALLS.replace("REQUEST", repr(json.dumps(REQUEST))).replace("EAGER", str(eager))
    url = "redis://127.0.0.1:1" if eager else redis_server.url
    answers = json.loads(ran(code, tmp_path, url, DYNAMO_VLLMWORKER__MODEL_PATH="mocker"))
    assert len(answers) == (3 if eager else 2)
    for values in answers:
        assert _is_tokens(values)
        assert _ids(values) == _ids(answers[0])
        assert len(_ids(values)) == 3


@pytest.mark.slow
def test_a_program_without_its_workers_file_learns_where_they_are(
    own_server: RedisServer, tmp_path: Path
) -> None:
    """The document's file gives the worker another namespace and name."""
    config = tmp_path / "agg.yaml"
    config.write_text("VllmWorker: {model_path: mocker, dynamo: {namespace: elsewhere, name: llama-worker}}")
    code = """
        from tests.integration.services.seed_example import VllmWorker

        print(VllmWorker.generate.id)
        try:
            print(len(VllmWorker.generate.apply_async(({"prompt": "a", "max_tokens": 1},), expires=5).get(timeout=20)))
        except Exception as exc:
            print(type(exc).__name__)
    """
    service = "tests.integration.services.seed_example:VllmWorker"
    with Worker(own_server.url, "--config", str(config), service=service, name="elsewhere"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], env=environment(own_server.url, DYNAMO_NAMESPACE="x"),
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        told = "nobody serves it; workers serve tests.integration.services.seed_example:VllmWorker as "
        assert "key=dynamo.VllmWorker" in done.stderr
        assert told in done.stderr
        assert "elsewhere.llama-worker" in done.stderr
        found = ran(CALLS.replace("REQUEST", repr(json.dumps(REQUEST))).replace("EAGER", "False"), tmp_path,
                    own_server.url, DYNAMO_CONFIG=str(config))  # fmt: skip
        assert _is_tokens(json.loads(found)[0])
