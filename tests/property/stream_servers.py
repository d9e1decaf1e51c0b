"""Two servers for the state machine of streams: a simulated one, and the real scripts on a real one.

Both do one request. Every method is one atomic step of the server.
"""

from __future__ import annotations

import copy
import itertools
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import redis

from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import TERMINAL
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.ledger import Attempt, cancelled, finish_arguments
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.ledger.submission import NewRequest, submit_call

__all__ = ["NAMESPACE", "RealServer", "Server", "SimulatedServer"]

NAMESPACE = "property"
CANCELLED = cancelled()


class Page(NamedTuple):
    """What a reader finds behind its last event."""

    events: list[Event]
    end: EventId | None
    """Id of the end, if the request has ended."""


class Server(Protocol):
    def claim(self, lease: int, nonce: str) -> Attempt | None: ...
    def flush(self, attempt: Attempt, entries: list[Event], readers: list[str]) -> list[bool]: ...
    def finish(self, attempt: Attempt, top: EventId, end: End) -> str: ...
    def resync(self, attempt: Attempt, readers: list[str]) -> tuple[str, EventId, list[str]]: ...
    def cancel(self) -> str: ...
    def subscribe(self, channel: str) -> None: ...
    def attach(self, channel: str) -> None: ...
    def pushed(self, channel: str) -> list[Event]: ...
    def read(self, after: EventId, count: int) -> Page: ...
    def readers(self) -> list[str]: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def close(self) -> None: ...


@dataclass
class _State:
    log: list[Event] = field(default_factory=list)
    state: str = "QUEUED"
    owner: int | None = None
    nonce: str = ""
    epoch: int = 0
    number: int = 0
    end: EventId | None = None
    readers: list[str] = field(default_factory=list)


class SimulatedServer:
    """The rules of the scripts, in Python."""

    def __init__(self) -> None:
        self._now = itertools.count(1000, 10)
        self._s = _State()
        self._subscribed: dict[str, deque[Event]] = {}

    @property
    def _top(self) -> EventId:
        return self._s.log[-1].id if self._s.log else ZERO

    def _push(self, readers: list[str], event: Event) -> None:
        for channel in readers:
            if channel in self._subscribed:
                self._subscribed[channel].append(event)

    def _add(self, event: Event) -> bool:
        if event.id <= self._top:
            return False
        self._s.log.append(event)
        return True

    def claim(self, lease: int, nonce: str) -> Attempt | None:
        s = self._s
        if s.end is not None:
            return None
        previous = self._top
        s.epoch = max(next(self._now), s.epoch + 1, previous.epoch + 1)
        s.number += 1
        s.state, s.owner, s.nonce = "RUNNING", lease, nonce
        claim = Event(EventId(s.epoch, 0), Kind.CLAIM, Claim(previous, s.number, lease).encode())
        self._add(claim)
        self._push(s.readers, claim)
        return _attempt(lease, nonce, s.epoch, previous, s.number, list(s.readers), [])

    def flush(self, attempt: Attempt, entries: list[Event], readers: list[str]) -> list[bool]:
        taken = [bool(self._s.log) and self._add(entry) for entry in entries]
        for entry in entries:
            self._push(readers, entry)
        return taken

    def finish(self, attempt: Attempt, top: EventId, end: End) -> str:
        s = self._s
        event_id = EventId(attempt.epoch, top.seq + 1)
        if (s.owner, s.epoch) != (attempt.lease, attempt.epoch):
            return "FENCED"
        if s.end is not None:
            return "OK" if s.end == event_id else "FENCED"
        if self._top != top:
            return "FENCED" if self._top.epoch > attempt.epoch else "BEHIND"
        event = Event(event_id, Kind.END, end.encode())
        self._add(event)
        s.state, s.end = str(end.state), event_id
        self._push(s.readers, event)
        return "OK"

    def resync(self, attempt: Attempt, readers: list[str]) -> tuple[str, EventId, list[str]]:
        s, top = self._s, self._top
        known = s.state == "RUNNING" and (s.owner, s.nonce) == (attempt.lease, attempt.nonce)
        if s.end is not None:
            mine = (s.owner, s.epoch) == (attempt.lease, attempt.epoch)
            return "ENDED" if mine else "FENCED", ZERO, []
        if (not known and s.epoch >= attempt.epoch) or top.epoch > attempt.epoch:
            return "FENCED", ZERO, []
        if top.epoch < attempt.epoch and top != attempt.previous:
            return "DIVERGED", ZERO, []
        if not known:
            s.state, s.owner, s.nonce = "RUNNING", attempt.lease, attempt.nonce
            s.epoch, s.number = attempt.epoch, attempt.number
        if top.epoch < attempt.epoch:
            top = EventId(attempt.epoch, 0)
            claim = Event(top, Kind.CLAIM, attempt.claim.encode())
            self._add(claim)
            self._push(s.readers, claim)
        return "OK", top, list(s.readers)

    def cancel(self) -> str:
        s = self._s
        if s.end is not None:
            return "ENDED"
        s.epoch = max(s.epoch, self._top.epoch) + 1 if s.state == "RUNNING" else next(self._now)
        end = msgspec.structs.replace(CANCELLED, previous=str(self._top))
        event = Event(EventId(s.epoch, 0), Kind.END, end.encode())
        self._add(event)
        s.state, s.end, s.owner = "CANCELLED", event.id, None
        self._push(s.readers, event)
        return "OK"

    def subscribe(self, channel: str) -> None:
        self._subscribed[channel] = deque()

    def attach(self, channel: str) -> None:
        if channel not in self._s.readers:
            self._s.readers.append(channel)

    def pushed(self, channel: str) -> list[Event]:
        queue = self._subscribed.get(channel, deque())
        events = list(queue)
        queue.clear()
        return events

    def read(self, after: EventId, count: int) -> Page:
        return Page([event for event in self._s.log if event.id > after][:count], self._s.end)

    def readers(self) -> list[str]:
        return list(self._s.readers)

    def snapshot(self) -> _State:
        return copy.deepcopy(self._s)

    def restore(self, snapshot: _State) -> None:
        self._s = copy.deepcopy(snapshot)
        self._subscribed.clear()

    def close(self) -> None:
        pass


