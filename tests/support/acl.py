"""A server with the shipped users."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import ROOT
from tests.support.server import RedisServer

__all__ = ["PASSWORDS", "server_with_users", "url_of"]

PASSWORDS = {"worker": "w-secret", "frontend": "f-secret", "monitor": "m-secret", "flower": "o-secret"}


def server_with_users(folder: Path) -> RedisServer:
    """A server that knows the users of ``docker/users.acl``, and a default user for the test itself."""
    lines = (ROOT / "docker" / "users.acl").read_text().splitlines()
    users = "\n".join(["user default on nopass ~* &* +@all", *lines[1:], ""])
    for name, password in PASSWORDS.items():
        users = users.replace(f"@{name.upper()}_PASSWORD@", password)
    (folder / "users.acl").write_text(users)
    return RedisServer(folder, "--aclfile", str(folder / "users.acl"))


def url_of(server: RedisServer, user: str) -> str:
    """The server's URL for one of these users."""
    return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/0"
