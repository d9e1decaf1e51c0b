"""The table of Dynamo's names: complete, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "dynamo-compat.md"
FILES = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
REFERENCE = re.compile(r"(?P<file>[\w/]*\btest_\w+)|`(?P<test>\w+)`")
DEFINITION = re.compile(r"^ *(?:async )?def (\w+)\(", re.MULTILINE)

NAMES = (
    # the document on DynamoService
    *("BentoML", "DynamoService", "config", "inner", "image", "envs", "dynamo_config", "name", "apis", "on_startup"),
    *("on_shutdown", "DynamoConfig", "_dynamo_endpoints", "_linked", "DynamoEndpoint", "_collect_dynamo_endpoints"),
    *("is_dynamo_component", "get_dynamo_endpoints", "get_endpoint", "link", "_dependencies", "DynamoDependency"),
    *("_setup_dynamo_client", "is_linked", "has_endpoint", "component_name", "namespace_name", "_apply_config"),
    *("ServiceArgs", "_update_bentoml_config", "resources", "workers", "traffic", "@service", "@dynamo_endpoint"),
    *("@async_on_start", "depends", "@bentoml.api", "http_endpoint", "create_engine", "VllmWorker", "Processor"),
    *("graphs/agg.py", "configs/agg.yaml", "dynamo serve", "Component", "TCP pipeline", "REST and SSE", "Runtime"),
    *("Created → Configured → Linked → Initialized → Running → Stopping", "model_path", "tensor_parallel_size"),
    # the document on components
    *("DistributedRuntime.create()", "runtime.namespace", ".component(name)", ".endpoint(name)", "etcd_path()"),
    *("service_name()", "path()", "Client", "client()", "endpoint_builder()", "EndpointConfigBuilder", "kv_events"),
    *("publish", "subscribe", "dynamo.Processor.chat/completions", "lease_id", "transport", "nats_tcp", "start()"),
    *("PushEndpoint", "kv_create", "Service Group", "Service Endpoint", "Registry", "Stats", "Watcher", "Keep-Alive"),
    *("Created → Registered → Running ⇄ Healthy → Stopping → Deregistered", "Revoke Lease", "enable-prefix-caching"),
    *("Frontend → Router → Worker", "drt", "Namespace"),
)  # fmt: skip
"""What the two documents name."""


def rows() -> list[list[str]]:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[-1] != "shown by" and set(row[0]) != {"-"} and "---" not in row[0]]


def functions_of(path: Path) -> set[str]:
    return set(DEFINITION.findall(path.read_text()))


def test_every_test_that_is_named_exists() -> None:
    wrong, current = [], ""
    for row in rows():
        found = list(REFERENCE.finditer(row[-1]))
        if not found:
            wrong.append(f"{row[0]}: no test")
        for reference in found:
            if reference["file"]:
                current = reference["file"]
                path = FILES.get(current.rpartition("/")[2])
                if path is None or not str(path.with_suffix("")).endswith(current):
                    wrong.append(f"{row[0]}: no file {current}")
            elif f"test_{reference['test']}" not in functions_of(FILES[current.rpartition("/")[2]]):
                wrong.append(f"{row[0]}: no test {reference['test']} in {current}")
    assert not wrong, "\n".join(wrong)


def test_every_name_has_a_line() -> None:
    first_cells = "\n".join(row[0] for row in rows())
    assert [name for name in NAMES if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", first_cells)] == []


def test_every_line_says_where_it_is_here() -> None:
    assert [row for row in rows() if len(row) != 3 or not all(row)] == []
