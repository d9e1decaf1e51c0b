"""The commands, with the layers below replaced at their one seam."""

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dynamo_tasks import runtime as runtime_module
from dynamo_tasks.errors import EngineError, NoInstancesError
from dynamo_tasks.queue.client import result as result_module
from dynamo_tasks.runtime import inspect
from dynamo_tasks.serve.cli import cli
from dynamo_tasks.serve.commands import status as status_module


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return {"DYNAMO_HOME": str(tmp_path / "home"), "DYNAMO_REDIS_URL": "redis://:pw@h:1/0"}


def run(environ: dict[str, str], *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, env=environ, input=stdin, prog_name="dynamo-tasks")


def assert_one_line(result: Result, *texts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for text in texts:
        assert text in line


def test_version(environ: dict[str, str]) -> None:
    result = run(environ, "version")
    assert result.exit_code == 0
    assert result.output.startswith("dynamo-tasks 0.")


def test_help_names_the_commands_and_free_flags(environ: dict[str, str]) -> None:
    for name in ("serve", "status", "call", "tail", "version"):
        assert name in run(environ, "--help").output
    assert "[--Service.key=value ...]" in run(environ, "serve", "--help").output


@pytest.mark.parametrize("command", [["status"], ["call", "a.B.c", "{}"], ["tail", "1"]])
def test_no_server_is_one_line(environ: dict[str, str], command: list[str]) -> None:
    assert_one_line(
        run(environ | {"DYNAMO_REDIS_URL": ""}, *command), "no Redis server", "dynamo-tasks serve"
    )


def test_a_taken_port_is_one_line(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(run(environ, "serve", "--port", port), f"port {port}", "in use")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["serve", "--prot", "1"], ["No such option", "--port", "(see dynamo-tasks serve --help)"]),
        (["serve", "--port", "http"], ["--port", "not a valid integer"]),
        (["--nope"], ["No such option '--nope' (see dynamo-tasks --help)"]),
        (["nope"], ["No such command 'nope'"]),
        (["tail"], ["REQUEST_ID"]),
        (["status", "--watch", "--json"], ["exclude each other"]),
        (["serve", "--Worker.model"], ["--Worker.model needs a value"]),
    ],
)
def test_a_command_line_without_sense_is_one_line(
    environ: dict[str, str], arguments: list[str], texts: list[str]
) -> None:
    assert_one_line(run(environ, *arguments), *texts)


def test_without_arguments_the_first_steps_are_shown(environ: dict[str, str]) -> None:
    result = run(environ)
    assert result.exit_code == 0
    assert "First steps:" in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2].partition("First steps:")[0]


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dynamo_tasks", "version"], capture_output=True, text=True)
    assert done.stdout.startswith("dynamo-tasks 0.")


SHOWN = {"redis_url": "redis://:pw@h:1/0", "namespaces": ["dynamo"], "instances": []}


def test_status(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        status_module, "snapshot", lambda url, namespace=None: SHOWN if url == "redis://:pw@h:1/0" else {}
    )
    result = run(environ, "status")
    assert result.exit_code == 0, result.output
    assert result.stdout == "redis://:***@h:1/0\n└── dynamo\n"
    assert json.loads(run(environ, "status", "--json").stdout) == SHOWN


