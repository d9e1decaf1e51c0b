"""The files of the page, as they are: no build, nothing from elsewhere."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_FILES = {
    one.name: one.read_bytes()
    for one in sorted((resources.files(__package__) / "static").iterdir(), key=lambda one: one.name)
    if one.name.rpartition(".")[2] in _KINDS
}
# Read at import: a process shows its own release, also while another one is being installed.


def page_routes() -> list[Route]:
    """``/``, and what it loads."""
    return [
        _route("/", "index.html"),
        *(_route(f"/page/{name}", name) for name in _FILES if name != "index.html"),
    ]


def _route(path: str, name: str) -> Route:
    body, kind = _FILES[name], _KINDS[name.rpartition(".")[2]]
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**_HEADERS, "etag": tag}

    async def show(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)

    return Route(path, show, name="page")
