"""The one writer of a process: all of its streams, one connection, one flush in flight.

What gathers while a flush is in flight goes with the next one. So an idle process sends each token at
once, and a busy one batches by itself. A flush is one MULTI/EXEC: the entries of all streams, then one
PUBLISH per reading client with all of that client's events, then the ends of requests whose last
entry goes with this flush. The last tokens of a request wait for its end, which an engine gives in the
same breath: so both cost one flush, and one wake-up of the reader.

The connection is never retried automatically: on every new one, before anything is appended, each
open stream is resynced (``lua/resync.lua``), which finds fenced attempts, restores forgotten claims and
names the last id that Redis knows. So is what ended within the last seconds: an end that Redis
has forgotten is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from dynamo_tasks.errors import (
    DynamoError,
    EndpointError,
    FencedError,
    LeaseLostError,
    ProtocolError,
    RequestNotFoundError,
    ServerRefusedError,
    ServerUnavailableError,
    StreamDivergedError,
)
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.ledger import Attempt, finish_arguments
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.containment import is_wrong_type, pass_over
from dynamo_tasks.store.redis.refusals import ReplyError, refusal
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Reply, Wire, pack
from dynamo_tasks.store.streams.delayed import DelayedStreams
from dynamo_tasks.store.streams.open_stream import DEFAULT_CAP, KEEP, OpenStream

__all__ = ["Writer"]

UNREAD_INTERVAL = 0.25
"""Seconds between flushes of streams that nobody reads."""
END_FOLLOWS = 0.002
"""Seconds that the last tokens wait for the end of their request, at most: its handler may have more to do."""
_RETRY_DELAY = 0.1
_encode = msgspec.msgpack.Encoder().encode
_pack = pack


class Writer:
    """Writes the streams of all requests that this process runs."""

    def __init__(self, store: Store):
        self._store = store
        self._link = Link(store.address, name="dynamo-tasks:writer", on_ready=self._resync_all)
        self._open: set[OpenStream] = set()
        self._dirty: dict[OpenStream, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._run_id = ""
        self._scripts_missing = False
        self._ended: deque[tuple[float, OpenStream]] = deque()
        self._flushed: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._unread = DelayedStreams(self._loop, UNREAD_INTERVAL, self._flush_soon)
        self._ending = DelayedStreams(self._loop, END_FOLLOWS, self._flush_soon)
        self.flushes = 0
        self._metrics = (
            metrics.counter("writer_flushes_total"),
            metrics.histogram("writer_events_per_flush"),
            metrics.counter("writer_bytes_total"),
            metrics.histogram("writer_flush_seconds"),
        )

    async def start(self) -> None:
        """Connect and begin to flush."""
        await self._link.start()
        self._begin()

    async def close(self) -> None:
        """Stop; streams that are still open die."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._unread.close()
        self._ending.close()
        await self._link.close()
        for stream in list(self._open):
            stream.die(LeaseLostError("the worker has stopped"))

    def open(
        self, attempt: Attempt, on_dead: Callable[[DynamoError], None], *, cap: int = DEFAULT_CAP
    ) -> OpenStream:
        """Open the stream of a claim that was just granted."""
        stream = OpenStream(attempt, changed=self._changed, on_dead=on_dead, cap=cap)
        stream.run_id = self._store.run_id
        self._open.add(stream)
        return stream

    def forget(self, stream: OpenStream) -> None:
        """The request is over, or not ours any more."""
        self._open.discard(stream)
        self._dirty.pop(stream, None)
        self._unread.discard(stream)
        self._ending.discard(stream)

    async def written(self, stream: OpenStream) -> None:
        """Wait until everything that was appended is in the stream, or the stream is dead."""
        while stream.busy and stream.dead is None:
            self._dirty[stream] = None
            self._wake.set()
            # Shared, and waited for with a limit: a flush that fails sets nothing, and this stream may be dead by then.
            self._flushed = self._flushed or self._loop.create_future()
            await asyncio.wait([self._flushed], timeout=UNREAD_INTERVAL)

    def _changed(self, stream: OpenStream) -> None:
        if not (stream.readers or stream.finish_request is not None or stream.congested):
            # Nobody waits for it: what gathers until the timer goes in one entry, which costs Redis a fraction.
            self._unread.add(stream)
        elif stream not in self._dirty:
            if stream.told_all and stream.finish_request is None and not stream.congested:
                self._ending.add(stream)
            else:
                self._ending.discard(stream)
                self._flush_soon((stream,))

    def _flush_soon(self, streams: Iterable[OpenStream]) -> None:
        self._dirty.update(dict.fromkeys(streams))
        self._wake.set()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="stream-writer")
        self._task.add_done_callback(self._broke)

    def _broke(self, task: asyncio.Task[None]) -> None:
        """A fault of our own must not leave a live process whose streams stand still: they go on elsewhere."""
        if task.cancelled():
            return
        error = str(task.exception())
        event("writer.failed", open=len(self._open), error=error)
        self._dirty.clear()
        self._unread.clear()
        self._ending.clear()
        for stream in list(self._open):
            stream.die(LeaseLostError(f"the writer of the process failed: {error}"))
        self._begin()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                wire = await self._link.wire()
                await self._flush(wire)
            except (ReplyError, ServerRefusedError):
                self._wake.set()
                await asyncio.sleep(_RETRY_DELAY)
            except ServerUnavailableError:
                continue

    async def _flush(self, wire: Wire) -> None:
        if self._scripts_missing:
            await self._load_scripts(wire)
        for stream in [stream for stream in self._dirty if stream.suspect]:
            await self._resync(wire, stream)
        batch = [stream for stream in self._dirty if stream.dead is None and _freeze(stream)]
        self._dirty = {}
        packed, sent, ends = self._pack_batch(batch)
        if not packed:
            return
        began = self._loop.time()
        try:
            replies = await wire.transaction(packed)
        except DynamoError:
            # It may have run all the same. The entries keep their ids, and resync finds which of them are there.
            self._dirty.update(dict.fromkeys(batch))
            raise
        self._count(sum(sent), sum(map(len, packed)), self._loop.time() - began)
        self._take_replies(batch, sent, ends, replies)
        if self._flushed is not None:
            self._flushed.set_result(None)
            self._flushed = None
        for reply in replies[len(replies) - len(ends) :]:
            if isinstance(reply, Exception) and not self._scripts_missing:
                raise refusal(str(reply))

    def _count(self, events: int, size: int, seconds: float) -> None:
        self.flushes += 1
        flushes, per_flush, total, took = self._metrics
        flushes.inc()
        per_flush.observe(events)
        total.inc(size)
        took.observe(seconds)

    def _pack_batch(self, batch: list[OpenStream]) -> tuple[list[bytes], list[int], list[OpenStream]]:
        packed: list[bytes] = []
        pushes: dict[str, list[tuple[str, str, str, bytes]]] = {}
        sent: list[int] = []
        for stream in batch:
            attempt, count = stream.attempt, 0
            key = self._store.keys(attempt.namespace).stream(attempt.id)
            for entry in stream.frozen:
                event_id = f"{attempt.epoch}-{entry.seq}"
                # NOMKSTREAM: the claim has made it; one that is gone (purged, forgotten) must not begin anew here.
                packed.append(_pack(("XADD", key, "NOMKSTREAM", event_id, entry.kind, entry.data)))
                count += 1
                for reader in stream.readers:
                    pushes.setdefault(reader, []).append((attempt.id, event_id, entry.kind, entry.data))
            sent.append(count)
        # Stream first: who finds a gap looks there at once. Where an entry is refused its push goes out all the same;
        # the claim that it was refused for was pushed before, and readers believe no older epoch since.
        packed += [_pack(("PUBLISH", channel, _encode(events))) for channel, events in pushes.items()]
        # Last: `finish` compares the top of the stream, which the entries before it have made.
        ends = [stream for stream in batch if stream.finish_request is not None]
        packed += [self._pack_finish(stream) for stream in ends]
        return packed, sent, ends

    def _pack_finish(self, stream: OpenStream) -> bytes:
        assert stream.finish_request is not None
        state, end, error, result, settled, kept, used, ttft, _ = stream.finish_request
        attempt, keys = stream.attempt, self._store.keys(stream.attempt.namespace)
        command = script("finish").command(
            [keys.record(attempt.id)], **finish_arguments(
                keys.base, attempt, stream.top, stream.end_id, end, state, result=result, error=error,
                settled=settled, kept=kept, used=used, ttft=ttft,
            ),
        )  # fmt: skip
        return _pack(tuple(command))

    def _take_replies(
        self, batch: list[OpenStream], sent: list[int], ends: list[OpenStream], replies: list[Reply]
    ) -> None:
        now, at = self._loop.time(), 0
        for stream, count in zip(batch, sent, strict=True):
            own = replies[at : at + count]
            at += count
            # Ids only grow: behind an entry that is refused as too old, all are, so what was taken is a beginning.
            taken = next((i for i, reply in enumerate(own) if not isinstance(reply, bytes)), count)
            if stream.dead is not None:
                continue
            stream.acknowledge(taken, now)
            if taken < count:
                self._doubt(stream)
        while self._ended and self._ended[0][0] < now - KEEP:
            self._ended.popleft()
        for stream, reply in zip(ends, replies[len(replies) - len(ends) :], strict=True):
            self._take_end(stream, reply)

    def _take_end(self, stream: OpenStream, reply: Reply) -> None:
        if stream.finish_request is None or stream.dead is not None:
            return
        if reply == b"OK":
            stream.finished()
            self._ended.append((self._loop.time(), stream))  # a crash or a failover may yet forget it
        elif reply == b"FENCED":
            stream.die(FencedError())
        elif reply == b"GONE":
            stream.die(RequestNotFoundError("Redis forgot the request"))
        else:
            # A server that took over, or was started anew, has no scripts.
            self._scripts_missing |= isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT")
            self._doubt(stream)

    def _doubt(self, stream: OpenStream) -> None:
        stream.suspect = True
        self._dirty[stream] = None
        self._wake.set()

    async def _resync_all(self, wire: Wire) -> None:
        """On every new connection, before anything is appended."""
        await self._load_scripts(wire)
        self._run_id = await self._server_run_id(wire)
        ended = [stream for _, stream in self._ended]
        streams = [*ended, *(stream for stream in self._open if stream.ended is None)]
        for stream in streams:
            await self._resync(wire, stream)
            if stream.dead is None:
                self._dirty[stream] = None
        if streams:
            lost = sum(stream.dead is not None for stream in streams)
            event("stream.resync", open=len(streams), lost=lost, run_id=self._run_id)
        self._wake.set()

    async def _load_scripts(self, wire: Wire) -> None:
        # ``finish`` runs inside of MULTI, where EVALSHA cannot fall back to EVAL.
        for name in ("finish", "resync"):
            await wire.execute("SCRIPT", "LOAD", script(name).source)
        self._scripts_missing = False

    async def _server_run_id(self, wire: Wire) -> str:
        info: bytes = await wire.execute("INFO", "server")
        rows = dict(line.partition(":")[::2] for line in info.decode().splitlines())
        return rows.get("run_id", "")

    async def _resync(self, wire: Wire, stream: OpenStream) -> None:
        """Ask what Redis knows of a stream, and go on from there."""
        attempt, keys = stream.attempt, self._store.keys(stream.attempt.namespace)
        # On the server that granted the claim, a record that is gone was purged; another one may never have had it.
        restore = stream.run_id != self._run_id
        message: list[str | bytes] = (
            [Field.MESSAGE, attempt.message()] if restore and attempt.message is not None else []
        )
        try:
            reply = await script("resync").run(
                wire, [keys.record(attempt.id), keys.stream(attempt.id)], *attempt.fields, Field.READERS,
                " ".join(stream.readers), *message, base=keys.base, id=attempt.id, lease=f"{attempt.lease:x}",
                claimed=attempt.epoch, nonce=attempt.nonce, attempt=attempt.number, previous=str(attempt.previous),
                new_server=int(restore), namespaces=self._store.keys.namespaces, namespace=attempt.namespace,
            )  # fmt: skip
        except ReplyError as exc:
            if not is_wrong_type(exc):
                raise
            # Somebody has put another key where its record or stream should be: that ends this one, not the others.
            pass_over("log", attempt.id, exc)
            stream.die(ProtocolError(f"the stream of request {attempt.id} cannot be written: {exc.message}"))
            return
        metrics.counter("writer_resyncs_total", outcome=reply[0].decode().lower()).inc()
        if stream.dead is None:
            stream.run_id = self._run_id
            self._take_resync(stream, reply)

    def _take_resync(self, stream: OpenStream, reply: list[bytes]) -> None:
        if reply[0] == b"OK":
            stream.readers = self._store.keys(stream.attempt.namespace).readers(reply[2].decode())
            stream.reopen()
            # As many entries as it is short of are sent again, with the ids that readers have seen.
            if not stream.realign(EventId.parse(reply[1].decode()), self._loop.time()):
                stream.die(StreamDivergedError("Redis forgot more of the stream than this worker still has"))
        elif stream.ended is not None:
            stream.suspect = False
        elif reply[0] == b"ENDED" and stream.finish_request is not None:
            self._take_end(stream, b"OK")
        else:
            stream.die(_DEATHS.get(reply[0], FencedError)())


def _freeze(stream: OpenStream) -> bool:
    """Freeze what is pending; returns whether it could be encoded: else this attempt ends, and no other."""
    try:
        stream.freeze()
    except (TypeError, ValueError, OverflowError) as exc:
        stream.die(EndpointError(f"a token delta cannot be written: {exc}"))
    return stream.dead is None


_DEATHS: dict[bytes, Callable[[], DynamoError]] = {
    b"GONE": lambda: RequestNotFoundError("Redis forgot the request"),
    b"DIVERGED": lambda: StreamDivergedError("Redis forgot events of an earlier attempt"),
}
