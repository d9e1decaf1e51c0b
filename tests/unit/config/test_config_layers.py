"""Each source is read into a layer that knows where its values stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_tasks.config import env_layer, flags_layer, load_yaml
from dynamo_tasks.errors import ConfigError


def write(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "agg.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_yaml_keeps_lines_of_every_key(tmp_path):
    path = write(tmp_path, "Worker:\n  engine: mocker\n  engine_args:\n    seed: 3\n")
    layer = load_yaml(path)
    assert layer.data == {"Worker": {"engine": "mocker", "engine_args": {"seed": 3}}}
    assert layer.origin(("Worker", "engine_args", "seed")).where == f"{path}:4"
    assert layer.origin(("Worker", "engine", "deeper")).where == f"{path}:2"
    assert layer.origin(("Other",)).where == path


def test_yaml_merge_keys_and_anchors(tmp_path):
    path = write(tmp_path, "base: &b {x: 1, y: 2}\nWorker:\n  <<: *b\n  y: 3\n")
    assert load_yaml(path).data["Worker"] == {"x": 1, "y": 3}


def test_yaml_reads_exponents_as_numbers(tmp_path):
    assert load_yaml(write(tmp_path, "W: {rate: 1e-3}")).data == {"W": {"rate": 0.001}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_empty_yaml_is_an_empty_layer(tmp_path, text):
    assert load_yaml(write(tmp_path, text)).data == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "the top level must be a mapping of service names, not a list"),
        ("just text", "not a single value"),
        ("Worker:\n  a: 1\n  b: [1, 2\n", ":4: not valid YAML"),
        ("Worker:\n\tx: 1\n", ":2: not valid YAML"),
        ("Worker:\n  a: 1\n  a: 2\n", ":3: 'a' stands here twice"),
        ("Worker: &w\n  me: *w\n", ":1: an alias contains itself"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("Worker:\n  day: 2021-02-30\n", ":2: not valid YAML: day is out of range"),
        ("? [a, b]\n: 1\n", ":1: not valid YAML: found unhashable key"),
    ],
)
def test_bad_yaml(tmp_path, text, part):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as info:
        load_yaml(path)
    assert part in info.value.message
    assert "agg.yaml" in info.value.message


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_yaml(tmp_path)


def test_flags():
    layer = flags_layer(
        [
            "--Worker.engine=mocker",
            "--Worker.ServiceArgs.workers=2",
            "Worker.flag=true",
            "--Worker.stop",
            "[a, b]",
            "--Worker.url=redis://h?a=b",
        ]
    )
    assert layer.data == {
        "Worker": {
            "engine": "mocker",
            "ServiceArgs": {"workers": 2},
            "flag": True,
            "stop": ["a", "b"],
            "url": "redis://h?a=b",
        }
    }
    assert layer.origin(("Worker", "flag")).where == "--set Worker.flag"
    assert layer.origin(("Worker", "engine")) == ("--Worker.engine", "mocker")


def test_later_flags_win_and_origin_never_shows_the_value():
    layer = flags_layer(["--W.api_key=sk-1", "--W.api_key=sk-2"])
    assert layer.data == {"W": {"api_key": "sk-2"}}
    assert "sk-" not in layer.origin(("W", "api_key")).where


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--Worker.engine"], "has no value"),
        (["--Worker.engine", "--Worker.model=x"], "has no value"),
        (["Worker.engine"], "has no value"),
        (["--engine=mocker"], "names no Service.key"),
        (["--.engine=mocker"], "names no Service.key"),
        (["--Worker..x=1"], "names no Service.key"),
        (["--W.a=1", "--W.a.b=2"], "single value"),
    ],
)
def test_bad_flags(args, part):
    with pytest.raises(ConfigError, match=part):
        flags_layer(args)


def test_environment():
    layer = env_layer(
        {
            "DYNAMO_SERVICE_CONFIG": '{"Worker": {"engine": "echo"}}',
            "dynamo_worker__engine_args__seed": "7",
            "DYNAMO_NAMESPACE": "staging",
            "DYNAMO_REDIS_URL": "redis://x",
            "PATH": "/bin",
        }
    )
    assert layer.data == {"Worker": {"engine": "echo"}}
    assert layer.namespace == "staging"
    assert [(value.path, value.value) for value in layer.loose] == [(("worker", "engine_args", "seed"), 7)]


def test_empty_environment_values_are_nothing():
    layer = env_layer({"DYNAMO_SERVICE_CONFIG": " ", "DYNAMO_NAMESPACE": ""})
    assert (layer.data, layer.namespace, layer.loose) == ({}, None, ())


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"DYNAMO_SERVICE_CONFIG": "{"}, "DYNAMO_SERVICE_CONFIG: not valid JSON"),
        ({"DYNAMO_SERVICE_CONFIG": "[1]"}, "must be a JSON object of services, not list"),
        ({"DYNAMO_WORKER__": "1"}, "DYNAMO_WORKER__: an empty part"),
    ],
)
def test_bad_environment(environ, part):
    with pytest.raises(ConfigError, match=part):
        env_layer(environ)
