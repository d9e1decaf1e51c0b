"""What one request of one token costs in Redis, by script: microseconds of many requests against a server of its own.

``python -m benchmarks.script_micro`` prints the table; with ``--against FOLDER`` (another checkout) both are measured
in turns on one server, and the least of each stands side by side. Each round asks for what a frontend and a worker ask:
``submit``, ``BLMPOP``, ``claim``, the write of one token, ``finish``, ``detach``; eight requests at a time, pipelined.
Times are those of ``INFO commandstats``, and the CPU of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from dynamo_tasks.protocol.events import End, EventId
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.states import State
from dynamo_tasks.serve.server.binary import find_binary
from dynamo_tasks.store.ledger.ledger import Attempt, finish_arguments
from dynamo_tasks.store.ledger.scripts import SOURCES, declared, script
from dynamo_tasks.store.ledger.submission import NewRequest, submit_call
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire, pack

__all__ = ["main"]

_TOGETHER = 8
_LEASE = 0x6558F671A093310D
_ENDPOINT = EndpointId("price", "Worker", "generate")
_DATA = b"\x91\x96\xa1d\x91d\x00\xa6length\xc0\x83\xadprompt_tokens\x13\xb1completion_tokens\x01\xadcached_tokens\x10"
_STAT = re.compile(r"^cmdstat_([^:]+):calls=(\d+),usec=(\d+)", re.MULTILINE)
_HEADERS = (
    '"lang":"py","task":"price.Worker.generate","id":"%(id)s","root_id":"%(id)s","parent_id":null,"group":null,'
    '"group_index":null,"shadow":null,"eta":null,"expires":null,"retries":0,"timelimit":[null,null],"argsrepr":"(…)",'
    '"kwargsrepr":"{}","origin":"gen22181@vm","ignore_result":true,"replaced_task_nesting":0,"stamped_headers":null,'
    '"stamps":{},"dynamo":{"v":1}'
)
_MESSAGE = (
    '{"body":"[[{\\"model\\":\\"mocker\\",\\"max_tokens\\":1,\\"prompt_token_ids\\":[117,115,101,114,58,32,104,105,10,97,'
    '115,115,105,115,116,97,110,116,58]}],{},{\\"callbacks\\":null,\\"errbacks\\":null,\\"chain\\":null,\\"chord\\":'
    'null}]","content-encoding":"utf-8","content-type":"application/json","headers":{'
    + _HEADERS
    + '},"properties":{'
    '"correlation_id":"%(id)s","reply_to":"","delivery_mode":2,"priority":0,"delivery_info":{"exchange":"",'
    '"routing_key":"price|Worker"},"body_encoding":null,"delivery_tag":"%(id)s"}}'
)


class _Life:
    """Requests from their submit to their detach, on one connection."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self._keys = store.keys("price")
        self._namespaces = store.keys.namespaces
        self._reader = "dt:@client:0:d9d4d947d3e2cc74"
        self._wire = wire

    async def run(self, phase: Any) -> None:
        """Run eight requests; ``phase`` is called with the name of what was done."""
        ids = [str(uuid.uuid4()) for _ in range(_TOGETHER)]
        await self._wire.ask([self._submit(one) for one in ids])
        await phase("submit")
        await self._wire.ask([["BLMPOP", 5, 1, "price|Worker", "RIGHT", "COUNT", _TOGETHER]])
        await phase("BLMPOP")
        found = await self._wire.ask([self._claim(one) for one in ids])
        attempts = [self._attempt(one, reply) for one, reply in zip(ids, found, strict=True)]
        await phase("claim")
        for attempt in attempts:
            await self._wire.transaction(self._write(attempt))
        await phase("write")
        for attempt in attempts:
            [reply] = await self._wire.transaction([self._finish(attempt)])
            assert reply == b"OK", reply
        await phase("finish")
        await self._wire.ask([self._detach(one) for one in ids])
        await phase("detach")

    def _both(self, request_id: str) -> list[str]:
        return [self._keys.record(request_id), self._keys.stream(request_id)]

    def _submit(self, request_id: str) -> list[Any]:
        message = (_MESSAGE % {"id": request_id}).encode()
        new = NewRequest(
            id=request_id, endpoint=_ENDPOINT, queue="price|Worker", message=message, reader=self._reader,
            options=RequestOptions(ignore_result=True), render=b"\x95\xa4chat\xa6mocker\xcek\x0eV|\xc2\x01",
        )  # fmt: skip
        keys, more, named = submit_call(self._keys, new)
        return script("submit").command(keys, *more, **named)

    def _claim(self, request_id: str) -> list[Any]:
        return _command(
            "claim", self._both(request_id), base=self._keys.base, id=request_id, lease=f"{_LEASE:x}",
            nonce="3673d5807d4cac97", retry_number=0, tracked=1, namespaces=self._namespaces, namespace="price",
            speaks=1, component="Worker",
        )  # fmt: skip

    def _attempt(self, request_id: str, reply: list[Any]) -> Attempt:
        _, epoch, previous, number, readers, _, fields, _ = reply
        return Attempt(
            namespace="price", id=request_id, lease=_LEASE, nonce="3673d5807d4cac97", epoch=int(epoch),
            previous=EventId.parse(previous.decode()), number=int(number), readers=[readers.decode()], deadline=0.0,
            fields=fields,
        )  # fmt: skip

    def _write(self, attempt: Attempt) -> list[bytes]:
        event_id = f"{attempt.epoch}-1"
        key = self._keys.stream(attempt.id)
        pushed = (
            b"\x91\x94\xd9\x24" + attempt.id.encode() + b"\xaf" + event_id.encode() + b"\xa1t\xc4A" + _DATA
        )
        return [
            pack(("XADD", key, "NOMKSTREAM", event_id, "t", _DATA)), pack(("PUBLISH", self._reader, pushed)),
        ]  # fmt: skip

    def _finish(self, attempt: Attempt) -> bytes:
        usage = {"prompt_tokens": 19, "completion_tokens": 1, "cached_tokens": 16}
        end = End(State.SUCCEEDED, "length", usage=usage)
        named = finish_arguments(
            self._keys.base, attempt, EventId(attempt.epoch, 1), EventId(attempt.epoch, 2), end.encode(), end.state,
            result=b"", error=b"", settled=True, kept=None,
        )  # fmt: skip
        return pack(tuple(_command("finish", self._both(attempt.id), **named)))

    def _detach(self, request_id: str) -> list[Any]:
        return _command(
            "detach",
            self._both(request_id),
            base=self._keys.base,
            id=request_id,
            db=0,
            reader=self._reader,
            saw_end=1,
        )


