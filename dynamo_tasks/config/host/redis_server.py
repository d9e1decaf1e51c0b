"""The Redis server of a process: the one that ``DYNAMO_REDIS_URL`` names, else the embedded one of its home.

Here a running embedded server is only found; :mod:`dynamo_tasks.serve.server.embedded` starts and stops it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.config.host.home import Home, read_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.config.host.redis_lanes import completed_lanes
from dynamo_tasks.config.host.tls import complete_url
from dynamo_tasks.errors import ServerUnavailableError

__all__ = ["key_prefix", "resolve_redis_url", "running_url", "server_id", "server_state"]


def server_state(home: Home) -> dict[str, Any]:
    """Read the notes of the last ``serve`` on its embedded Redis server; empty without any."""
    state = read_json(home.server / "server.json")
    return state if isinstance(state, dict) else {}


def server_id(state: Mapping[str, Any]) -> ProcessId | None:
    """The process of the embedded server, if it runs.

    Args:
        state: See :func:`server_state`.
    """
    server = ProcessId.from_json([state.get("pid"), state.get("started")])
    return server if server and "url" in state and server.alive() else None


def running_url(home: Home | None = None) -> str | None:
    """URL of the embedded server of a home.

    Args:
        home: That of this process's environment by default.

    Returns:
        ``redis://:password@127.0.0.1:port/0`` while the server runs, else ``None``. Nothing is started.
    """
    state = server_state(home or Home.from_environ())
    return state["url"] if server_id(state) else None


def resolve_redis_url(environ: Mapping[str, str] | None = None) -> str:
    """The server to use: ``DYNAMO_REDIS_URL``, else the embedded server of this ``DYNAMO_HOME`` if one runs.

    Where the variable names several servers (lanes, docs/lanes.md), it is all of them, with a blank between.

    Args:
        environ: ``os.environ`` by default.

    Raises:
        ServerUnavailableError: there is neither; says what to do.
        ConfigError: the TLS options are wrong, see :mod:`dynamo_tasks.config.host.tls`.
    """
    environ = os.environ if environ is None else environ
    if url := variable("DYNAMO_REDIS_URL", environ):
        return completed_lanes(url, lambda one: complete_url(one, environ))
    home = Home.from_environ(environ)
    if url := running_url(home):
        return url
    raise ServerUnavailableError(
        f"no Redis server: DYNAMO_REDIS_URL is not set and no embedded server runs in {home.path}; "
        "start one with `dynamo-tasks serve`, or set DYNAMO_REDIS_URL=redis://host:6379/0"
    )


def key_prefix(environ: Mapping[str, str] | None = None) -> str:
    """Return the prefix of all keys and channels in Redis: ``DYNAMO_KEY_PREFIX``, empty by default.

    An application that has a ``global_keyprefix`` of its own is found under that.

    Args:
        environ: ``os.environ`` by default.
    """
    return variable("DYNAMO_KEY_PREFIX", environ) or ""
