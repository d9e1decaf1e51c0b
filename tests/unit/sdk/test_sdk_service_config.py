"""``ServiceConfig``: what code written for the Dynamo SDK asks for."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.config import env_layer, flags_layer, load_yaml, resolve
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import ServiceConfig, ServiceState, async_on_start, load_graph, run_hooks, service


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceConfig, "_instance", None)


def make_worker() -> Any:
    @service(dynamo={"namespace": "dynamo"})
    class VllmWorker:
        model: str = "tiny"
        block_size: int = 16
        engine_args: dict[str, Any] = {}  # noqa: RUF012
        config_extras = "engine_args"

    return VllmWorker


YAML = """
Common:
  block-size: 64
VllmWorker:
  common-configs: [block-size]
  enable-prefix-caching: true
  enforce-eager: false
  kv-transfer-config: {role: both}
  stop: [a, b]
  prefill-max: 3
  ServiceArgs:
    workers: 4
"""


def test_on_top_of_the_resolved_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    graph = load_graph(make_worker())
    layers = [flags_layer(["--VllmWorker.seed=7"]), load_yaml(tmp_path / "c.yaml"), env_layer({})]
    graph.configure(resolve(graph.schemas(), layers))
    config = ServiceConfig.get_instance()
    assert config.require("VllmWorker", "enable-prefix-caching") is True
    assert config.require("VllmWorker", "model") == "tiny"
    assert config["VllmWorker"]["ServiceArgs"]["workers"] == 4
    assert config.as_args("VllmWorker") == [
        *("--block-size", "64", "--enable-prefix-caching", "--kv-transfer-config", '{"role":"both"}'),
        *("--stop", "a", "b", "--prefill-max", "3", "--seed", "7"),
    ]
    assert config.as_args("VllmWorker", prefix="prefill-") == ["--max", "3"]
    parsed = ServiceConfig.get_parsed_config("VllmWorker")
    assert (parsed["model"], parsed["block_size"], parsed["enforce_eager"]) == ("tiny", 64, False)
    assert "ServiceArgs" not in parsed


def test_what_is_required_and_missing_is_named(tmp_path: Path) -> None:
    config = ServiceConfig({"Worker": {"model": "m"}})
    with pytest.raises(ValueError, match=r"Worker\.modle must be specified.*did you mean 'model'"):
        config.require("Worker", "modle")
    with pytest.raises(ConfigError, match=r"Wroker\.model .*did you mean 'Worker'"):
        config.require("Wroker", "model")
    assert config.as_args("Nobody") == []


def test_without_a_graph_the_environment_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    monkeypatch.setenv("DYNAMO_CONFIG", str(tmp_path / "c.yaml"))
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", '{"VllmWorker": {"model": "json", "prefill-max": 1}}')
    config = ServiceConfig.get_instance()
    assert config.require("VllmWorker", "model") == "json"
    assert config.require("VllmWorker", "prefill_max") == 3
    assert ServiceConfig.get_parsed_config("VllmWorker")["block_size"] == 64
    assert ServiceConfig.get_parsed_config("Nobody") == {}


def test_steps_and_failed_hooks_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    @service()
    class Bad:
        @async_on_start
        def load(self) -> None:
            raise OSError("no weights")

    caplog.set_level(logging.INFO, "dynamo_tasks")
    bad: Any = Bad
    bad.advance(ServiceState.CONFIGURED)
    bad.advance(ServiceState.LINKED)
    assert [(r.event, r.fields["before"], r.fields["state"]) for r in caplog.records] == [  # type: ignore[attr-defined]
        ("service.state", "Created", "Configured"),
        ("service.state", "Configured", "Linked"),
    ]
    with pytest.raises(OSError, match="no weights"):
        asyncio.run(run_hooks(bad(), "start"))
    assert caplog.records[-1].fields["hook"] == "start load"  # type: ignore[attr-defined]


def test_startup_and_shutdown_of_the_instance_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    @service()
    class Good:
        @async_on_start
        def load(self) -> None:
            self.loaded = True

    good: Any = Good
    instances: dict[str, Any] = {}

    class Local:
        def local(self, one: Any) -> Any:
            return instances.get(one.name)

    monkeypatch.setattr("dynamo_tasks.sdk.resolver._resolver", Local())
    with pytest.raises(ConfigError, match="no instance of Good lives in this process"):
        asyncio.run(good.on_startup())
    instances["Good"] = good()
    asyncio.run(good.on_startup())
    assert instances["Good"].loaded
    assert good.state is ServiceState.INITIALIZED
    asyncio.run(good.on_shutdown())
    assert good.state is ServiceState.STOPPING
