"""What is given and empty is not "not given": `serve` and its dry run refuse keys without a key in them, alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.serve import COMMAND, Serve, environ_of, typed

YAML = "Frontend:\n  api_keys: []\n"
CASES = {
    "flag": (["--api-key", ""], {}),
    "flag of commas": (["--api-key", " , "], {}),
    "setting": (["--Frontend.api_keys=[]"], {}),
    "variable": ([], {"DYNAMO_API_KEYS": ""}),
    "variable of a setting": ([], {"DYNAMO_FRONTEND__API_KEYS": "[]"}),
    "file": (["-f", "keys.yaml"], {}),
}


def _run(command: list[str], home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; a dry run in this one."""
    if "--dry-run" in command:
        return typed(home, *command[len(COMMAND) :], **env)
    return subprocess.run(
        command, env=environ_of(home, **env), cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "how", [["--dry-run"], pytest.param([], marks=pytest.mark.slow)], ids=["dry-run", "serve"]
)
@pytest.mark.parametrize("case", CASES)
def test_no_key_in_what_was_given(case: str, how: list[str], tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(YAML)
    arguments, env = CASES[case]
    arguments = [str(tmp_path / one) if one == "keys.yaml" else one for one in arguments]
    done = _run([*COMMAND, "serve", "--port", "0", *how, *arguments], tmp_path, **env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds no key" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


WORKER = [sys.executable, "-m", "celery", "-A", "dynamo_tasks", "worker", "--service", "workers.agg:Worker"]
HOST = [sys.executable, "-m", "dynamo_tasks.serve.host", "--service", "workers.agg:Frontend", "--port", "0"]
SERVE = [*COMMAND, "serve", "--port", "0", "--dry-run"]
VARIABLES = ["DYNAMO_SIGNING_KEY", "DYNAMO_ALLOWED_HOSTS", "DYNAMO_REDIS_CA_CERTS"]
UNSET = [
    "DYNAMO_REDIS_URL", "DYNAMO_NAMESPACE", "DYNAMO_HOME", "DYNAMO_GRAPH", "DYNAMO_CONFIG", "DYNAMO_CORS_ORIGINS",
    "DYNAMO_KEY_PREFIX", "DYNAMO_SYSTEM_PORT", "DYNAMO_SYSTEM_HOST", "DYNAMO_GPU_ALLOCATION", "DYNAMO_FAKE_GPUS",
    "DYNAMO_LOG_FORMAT", "DYNAMO_SERVICE_CONFIG", "DYNAMO_REDIS_CERTFILE", "DYNAMO_REDIS_CERT_REQS",
]  # fmt: skip
OPTIONS = [
    *([*SERVE, option, ""] for option in ("--service", "--config", "-f", "--model", "--host")),
    [*SERVE, ""],
    [*SERVE, "--Frontend.allowed_hosts=[]"],
    [*SERVE, "--Frontend.allowed_hosts", ""],
    *([*WORKER[:-2], option, ""] for option in ("--service", "--config", "--operators")),
    *([*HOST, option, ""] for option in ("--service", "--config", "--host")),
]


def _refused(command: list[str], home: Path, **env: str) -> str:
    done = _run(command, home, **env)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if "given" in line or "names no" in line or "must be" in line
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]


def _name(command: list[str]) -> str:
    return " ".join(
        ["worker" if "worker" in command else "host" if HOST[2] in command else "serve", *command[-2:]]
    )


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, id=_name(one), marks=() if "--dry-run" in one else pytest.mark.slow)
        for one in OPTIONS
    ],
)
def test_an_option_that_is_given_and_empty(command: list[str], tmp_path: Path) -> None:
    option = next(one for one in reversed(command) if one).partition("=")[0].removeprefix("--Frontend.")
    line = _refused(command, tmp_path, DYNAMO_REDIS_URL="redis://127.0.0.1:1/0")
    assert {"-f": "--config", "--dry-run": "GRAPH"}.get(option, option).removeprefix("--Frontend.") in line


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(SERVE, id="dry-run"),
        *(pytest.param(one, id=_name(one), marks=pytest.mark.slow) for one in (SERVE[:-1], WORKER, HOST)),
    ],
)
def test_a_variable_without_which_more_would_be_let_in(command: list[str], name: str, tmp_path: Path) -> None:
    assert name in _refused(command, tmp_path, DYNAMO_REDIS_URL="redis://127.0.0.1:1/0", **{name: ""})


def test_other_empty_variables_are_not_set(tmp_path: Path) -> None:
    plain, empty = (_run(SERVE, tmp_path, **env) for env in ({}, dict.fromkeys(UNSET, "")))
    assert plain.returncode == empty.returncode == 0
    assert plain.stdout == empty.stdout


@pytest.mark.slow
def test_keys_are_in_no_command_line(tmp_path: Path) -> None:
    with Serve(tmp_path, '--Frontend.api_keys=["s3cret-key"]') as serve:
        assert serve.post("/v1/completions", {"model": "echo", "prompt": "a"}).status == 401
        sent = serve.post(
            "/v1/completions",
            {"model": "echo", "prompt": "a", "max_tokens": 1},
            Authorization="Bearer s3cret-key",
        )
        assert sent.status == 200, sent.read()
        shown = [
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if int(path.parent.name) != serve.pid
        ]  # fmt: skip
        assert not any(b"s3cret-key" in one for one in shown)
