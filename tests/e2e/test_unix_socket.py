"""Everything over a Unix socket: ``unix://`` as our URL, ``redis+socket://`` as Celery's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.server import RedisServer

CALLS = """
from dynamo_tasks.services.agg import Worker
result = Worker.generate.delay({"prompt": "hello", "max_tokens": 4})
print(len(result.get(timeout=20)["token_ids"]), "".join(chunk["text"] for chunk in result.stream()) != "")
"""


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("unix")
    path = folder / "valkey.sock"
    with RedisServer(folder, "--unixsocket", str(path)):
        yield path


@pytest.mark.parametrize(
    "form", ["unix://{}?db=3", pytest.param("redis+socket://{}?virtual_host=3", marks=pytest.mark.slow)]
)
def test_a_unix_socket_carries_everything(socket: Path, form: str) -> None:
    url = form.format(socket)
    with together(Worker(url), Frontend(url)) as (_, frontend):
        until(lambda: frontend.get("/v1/models")[1]["data"])
        client = openai.OpenAI(base_url=f"{frontend.base_url}/v1", api_key="none", max_retries=0)
        answer = client.completions.create(model="echo", prompt="over a socket", max_tokens=4)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        done = subprocess.run(
            [sys.executable, "-c", CALLS],
            env=environment(url),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.split() == ["4", "True"], done.stderr
        shown = subprocess.run(
            [sys.executable, "-m", "dynamo_tasks", "status", "--json"], env=environment(url), cwd=ROOT,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert json.loads(shown.stdout)["instances"]