def _command(name: str, keys: list[str], **named: Any) -> list[Any]:
    """A call of a script, with what the checkout that is measured declares."""
    takes_id = "id" in declared(SOURCES[name])
    given = {one: value for one, value in named.items() if one != "id" or takes_id}
    return script(name).command(keys if takes_id else keys[:1], **given)


async def _measured(port: int, requests: int) -> dict[str, float]:
    url = f"redis://127.0.0.1:{port}/0"
    store = await Store.connect(url)
    wire = await Wire.connect(Address.parse(url))
    try:
        await wire.execute("FLUSHALL")
        await wire.ask(
            [["SCRIPT", "LOAD", script(n).source] for n in ("submit", "claim", "finish", "detach")]
        )
        return await _timed(_Life(store, wire), wire, requests)
    finally:
        wire.close()
        await store.close()


async def _timed(life: _Life, wire: Wire, requests: int) -> dict[str, float]:
    spent: Counter[str] = Counter()

    async def info(section: str) -> str:
        return str((await wire.execute("INFO", section)).decode())

    async def nothing(phase: str) -> None:
        pass

    async def look(phase: str) -> None:
        rows = {name: int(usec) for name, _, usec in _STAT.findall(await info("commandstats"))}
        took = rows.get("evalsha", 0) or sum(n for name, n in rows.items() if name not in ("info", "exec"))
        spent[phase] += took
        await wire.execute("CONFIG", "RESETSTAT")

    async def cpu() -> float:
        found = await info("cpu")
        return sum(float(n) for n in re.findall(r"used_cpu_(?:sys|user)_main_thread:([\d.]+)", found))

    async def size() -> int:
        return int(re.findall(r"total_net_input_bytes:(\d+)", await info("stats"))[0])

    for _ in range(20):
        await life.run(nothing)
    began, bytes_before = await cpu(), await size()
    for _ in range(requests // _TOGETHER):
        await life.run(nothing)
    whole = (await cpu() - began) / requests * 1e6
    came = (await size() - bytes_before) / requests
    await wire.execute("CONFIG", "RESETSTAT")
    for _ in range(requests // _TOGETHER // 4):
        await life.run(look)
    counted = requests // _TOGETHER // 4 * _TOGETHER
    rows = {phase: took / counted for phase, took in spent.items()}
    return {**rows, "sum": sum(rows.values()), "cpu of the process": whole, "bytes in": came}


def _asked(tree: Path, port: int, requests: int) -> dict[str, float]:
    env = {**os.environ, "PYTHONPATH": str(tree)}
    argv = [sys.executable, str(Path(__file__)), "--port", str(port), "--requests", str(requests)]
    return dict(json.loads(subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout))


def _table(found: dict[str, list[dict[str, float]]]) -> str:
    names = list(next(iter(found.values()))[0])
    lines = [f"| µs per request | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for name in names:
        cells = [f"{min(one[name] for one in rows):.1f}" for rows in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.port:
        print(json.dumps(asyncio.run(_measured(args.port, args.requests))))
        return
    here = Path(__file__).resolve().parents[1]
    trees = {"here": here, **({str(args.against): args.against} if args.against else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as folder, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
        sock.close()
        options = ["--save", "", "--appendonly", "no", "--dir", folder, "--loglevel", "warning"]
        server = subprocess.Popen(
            [str(find_binary()), "--port", str(port), *options], stdout=subprocess.DEVNULL
        )
        try:
            for _ in range(args.rounds):
                for name, tree in trees.items():
                    found[name].append(_asked(tree, port, args.requests))
        finally:
            server.terminate()
            server.wait()
    print(_table(found))


if __name__ == "__main__":
    main()
