"""Clients from npm, where Node.js is: ``openai``, ``@anthropic-ai/sdk``, and Vercel's ``ai`` with its providers.

Their versions are those of ``node/package-lock.json``; they are installed once, below the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Served

HERE = Path(__file__).parent / "node"
SCRIPT = HERE / "clients.mjs"
NODE, NPM = shutil.which("node"), shutil.which("npm")
_VERSION = 20


def _missing() -> str:
    """Why it cannot be tried here; empty where it can."""
    if NODE is None or NPM is None:
        return "Node.js and npm are not installed"
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=False).stdout
    return (
        "" if int(said.strip().lstrip("v").split(".")[0] or 0) >= _VERSION else f"Node.js {said} is too old"
    )


MISSING = _missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.clients,
    pytest.mark.timeout(900),  # the packages may have to come from the registry first
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]
CHECKS = re.findall(r"^check\('([^']+)'", SCRIPT.read_text(), re.MULTILINE)
PROVIDERS = re.findall(r"^  '(@ai-sdk/[^']+)': ", SCRIPT.read_text(), re.MULTILINE)
NAMES = [
    *CHECKS,
    *(f"{one}: {what}" for one in PROVIDERS for what in ("a text and its stream", "a loop of tools")),
]


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the packages of the lock file, one for each of its versions."""
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dynamo-tasks-ci" / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        done = subprocess.run(
            [NPM or "npm", "ci", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"npm ci: {done.stderr[-300:]}")
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def results(served: Served, installed: Path) -> dict[str, dict[str, Any]]:
    """What each check came to."""
    shutil.copy(SCRIPT, installed)
    env = {**os.environ, "URL": served.url, "KEY": served.key, "MODEL": served.model}
    done = subprocess.run(
        [NODE or "node", SCRIPT.name],
        cwd=installed,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in map(json.loads, filter(None, done.stdout.splitlines()))}


def test_each_check_is_known(results: dict[str, dict[str, Any]]) -> None:
    assert sorted(results) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_node(results: dict[str, dict[str, Any]], name: str) -> None:
    assert results[name]["ok"], results[name]["why"]
