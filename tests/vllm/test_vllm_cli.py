"""``dynamo-tasks serve --model``: one command from a folder to an answer; mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.support.processes import ROOT, Process, until
from tests.support.serve import COMMAND, Serve, environ_of
from tests.vllm.conftest import ENGINE_ARGS

START_S = 240.0


def _flags() -> list[str]:
    return [f"--Worker.{name}={json.dumps(value).strip(chr(34))}" for name, value in ENGINE_ARGS.items()]


def test_serve_a_folder(tmp_path: Path, tiny_model: Path) -> None:
    arguments = ["-f", "configs/vllm.yaml", "--model", str(tiny_model), *_flags()]
    with Serve(tmp_path, *arguments, wait=False) as serve:
        until(lambda: "\nready " in serve.output or not serve.alive, START_S, "ready")
        assert serve.alive, serve.output
        phases = re.findall(r"engine\.progress .*phase=(\w+)", serve.output)
        assert phases == ["import", "configure", "load", "weights", "profile", "warmup", "ready"], (
            serve.output
        )
        body = {"model": str(tiny_model), "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = serve.post("/v1/chat/completions", body)
        assert answer.status == 200
        assert json.loads(answer.read())["usage"]["completion_tokens"] > 0
        (worker,) = serve.instances()
        assert worker["model"] == str(tiny_model)
        assert {"running", "waiting", "kv_usage", "prefix_hits"} <= worker["load"].keys()


def test_mistakes_are_reported_before_anything_starts(tmp_path: Path, tiny_model: Path) -> None:
    for arguments, says in [
        (["--model", "/no/such/model"], "model '/no/such/model': there is no such folder"),
        (["--model", str(tiny_model), "--Worker.max_num_seq=3"], "nearest: 'max_num_seqs'"),
    ]:
        found = subprocess.run(
            [*COMMAND, "serve", "--port", "0", *arguments], env=environ_of(tmp_path), cwd=ROOT,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert found.returncode == 2
        (line,) = [line for line in found.stderr.splitlines() if line.strip()]
        assert says in line


def _refused(home: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What ``serve`` prints that ends by itself, without a traceback."""
    argv = [*COMMAND, "serve", "--port", "0", *arguments]
    with Process(argv, {**environ_of(home), **(env or {})}, name="serve") as serve:
        until(lambda: not serve.alive, START_S, "its end")
        assert serve.popen.returncode != 0
        assert "Traceback" not in serve.output, serve.output
        return serve.output


def test_a_model_that_the_hub_does_not_give_is_one_line(tmp_path: Path) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    output = _refused(tmp_path, "--model", "nobody/nothing", env=env)
    assert "model 'nobody/nothing': no such folder here, and the hub does not give it" in output


def test_an_argument_that_vllm_refuses_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    output = _refused(tmp_path, "--model", str(tiny_model), "--Worker.max_model_len=999999")
    assert "vLLM refuses its arguments" in output


def test_without_vllm_it_says_what_to_install(tmp_path: Path, tiny_model: Path) -> None:
    # An interpreter that does not find it, whatever is installed.
    program = (
        "import importlib.util, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'vllm' else real(name, *more)\n"
        "from dynamo_tasks.serve.cli import main; sys.argv[0] = 'dynamo-tasks'; main()"
    )
    found = subprocess.run(
        [COMMAND[0], "-c", program, "serve", "--model", str(tiny_model)],
        env={**environ_of(tmp_path), "PYTHONPATH": os.pathsep.join([str(ROOT)])}, cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 2
    assert "needs vLLM, which is not installed: pip install 'dynamo-tasks[vllm]'" in found.stderr


def test_sleep_where_the_build_has_none_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    output = _refused(tmp_path, "--model", str(tiny_model), "--Worker.enable_sleep_mode=true")
    assert "vLLM refuses its arguments: " in output
    assert "Sleep mode is not supported on current platform" in output
