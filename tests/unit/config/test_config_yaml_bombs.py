"""YAML that is small and stands for much, or is no text at all: one line, at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dynamo_tasks.config import flags_layer, load_yaml
from dynamo_tasks.errors import ConfigError
from tests.support.promises import in_time


def levels(kind: str, depth: int, wide: int) -> str:
    """Each level names the one before it several times."""
    lines = [f"a0: &a0 {'[x]' if kind == 'list' else '{x: 1}'}"]
    for level in range(1, depth):
        inner = [f"*a{level - 1}"] * wide
        if kind == "list":
            lines.append(f"a{level}: &a{level} [{', '.join(inner)}]")
        elif kind == "merge":
            lines.append(
                f"a{level}: &a{level} {{{', '.join(f'k{n}: {one}' for n, one in enumerate(inner))}, <<: *a{level - 1}}}"
            )
        else:
            lines.append(
                f"a{level}: &a{level} {{{', '.join(f'k{n}: {one}' for n, one in enumerate(inner))}}}"
            )
    return "Worker:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


@pytest.mark.parametrize("kind", ["list", "map", "merge"])
@pytest.mark.parametrize(("depth", "wide"), [(9, 9), (30, 2), (200, 3), (5, 50)])
def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path, kind: str, depth: int, wide: int) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(levels(kind, depth, wide))

    def seconds() -> float:
        began = time.monotonic()
        with pytest.raises(
            ConfigError, match=r"bomb.yaml:\d+: aliases make more than 100000 values of it|nested too deeply"
        ):
            load_yaml(file)
        return time.monotonic() - began

    in_time(seconds, 5)


@pytest.mark.parametrize("kind", ["list", "map", "merge"])
def test_aliases_in_measure_are_taken(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "fine.yaml"
    file.write_text(levels(kind, 3, 3))
    assert set(load_yaml(file).data["Worker"]) == {"a0", "a1", "a2"}


@pytest.mark.parametrize(
    "text",
    [
        "a\0b",
        "Worker: \0",
        "Worker:\n  a: \x07",
        "Worker: {a: 2026-13-45}",
        "[" * 5000,
        "{a: " * 5000,
        "\ufeff\0",
    ],
)
def test_what_is_no_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_yaml(file)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["a\0b", "[" * 5000, "2026-13-45", "&a [*a]x"])
def test_a_setting_that_is_no_yaml_stays_text(text: str) -> None:
    assert flags_layer([f"Worker.engine={text}"]).data == {"Worker": {"engine": text}}


def test_a_setting_that_multiplies_is_refused() -> None:
    bomb = (
        "{"
        + ", ".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))])
        + "}"
    )
    with pytest.raises(ConfigError, match="aliases make more than"):
        flags_layer([f"Worker.engine_args={bomb}"])
