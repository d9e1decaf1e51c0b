"""The run of the lines of a batch: read, queued, looked at until they have ended, gathered part by part.

Invariants:

1. A line is a request whose id follows from batch and number: a second attempt to queue it finds it.
2. Results of a part are written under names of the run's own. Only what the record of the batch names is part of its
   output, and that changes by compare-and-set: a part that is noted stays as it is.
3. Answers are erased after their part is noted. So until then each of them can be read again. What a run that died has
   not erased of a part that it had noted is erased at the end of the batch.
4. A run begins after the first parts that are noted, and passes over others that are.

So each line is in the output once, at whatever step a process dies, and if two of them believe that they run a batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.files.file_data import FileRecord
from dynamo_tasks.frontend.batches.records import BatchData, BatchPart, BatchRecord
from dynamo_tasks.protocol.http.batches import LineError, parse_line
from dynamo_tasks.protocol.states import State
from dynamo_tasks.services.batches.line_queue import LATER, LineAnswer, line_id
from dynamo_tasks.services.batches.results import PartWriter, row_of, unmade_row
from dynamo_tasks.services.batches.shop import BatchShop
from dynamo_tasks.services.batches.source import SourceLine, source_lines
from dynamo_tasks.services.batches.window import PART_LINES, Line, Part

__all__ = ["LinesRun"]

_MOST_PARTS = 64
"""Parts under way: what one slow line holds back."""
_MOST_WRITES = 4
_BESIDE = 64
_LOOK, _LOOK_MANY, _LOOK_MOST = 0.05, 0.25, 1.0
_MANY = 64
_RECORD_EVERY = 1.0
_LATER = 1.0
_UNMADE = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed before its batch was cancelled.",
}


class LinesRun:
    """Runs the lines of one batch.

    Args:
        shop: What it works with.
        batch: As it was read.
        source: Its input.
        files: Ids of its output and error files.
        tag: In the names of what this run writes; no other run has it.
    """

    def __init__(
        self, shop: BatchShop, batch: BatchRecord, source: FileRecord, files: tuple[str, str], tag: str
    ):
        self._shop = shop
        self._id = batch.id
        self._data = batch.data
        self._expires = batch.created + batch.data.window
        self._source = source
        self._file_ids = files
        self._tag = tag
        self._queue = shop.queue(batch)
        self._parts: dict[int, Part] = {}
        self._flying: dict[str, Line] = {}
        self._later: list[Line] = []
        self._later_at = 0.0
        self._more = True
        self._writing: set[asyncio.Task[None]] = set()
        self._erased: set[int] = set()
        self._succeeded: set[int] = set()
        self._failed: set[int] = set()
        self._looked = -_RECORD_EVERY
        self.stopped = ""
        """Why no more lines are run: ``batch_expired`` or ``batch_cancelled``."""

    async def run(self) -> AsyncIterator[BatchData]:
        """Run all lines; gives the record of the batch as it changes."""
        read = self._read()
        wait = _LOOK
        try:
            while self._more or self._parts or self._writing:
                if time.monotonic() - self._looked > _RECORD_EVERY:
                    yield await self._note_counts()
                moved = await self._fill(read)
                moved |= await self._look()
                moved |= self._write_ended()
                least = _LOOK if len(self._flying) < _MANY else _LOOK_MANY
                wait = least if moved else min(wait * 1.5, _LOOK_MOST)
                if self._more or self._parts or self._writing:
                    await asyncio.sleep(wait)
        finally:
            for task in self._writing:
                task.cancel()
        yield self._data

    def _write_ended(self) -> bool:
        """Write parts whose lines have ended, beside what goes on; returns whether one was begun or is done.

        Raises:
            DynamoError: One could not be written.
        """
        done = {task for task in self._writing if task.done()}
        self._writing -= done
        for task in done:
            task.result()
        ended = [part.number for part in self._parts.values() if part.ended]
        begun = ended[: _MOST_WRITES - len(self._writing)]
        for number in begun:
            self._writing.add(asyncio.create_task(self._write(self._parts.pop(number))))
        return bool(done or begun)

    # -- into the queue -----------------------------------------------------------------------------

    async def _read(self) -> AsyncIterator[Line]:
        """The lines of parts that are not noted, as they are read."""
        first = 0
        while first in self._data.parts:
            first += 1
        start = self._data.parts[first - 1].end if first else 0
        number, endpoint = first * PART_LINES, self._data.request["endpoint"]
        async for lines in source_lines(self._shop.files, self._source, start, self._shop.limits.line_bytes):
            for line in lines:
                number += 1
                part = (number - 1) // PART_LINES
                if part not in self._data.parts:
                    yield self._line(line, number, endpoint, self._parts.setdefault(part, Part(part)))
        for last in self._parts.values():
            last.whole = True

    def _line(self, source: SourceLine, number: int, endpoint: str, part: Part) -> Line:
        found = parse_line(source.raw, number, endpoint)
        if isinstance(found, LineError):
            raise InvalidRequestError(found.message)  # it was none when the batch was validated
        line = Line(number, found.custom_id, found.body, line_id(self._id, number))
        part.lines.append(line)
        part.left += 1
        part.end, part.whole = source.end, number % PART_LINES == 0
        return line

    async def _fill(self, read: AsyncIterator[Line]) -> bool:
        """Queue as many lines as may be under way."""
        lines: list[Line] = []
        if self._later and time.monotonic() >= self._later_at:
            lines, self._later = self._later, []
        while self._more and self._room(len(lines)):
            line = await anext(read, None)
            if line is None:
                self._more = False
            else:
                lines.append(line)
        for at in range(0, len(lines), _BESIDE):
            await asyncio.gather(*map(self._put, lines[at : at + _BESIDE]))
        if self.stopped:
            await self._cancel(line.request_id for line in lines)
        return bool(lines)

    def _room(self, held: int) -> bool:
        if self.stopped:
            return len(self._parts) < _MOST_WRITES and held < PART_LINES
        return (
            not self._later
            and held + len(self._flying) < self._shop.share
            and (len(self._parts) < _MOST_PARTS)
        )

    async def _put(self, line: Line) -> None:
        if self.stopped:
            # It may be under way since an earlier run: then it is looked at once more.
            self._flying[line.request_id] = line
            return
        try:
            line.answer = await self._queue.put(line.request_id, line.body)
        except LATER:
            self._later.append(line)
            self._later_at = time.monotonic() + _LATER
            return
        if line.answer is None:
            self._flying[line.request_id] = line
        else:
            self._end(line, succeeded=False)

    # -- until they have ended ----------------------------------------------------------------------

    async def _look(self) -> bool:
        """Look which lines have ended."""
        asked = list(self._flying)
        if not asked:
            return False
        states = await self._shop.ask(lambda: self._queue.states(asked))
        for request_id, state in states.items():
            line = self._flying.pop(request_id)
            if state is None and not self.stopped and not await self._noted(line):
                await self._put(line)  # Redis has forgotten it
            else:
                if state is None or (state is State.CANCELLED and self.stopped):
                    line.unmade = self.stopped or "batch_expired"
                self._end(line, succeeded=state is State.SUCCEEDED)
        return bool(states)

    def _end(self, line: Line, *, succeeded: bool) -> None:
        line.ended = True
        (self._succeeded if succeeded else self._failed).add(line.number)
        self._parts[(line.number - 1) // PART_LINES].left -= 1

    async def _note_counts(self) -> BatchData:
        """Note how many have ended; find out whether the batch is to stop."""
        self._looked = time.monotonic()
        completed = len(self._succeeded) + sum(part.completed for part in self._data.parts.values())
        failed = len(self._failed) + sum(part.failed for part in self._data.parts.values())

        def counted(data: BatchData) -> BatchData | None:
            more = max(completed, data.completed), max(failed, data.failed)
            left = [number for number in data.unerased if number not in self._erased]
            if sum(more) > data.total or (*more, left) == (data.completed, data.failed, data.unerased):
                return None
            return msgspec.structs.replace(data, completed=more[0], failed=more[1], unerased=left)

        self._data = (await self._shop.change(self._id, counted)).data
        if self._data.status == "cancelling":
            await self._stop("batch_cancelled")
        elif time.time() >= self._expires:
            await self._stop("batch_expired")
        return self._data

    async def _stop(self, why: str) -> None:
        if self.stopped:
            return
        self.stopped = why
        for line in self._later:
            self._flying[line.request_id] = line
        self._later = []
        await self._cancel(self._flying)

    async def _cancel(self, request_ids: Iterable[str]) -> None:
        ids = list(request_ids)
        await self._shop.ask(lambda: self._queue.cancel(ids))

    # -- out of the queue ---------------------------------------------------------------------------

    async def _write(self, part: Part) -> None:
        """Gather the results of a part, write them, note that, erase the answers."""
        names = f"{part.number:05d}-{self._tag}"
        output, errors = (PartWriter(self._shop.files, file_id, names) for file_id in self._file_ids)
        tokens, completed = [0, 0, 0], 0
        for at in range(0, len(part.lines), _BESIDE):
            lines = part.lines[at : at + _BESIDE]
            for line, answer in zip(lines, await asyncio.gather(*map(self._answer, lines)), strict=True):
                good = answer is not None and answer.status == 200
                row = self._row(line, answer)
                writer = output if good else errors
                writer.add(row)
                if writer.full:
                    await self._shop.stored(writer.flush)
                if good and answer is not None:
                    completed += 1
                    tokens = [sum(pair) for pair in zip(tokens, answer.tokens, strict=True)]
        for writer in (output, errors):
            await self._shop.stored(writer.flush)
        written = BatchPart(
            output.objects, errors.objects, completed, len(part.lines) - completed, part.end,
            (tokens[0], tokens[1], tokens[2]),
        )  # fmt: skip
        await self._note(part, written)
        await self._shop.ask(lambda: self._queue.purge([line.request_id for line in part.lines]))
        self._erased.add(part.number)

    async def _answer(self, line: Line) -> LineAnswer | None:
        while line.answer is None and not line.unmade:
            line.answer = await self._shop.ask(lambda: self._queue.answer(line.request_id, line.body))
            if line.answer is None:
                await self._once_more(line)
        return line.answer

    async def _noted(self, line: Line) -> bool:
        """Return whether another run has gathered its part."""
        self._data = (await self._shop.get(self._id)).data
        return (line.number - 1) // PART_LINES in self._data.parts

    async def _once_more(self, line: Line) -> None:
        """The answer is lost: nobody gathered it in time, or somebody erased it. It is run again, as a new request."""
        if await self._noted(line) or self.stopped:
            line.unmade = self.stopped or "batch_expired"
            return
        line.again += 1
        line.request_id = line_id(self._id, line.number, line.again)
        while True:
            try:
                line.answer = await self._queue.put(line.request_id, line.body)
                break
            except LATER:
                await asyncio.sleep(_LATER)
        while line.answer is None:
            if await self._shop.ask(lambda: self._queue.states([line.request_id])):
                return
            await asyncio.sleep(_LOOK_MOST)

    def _row(self, line: Line, answer: LineAnswer | None) -> bytes:
        if answer is None:
            return unmade_row(line.request_id, line.custom_id, line.unmade, _UNMADE[line.unmade])
        return row_of(line.request_id, line.custom_id, answer)

    async def _note(self, part: Part, written: BatchPart) -> None:
        def noted(data: BatchData) -> BatchData | None:
            if part.number in data.parts:
                return None
            parts, unerased = {**data.parts, part.number: written}, [*data.unerased, part.number]
            return msgspec.structs.replace(data, parts=parts, unerased=unerased)

        self._data = (await self._shop.change(self._id, noted)).data
        for line in part.lines:
            self._succeeded.discard(line.number)
            self._failed.discard(line.number)