class RealServer:
    """The scripts themselves."""

    def __init__(self, client: redis.Redis, pubsub: Any) -> None:
        self._redis = client
        self._pubsub = pubsub
        self._keys = Keys(NAMESPACE)
        self._id = uuid.uuid4().hex
        self._pair = [self._keys.record(self._id), self._keys.stream(self._id)]
        self._queues: dict[str, deque[Event]] = {}
        endpoint = EndpointId(NAMESPACE, "Worker", "generate")
        new = NewRequest(id=self._id, endpoint=endpoint, queue=endpoint.queue, message=b"m")
        keys, more, named = submit_call(self._keys, new)
        self._run("submit", keys, *more, **named)
        client.delete(endpoint.queue)

    def _run(self, name: str, keys: list[str], *more: Any, **named: Any) -> Any:
        args = script(name).arguments(*more, **named)
        try:
            return self._redis.evalsha(script(name).sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self._redis.eval(script(name).source, len(keys), *keys, *args)

    def claim(self, lease: int, nonce: str) -> Attempt | None:
        # Nobody holds a lease here: whoever asks may take the request over.
        reply = self._run(
            "claim",
            self._pair[:1],
            base=self._keys.base,
            lease=f"{lease:x}",
            nonce=nonce,
            retry_number=0,
            tracked=1,
            namespaces="dt:@namespaces",
            namespace=NAMESPACE,
            speaks=1,
            component="Worker",
        )
        if reply[0] != b"OK":
            return None
        _, epoch, previous, number, readers, _, fields, _ = reply
        previous_id = EventId.parse(previous.decode())
        return _attempt(lease, nonce, int(epoch), previous_id, int(number), readers.decode().split(), fields)

    def flush(self, attempt: Attempt, entries: list[Event], readers: list[str]) -> list[bool]:
        pipe = self._redis.pipeline(transaction=True)
        for entry in entries:
            pipe.execute_command("XADD", self._pair[1], "NOMKSTREAM", str(entry.id), entry.kind, entry.data)
        push = msgspec.msgpack.encode(
            [(self._id, str(entry.id), entry.kind, entry.data) for entry in entries]
        )
        for channel in readers:
            pipe.publish(channel, push)
        replies = pipe.execute(raise_on_error=False)
        return [isinstance(reply, bytes) for reply in replies[: len(entries)]]

    def finish(self, attempt: Attempt, top: EventId, end: End) -> str:
        event_id = EventId(attempt.epoch, top.seq + 1)
        named = finish_arguments(
            self._keys.base, attempt, top, event_id, end.encode(), end.state, result=b"", error=b"", settled=True,
            kept=None,
        )  # fmt: skip
        reply = self._run("finish", self._pair[:1], **named)
        return str(reply.decode())

    def resync(self, attempt: Attempt, readers: list[str]) -> tuple[str, EventId, list[str]]:
        reply = self._run(
            "resync", self._pair, *attempt.fields, Field.READERS, " ".join(readers), base=self._keys.base, id=self._id,
            lease=f"{attempt.lease:x}", claimed=attempt.epoch, nonce=attempt.nonce, attempt=attempt.number,
            previous=str(attempt.previous), new_server=0, namespaces="dt:@namespaces", namespace=NAMESPACE,
        )  # fmt: skip
        code = reply[0].decode()
        return (
            (code, EventId.parse(reply[1].decode()), reply[2].decode().split())
            if code == "OK"
            else (code, ZERO, [])
        )

    def cancel(self) -> str:
        reply = self._run(
            "cancel", self._pair, base=self._keys.base, id=self._id, db=0, data=CANCELLED.encode(), state="CANCELLED",
            error=msgspec.json.encode(CANCELLED.error), guard="",
        )  # fmt: skip
        return str(reply.decode())

    def subscribe(self, channel: str) -> None:
        self._pubsub.subscribe(self._name(channel))
        self.pushed(channel)
        self._queues[channel] = deque()

    def _name(self, channel: str) -> str:
        return f"dt:@client:0:{channel}-{self._id}"

    def attach(self, channel: str) -> None:
        self._run(
            "attach", self._pair, base=self._keys.base, id=self._id, db=0, reader=self._name(channel), only_owner=0,
            owner_key="", after_epoch=0, after_seq=0,
        )  # fmt: skip

    def pushed(self, channel: str) -> list[Event]:
        self._pubsub.ping("sync")
        while (message := self._pubsub.get_message(timeout=5)) is not None:
            if message["type"] == "pong":
                break
            if message["type"] == "message":
                queue = self._queues.get(
                    message["channel"].decode().removeprefix("dt:@client:0:").split("-")[0]
                )
                if queue is not None:
                    for _, event_id, kind, data in msgspec.msgpack.decode(message["data"]):
                        queue.append(Event(EventId.parse(event_id), kind, data))
        queue = self._queues.get(channel, deque())
        events = list(queue)
        queue.clear()
        return events

    def read(self, after: EventId, count: int) -> Page:
        state, end = self._redis.hmget(self._pair[0], Field.STATE, Field.END_ID)
        rows = self._redis.execute_command("XRANGE", self._pair[1], f"({after}", "+", "COUNT", count)
        events = [
            Event(EventId.parse(event_id.decode()), *next((k.decode(), v) for k, v in _fields(fields)))
            for event_id, fields in rows
        ]
        ended = state is not None and state.decode() in {s.value for s in TERMINAL}
        return Page(events, EventId.parse(end.decode()) if ended else None)

    def readers(self) -> list[str]:
        return str((self._redis.hget(self._pair[0], Field.READERS) or b"").decode()).split()

    def snapshot(self) -> list[bytes | None]:
        return [self._redis.dump(key) for key in self._pair]

    def restore(self, snapshot: list[bytes | None]) -> None:
        epoch = int(self._redis.hget(self._pair[0], Field.EPOCH) or 0)
        for key, data in zip(self._pair, snapshot, strict=True):
            self._redis.delete(key)
            if data is not None:
                self._redis.restore(key, 0, data)
        self._leave()
        # A server does not come back within the millisecond of its last claim.
        while _ms(self._redis.time()) <= epoch:
            continue

    def _leave(self) -> None:
        if self._queues:
            self._pubsub.unsubscribe(*map(self._name, self._queues))
            self.pushed("")
            self._queues.clear()

    def close(self) -> None:
        self._leave()
        self._redis.delete(*self._pair)
        self._redis.srem(self._keys.clients, *(self._redis.smembers(self._keys.clients) or [b"-"]))


def _ms(time: tuple[int, int]) -> int:
    return time[0] * 1000 + time[1] // 1000


def _fields(fields: Any) -> Any:
    return fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)


def _attempt(
    lease: int,
    nonce: str,
    epoch: int,
    previous: EventId,
    number: int,
    readers: list[str],
    fields: list[bytes],
) -> Attempt:
    return Attempt(
        namespace=NAMESPACE, id="r", lease=lease, nonce=nonce, epoch=epoch, previous=previous, number=number,
        readers=readers, deadline=0.0, fields=fields,
    )  # fmt: skip
