"""A server that can never serve us is refused at the start, by every command: one line and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.serve import COMMAND, environ_of
from tests.support.server import RedisServer, free_port

CELERY = [sys.executable, "-m", "celery", "-A", "dynamo_tasks", "worker"]
COMMANDS = {
    "serve": [*COMMAND, "serve", "--port", "0"],
    "worker": [*CELERY, "--service", "workers.agg:Worker"],
    "frontend": [sys.executable, "-m", "dynamo_tasks.serve.host", "--service", "workers.agg:Frontend", "--port", "0"],
    "call": [*COMMAND, "call", "dynamo.Worker.generate", '{"prompt": "hi"}'],
    "status": [*COMMAND, "status"],
}  # fmt: skip


def cluster(folder: Path) -> tuple[RedisServer, str]:
    """A node of a Redis Cluster. Its bus would be at the port + 10000, which may be none."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    return RedisServer(folder, *options, "--cluster-port", str(free_port())), "Redis Cluster"


def no_scripts(folder: Path) -> tuple[RedisServer, str]:
    """A provider that has taken scripts away."""
    return RedisServer(folder, "--rename-command", "EVALSHA", "", "--rename-command", "EVAL", ""), "EVALSHA"


def wrong_user(folder: Path) -> tuple[RedisServer, str]:
    """A user that may do next to nothing."""
    acl = folder / "users.acl"
    acl.write_text("user default on nopass ~* &* -@all +ping +info +client +select +hello +time\n")
    return RedisServer(folder, "--aclfile", str(acl)), "ACL"


CASES = [
    (cluster, "serve"), (cluster, "worker"), (cluster, "status"), (cluster, "call"),
    (no_scripts, "worker"), (no_scripts, "frontend"), (no_scripts, "serve"), (no_scripts, "call"),
    (wrong_user, "worker"), (wrong_user, "frontend"), (wrong_user, "status"), (wrong_user, "call"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "command"), CASES)
def test_one_line_and_exit_code_2(
    kind: Callable[[Path], tuple[RedisServer, str]], command: str, tmp_path: Path
) -> None:
    server, word = kind(tmp_path)
    with server:
        done = subprocess.run(
            COMMANDS[command], env=environ_of(tmp_path, DYNAMO_REDIS_URL=server.url), cwd=ROOT, capture_output=True,
            text=True, timeout=90,
        )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert word in said, said
    assert "NOPERM" not in said.replace('store.refused error="NOPERM', ""), said
    assert done.returncode == 2, said
