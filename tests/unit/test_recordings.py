"""Recordings are what they say: of the scenes that are committed, of the package that is installed for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_model import INSTALL
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from tests.support.answers import END, FOLDER, TAGS, ids_for, recordings, write_tokenizer
from tests.support.scenes import SCENES

SCRIPT = Path(__file__).parents[2] / "docker" / "install-vllm-cpu.sh"


@pytest.mark.parametrize("name", SCENES)
def test_each_scene_was_recorded(name: str) -> None:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    for scene, answer in zip(SCENES[name], content["answers"], strict=True):
        assert (answer["name"], answer["messages"]) == (scene.name, scene.messages)
        sampling = answer["sampling"]
        assert (sampling["max_tokens"], sampling["temperature"]) == (scene.max_tokens, scene.temperature)
        assert sampling.get("seed") == scene.seed
    assert content["package"] in INSTALL
    assert f"--no-deps {content['package']}" in SCRIPT.read_text()


@pytest.mark.parametrize("tags", [(), TAGS], ids=["own", "tagged"])
def test_the_pieces_make_the_text(tmp_path: Path, tags: tuple[str, ...]) -> None:
    tokenizer = load_tokenizer(str(write_tokenizer(tmp_path, tags=tags)))
    for recording in recordings().values():
        ids = ids_for(recording, tokenizer)
        assert tokenizer.decode([number for number in ids if number != END]) == recording.text
        assert (ids[-1] == END) == (recording.finish_reason == "stop")
        if tags:
            found = [tokenizer.decode([number]) for number in ids]
            assert [text for text in found if text in TAGS] == _tags_in(recording.text)


def _tags_in(text: str) -> list[str]:
    places = sorted((at, tag) for tag in TAGS for at in range(len(text)) if text.startswith(tag, at))
    return [tag for _, tag in places]
