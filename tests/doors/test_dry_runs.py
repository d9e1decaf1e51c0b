"""`serve --dry-run` refuses what `serve` refuses, in the same words, where it is a matter of configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.serve import COMMAND, environ_of, typed

GPU = "--Worker.ServiceArgs.resources.gpu="
Case = tuple[list[str], dict[str, str], str]
CASES: dict[str, Case] = {
    "port": (["--port", "70000"], {}, "--port"),
    "host": (["--host", "203.0.113.9"], {}, "--host 203.0.113.9"),
    "host's name": (["--host", "no.such.host.invalid"], {}, "--host no.such.host.invalid"),
    "too many GPUs": ([GPU + "3"], {"DYNAMO_FAKE_GPUS": "1"}, "3 GPUs are asked for"),
    "a GPU that is required": (["--require-gpu", GPU + "1"], {"DYNAMO_FAKE_GPUS": "0"}, "no GPU can be seen"),
    "a GPU and none": (["--require-gpu", "--no-gpu-allocation"], {}, "exclude each other"),
    "allocation": ([], {"DYNAMO_GPU_ALLOCATION": "maybe"}, "DYNAMO_GPU_ALLOCATION"),
    "fake GPUs": ([GPU + "1"], {"DYNAMO_FAKE_GPUS": "many"}, "DYNAMO_FAKE_GPUS"),
    "engine": (["--Worker.engine=nothing"], {}, "unknown engine"),
    "engine's argument": (["--Worker.engine=mocker", "--Worker.engine_args.nope=1"], {}, "nope"),
    "engine's module": (["--Worker.engine=no_such:Engine"], {}, "no_such"),
    "file": (["-f", "none.yaml"], {}, "none.yaml"),
    "namespace": ([], {"DYNAMO_NAMESPACE": "Bad Name"}, "namespace"),
    "graph": (["no_such_module:X"], {}, "no_such_module"),
    "scheme": ([], {"DYNAMO_REDIS_URL": "http://x"}, "unix"),
    "URL's port": ([], {"DYNAMO_REDIS_URL": "redis://127.0.0.1:99999/0"}, "port"),
    "URL's database": ([], {"DYNAMO_REDIS_URL": "redis://127.0.0.1:1/abc"}, "abc"),
    "URL's TLS": ([], {"DYNAMO_REDIS_URL": "rediss://127.0.0.1:1/0?ssl_cert_reqs=maybe"}, "ssl_cert_reqs"),
    "URL's master": ([], {"DYNAMO_REDIS_URL": "sentinel://127.0.0.1:1"}, "which master"),
    "home": ([], {"DYNAMO_HOME": "/dev/null"}, "DYNAMO_HOME"),
    "origins": (["--Frontend.cors_origins=[nope]"], {}, "cors_origins"),
    "origins of the environment": ([], {"DYNAMO_CORS_ORIGINS": "nope"}, "cors_origins"),
    "names": (["--Frontend.allowed_hosts=['a b']"], {}, "allowed_hosts"),
    "a key twice": ([], {"DYNAMO_API_KEYS": "a,a"}, "twice"),
    "limits of a key": (["--Frontend.api_keys=[{key: a, rpm: 1}]"], {}, "rpm"),
    "limits of keys": (["--Frontend.key_limits.requests_per_minute=-1"], {}, "requests_per_minute"),
    "a hash of a key": ([], {"DYNAMO_API_KEYS": "sha256:zz"}, "64 hex digits"),
    "a key twice, of the command line": (["--api-key", "a,a"], {}, "twice"),
    "a host's empty label": (["--host", "a..b"], {}, "--host a..b"),
    "URL's host": ([], {"DYNAMO_REDIS_URL": "redis://a..b:6379/0"}, "a..b"),
    "Sentinel's host": ([], {"DYNAMO_REDIS_URL": "sentinel://a..b:6379/m"}, "a..b"),
    "URL's CA": ([], {"DYNAMO_REDIS_URL": "rediss://127.0.0.1:1/0?ssl_ca_certs=/none.pem"}, "/none.pem"),
    "CA": (
        [],
        {"DYNAMO_REDIS_URL": "rediss://127.0.0.1:1/0", "DYNAMO_REDIS_CA_CERTS": "/none.pem"},
        "/none.pem",
    ),
    "certificate": (
        [],
        {"DYNAMO_REDIS_URL": "rediss://h/0", "DYNAMO_REDIS_CERTFILE": "/none.pem"},
        "/none.pem",
    ),
    "home in a file": ([], {"DYNAMO_HOME": "/dev/null/x"}, "DYNAMO_HOME"),
    "system port": (["--port", "18123", "--system-port", "18123"], {}, "both get port 18123"),
    "system ports": (["--port", "18124", "--system-port", "18123"], {}, "both get port 18124"),
    "system port's host": (
        ["--system-port", "0"],
        {"DYNAMO_SYSTEM_HOST": "203.0.113.9"},
        "DYNAMO_SYSTEM_HOST",
    ),
    "format": ([], {"DYNAMO_LOG_FORMAT": "xml"}, "DYNAMO_LOG_FORMAT must be json or text"),
    "a service's variable": (
        ['--Worker.ServiceArgs.envs={"DYNAMO_LOG_FORMAT": "xml"}'],
        {},
        "DYNAMO_LOG_FORMAT",
    ),
    "a service's variable's name": (['--Worker.ServiceArgs.envs={"A=B": "1"}'], {}, "ServiceArgs.envs"),
    "signing key": ([], {"DYNAMO_SIGNING_KEY": "short"}, "DYNAMO_SIGNING_KEY must have at least 32"),
    "grace": ([], {"DYNAMO_GRACE_PERIOD": "x"}, "DYNAMO_GRACE_PERIOD must be a number of seconds"),
    "grace that has passed": ([], {"DYNAMO_GRACE_PERIOD": "-1"}, "DYNAMO_GRACE_PERIOD"),
    "prefix": ([], {"DYNAMO_KEY_PREFIX": "a b"}, "DYNAMO_KEY_PREFIX"),
    "file of the environment": ([], {"DYNAMO_CONFIG": "none.yaml"}, "none.yaml"),
    "origins of a service's own": (
        ["tests.support.values_service:Edges"],
        {"DYNAMO_CORS_ORIGINS": "x"},
        "cors_origins",
    ),
    "what is kept longer than its record": (
        ["--Frontend.response_retention=90000"],
        {},
        "response_retention can be at most 86400",
    ),
    "frontend's numbers": (["--Frontend.max_retention=-5"], {}, "max_retention"),
}


def test_an_exporter_that_is_not_there_stops_nothing_and_is_reported(tmp_path: Path) -> None:
    """As OpenTelemetry wants it."""
    done = subprocess.run(
        [*COMMAND, "serve", "--dry-run"], env=environ_of(tmp_path, OTEL_TRACES_EXPORTER="nope"), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "OTEL_TRACES_EXPORTER: no installed package has a span exporter named 'nope'" in done.stderr


def _arguments(case: str) -> list[str]:
    arguments, _, _ = CASES[case]
    return ["serve", *([] if "--port" in arguments else ["--port", "0"]), *arguments]


def _process(case: str, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *_arguments(case), *more], env=environ_of(home, **CASES[case][1]), cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_serve_refuses_its_dry_run_refuses(case: str, tmp_path: Path) -> None:
    _, env, words = CASES[case]
    done = typed(tmp_path, *_arguments(case), "--dry-run", **env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert not list(tmp_path.glob("server/*")), "nothing is started"


def test_as_a_process_it_says_the_same(tmp_path: Path) -> None:
    case = "engine's argument"
    done = _process(case, tmp_path, "--dry-run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert CASES[case][2] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_serve_refuses_it(case: str, tmp_path: Path) -> None:
    done = _process(case, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert CASES[case][2] in done.stderr
