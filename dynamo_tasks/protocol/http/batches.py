"""Bodies of ``POST /v1/batches``, and the lines of their input files, checked."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import decode_json
from dynamo_tasks.protocol.http.files import check_lifetime

__all__ = ["BatchLine", "BatchRequest", "LineError", "parse_batch", "parse_line"]

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_WINDOW = 14 * 86400
_LONGEST_ID = 512
_FIELD = re.compile(r"at `\$\.?([^`]+)`")


class ExpiresAfter(Struct, forbid_unknown_fields=True, frozen=True):
    """A lifetime of files.

    Attributes:
        anchor: What it counts from.
        seconds: How long it is.
    """

    anchor: Literal["created_at"]
    seconds: int


class BatchRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """The body of ``POST /v1/batches``.

    Attributes:
        input_file_id: A file with a line per request.
        endpoint: The API that all lines are for.
        completion_window: ``24h``; also other spans of seconds, minutes, hours, days.
        metadata: Up to 16 texts by name.
        output_expires_after: When its output files go; never by default.
    """

    input_file_id: Annotated[str, Meta(min_length=1, max_length=128)]
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window(self) -> int:
        """The completion window, seconds."""
        found = _WINDOW.fullmatch(self.completion_window)
        return int(found[1]) * _UNITS[found[2]] if found else 0


def parse_batch(body: dict[str, Any], endpoints: Collection[str]) -> BatchRequest:
    """Check a body.

    Args:
        body: The decoded JSON object.
        endpoints: Those that batches can be for.

    Raises:
        InvalidRequestError: names the field, and what is allowed.
    """
    try:
        batch = msgspec.convert(body, BatchRequest)
    except msgspec.ValidationError as exc:
        at = _FIELD.search(str(exc))
        missing = re.search(r"(?:missing required|unknown) field `([^`]+)`", str(exc))
        raise InvalidRequestError(str(exc), param=(at or missing or [None, None])[1]) from None
    if batch.endpoint not in endpoints:
        raise InvalidRequestError(
            f"endpoint must be one of {', '.join(sorted(endpoints))}, not {batch.endpoint!r:.100}",
            param="endpoint",
        )
    if not 0 < batch.window <= _LONGEST_WINDOW:
        raise InvalidRequestError(
            f"completion_window must be 24h, or another span of up to 14d, not {batch.completion_window!r:.60}",
            param="completion_window",
        )
    if batch.output_expires_after is not None:
        check_lifetime(batch.output_expires_after.seconds, "output_expires_after.seconds")
    _check_metadata(batch.metadata or {})
    return batch


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > 16:
        raise InvalidRequestError(f"metadata has {len(metadata)} entries; at most 16", param="metadata")
    for name, value in metadata.items():
        if len(name) > 64 or len(value) > 512:
            raise InvalidRequestError(
                "names of metadata have at most 64 characters, values 512", param=f"metadata.{name[:64]}"
            )


class LineError(Struct, frozen=True, omit_defaults=True):
    """A mistake in an input file.

    Attributes:
        code: What kind it is.
        message: What is wrong.
        line: Its number, from 1.
        param: The field.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchLine(Struct, frozen=True):
    """One request of a batch.

    Attributes:
        custom_id: Its name.
        model: That it asks for.
        body: Of the request, JSON as it was written.
    """

    custom_id: str
    model: str
    body: bytes


class _Line(Struct, forbid_unknown_fields=True):
    custom_id: Annotated[str, Meta(min_length=1, max_length=_LONGEST_ID)]
    method: str
    url: str
    body: msgspec.Raw


class _Body(Struct):
    model: Annotated[str, Meta(min_length=1, max_length=512)]
    stream: bool | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def parse_line(raw: bytes, number: int, endpoint: str) -> BatchLine | LineError:
    """Read a line of an input file.

    Args:
        raw: The line.
        number: Its number, from 1.
        endpoint: Of its batch.
    """
    try:
        line = _decode_line(raw)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _malformed(raw, number, exc)
    if line.method != "POST":
        return LineError(
            "invalid_method", f"the method must be POST, not {line.method!r:.40}", number, "method"
        )
    if line.url != endpoint:
        return LineError(
            "mismatched_url",
            f"the url must be the batch's endpoint, {endpoint}, not {line.url!r:.100}",
            number,
            "url",
        )
    try:
        body = _decode_body(line.body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return LineError("invalid_request", f"{exc}"[:300], number, "body")
    if body.stream:
        return LineError("invalid_request", "a line of a batch cannot be streamed", number, "body.stream")
    return BatchLine(line.custom_id, body.model, bytes(line.body))


def _malformed(raw: bytes, number: int, exc: Exception) -> LineError:
    if isinstance(exc, msgspec.ValidationError):
        at = _FIELD.search(str(exc)) or re.search(r"field `([^`]+)`", str(exc))
        return LineError("invalid_json_line", f"{exc}"[:300], number, at[1] if at else None)
    try:
        decode_json(raw)
    except InvalidRequestError as why:
        return LineError("invalid_json_line", why.message[:300].replace("the body", "the line"), number)
    return LineError("invalid_json_line", f"the line is not a JSON object: {exc}"[:300], number)
