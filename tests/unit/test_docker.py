"""The files under docker/ fit together; they are not run here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
USERS = (DOCKER / "users.acl").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_every_user_of_the_acl_file_gets_its_password(tmp_path: Path) -> None:
    """The very command of the container fills the file in."""
    wanted = set(re.findall(r"@(\w+)@", USERS))
    redis = COMPOSE["services"]["redis"]
    assert wanted == redis["environment"].keys()
    shell, option, script = redis["command"]
    fill = script.replace("$$", "$").partition("exec ")[0]
    fill = fill.replace("> /tmp/", f"> {tmp_path}/").replace("/etc/redis/", f"{DOCKER}/")
    subprocess.run(
        [shell, option, fill],
        env={name: f"pw-{name}" for name in wanted} | {"PATH": "/usr/bin:/bin"},
        check=True,
    )
    filled = (tmp_path / "users.acl").read_text()
    assert "_PASSWORD@" not in filled
    assert all(f">pw-{name} " in filled for name in wanted)


def test_each_service_connects_as_its_own_user() -> None:
    urls = {
        name: service["environment"].get("DYNAMO_REDIS_URL") for name, service in COMPOSE["services"].items()
    }
    assert urls.pop("redis") is None
    for name, url in urls.items():
        assert url.startswith(f"redis://{name}:${{{name.upper()}_PASSWORD:?}}@")
        assert f"\nuser {name} on " in USERS
