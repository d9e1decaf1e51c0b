"""The worked example with a real model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT, environment
from tests.vllm.conftest import ENGINE_ARGS


def test_questions_about_documents(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "whales.txt").write_text("Sperm whales dive deep.")
    done = subprocess.run(
        [
            sys.executable, "-m", "workers.rag", "--documents", str(tmp_path), "--model", str(tiny_model),
            "--engine-args", json.dumps(ENGINE_ARGS), "--max-tokens", "12", "--json", "How deep do whales dive?",
        ],
        env=environment("redis://127.0.0.1:1/0"), cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [one] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"question"')]
    assert one["found"][0]["document"] == "whales.txt"
    assert one["answer"].strip()