def test_status_watch_ends_with_ctrl_c(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter([SHOWN, SHOWN])

    def snapshot(url: str, namespace: str | None = None) -> dict[str, Any]:
        found = next(shown, None)
        if found is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(status_module, "snapshot", snapshot)
    result = run(environ, "status", "--watch", "--interval", "0.1")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("dynamo") == 2


class FakeRuntime:
    """Namespace, component, endpoint and client in one."""

    def __init__(self, values: list[Any], error: Exception | None = None) -> None:
        self.values = values
        self.error = error
        self.path: list[str] = []
        self.requests: list[Any] = []
        self.closed = False

    def step(self, name: str) -> "FakeRuntime":
        self.path.append(name)
        return self

    namespace = component = endpoint = step

    async def client(self) -> "FakeRuntime":
        return self

    async def generate(self, payload: Any) -> AsyncIterator[Any]:
        self.requests.append(payload)
        for value in self.values:
            yield type("Item", (), {"id": "1-1", "data": lambda self, value=value: value})()
        if self.error:
            raise self.error

    async def create(self, url: str) -> "FakeRuntime":
        return self

    async def __aenter__(self) -> "FakeRuntime":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.closed = True


def fake(monkeypatch: pytest.MonkeyPatch, *values: Any, error: Exception | None = None) -> FakeRuntime:
    runtime = FakeRuntime(list(values), error)
    monkeypatch.setattr(runtime_module, "DistributedRuntime", runtime, raising=False)
    served = [
        {"namespace": "dynamo", "component": "Worker", "endpoints": ["embed", "generate"]},
        {"namespace": "a", "component": "B", "endpoints": ["c"]},
    ]
    monkeypatch.setattr(inspect, "snapshot", lambda url: {"instances": served})
    return runtime


def test_call_streams_text(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake(monkeypatch, {"text": "Hello"}, {"text": ""}, {"text": " you"}, {"n": 1}, {"text": "end"})
    result = run(environ, "call", "dyn://dynamo.Worker.generate", '{"prompt": "hi"}')
    assert result.exit_code == 0, result.output
    assert result.stdout == 'Hello you\n{"n": 1}\nend\n'
    assert runtime.path == ["dynamo", "Worker", "generate"]
    assert runtime.requests == [{"prompt": "hi"}]
    assert runtime.closed


def test_call_reads_stdin(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake(monkeypatch)
    assert run(environ, "call", "a.B.c", "-", stdin="[1]").exit_code == 0
    assert runtime.requests == [[1]]


def test_call_without_an_argument(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake(monkeypatch)
    assert run(environ, "call", "a.B.c").exit_code == 0
    assert runtime.requests == [None]


def test_call_errors_are_one_line(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_line(run(environ, "call", "nonsense", "{}"), "expected namespace.Component.endpoint")
    assert_one_line(run(environ, "call", "a.B.c", "{x"), "JSON argument", "prompt")
    fake(monkeypatch, error=NoInstancesError("no live instance\nof a.B.c"))
    assert_one_line(run(environ, "call", "a.B.c", "{}"), "no live instance of a.B.c")


def test_call_refuses_an_endpoint_that_its_component_lacks(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = fake(monkeypatch)
    assert_one_line(run(environ, "call", "dynamo.Worker.generat", "{}"), "did you mean 'generate'?", "embed")
    assert runtime.requests == []


def test_call_says_that_nobody_serves_yet(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake(monkeypatch, {"text": "at last"})
    result = run(environ, "call", "dynamo.Wroker.generate", "{}")
    assert result.exit_code == 0, result.output
    assert result.stdout == "at last\n"
    assert "nobody serves dynamo.Wroker now (served: a.B, dynamo.Worker)" in result.stderr
    assert runtime.requests == [{}]


def test_call_ends_the_line_before_an_error(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, {"text": "half"}, error=EngineError("out of memory"))
    result = run(environ, "call", "a.B.c", "{}")
    assert result.exit_code == 2
    assert result.stdout == "half\n"
    assert result.stderr == "Error: out of memory\n"


class FakeStream:
    def stream(self, after: str | None = None) -> Iterator[Any]:
        yield {"text": f"after {after}"}
        yield [1, "é"]


def test_tail(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "reach", lambda url: None)
    monkeypatch.setattr(result_module, "StreamResult", lambda request_id: FakeStream())
    result = run(environ, "tail", "abc", "--after", "5-1")
    assert result.exit_code == 0, result.output
    assert result.stdout == 'after 5-1\n[1, "é"]\n'
    assert_one_line(run(environ, "tail", "abc", "--after", "five"), "'five' is not <epoch>-<seq>")
