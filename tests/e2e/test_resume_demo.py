"""The demo script: dropped after a third of its tokens, resumed at a second frontend, the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Stack

SCRIPT = Path(__file__).with_name("resume_demo.py")


def test_the_demo_gives_the_uninterrupted_text(stack: Stack) -> None:
    argv = [sys.executable, str(SCRIPT), stack.one.base_url, stack.two.base_url, "--tokens", "90"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["same_text"]
    assert found["no_event_twice"]
    assert found["events_after"] > 30
