"""Finds the master that Sentinels watch over.

All Sentinels are asked at once. Of those that answer in time, the highest configuration epoch counts: one that was cut
off from the others still names the master before the failover. What it names must call itself a master: in the first
moment after a failover it may not be one yet.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import dataclasses

from dynamo_tasks.config.host.tls import TlsOptions
from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.store.redis.address import Address, Sentinels
from dynamo_tasks.store.redis.refusals import PASSING, ReplyError, code_of, refusal
from dynamo_tasks.store.redis.wire import CONNECT_TIMEOUT, Wire

__all__ = ["check_master", "locate", "ping"]

_LATE = 0.2
"""Seconds that are left to the other Sentinels once the first one has answered."""
_NAME = "dynamo-tasks:sentinel"
_Answer = tuple[int, str, int]


async def locate(address: Address, timeout: float = CONNECT_TIMEOUT) -> Address:
    """Find Redis's present address: the given one, or that of the master which Sentinels name.

    Args:
        address: What the URL says.
        timeout: Seconds that each Sentinel may take; all are asked at once.

    Raises:
        ServerUnavailableError: no Sentinel answers, or none knows the master.
    """
    if address.sentinels is None:
        return address
    _, host, port = await _ask_all(address.sentinels, address.tls, timeout)
    return dataclasses.replace(address, host=host, port=port, sentinels=None)


async def _ask_all(sentinels: Sentinels, tls: TlsOptions | None, timeout: float) -> _Answer:
    asked = {
        asyncio.create_task(_ask(sentinels, _sentinel_at(sentinels, tls, *node), timeout))
        for node in sentinels.nodes
    }
    waiting, answers, errors = set(asked), list[_Answer](), list[str]()
    try:
        while waiting:
            # The first to answer may be cut off from the others: these get a moment to say something newer.
            done, waiting = await asyncio.wait(
                waiting, timeout=_LATE if answers else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                if (error := task.exception()) is None:
                    answers.append(task.result())
                elif isinstance(error, DynamoError):
                    errors.append(error.message)
                else:
                    raise error
    finally:
        for task in waiting:
            task.cancel()
    if not answers:
        raise ServerUnavailableError(
            f"no Sentinel says where the master {sentinels.master!r} is: {'; '.join(sorted(set(errors)))}",
            retry_after=1.0,
        )
    # The configuration epoch stands first in an answer.
    return max(answers)


def _sentinel_at(sentinels: Sentinels, tls: TlsOptions | None, host: str, port: int) -> Address:
    return Address(
        f"redis://{host}:{port}",
        host,
        port,
        username=sentinels.username,
        password=sentinels.password,
        tls=tls,
    )


async def _ask(sentinels: Sentinels, at: Address, timeout: float) -> _Answer:
    """Configuration epoch, host and port that one Sentinel knows."""
    try:
        async with asyncio.timeout(timeout):
            wire = await Wire.connect(at, name=_NAME)
            try:
                row = await wire.execute("SENTINEL", "MASTER", sentinels.master)
            finally:
                wire.close()
    except TimeoutError:
        raise ServerUnavailableError(f"the Sentinel at {at.host}:{at.port} does not answer") from None
    except ReplyError as exc:
        raise ServerUnavailableError(f"the Sentinel at {at.host}:{at.port} says: {exc.text}") from exc
    known = dict(zip(row[::2], row[1::2], strict=True))
    return int(known[b"config-epoch"]), known[b"ip"].decode(), int(known[b"port"])


async def check_master(wire: Wire) -> None:
    """Refuse a server that is (still) a replica.

    Raises:
        ServerUnavailableError: it is one.
    """
    if b"role:master" not in await wire.execute("INFO", "replication"):
        raise ServerUnavailableError("the server that Sentinel names is not a master yet", retry_after=1.0)


async def ping(url: str, timeout: float) -> str:
    """Ask the master behind a URL whether it answers.

    Returns:
        ``"PONG"``, or the word of a refusal that passes, e.g. ``"LOADING"`` while it still reads its data.

    Raises:
        ConfigError: the URL is not valid.
        ServerUnavailableError: no Sentinel or no master answers.
    """
    try:
        async with asyncio.timeout(timeout):
            wire = await Wire.connect(await locate(Address.parse(url)))
            try:
                [reply] = await wire.pipeline([["PING"]])
            finally:
                wire.close()
    except TimeoutError:
        raise ServerUnavailableError("the master that Sentinel names does not answer") from None
    if not isinstance(reply, Exception):
        return str(reply.decode())
    if (code := code_of(str(reply))) in PASSING:
        return code
    raise refusal(str(reply))
