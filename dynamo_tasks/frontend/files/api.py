"""The handlers under ``/v1/files``: OpenAI's Files API.

A file is streamed from the connection to the storage and back, whatever its size. What a client names it is a text that
is shown again, and never a path.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dynamo_tasks.errors import InvalidRequestError, QueueFullError
from dynamo_tasks.files.file_data import FileRecord, clean_filename
from dynamo_tasks.files.library import Files, Upload
from dynamo_tasks.frontend.files.multipart import PartBegin, PartData, read_form
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http.query import page_query
from dynamo_tasks.frontend.http_call import call_of, count_call
from dynamo_tasks.protocol.http.files import PURPOSES, UploadFields

__all__ = ["FilesAPI", "shown_file"]

_MOST_UPLOADS = 32
"""Uploads at a time in one process: each holds a part of its file in memory."""
_MOST_FIELD = 1024
_MOST_LISTED = 10_000
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FilesAPI:
    """OpenAI's Files API.

    Args:
        files: The files.
        gateway: Counts the requests of API keys that have limits.
        most: Bytes that a file may have.
    """

    def __init__(self, files: Files, gateway: Gateway, most: int):
        self._files = files
        self._gateway = gateway
        self._most = most
        self._uploads = 0

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route("/v1/files", self.all, methods=["GET", "POST"], name="files"),
            Route("/v1/files/{id}", self.one, methods=["GET", "DELETE"], name="files"),
            Route("/v1/files/{id}/content", self.content, name="files"),
        ]

    async def all(self, request: Request) -> Response:
        """``GET`` and ``POST /v1/files``."""
        return await (self.create(request) if request.method == "POST" else self.list(request))

    async def one(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/files/{id}``."""
        file_id, owner = request.path_params["id"], call_of(request).owner_key
        if request.method == "DELETE":
            await self._files.delete(file_id, owner)
            return json_response({"id": file_id, "object": "file", "deleted": True})
        return json_response(shown_file(await self._files.get(file_id, owner)))

    async def create(self, request: Request) -> Response:
        """``POST /v1/files``: an upload."""
        call = call_of(request)
        await count_call(self._gateway, call)
        if self._uploads >= _MOST_UPLOADS:
            raise QueueFullError(f"{_MOST_UPLOADS} files are being uploaded already", retry_after=1.0)
        self._uploads += 1
        try:
            async with await self._files.upload(call.owner_key) as upload:
                return json_response(shown_file(await self._receive(request, upload)))
        finally:
            self._uploads -= 1

    async def _receive(self, request: Request, upload: Upload) -> FileRecord:
        fields, filename, part, size = UploadFields(), None, PartBegin("", None), 0
        async for item in read_form(request.receive, dict(request.scope["headers"]), self._most):
            if isinstance(item, PartBegin):
                part, text = item, b""
                if part.filename is not None:
                    if filename is not None or part.name != "file":
                        raise InvalidRequestError("a form has one file, in its field file", param="file")
                    filename = part.filename
            elif part.filename is not None:
                if isinstance(item, PartData):
                    size += len(item.data)
                    await upload.write(item.data)
            elif isinstance(item, PartData):
                text += item.data
                if len(text) > _MOST_FIELD:
                    raise InvalidRequestError(
                        f"the field has more than {_MOST_FIELD} bytes", param=part.name[:100]
                    )
            else:
                fields.take(part.name, text.decode("utf-8", "replace"))
        if filename is None:
            raise InvalidRequestError("the form has no file", param="file")
        if not size:
            raise InvalidRequestError("the file is empty", param="file")
        fields.check()
        return await upload.finish(clean_filename(filename), fields.purpose, fields.seconds)

    async def list(self, request: Request) -> Response:
        """``GET /v1/files``."""
        asked = page_query(request, usual=_MOST_LISTED, most=_MOST_LISTED)
        purpose, owner = request.query_params.get("purpose", ""), call_of(request).owner_key
        if purpose and purpose not in PURPOSES:
            raise InvalidRequestError(f"purpose must be one of {', '.join(PURPOSES)}", param="purpose")
        found: list[FileRecord] = []
        after, more = asked.after, True
        while more and len(found) <= asked.limit:
            page = await self._files.page(owner, asked.order, after, asked.limit + 1)
            found += [file for file in page.objects if purpose in ("", file.data.purpose)]
            more = page.more and bool(page.objects)
            after = page.objects[-1].id if page.objects else after
        rows = [shown_file(file) for file in found[: asked.limit]]
        return json_response(
            {
                "object": "list",
                "data": rows,
                "first_id": rows[0]["id"] if rows else None,
                "last_id": rows[-1]["id"] if rows else None,
                "has_more": len(found) > asked.limit,
            }
        )

    async def content(self, request: Request) -> Response:
        """``GET /v1/files/{id}/content``; one range of it where ``Range`` asks for one."""
        file = await self._files.get(request.path_params["id"], call_of(request).owner_key)
        size = file.data.size
        headers = {
            "accept-ranges": "bytes",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.data.filename, safe='')}",
            "x-content-type-options": "nosniff",
        }
        start, end = 0, size
        asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
        if asked is not None and any(asked.groups()):
            start, end = _bounds(asked, size)
            if start >= end:
                return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
        status, kind = (206 if "content-range" in headers else 200), "application/octet-stream"
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=kind)
        pieces: AsyncIterator[bytes] = self._files.read(file, start, end)
        return StreamingResponse(pieces, status, headers, kind)


def _bounds(asked: re.Match[str], size: int) -> tuple[int, int]:
    first, last = asked.groups()
    if not first:  # the last so many
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def shown_file(file: FileRecord) -> dict[str, Any]:
    """A file as the API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.data.size,
        "created_at": int(file.created),
        "expires_at": None if file.ends is None else int(file.ends),
        "filename": file.data.filename,
        "purpose": file.data.purpose,
        "status": "processed",
        "status_details": None,
    }
