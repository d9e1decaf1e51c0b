"""Commands to one instance, on a channel of their own: to sleep, to wake.

``control <op> <where to answer> <arguments>`` is answered by ``[state, error code, message]``. It passes all
queues by: an instance that takes nothing from queues hears it, and a full one at once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from dynamo_tasks.errors import (
    DynamoError,
    InvalidRequestError,
    NoInstancesError,
    ProtocolError,
    UnavailableError,
    error_for_code,
)
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.server import Store

__all__ = [
    "CONTROL",
    "CommandFunction",
    "CommandHandler",
    "check_reply_to",
    "refuse_command",
    "send_command",
    "send_commands",
]

CONTROL = b"control "
"""The beginning of commands of this kind."""

_MOST_AT_ONCE = 16

CommandFunction = Callable[[str, Mapping[str, Any]], Awaitable[str]]
"""Carries out a command with its arguments; gives the state of the instance then."""


class CommandHandler:
    """Takes commands to this instance.

    Args:
        store: Redis.
        namespace: Of the instance.
        handle: Does what is asked.
    """

    def __init__(self, store: Store, namespace: str, handle: CommandFunction):
        self._commands = store.commands
        self._keys = store.keys(namespace)
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, payload: bytes) -> None:
        """Begin to carry one out, unless there are too many already.

        Raises:
            ProtocolError: it cannot be read, or wants its answer where no client waits for one.
        """
        op, reply_to, arguments = _parts(payload)
        check_reply_to(self._keys, reply_to)
        if len(self._tasks) >= _MOST_AT_ONCE:
            raise ProtocolError(f"more than {_MOST_AT_ONCE} commands at once")
        task = asyncio.create_task(self._work(op, reply_to, arguments), name="control")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, op: str, reply_to: str, arguments: str) -> None:
        try:
            answer = [await self._handle(op, _decode(arguments, dict[str, Any])), "", ""]
        except DynamoError as error:
            answer = ["", error.code, error.message]
        self._commands.post("PUBLISH", reply_to, msgspec.json.encode(answer))


def _parts(payload: bytes) -> tuple[str, str, str]:
    try:
        _, op, reply_to, arguments = payload.decode(errors="replace").split(" ", 3)
    except UNREADABLE as error:
        raise ProtocolError(f"a command cannot be read: {error}") from error
    return op, reply_to, arguments


def check_reply_to(keys: Keys, channel: str) -> None:
    """Refuse to answer on a channel that is not for answers: anybody may have written the question.

    Raises:
        ProtocolError: it is not.
    """
    if not keys.is_answers_channel(channel):
        raise ProtocolError(f"{channel[:100]!r} is no channel for answers")


async def refuse_command(op: str, arguments: Mapping[str, Any]) -> str:
    """Command function of an instance that takes no such commands."""
    raise InvalidRequestError(f"this instance does not {op}")


async def send_command(
    store: Store, channels: Channels, namespace: str, lease: int, op: str, arguments: Mapping[str, Any],
    *, timeout: float,
) -> str:  # fmt: skip
    """Send a command and wait until it is carried out; returns the state of the instance then.

    Args:
        store: Redis.
        channels: Subscriptions of this process.
        namespace: Of the instance.
        lease: Its id.
        op: The command.
        arguments: JSON.
        timeout: Seconds; afterwards it may still be carried out.

    Raises:
        NoInstancesError: nobody is there.
        UnavailableError: no answer in time.
        DynamoError: what the instance says.
    """
    keys, answer = store.keys(namespace), asyncio.get_running_loop().create_future()
    channel = keys.answers_channel(secrets.token_hex(8))

    def answered(payload: bytes) -> None:
        if not answer.done():
            answer.set_result(payload)

    await channels.listen(channel, answered)
    command = f"control {op} {channel} {msgspec.json.encode(arguments).decode()}"
    try:
        if not await store.commands.execute("PUBLISH", keys.control_channel(lease), command):
            raise NoInstancesError(f"instance {lease:x} is not there")
        async with asyncio.timeout(timeout):
            return _read(await answer)
    except TimeoutError:
        raise UnavailableError(f"instance {lease:x} has not answered within {timeout:g} s") from None
    finally:
        channels.forget(channel, answered)


async def send_commands(
    store: Store, channels: Channels, namespace: str, leases: Mapping[str, int], op: str,
    arguments: Mapping[str, Any], *, timeout: float,
) -> dict[str, str]:  # fmt: skip
    """Send a command to several instances side by side; returns the state of each, by its id.

    Args:
        store: Redis.
        channels: Subscriptions of this process.
        namespace: Of the instances.
        leases: Instance id → lease.
        op: The command.
        arguments: JSON.
        timeout: Seconds.

    Raises:
        DynamoError: one could not; the others may have carried it out.
    """
    commands = [
        send_command(store, channels, namespace, lease, op, arguments, timeout=timeout)
        for lease in leases.values()
    ]
    answers = await asyncio.gather(*commands, return_exceptions=True)
    states = {name: one for name, one in zip(leases, answers, strict=True) if isinstance(one, str)}
    for error in answers:
        # One that has just died is no failure where others have carried it out.
        if isinstance(error, BaseException) and not (states and isinstance(error, NoInstancesError)):
            raise error
    return states


def _read(payload: bytes) -> str:
    state, code, message = _decode(payload, tuple[str, str, str])
    if code:
        raise error_for_code(code, message)
    return str(state)


def _decode(data: bytes | str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise ProtocolError(f"a command or its answer cannot be read: {error}") from error
