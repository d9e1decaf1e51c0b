"""The check of a batch's input, before its first line runs."""

from __future__ import annotations

from msgspec import Struct, field

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidRequestError, PayloadTooLargeError, UnknownModelError
from dynamo_tasks.files.file_data import FileRecord
from dynamo_tasks.files.library import Files
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.openai.apis import Api
from dynamo_tasks.protocol.http.batches import BatchLine, LineError, parse_line
from dynamo_tasks.services.batches.source import SourceLine, source_lines

__all__ = ["BatchLimits", "Validation"]

_MOST_MISTAKES = 100
"""Mistakes that are told."""


class BatchLimits(Struct, frozen=True, kw_only=True):
    """The limits of a batch.

    Attributes:
        lines: Requests.
        line_bytes: Bytes of one of them.
        in_flight: Requests of all batches of a process that wait or run at a time.
    """

    lines: int = 50_000
    line_bytes: int = 10 << 20
    in_flight: int = 512


class Validation(Struct):
    """The findings in an input file.

    Attributes:
        endpoint: That its lines are for.
        limits: See :class:`BatchLimits`.
        total: Number of lines.
        model: That the first one asks for.
        mistakes: The first ones.
    """

    endpoint: str
    limits: BatchLimits
    total: int = 0
    model: str = ""
    mistakes: list[LineError] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    async def check(self, files: Files, file: FileRecord) -> None:
        """Read the whole file."""
        try:
            async for lines in source_lines(files, file, 0, self.limits.line_bytes):
                await offload(sum(len(line.raw) for line in lines), self._take, lines)
                if len(self.mistakes) >= _MOST_MISTAKES or self.total > self.limits.lines:
                    break
        except PayloadTooLargeError as exc:
            self._wrong("invalid_json_line", exc.message, self.total + 1)
        if not self.total and not self.mistakes:
            self._wrong("empty_file", "the input file has no lines", None)
        if self.total > self.limits.lines:
            self._wrong("too_many_lines", f"the input file has more than {self.limits.lines} lines", None)

    async def check_model(self, api: Api, gateway: Gateway) -> None:
        """See that the model is served, if any is: where none is now, the lines wait for one."""
        served = await gateway.models()
        if self.mistakes or not served:
            return
        try:
            api.find_model(self.model, served)
        except (UnknownModelError, InvalidRequestError) as exc:
            self._wrong(exc.code, exc.message, 1, "body.model")

    def _take(self, lines: list[SourceLine]) -> None:
        for line in lines:
            self.total += 1
            if len(self.mistakes) >= _MOST_MISTAKES or self.total > self.limits.lines:
                return
            found = parse_line(line.raw, self.total, self.endpoint)
            if isinstance(found, LineError):
                self.mistakes.append(found)
            else:
                self._compare(found)

    def _compare(self, line: BatchLine) -> None:
        if line.custom_id in self._seen:
            self._wrong(
                "duplicate_custom_id", f"the custom_id {line.custom_id!r:.100} stands in an earlier line", self.total,
                "custom_id",
            )  # fmt: skip
        self._seen.add(line.custom_id)
        self.model = self.model or line.model
        if line.model != self.model:
            self._wrong(
                "mismatched_model", f"all lines of a batch name one model; the first one names {self.model!r:.100}",
                self.total, "body.model",
            )  # fmt: skip

    def _wrong(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        self.mistakes.append(LineError(code, message, line, param))
