"""The invariants of ``docs/ledger.md``, as checks over everything that a namespace has on the server.

The numbers are those of the document.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

import redis

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.states import TERMINAL
from dynamo_tasks.store.keys import Keys
from tests.support.records import by_word

__all__ = ["Dump", "History", "check", "check_claim", "check_rest", "check_sweep", "read_dump"]

_DUMP = """
local out = {}
for _, pattern in ipairs(ARGV) do
  for _, key in ipairs(redis.call('KEYS', pattern)) do
    local kind = redis.call('TYPE', key).ok
    local value
    if kind == 'hash' then value = redis.call('HGETALL', key)
    elseif kind == 'set' then value = redis.call('SMEMBERS', key)
    elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
    elseif kind == 'stream' then value = redis.call('XRANGE', key, '-', '+')
    else value = redis.call('GET', key) end
    out[#out + 1] = { key, value, redis.call('PTTL', key) }
  end
end
return out
"""
_KINDS = {
    "req": "records", "log": "logs", "owned": "owned", "reads": "reads", "idem": "idem",
    "running": "running", "waiting": "waiting",
}  # fmt: skip
_KNOWN = frozenset(
    {
        "doc",
        "lease",
        "leases",
        "dead",
        "erase",
        "erasing",
        "recover",
        "queues",
        "load",
        "instances",
        "inst",
        "clients",
        "lines",
        "line",
        "tags",
        "pace",
    }
)


@dataclass
class Dump:
    """All keys of a namespace."""

    records: dict[str, dict[str, str]] = field(default_factory=dict)
    logs: dict[str, list[tuple[EventId, str, str]]] = field(default_factory=dict)
    owned: dict[str, set[str]] = field(default_factory=dict)
    reads: dict[str, set[str]] = field(default_factory=dict)
    running: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, set[str]] = field(default_factory=dict)
    idem: dict[str, str] = field(default_factory=dict)
    queues: dict[str, list[str]] = field(default_factory=dict)
    queued: dict[str, float] = field(default_factory=dict)
    timers: dict[str, float] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    ttls: dict[str, int] = field(default_factory=dict)

    @property
    def open(self) -> list[str]:
        """Requests that have not ended."""
        return [one for one, record in self.records.items() if record["state"] not in TERMINAL]


@dataclass
class History:
    """What has happened so far: what must never be undone."""

    keeps: dict[str, bool] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    deadlines: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    ends: dict[str, tuple[str, str]] = field(default_factory=dict)
    idem: dict[str, str] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def number(self) -> int:
        """A number that was not used before."""
        return int(next(self._numbers))

    def submitted(self, request_id: str, *, keeps: bool, read: bool) -> None:
        """A new request."""
        self.keeps[request_id] = keeps
        if read:
            self.read.add(request_id)

    def claimed(self, request_id: str) -> None:
        """A message without a record gets one at its claim."""
        self.keeps.setdefault(request_id, True)

    def revived(self, request_id: str) -> None:
        """It begins again by somebody's wish."""
        self.ends.pop(request_id, None)
        self.values.pop(request_id, None)
        self.read.discard(request_id)
        self.started.discard(request_id)


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}


def _record(flat: list[bytes]) -> dict[str, str]:
    return by_word(_pairs(flat))


def _text(values: list[bytes]) -> set[str]:
    return {value.decode() for value in values}


def _events(rows: list[Any]) -> list[tuple[EventId, str, str]]:
    return [
        (EventId.parse(i.decode()), kind.decode(), data.decode(errors="replace")) for i, (kind, data) in rows
    ]


def read_dump(client: redis.Redis, keys: Keys) -> Dump:
    """Everything that the namespace has, as of one moment."""
    dump = Dump()
    rows: list[Any] = client.eval(_DUMP, 0, f"{keys.base}*", f"{keys.namespace}|*")
    for raw, value, ttl in rows:
        key = raw.decode()
        dump.ttls[key] = ttl
        if not key.startswith(keys.base):
            dump.queues[key] = [item.decode() for item in value]
            continue
        kind, _, rest = key.removeprefix(keys.base).partition(":")
        if kind in ("queued", "timers"):
            setattr(dump, kind, {name: float(score) for name, score in _pairs(value).items()})
        elif kind == "leases":
            dump.leases = _text(value)
        elif kind in _KINDS:
            kinds: dict[str, Any] = {"req": _record, "log": _events, "idem": bytes.decode}
            read = kinds.get(kind, _text)
            getattr(dump, _KINDS[kind])[rest] = read(value)
        else:
            assert kind in _KNOWN, f"a stray key {key}"
    return dump


def check(dump: Dump, history: History, *, alive: set[int]) -> None:
    """All invariants that hold after every step.

    Args:
        dump: The server now.
        history: What happened before; brought up to date.
        alive: Leases of processes that live, whatever others think of them.
    """
    for request_id in history.keeps:
        assert request_id in dump.records, f"2: the record of {request_id} is gone"
    for request_id, record in dump.records.items():
        _check_state(dump, request_id, record)
        _check_log(dump, request_id, record)
        _check_history(dump, history, request_id, record)
        _check_lifetime(dump, request_id, record)
    _check_sets(dump)
    _check_counts(dump)
    _check_readers(dump, history)
    for key, value in dump.idem.items():
        assert history.idem.setdefault(key, value) == value, f"8: {key} stands for another request"
    assert history.idem.keys() == dump.idem.keys(), "8: an idempotency key is forgotten"


