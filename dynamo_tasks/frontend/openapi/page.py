"""``/docs``: the API as a page in the browser, which can be tried out; nothing comes from elsewhere.

Swagger UI is read from the package ``flask-swagger-ui`` (the extra ``docs``), whose releases are Swagger UI's; its
Python is not used. Without it the page is a plain list. Neither needs an API key, since both hold nothing but what
every server of this release has. ``/openapi.json``, which has the methods of a service, wants one, so the page asks for
it.
"""

from __future__ import annotations

import html
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dynamo_tasks.frontend.openapi.document import document

__all__ = ["docs_routes"]

_OWN = Path(__file__).parent / "page"
_BUNDLE = "flask_swagger_ui"
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""The page can send requests with somebody's key: it runs our scripts alone, talks to this server alone, and is in no
frame."""


def docs_routes() -> list[Route]:
    """The routes of the page and its files."""
    bundle = _bundle()
    files = {name: _OWN / name for name in ("page.css", "page.js")}
    if bundle is not None:
        files |= {name: bundle / name for name in _SWAGGER}
    page = (_OWN / "docs.html").read_text() if bundle is not None else _plain(document())
    return [
        Route("/docs", partial(_page, page), name="docs"),
        *(Route(f"/docs/{name}", partial(_file, path), name="docs") for name, path in files.items()),
    ]


def _bundle() -> Path | None:
    """The folder with Swagger UI, if it is installed."""
    spec = importlib.util.find_spec(_BUNDLE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if all((Path(place) / "dist" / name).is_file() for name in _SWAGGER):
            return Path(place) / "dist"
    return None


async def _page(page: str, request: Request) -> Response:
    if request.scope.get("raw_path", b"").partition(b"?")[0].endswith(b"/"):
        return RedirectResponse(
            "../docs", 308, _HEADERS
        )  # its links are relative: a proxy may have put a prefix before
    return HTMLResponse(page, headers=_HEADERS)


async def _file(path: Path, request: Request) -> Response:
    return FileResponse(path, headers={**_HEADERS, "cache-control": "max-age=3600"})


def _plain(described: dict[str, Any]) -> str:
    """A list of all operations."""
    rows = [
        f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation.get('summary', ''))}</td></tr>"
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API of this server</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="docs/page.css"></head><body><main>'
        "<h1>API of this server</h1><p>To try it out here, install <code>dynamo-tasks[docs]</code>. The whole "
        'description is at <a href="openapi.json">openapi.json</a>.</p>'
        f"<table>{''.join(rows)}</table></main></body></html>"
    )
