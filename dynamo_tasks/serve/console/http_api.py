"""The HTTP API from a terminal: JSON, an upload and a download that are never in memory."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from dynamo_tasks.config.host.home import Home, read_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.errors import ConfigError, UnavailableError, error_for_code
from dynamo_tasks.serve.http import base_url

__all__ = ["HttpApi", "default_url", "key_of"]

_TIMEOUT = 60.0
_STEP = 1 << 20
_USUAL = "http://127.0.0.1:8000"


def default_url(home: Home) -> str:
    """The address of the newest ``serve`` of a home that serves HTTP; port 8000 of this machine where there is none."""
    newest, found = 0.0, _USUAL
    for path in (home.path / "serve").glob("*.json"):
        state = read_json(path) or {}
        owner, served = ProcessId.from_json(state.get("owner")), state.get("http")
        if served and owner is not None and owner.alive() and state.get("started", 0.0) > newest:
            newest, found = state["started"], base_url(served["host"], served["port"])
    return found


class HttpApi:
    """A frontend, as a client.

    Args:
        url: Its address, without ``/v1``.
        key: API key, where it asks for one.

    Raises:
        ConfigError: The address is not an HTTP one.
    """

    def __init__(self, url: str, key: str | None):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the URL must be http://host:port or https://host, not {url!r:.200}")
        self._parts = parts
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for a JSON object.

        Raises:
            DynamoError: As the frontend says; :class:`UnavailableError` where nobody answers.
        """
        raw = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if raw is not None else {}
        with self._answer(method, path, raw, headers) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def upload(self, path: Path, purpose: str, told: Callable[[int], None]) -> dict[str, Any]:
        """Upload a file; ``told`` gets the number of bytes of each piece that went."""
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quote(path.name)}"\r\n\r\n'
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def pieces() -> Iterator[bytes]:
            yield head
            with path.open("rb") as file:
                while piece := file.read(_STEP):
                    told(len(piece))
                    yield piece
            yield tail

        headers = {
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(len(head) + path.stat().st_size + len(tail)),
        }
        with self._answer("POST", "/v1/files", pieces(), headers) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def download(self, file_id: str, out: IO[bytes]) -> None:
        """Write the contents of a file."""
        with self._answer("GET", f"/v1/files/{quote(file_id)}/content", None, {}) as answer:
            while piece := answer.read(_STEP):
                out.write(piece)
            if answer.length:
                raise UnavailableError("the file was cut off; ask again")

    def _answer(self, method: str, path: str, body: Any, headers: dict[str, str]) -> http.client.HTTPResponse:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT)
        prefix = self._parts.path.rstrip("/").removesuffix("/v1")
        try:
            connection.request(method, prefix + path, body, {**self._headers, **headers})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            where = f"{self._parts.scheme}://{self._parts.netloc.rpartition('@')[2]}"
            raise UnavailableError(f"no answer from {where}: {exc or type(exc).__name__} (--url)") from exc
        if answer.status >= 400:
            raise _refusal(answer.status, answer.read(1 << 16))
        return answer


def _refusal(status: int, raw: bytes) -> Exception:
    try:
        error = json.loads(raw)["error"]
        return error_for_code(str(error["code"]), str(error["message"]))
    except (ValueError, LookupError, TypeError):
        return UnavailableError(f"the server answered {status}: {raw[:200].decode(errors='replace')}")


def key_of(environ: dict[str, str] | None = None) -> str | None:
    """The API key of this user: ``DYNAMO_API_KEY``, else the first one of ``DYNAMO_API_KEYS``."""
    found = os.environ if environ is None else environ
    keys = [key.strip() for key in found.get("DYNAMO_API_KEYS", "").split(",")]
    return found.get("DYNAMO_API_KEY") or next(filter(None, keys), None)
