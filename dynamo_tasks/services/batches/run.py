"""The run of a batch from its state to its end: validating → in_progress → finalizing → completed, expired, cancelled.

Every step leaves the state in the record of the batch, and may be done again: a run that follows another one goes on
where that one was. Outputs are files whose ids follow from the batch; their parts are written before, and a file
appears in one step.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from dynamo_tasks.errors import ObjectNotFoundError, ProtocolError
from dynamo_tasks.files.file_data import FileData, FileRecord
from dynamo_tasks.frontend.batches.records import ENDED, KEPT, BatchData, BatchRecord
from dynamo_tasks.protocol.http.batches import LineError
from dynamo_tasks.services.batches.line_queue import line_id
from dynamo_tasks.services.batches.lines import LinesRun
from dynamo_tasks.services.batches.shop import BatchShop
from dynamo_tasks.services.batches.validation import Validation
from dynamo_tasks.services.batches.window import PART_LINES
from dynamo_tasks.store.objects import ANYBODY

__all__ = ["BatchRun", "output_ids"]

_RUNNING = ("validating", "in_progress", "cancelling", "finalizing")


def output_ids(batch_id: str) -> tuple[str, str]:
    """Ids of the files of results, and of what went wrong."""
    space = uuid.UUID(batch_id.removeprefix("batch_"))
    return f"file-{uuid.uuid5(space, 'output').hex}", f"file-{uuid.uuid5(space, 'errors').hex}"


class BatchRun:
    """Runs one batch.

    Args:
        shop: What it works with.
        batch_id: Which batch.
        tag: Names this run, in what it writes.
    """

    def __init__(self, shop: BatchShop, batch_id: str, tag: str):
        self._shop = shop
        self._id = batch_id
        self._tag = tag

    async def run(self) -> AsyncIterator[dict[str, Any]]:
        """Run it to its end; gives its progress."""
        batch = await self._shop.get(self._id)
        if batch.data.status == "validating":
            batch = await self._validate(batch)
        if batch.data.status == "cancelling" and not batch.data.total:
            batch = await self._shop.advance(self._id, "cancelled", of=("cancelling",))
        if batch.data.status in ("in_progress", "cancelling"):
            async for data in self._lines(batch):
                yield _progress(data)
            batch = await self._shop.get(self._id)
        if batch.data.status == "finalizing":
            batch = await self._finish(batch)
        yield _progress(batch.data)

    async def _input(self, batch: BatchRecord) -> FileRecord | None:
        """The input file; where somebody has deleted it, the batch fails."""
        file_id = batch.data.request["input_file_id"]
        try:
            return await self._shop.ask(lambda: self._shop.files.get(file_id, ANYBODY))
        except ObjectNotFoundError:
            mistake = LineError(
                "input_file_not_found", f"the input file {file_id} is gone", param="input_file_id"
            )
            await self._fail([mistake])
            return None

    async def _fail(self, mistakes: list[LineError]) -> BatchRecord:
        for file_id in output_ids(self._id):
            await self._drop(file_id)
        return await self._shop.advance(self._id, "failed", of=_RUNNING, mistakes=mistakes)

    async def _drop(self, file_id: str) -> None:
        await self._shop.ask(lambda: self._shop.files.drop(file_id))

    async def _reserve(self, file_id: str) -> None:
        await self._shop.ask(lambda: self._shop.files.reserve(file_id, KEPT))

    async def _validate(self, batch: BatchRecord) -> BatchRecord:
        source = await self._input(batch)
        if source is None:
            return await self._shop.get(self._id)
        found = await self._shop.stored(lambda: self._checked(batch.data.request["endpoint"], source))
        await found.check_model(self._shop.apis[found.endpoint], self._shop.gateway)
        if found.mistakes:
            return await self._fail(found.mistakes)
        # Before anything is written: rows that no record comes to name are deleted in the end.
        for file_id in output_ids(self._id):
            await self._reserve(file_id)

        def begun(data: BatchData) -> BatchData | None:
            # Cancelled meanwhile: its lines are told as such.
            return None if data.total else msgspec.structs.replace(data, total=found.total, model=found.model)

        await self._shop.change(self._id, begun)
        return await self._shop.advance(self._id, "in_progress", of=("validating",))

    async def _checked(self, endpoint: str, source: FileRecord) -> Validation:
        found = Validation(endpoint, self._shop.limits)
        await found.check(self._shop.files, source)
        return found

    async def _lines(self, batch: BatchRecord) -> AsyncIterator[BatchData]:
        source = await self._input(batch)
        if source is None:
            return
        lines = LinesRun(self._shop, batch, source, output_ids(self._id), self._tag)
        self._shop.runs += 1
        try:
            async for data in lines.run():
                yield data
        finally:
            self._shop.runs -= 1
        data = (await self._shop.get(self._id)).data
        completed, failed = _counts(data)
        # No end rather than a wrong one: another run looks at all of it again.
        if completed + failed != data.total:
            raise ProtocolError(f"batch {self._id} has {data.total} lines, and {completed + failed} results")
        why = lines.stopped.removeprefix("batch_")
        await self._shop.advance(
            self._id,
            "finalizing",
            of=("in_progress", "cancelling"),
            completed=completed,
            failed=failed,
            why=why,
        )

    async def _finish(self, batch: BatchRecord) -> BatchRecord:
        """Make the files of its results, then its end."""
        data, ids = batch.data, output_ids(self._id)
        for number in data.unerased:
            await self._erase(batch, number)
        parts = [data.parts[number] for number in sorted(data.parts)]
        contents = (
            [one for part in parts for one in part.output],
            [one for part in parts for one in part.errors],
        )
        made: list[str | None] = []
        for file_id, name, objects in zip(ids, ("output", "error"), contents, strict=True):
            made.append(file_id if objects else None)
            if objects:
                await self._file(
                    batch, file_id, FileData(f"{self._id}_{name}.jsonl", "batch_output", objects)
                )
            else:
                await self._drop(file_id)
        status = data.why or "completed"
        return await self._shop.advance(
            self._id, status, of=("finalizing",), output_file=made[0], error_file=made[1], unerased=[]
        )

    async def _erase(self, batch: BatchRecord, number: int) -> None:
        """Erase the answers of a part: who noted it may have died before it did so."""
        first, last = number * PART_LINES + 1, min((number + 1) * PART_LINES, batch.data.total)
        ids = [line_id(self._id, line) for line in range(first, last + 1)]
        await self._shop.ask(lambda: self._shop.queue(batch).purge(ids))

    async def _file(self, batch: BatchRecord, file_id: str, data: FileData) -> None:
        lifetime = batch.data.request.get("output_expires_after")
        ttl = lifetime["seconds"] if lifetime else None
        await self._shop.ask(lambda: self._shop.files.finish(file_id, batch.owner, data, ttl))


def _counts(data: BatchData) -> tuple[int, int]:
    return sum(part.completed for part in data.parts.values()), sum(
        part.failed for part in data.parts.values()
    )


def _progress(data: BatchData) -> dict[str, Any]:
    """An event of the stream of a run."""
    shown = {"status": data.status, "total": data.total, "completed": data.completed, "failed": data.failed}
    return shown | {"ended": True} if data.status in ENDED else shown
