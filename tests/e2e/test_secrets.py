"""No secret leaves the place where it belongs: not in logs at their most talkative, not in errors, not in listings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT
from tests.support.serve import COMMAND, Serve, environ_of, processes_of

KEY, WRONG, OTHER = "sk-hunter2hunter2", "sk-wrong-wrong-wrong", "p%40ss-hunter3"
ASK: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}


def command_lines(home: Path) -> str:
    found = []
    for pid in processes_of(home):
        try:
            found.append((Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.slow
def test_a_served_stack_at_debug_level(tmp_path: Path) -> None:
    with Serve(tmp_path, "--loglevel", "debug", DYNAMO_API_KEYS=KEY) as serve:
        password = (tmp_path / "server" / "password").read_text().strip()
        assert serve.post("/v1/chat/completions", ASK, Authorization=f"Bearer {KEY}").status == 200
        assert serve.post("/v1/chat/completions", ASK, Authorization=f"Bearer {WRONG}").status == 401
        streamed = serve.post("/v1/chat/completions", ASK | {"stream": True}, Authorization=f"Bearer {KEY}")
        assert b"[DONE]" in streamed.read()
        status = serve.cli("status", "--json")
        assert json.loads(status.stdout)["redis_url"].startswith("redis://:***@")
        shown = serve.output + status.stdout + status.stderr + command_lines(tmp_path)
        logs = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log"))
        for secret in (KEY, WRONG, password):
            assert secret not in shown + logs


def run(tmp_path: Path, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environ_of(tmp_path, **env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_dry_run_shows_settings_and_no_secrets(tmp_path: Path) -> None:
    env = {"DYNAMO_REDIS_URL": f"redis://me:{OTHER}@db:1/0", "DYNAMO_API_KEYS": KEY}
    shown = run(tmp_path, "serve", "--dry-run", **env)
    shown += run(
        tmp_path,
        "serve",
        "--dry-run",
        f"--Frontend.api_keys={KEY}",
        f"--Worker.ServiceArgs.envs.API_KEY={KEY}",
    )
    assert "Frontend" in shown
    assert not any(secret in shown for secret in (KEY, OTHER, "p@ss-hunter3"))


@pytest.mark.slow
def test_errors_show_urls_without_passwords(tmp_path: Path) -> None:
    """Every command against a server that is not there, and against a URL that is none."""
    shown = ""
    for place in ("127.0.0.1:1", "[bad", "h:x"):
        env = {"DYNAMO_REDIS_URL": f"rediss://me:{OTHER}@{place}/0"}
        shown += run(tmp_path, "serve", **env) + run(tmp_path, "status", "--json", **env)
    worker = [sys.executable, "-m", "celery", "-A", "dynamo_tasks", "worker", "--loglevel", "debug"]
    done = subprocess.run(
        worker, env=environ_of(tmp_path, **env), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    shown += done.stdout + done.stderr
    assert "127.0.0.1:1" in shown
    assert not any(secret in shown for secret in (OTHER, "p@ss-hunter3")), shown
