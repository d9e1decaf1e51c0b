"""The worked example: questions about documents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer
from workers.rag import main

TEXTS = {
    "fruit.md": "Bananas are yellow.\n\nApples grow on trees, and cider is pressed from apples.",
    "sea/whales.txt": "Whales are mammals.\n\nSperm whales dive deeper than submarines usually go.",
    "iron.txt": "Blacksmiths forge iron with hammers on an anvil.",
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "texts"


def run(
    documents: Path, *arguments: str, url: str = "redis://127.0.0.1:1/0"
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "workers.rag", "--documents", str(documents), *arguments]
    return subprocess.run(argv, env=environment(url), cwd=ROOT, capture_output=True, text=True, timeout=110)


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


QUESTIONS = ("Which whales are diving deeper than submarines?", "What is cider pressed from?")


def check(found: list[dict[str, Any]]) -> None:
    """The right document comes first, and the model was asked with it."""
    by_question = {one["question"]: one for one in found}
    assert set(by_question) == set(QUESTIONS)
    for question, document in zip(QUESTIONS, ("sea/whales.txt", "fruit.md"), strict=True):
        one = by_question[question]
        assert one["found"][0]["document"] == document
        assert one["found"][0]["score"] > one["found"][1]["score"]
        assert one["found"][0]["text"] in one["prompt"]
        assert one["answer"] == one["prompt"]  # what echo does


def test_in_one_process_with_a_progress_bar(documents: Path) -> None:
    done = run(documents, "--json", "--max-tokens", "4000", *QUESTIONS)
    check(answers(done))
    assert "documents" in done.stderr
    assert "3/3" in done.stderr


def test_on_the_mocker_with_an_index_that_is_kept(documents: Path, tmp_path: Path) -> None:
    index = str(tmp_path / "index.sqlite")
    for _ in range(2):  # the second time every chunk comes again, under its id
        done = run(
            documents, "--engine", "mocker", "--index", index, "--max-tokens", "5", "--json", "whales?"
        )
        [one] = answers(done)
        assert one["answer"]
        assert [row["document"] for row in one["found"]].count("iron.txt") == 1
        assert len(one["found"]) == 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--documents", "/nowhere"), "no *.md or *.txt below '/nowhere'"),
        (("--engine", "ecko"), "nearest: 'echo'"),
        (("--engine-args", "[1]"), "must be an object"),
        (("--engine-args", "{"), "--engine-args must be JSON"),
        (("--backend", "spark"), "'spark' is not one of"),
    ],
)
def test_what_is_wrong_is_said(documents: Path, arguments: tuple[str, ...], why: str) -> None:
    done = CliRunner().invoke(main, ["--documents", str(documents), *arguments])
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit)  # said, not thrown
    assert why in done.output


@pytest.fixture
def operators(redis_server: RedisServer) -> Iterator[str]:
    with Worker(redis_server.url, "--operators", "workers.rag", service="", name="operators"):
        yield redis_server.url


@pytest.mark.slow
def test_on_workers_with_a_model_that_they_serve(documents: Path, operators: str) -> None:
    served = (
        "--json",
        "--backend",
        "celery",
        "--max-tokens",
        "4000",
        "--llm",
        "dyn://dynamo.Worker.generate",
    )
    with Worker(operators, service="workers.agg:Worker", name="echo"):
        check(answers(run(documents, *served, *QUESTIONS, url=operators)))
        embedder = (
            "--embedder",
            "dyn://dynamo.Worker.embed",
        )  # hashes tokens: what is found is no matter here
        [one] = answers(run(documents, *served, *embedder, "whales?", url=operators))
        assert one["answer"] == one["prompt"]


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray(documents: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    check(answers(run(documents, "--json", "--backend", "ray", "--max-tokens", "4000", *QUESTIONS)))
