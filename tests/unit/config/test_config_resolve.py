"""Precedence, deep merge, origins, and one clear error for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from dynamo_tasks.config import (
    DefaultName,
    Layer,
    ServiceSchema,
    env_layer,
    flags_layer,
    load_yaml,
    mask,
    resolve,
)
from dynamo_tasks.errors import ConfigError

WORKER = ServiceSchema(
    "Worker",
    attributes={
        "engine": "echo",
        "model": None,
        "revision": "main",
        "engine_args": {"seed": 0, "block_size": 16},
        "rate": 1.0,
        "retries": 3,
        "eager": False,
        "stops": [],
        "api_key": None,
        "path": Path("/models"),
    },
    annotations={"model": str | None, "mode": Literal["fast", "slow"], "engine_args": dict[str, Any]},
    extras="engine_args",
    arguments={
        "dynamo": {"namespace": "dynamo"},
        "ServiceArgs": {"workers": 2, "resources": {"gpu": 1}, "envs": [{"name": "A", "value": 1}]},
    },
)
FRONTEND = ServiceSchema("Frontend", attributes={"port": 8000})
SCHEMAS = {"Frontend": FRONTEND, "Worker": WORKER}


def yaml(data: dict[str, Any]) -> Layer:
    return Layer("agg.yaml", data)


def test_defaults():
    resolved = resolve(SCHEMAS, [])
    worker, frontend = resolved["Worker"], resolved["Frontend"]
    assert (worker.namespace, worker.component, worker.enabled, worker.workers) == (
        "dynamo",
        "Worker",
        True,
        2,
    )
    assert (frontend.namespace, frontend.component, frontend.enabled, frontend.workers) == (
        "default",
        "Frontend",
        False,
        1,
    )
    assert worker.envs == {"A": "1"}
    assert worker.resources == {"gpu": 1}
    assert worker.attributes["engine_args"] == {"seed": 0, "block_size": 16}
    assert "mode" not in worker.attributes
    assert resolved.origins["Worker.engine"] == "class attribute"
    assert resolved.origins["Worker.ServiceArgs.workers"] == "@service of Worker"


def test_class_defaults_are_not_shared():
    first = resolve(SCHEMAS, [])["Worker"].attributes
    first["engine_args"]["seed"] = 99
    first["stops"].append("x")
    assert resolve(SCHEMAS, [])["Worker"].attributes["engine_args"]["seed"] == 0
    assert WORKER.attributes["stops"] == []


LADDER = [
    ("--Worker.engine", flags_layer(["--Worker.engine=flag"]), "flag"),
    ("agg.yaml", yaml({"Worker": {"engine": "yaml"}}), "yaml"),
    ("environment DYNAMO_WORKER__ENGINE", env_layer({"DYNAMO_WORKER__ENGINE": "env"}), "env"),
    (
        "environment DYNAMO_SERVICE_CONFIG",
        env_layer({"DYNAMO_SERVICE_CONFIG": '{"Worker": {"engine": "json"}}'}),
        "json",
    ),
]


@pytest.mark.parametrize("top", range(len(LADDER)))
def test_precedence(top):
    where, _layer, expected = LADDER[top]
    resolved = resolve(SCHEMAS, [layer for _where, layer, _value in LADDER[top:]])
    assert resolved["Worker"].attributes["engine"] == expected
    assert resolved.origins["Worker.engine"] == where


def test_deep_merge_at_every_level():
    layers = [
        flags_layer(["--Worker.engine-args.max-num-seqs=4", "--Worker.ServiceArgs.resources.cpu=8"]),
        yaml(
            {
                "Worker": {
                    "enable-prefix-caching": True,
                    "engine_args": {"seed": 5, "hf-overrides": {"rope-scale": 2}},
                    "ServiceArgs": {"traffic": {"timeout": 2.5, "max_queue": 0}, "envs": {"B": True}},
                }
            }
        ),
    ]
    resolved = resolve(SCHEMAS, layers)
    worker = resolved["Worker"]
    assert worker.attributes["engine_args"] == {
        "seed": 5,
        "block_size": 16,
        "enable_prefix_caching": True,
        "hf_overrides": {"rope-scale": 2},
        "max_num_seqs": 4,
    }
    assert worker.resources == {"gpu": 1, "cpu": "8"}
    assert worker.traffic == {"timeout": 2.5, "max_queue": 0}
    assert worker.envs == {"A": "1", "B": "true"}
    assert resolved.origins["Worker.engine_args.block_size"] == "class attribute"
    assert resolved.origins["Worker.engine_args.max_num_seqs"] == "--Worker.engine-args.max-num-seqs"


def test_environment_matches_in_any_case():
    environ = {
        "DYNAMO_WORKER__SERVICEARGS__WORKERS": "3",
        "DYNAMO_WORKER__ENGINE_ARGS__MAX_NUM_SEQS": "8",
        "DYNAMO_worker__Token_Delay_Ms": "2",
        "DYNAMO_WORKER__DYNAMO__NAMESPACE": "prod",
    }
    worker = resolve(SCHEMAS, [env_layer(environ)])["Worker"]
    assert (worker.workers, worker.namespace) == (3, "prod")
    assert worker.attributes["engine_args"] == {
        "seed": 0,
        "block_size": 16,
        "max_num_seqs": 8,
        "token_delay_ms": 2,
    }


def test_default_namespace_is_below_everything_that_names_one():
    env = env_layer({"DYNAMO_NAMESPACE": "staging"})
    resolved = resolve(SCHEMAS, [env])
    assert (resolved["Worker"].namespace, resolved["Frontend"].namespace) == ("dynamo", "default")
    for given in ({}, {"namespace": DefaultName("dynamo")}, {"name": "w"}, {"namespace": None}):
        schemas = {"Worker": ServiceSchema("Worker", arguments={"dynamo": given})}
        resolved = resolve(schemas, [env])
        assert resolved["Worker"].namespace == "staging"
        assert resolved.origins["Worker.dynamo.namespace"] == "environment DYNAMO_NAMESPACE"
        assert resolve(schemas, [])["Worker"].namespace == (given.get("namespace") or "default")
        named = yaml({"Worker": {"dynamo": {"namespace": "mine"}}})
        assert resolve(schemas, [named, env])["Worker"].namespace == "mine"
    off = {"Worker": ServiceSchema("Worker", arguments={"dynamo": {"enabled": False}})}
    assert resolve(off, [env])["Worker"].namespace == "default"


def test_common_configs():
    data = {
        "Common": {"model": "llama", "block-size": 64, "kv-role": "both"},
        "Worker": {"common-configs": ["model", "block-size"], "engine": "mocker"},
        "Frontend": None,
    }
    resolved = resolve(SCHEMAS, [yaml(data)])
    assert resolved["Worker"].attributes["model"] == "llama"
    assert resolved["Worker"].attributes["engine_args"]["block_size"] == 64
    assert "kv_role" not in resolved["Worker"].attributes["engine_args"]
    data["Worker"]["model"] = "own"
    flags = flags_layer(["--Common.model=flag"])
    assert resolve(SCHEMAS, [flags, yaml(data)])["Worker"].attributes["model"] == "own"


def test_values_keep_the_text_that_was_typed():
    layers = [
        flags_layer(["--Worker.revision=007", "--Worker.model=1e3", "--Worker.rate=2", "--Worker.path=/x"])
    ]
    attributes = resolve(SCHEMAS, layers)["Worker"].attributes
    assert (attributes["revision"], attributes["path"]) == ("007", Path("/x"))
    assert attributes["model"] == "1e3"
    assert attributes["rate"] == 2.0


def test_unset_by_null():
    assert resolve(SCHEMAS, [yaml({"Worker": {"model": None}})])["Worker"].attributes["model"] is None


def test_tree_of_a_resolution_resolves_to_itself():
    resolved = resolve(SCHEMAS, [flags_layer(["--Worker.seed=4", "--Worker.ServiceArgs.concurrency=9"])])
    tree = resolved.tree()
    tree["Worker"].pop("path")
    again = resolve(SCHEMAS, [yaml(tree)])
    assert again["Worker"] == resolved["Worker"]


def test_seed_examples_load(tmp_path):
    file = tmp_path / "agg.yaml"
    file.write_text(
        "VllmWorker:\n  model: deepseek-ai/DeepSeek-R1-Distill-Llama-8B\n  enable-prefix-caching: true\n"
        "  dynamo:\n    namespace: production\n    name: llama-worker\n"
        '  ServiceArgs:\n    workers: 4\n    resources:\n      gpu: 1\n      cpu: "10"\n'
    )
    schema = ServiceSchema(
        "VllmWorker", {"model": "", "engine_args": {}}, extras="engine_args", arguments={"dynamo": {}}
    )
    settings = resolve({"VllmWorker": schema}, [load_yaml(file)])["VllmWorker"]
    assert (settings.namespace, settings.component, settings.workers) == ("production", "llama-worker", 4)
    assert settings.resources == {"gpu": 1, "cpu": "10"}
    assert settings.attributes["engine_args"] == {"enable_prefix_caching": True}


def test_error_names_file_and_line(tmp_path):
    file = tmp_path / "agg.yaml"
    file.write_text("Frontend:\n  prot: 1\n")
    with pytest.raises(ConfigError, match=r"agg\.yaml:2: Frontend has no key 'prot'; did you mean 'port'\?"):
        resolve(SCHEMAS, [load_yaml(file)])


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (yaml({"Wroker": {}}), "no service 'Wroker' in this graph; did you mean 'Worker'"),
        (yaml({7: {}}), "no service 7"),
        (env_layer({"DYNAMO_WROKER__X": "1"}), "environment DYNAMO_WROKER__X: no service 'WROKER'"),
        (
            flags_layer(["--Frontend.potr=1"]),
            "--Frontend.potr: Frontend has no key 'potr'; did you mean 'port'",
        ),
        (yaml({"Worker": [1]}), "Worker must be a mapping of settings"),
        (yaml({"Common": 3}), "Common must be a mapping"),
        (yaml({"Worker": {"common-configs": ["modle"]}, "Common": {"model": 1}}), "did you mean 'model'"),
        (yaml({"Worker": {"common-configs": "model"}}), "common-configs must be a list"),
        (yaml({"Worker": {"common-configs": {"a": 1}}}), "common-configs must be a list"),
        (yaml({"Worker": {"dynamo": {"namspace": "x"}}}), "did you mean 'namespace'"),
        (yaml({"Worker": {"dynamo": True}}), "Worker.dynamo must be a mapping of namespace, name, enabled"),
        (yaml({"Worker": {"dynamo": {"enabled": "yes"}}}), "dynamo.enabled must be bool"),
        (yaml({"Worker": {"dynamo": {"name": 3}}}), "dynamo.name must be str"),
        (yaml({"Worker": {"ServiceArgs": {"worker": 1}}}), "did you mean 'workers'"),
        (yaml({"Worker": {"ServiceArgs": {"workers": 0}}}), "workers must be a whole number of at least 1"),
        (yaml({"Worker": {"ServiceArgs": {"workers": True}}}), "workers must be a whole number"),
        (yaml({"Worker": {"ServiceArgs": {"workers": 1.5}}}), "workers must be a whole number"),
        (yaml({"Worker": {"ServiceArgs": {"workers": {"a": 1}}}}), "workers must be a whole number"),
        (
            yaml({"Worker": {"ServiceArgs": {"resources": {"gpu": 1.5}}}}),
            "gpu must be a whole number, or a share",
        ),
        (yaml({"Worker": {"ServiceArgs": {"resources": {"gpu": -1}}}}), "gpu must be a number of at least 0"),
        (yaml({"Worker": {"ServiceArgs": {"resources": {"gpu": "x"}}}}), "gpu must be a number"),
        (yaml({"Worker": {"ServiceArgs": {"resources": {"gpu": float("nan")}}}}), "gpu must be a number"),
        (yaml({"Worker": {"ServiceArgs": {"resources": {"gpus": 1}}}}), "resources has no key 'gpus'"),
        (yaml({"Worker": {"ServiceArgs": {"resources": {"cpu": [1]}}}}), "cpu must be text or a number"),
        (yaml({"Worker": {"ServiceArgs": {"traffic": 3}}}), "traffic must be a mapping of timeout"),
        (yaml({"Worker": {"ServiceArgs": {"traffic": {"timeout": 0}}}}), "timeout must be a number above 0"),
        (
            yaml({"Worker": {"ServiceArgs": {"traffic": {"max_queue": -1}}}}),
            "max_queue must be a whole number",
        ),
        (yaml({"Worker": {"ServiceArgs": {"envs": "A=1"}}}), "envs must be a mapping"),
        (yaml({"Worker": {"ServiceArgs": {"envs": ["A"]}}}), "envs must be a mapping, or a list"),
        (yaml({"Worker": {"ServiceArgs": {"envs": {"A": [1]}}}}), "envs.A must be text"),
        (yaml({"Worker": {"engine": 3}}), "agg.yaml: Worker.engine must be str, not 3 (int)"),
        (yaml({"Worker": {"retries": "many"}}), "Worker.retries must be int, not 'many' (str)"),
        (yaml({"Worker": {"retries": True}}), "Worker.retries must be int"),
        (yaml({"Worker": {"rate": "fast"}}), "Worker.rate must be float"),
        (yaml({"Worker": {"eager": 1}}), "Worker.eager must be bool"),
        (yaml({"Worker": {"stops": "x"}}), "Worker.stops must be list"),
        (yaml({"Worker": {"model": 3}}), "Worker.model must be str | None"),
        (yaml({"Worker": {"mode": "medium"}}), "Worker.mode must be Literal['fast', 'slow']"),
        (yaml({"Worker": {"engine_args": [1]}}), "Worker.engine_args must be dict"),
        (flags_layer(["--Worker.eager=maybe"]), "--Worker.eager: Worker.eager must be bool, not 'maybe'"),
    ],
)
def test_bad_values(layer, part):
    with pytest.raises(ConfigError) as info:
        resolve(SCHEMAS, [layer])
    assert part in info.value.message


def test_sections_of_other_services_can_be_left_out():
    layers = [yaml({"Other": {"x": 1}, "Worker": {"engine": "a"}}), env_layer({"DYNAMO_OTHER__X": "1"})]
    resolved = resolve({"Worker": WORKER}, layers, allow_unknown_services=True)
    assert resolved["Worker"].attributes["engine"] == "a"


def test_rows_show_origins_and_no_secrets():
    layers = [
        flags_layer(["--Worker.api_key=sk-very-secret"]),
        yaml(
            {
                "Worker": {
                    "store": {"url": "redis://me:hush@host/0"},
                    "max_tokens": 5,
                    "ServiceArgs": {"envs": {"HF_TOKEN": "hush", "AWS_SECRET_ACCESS_KEY": "hush"}},
                }
            }
        ),
    ]
    schema = ServiceSchema("Worker", {"api_key": "", "engine_args": {}}, extras="engine_args")
    found = {row.key: row for row in resolve({"Worker": schema}, layers).rows()}
    assert found["api_key"][2:] == ("***", "--Worker.api_key")
    assert found["engine_args.store.url"].value == "redis://***@host/0"
    assert found["engine_args.max_tokens"].value == 5
    assert found["ServiceArgs.envs.HF_TOKEN"].value == "***"
    assert found["ServiceArgs.workers"][2:] == (1, "default")
    assert not [row for row in found.values() if "hush" in repr(row) or "sk-" in repr(row)]


@pytest.mark.parametrize(
    "key", ["api_key", "x.api-keys", "password", "db_passwd", "auth_token", "token", "a.secret_b"]
)
def test_secret_keys(key):
    assert mask(key, "value") == "***"
    assert mask(key, ["a", "b"]) == ["***", "***"]
    assert mask(key, None) is None


@pytest.mark.parametrize("key", ["max_tokens", "token_delay_ms", "tokenizer", "keyboard"])
def test_open_keys(key):
    assert mask(key, 7) == 7


def test_wrong_value_of_a_secret_is_not_shown():
    schema = ServiceSchema("Worker", {"password": 5})
    with pytest.raises(ConfigError) as info:
        resolve({"Worker": schema}, [yaml({"Worker": {"password": "hush"}})])
    assert "hush" not in info.value.message


def test_the_default_namespace_is_also_that_of_a_service_made_a_component() -> None:
    schema = ServiceSchema("Processor")
    environ = env_layer({"DYNAMO_NAMESPACE": "prod"})
    plain = resolve({"Processor": schema}, [environ])["Processor"]
    enabled = resolve({"Processor": schema}, [flags_layer(["--Processor.dynamo.enabled=true"]), environ])[
        "Processor"
    ]
    assert (plain.enabled, plain.namespace) == (False, "default")
    assert (enabled.enabled, enabled.namespace) == (True, "prod")
