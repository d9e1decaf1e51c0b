"""Paths as clients write them, and what may be done with one."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["allowed", "as_sent", "tidy"]


def tidy(scope: Scope) -> None:
    """Take ``//v1/models/`` for ``/v1/models``: a base URL that ends with a slash gives such paths."""
    path = scope["path"]
    if path.endswith("/") or path.startswith("//"):
        scope["path"] = "/" + path.strip("/")


def as_sent(app: ASGIApp) -> ASGIApp:
    """An application that gets paths as the client wrote them."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if raw := scope.get("raw_path"):
            scope = {**scope, "path": unquote(raw.decode("latin-1"))}
        await app(scope, receive, send)

    return answer


def allowed(methods: str) -> Response:
    """The answer to OPTIONS: what may be done with a path."""
    names = {name.strip() for name in methods.split(",") if name.strip()} | {"OPTIONS"}
    return Response(status_code=204, headers={"allow": ", ".join(sorted(names))})
