"""What is given and empty is not "not given": `serve` and its dry run refuse keys without a key in them, alike."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.serve import COMMAND, Serve, environ_of

YAML = "Frontend:\n  api_keys: []\n"
CASES = {
    "flag": (["--api-key", ""], {}),
    "flag of commas": (["--api-key", " , "], {}),
    "setting": (["--Frontend.api_keys=[]"], {}),
    "variable": ([], {"DYNAMO_API_KEYS": ""}),
    "variable of a setting": ([], {"DYNAMO_FRONTEND__API_KEYS": "[]"}),
    "file": (["-f", "keys.yaml"], {}),
}


@pytest.mark.parametrize(
    "how", [["--dry-run"], pytest.param([], marks=pytest.mark.slow)], ids=["dry-run", "serve"]
)
@pytest.mark.parametrize("case", CASES)
def test_no_key_in_what_was_given(case: str, how: list[str], tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(YAML)
    arguments, env = CASES[case]
    arguments = [str(tmp_path / one) if one == "keys.yaml" else one for one in arguments]
    done = subprocess.run(
        [*COMMAND, "serve", "--port", "0", *how, *arguments], env=environ_of(tmp_path, **env), cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds no key" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


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
