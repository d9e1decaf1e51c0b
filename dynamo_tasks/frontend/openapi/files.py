"""``/v1/files`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.words import (
    ALWAYS,
    COUNT,
    ID,
    TEXT,
    get,
    json_of,
    object_of,
    operation,
    or_null,
    page_of,
    page_parameters,
    ref,
)
from dynamo_tasks.protocol.http.files import LONGEST, PURPOSES, SHORTEST

__all__ = ["FILES", "FILES_SCHEMAS"]

_PURPOSE = {"name": "purpose", "in": "query", "required": False, "schema": {"enum": list(PURPOSES)}}
_RANGE = {
    "name": "Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$"},
}
_FORM = object_of(
    {
        "purpose": {"enum": list(PURPOSES[:-1])},
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
    **{
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": SHORTEST, "maximum": LONGEST},
    },
)
_FILE = {200: json_of(ref("File"))}
_BYTES = {
    "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
}

FILES: dict[str, Any] = {
    "/v1/files": {
        "get": get(
            "list_files", "Files, the newest first.", {200: json_of(ref("Files"))},
            parameters=page_parameters(10_000, _PURPOSE),
        ),
        "post": operation(
            "create_file", "Upload a file.", _FILE, (*ALWAYS, 409, 413, 429),
            requestBody={"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
        ),
    },
    "/v1/files/{id}": {
        "get": get("file", "What is known of a file.", _FILE, 404, parameters=[ID]),
        "delete": get("delete_file", "Delete a file.", {200: json_of(ref("FileDeleted"))}, 404, parameters=[ID]),
    },
    "/v1/files/{id}/content": {
        "get": get(
            "file_content", "The contents of a file.", {200: _BYTES, 206: _BYTES, 416: None}, 404,
            parameters=[ID, _RANGE],
        )
    },
}  # fmt: skip
"""The paths."""

FILES_SCHEMAS: dict[str, Any] = {
    "File": object_of(
        {
            "id": TEXT,
            "object": {"const": "file"},
            "bytes": COUNT,
            "created_at": COUNT,
            "expires_at": or_null("integer"),
            "filename": TEXT,
            "purpose": {"enum": list(PURPOSES)},
            "status": {"const": "processed"},
            "status_details": or_null("string"),
        }
    ),
    "Files": page_of("File"),
    "FileDeleted": object_of({"id": TEXT, "object": {"const": "file"}, "deleted": {"type": "boolean"}}),
}
"""The schemas of their answers."""
