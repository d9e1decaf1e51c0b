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
    for service, url in urls.items():
        name = {"background": "worker"}.get(service, service)
        assert url.startswith(f"redis://{name}:${{{name.upper()}_PASSWORD:?}}@")
        assert f"\nuser {name} on " in USERS


def test_a_worker_may_do_what_the_scripts_do() -> None:
    """A command inside of a script needs its user's permission, too; some scripts run in rare cases only."""
    line = next(line for line in USERS.splitlines() if line.startswith("user worker "))
    allowed = {word[1:] for word in line.split() if word.startswith("+")}
    scripts = (DOCKER.parent / "dynamo_tasks" / "store" / "ledger" / "lua").rglob("*.lua")
    used = {c.lower() for file in scripts for c in re.findall(r"redis\.p?call\(\s*'(\w+)'", file.read_text())}
    assert len(used) > 20
    assert used <= allowed