def _check_state(dump: Dump, request_id: str, record: dict[str, str]) -> None:
    state, owner = record["state"], record.get("owner", "")
    owners = {lease for lease, ids in dump.owned.items() if request_id in ids}
    if state == "RUNNING":
        assert owners == {owner}, f"1: {request_id} runs at {owner}, and is owned by {owners}"
        assert owner in dump.leases, f"2: nobody watches {owner}, which runs {request_id}"
        assert record.get("nonce"), f"1: {request_id} runs without a nonce"
    elif state == "QUEUED":
        assert (owner, owners) == ("", set()), f"1: {request_id} is queued and owned by {owner or owners}"
        assert all(record.get(name) for name in ("message", "queue")), (
            f"2: {request_id} is queued and has no message"
        )
        assert request_id in dump.queued, f"2: nobody looks for the message of {request_id}"
    else:
        assert state in TERMINAL, record
        assert owners <= {owner}, f"1: {request_id} has ended, and is owned by {owners}, not {owner}"
        assert record["settled"] in ("0", "1"), record
        if record["settled"] == "1":
            assert not owners, f"6: {request_id} is settled and still owned"
            assert not record.get("message"), f"6: {request_id} is settled and keeps its message"
            assert not (record.get("purged") and record.get("queue")), (
                f"6: {request_id} is purged, and not what waits of it"
            )
        elif owner:
            assert owners == {owner}, f"2: Celery's completion of {request_id} would be lost with {owner}"
            assert owner in dump.leases, f"2: nobody watches {owner}, which ends {request_id}"
        elif record.get("message"):
            assert request_id in dump.queued, f"2: nobody looks for the completion of {request_id}"


def _check_log(dump: Dump, request_id: str, record: dict[str, str]) -> None:
    log = dump.logs.get(request_id)
    ended = record["state"] in TERMINAL
    if not log:
        if ended:
            assert record.get("purged") == "1" or "dead_message" not in record or request_id not in dump.logs
        else:
            assert record["state"] == "QUEUED", f"3: {request_id} runs without a log"
        return
    assert log[0][0].seq == 0, f"3: the log of {request_id} begins with {log[0]}"
    for (before, _, _), (event_id, kind, data) in itertools.pairwise(log):
        first = event_id.seq == 0
        assert first or event_id == EventId(before.epoch, before.seq + 1), f"3: {event_id} follows {before}"
        if first:
            named = data.split("|")[0] if kind == "k" else str(before)
            assert kind in "ke", f"3: {event_id} of {request_id} begins an epoch as {kind}"
            assert named == str(before), f"3: {event_id} of {request_id} names {named}, it follows {before}"
    values = [data for _, kind, data in log if kind == "c"]
    assert values == [str(n) for n in range(len(values))], f"3: the log of {request_id} says {values}"
    assert int(record["epoch"]) >= log[-1][0].epoch, f"3: the epoch of {request_id} is behind its log"
    ends = [str(event_id) for event_id, kind, _ in log if kind == "e"]
    assert ends == ([record["end_id"]] if ended else []), (
        f"4: {request_id} is {record['state']}, its log has {ends}"
    )
    assert not ends or log[-1][1] == "e", f"4: {request_id} goes on after its end"


def _check_history(dump: Dump, history: History, request_id: str, record: dict[str, str]) -> None:
    epoch = int(record.get("epoch", 0))
    assert epoch >= history.epochs.get(request_id, 0), f"3: the epoch of {request_id} falls"
    history.epochs[request_id] = epoch
    if record["state"] in TERMINAL:
        end = (record["state"], record["end_id"])
        assert history.ends.setdefault(request_id, end) == end, f"4: {request_id} ends again: {end}"
        overdue = 0 < history.deadlines.get(request_id, 0) <= int(record["finished"])
        late = record["state"] == "EXPIRED" and request_id in history.started and not overdue
        assert not late, f"9: {request_id} was started in time, and has expired"
    else:
        history.deadlines[request_id] = int(record.get("deadline") or 0)
        assert request_id not in history.ends, f"4: {request_id} lives on after its end"
    if record.get("purged") != "1":
        values = sum(kind == "c" for _, kind, _ in dump.logs.get(request_id, ()))
        assert values >= history.values.get(request_id, 0), f"5: values of {request_id} are lost"
        history.values[request_id] = values


def _check_lifetime(dump: Dump, request_id: str, record: dict[str, str]) -> None:
    ended = record["state"] in TERMINAL
    for key, ttl in dump.ttls.items():
        if key.endswith((f":req:{request_id}", f":log:{request_id}", f":doc:{request_id}")):
            assert (ttl > 0) == ended, f"7: {key} of a request that is {record['state']} has the TTL {ttl}"
    kept = any(key.endswith(f":doc:{request_id}") for key in dump.ttls)
    assert kept == (record.get("document") == "1"), f"7: {request_id} has a document: {kept}"


