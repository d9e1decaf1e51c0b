import json
import os
import stat
from pathlib import Path

import pytest

from dynamo_tasks.config.host.home import Home, private_dir, read_json, write_json
from dynamo_tasks.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert Home.from_environ({"DYNAMO_HOME": str(tmp_path)}).path == tmp_path
    assert Home.from_environ({}).path == Path("~/.dynamo-tasks").expanduser()
    assert Home.from_environ({"DYNAMO_HOME": "~/x"}).path == Path.home() / "x"


def test_ensure_makes_private_directories(tmp_path: Path) -> None:
    home = Home(tmp_path / "state").ensure()
    assert mode(home.path) == 0o700
    assert mode(home.server) == 0o700


def test_an_existing_home_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home(tmp_path).ensure()
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "server") == 0o700


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("")
    with pytest.raises(ConfigError, match="DYNAMO_HOME cannot be used"):
        Home(tmp_path).ensure()


def test_a_foreign_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        private_dir(tmp_path)


def test_state_files_are_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"port": 1})
    write_json(path, {"port": 2})
    assert read_json(path) == {"port": 2}
    assert mode(path) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["state.json"]
    assert json.loads(path.read_text()) == {"port": 2}


@pytest.mark.parametrize("content", [None, "", "{half"])
def test_missing_and_broken_state_files_count_as_missing(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "state.json"
    if content is not None:
        path.write_text(content)
    assert read_json(path) is None
