"""Which server this process uses."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

__all__ = ["server_url"]


def server_url(environ: Mapping[str, str] | None = None) -> str:
    """``DYNAMO_REDIS_URL``, else the embedded server of this ``DYNAMO_HOME``, if one runs.

    Raises:
        ServerUnavailableError: neither; says what to do. Nothing but ``serve`` starts a server.
    """
    # By name: what knows of the embedded server stands above the runtime.
    found: str = importlib.import_module("dynamo_tasks.serve.server").resolve_redis_url(
        os.environ if environ is None else environ
    )
    return found