def _waits(record: dict[str, str]) -> bool:
    """Whether its message is on its way: to a first or next attempt, or to any worker that runs Celery's completion."""
    completion = (
        record["state"] in TERMINAL
        and record["settled"] == "0"
        and record.get("message")
        and not record.get("owner")
    )
    return record["state"] == "QUEUED" or bool(completion)


def _check_counts(dump: Dump) -> None:
    """10: what limits count is what the records say."""
    running: dict[str, set[str]] = {}
    waiting: dict[str, set[str]] = {}
    for one in dump.open:
        component = dump.records[one]["endpoint"].split(".")[1]
        state = dump.records[one]["state"]
        if state == "RUNNING":
            running.setdefault(component, set()).add(one)
        elif f"m:{one}" not in dump.timers and not dump.records[one].get("preemptions"):
            waiting.setdefault(component, set()).add(one)
    assert dump.running == running, "10: running"
    queued = {one for one in dump.open if dump.records[one]["state"] == "QUEUED"}
    for component in {*waiting, *dump.waiting}:
        counted = dump.waiting.get(component, set())
        assert waiting.get(component, set()) <= counted <= queued, f"10: waiting for {component}"


def _check_sets(dump: Dump) -> None:
    queued = {request_id for request_id, record in dump.records.items() if _waits(record)}
    assert dump.queued.keys() == queued, f"6: queued has {dump.queued.keys()}, not {queued}"
    for ids in (*dump.owned.values(), *dump.reads.values()):
        assert ids <= dump.records.keys(), f"6: {ids - dump.records.keys()} have no record"
    for member in dump.timers:
        kind, request_id = re.fullmatch(r"([mad]):(.*)", member).groups()  # type: ignore[union-attr]
        record = dump.records.get(request_id, {"state": "SUCCEEDED"})
        assert record["state"] not in TERMINAL, f"6: a timer {member} of a request that has ended"
        assert kind != "a" or not record.get("readers"), f"6: a timer {member} of a request that is read"
    for request_id in dump.open:
        if int(dump.records[request_id].get("deadline") or 0):
            assert f"d:{request_id}" in dump.timers, f"9: nobody watches the deadline of {request_id}"


def _check_readers(dump: Dump, history: History) -> None:
    for request_id, record in dump.records.items():
        channels = set((record.get("readers") or "").split())
        noted = {channel for channel, ids in dump.reads.items() if request_id in ids}
        assert noted == channels, f"6: {request_id} is read by {channels}, noted are {noted}"
        unread = record["state"] not in TERMINAL and not channels and record.get("background") != "1"
        if unread and request_id in history.read:
            assert f"a:{request_id}" in dump.timers, f"9: nobody abandons {request_id}"


def check_claim(before: dict[str, str], retries: int, now: int, alive: bool, epoch: int) -> None:
    """A claim was granted: no earlier, no later, of no other message and to nobody else than the record allows."""
    assert before["state"] == "QUEUED" or not alive, "1: it is taken from an owner that lives"
    assert epoch > int(before.get("epoch", 0)), "3: an epoch does not ascend"
    assert retries >= int(before.get("retries", 0)), "a message that a retry has superseded is run"
    due = {name: int(before.get(name) or 0) for name in ("deadline", "expires", "not_before")}
    assert due["not_before"] <= now, "it runs before its time"
    assert not due["deadline"] or now < due["deadline"], "it runs past its deadline"
    assert not due["expires"] or now < due["expires"] or int(before.get("attempts", 0)), (
        "it is started past its expiry"
    )


def check_sweep(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]], now: int) -> None:
    """A sweep ended only what was overdue or abandoned, and expired nothing that had been started in time."""
    for request_id, was in before.items():
        state = after[request_id]["state"]
        if was["state"] != "RUNNING" or state == "RUNNING":
            continue
        overdue = 0 < int(was.get("deadline") or 0) <= now
        unread = not was.get("readers") and was.get("background") != "1"
        allowed = {name for name, may in (("FAILED", overdue), ("CANCELLED", unread)) if may}
        assert state in allowed, f"a sweep made {request_id} {state}: {was}"


def check_rest(dump: Dump) -> None:
    """What holds once everything has ended and everybody has left."""
    assert not dump.open
    assert not dump.timers, f"6: {dump.timers} at rest"
    assert not dump.queued, f"6: {dump.queued} at rest"
    assert not any(dump.queues.values()), f"6: {dump.queues} at rest"
    assert not any(dump.owned.values()), f"6: {dump.owned} at rest"
    assert not dump.leases, f"6: {dump.leases} at rest"
    stays = re.compile(r"dt:[^:]*:dead$")
    eternal = [key for key, ttl in dump.ttls.items() if ttl < 0 and not stays.match(key)]
    assert not eternal, f"7: {eternal} stay for ever"
