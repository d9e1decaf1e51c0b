"""KV events: vLLM reports over ZMQ which blocks its prefix cache holds; here they are read.

vLLM's publisher lives in its engine process. Unless an endpoint is given, the two meet at a socket file of their own,
so that any number of workers on one machine needs no ports.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import msgspec

from dynamo_tasks.errors import ConfigError

__all__ = ["KvEvents", "cache_blocks", "learn_cache", "read_batch"]

_NAME = "kv_events_config"
_MOST_TOKENS = 32_768
"""Tokens of the blocks in one payload: some 200 kB, where an event may have 1 MiB."""
_BEHIND = 100_000
"""Batches that wait here while Redis is slow; then ZMQ drops, and ``seq`` shows it."""


class KvEvents:
    """The events of one engine.

    Attributes:
        config: ``kv_events_config`` for vLLM.
    """

    def __init__(self, config: Mapping[str, Any], ranks: int = 1) -> None:
        """Prepare.

        Args:
            config: ``kv_events_config``, as configured.
            ranks: Data-parallel engine processes; each has the next port.

        Raises:
            ConfigError: an endpoint at which nobody can listen.
        """
        self.config = dict(config)
        self._folder: str | None = None
        if "endpoint" not in self.config and ranks == 1:
            self._folder = tempfile.mkdtemp(prefix="dt-kv-")
            self.config["endpoint"] = f"ipc://{self._folder}/events"
        self._addresses = _addresses(self.config.setdefault("endpoint", "tcp://*:5557"), ranks)
        self._socket: Any = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> KvEvents | None:
        """The events of an engine with these arguments; ``None`` where it is to publish none.

        Raises:
            ConfigError: see above.
        """
        config = arguments.get(_NAME)
        if not isinstance(config, Mapping) or not config.get("enable_kv_cache_events"):
            return None
        if config.get("publisher") not in (None, "zmq"):
            return None
        return cls(config, int(arguments.get("data_parallel_size") or 1))

    def open(self) -> None:
        """Listen; before vLLM starts, so that nothing is missed."""
        zmq: Any = importlib.import_module("zmq")  # comes with vLLM
        context: Any = importlib.import_module("zmq.asyncio").Context.instance()
        self._socket = context.socket(zmq.SUB)
        self._socket.set_hwm(_BEHIND)
        self._socket.subscribe(self.config.get("topic", ""))
        for address in self._addresses:
            self._socket.connect(address)

    async def batches(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the batches that vLLM publishes, as they come; see :func:`read_batch`."""
        while True:
            _, seq, payload = await self._socket.recv_multipart()
            for batch in read_batch(int.from_bytes(seq, "big"), payload):
                yield batch

    def close(self) -> None:
        """Listen no more; a second call does nothing."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def learn_cache(config: Any) -> dict[str, Any]:
    """Fields of the model's card: how its prefix cache is divided, and its steps; none where there is no such cache.

    Args:
        config: vLLM's ``VllmConfig``, once the engine runs.
    """
    cache = config.cache_config
    if not cache.enable_prefix_caching:
        return {}
    scheduler = config.scheduler_config
    return {"kv_block_size": int(cache.block_size), "step_tokens": int(scheduler.max_num_batched_tokens)}


def cache_blocks(config: Any) -> int:
    """The number of KV blocks of one engine process; 0 = it does not say."""
    return int(config.cache_config.num_gpu_blocks or 0)


def _addresses(endpoint: str, ranks: int) -> list[str]:
    """Addresses to connect to. vLLM binds wildcards and files; others it would connect to, as a client."""
    kind, _, rest = endpoint.partition("://")
    if kind == "ipc":
        return [endpoint]
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or host not in ("*", "[::]") or not port.isdigit() or int(port) == 0:
        raise ConfigError(
            f"{_NAME}.endpoint must be ipc://PATH or tcp://*:PORT, or be left out; not {endpoint!r}",
            param=_NAME,
        )
    return [f"tcp://127.0.0.1:{int(port) + rank}" for rank in range(ranks)]


def read_batch(seq: int, payload: bytes) -> Iterator[dict[str, Any]]:
    """A batch of vLLM's as JSON values; a long one in several parts with the same number.

    Args:
        seq: vLLM's running number: one that is left out is a batch that was lost.
        payload: msgpack, ``[time, events, data-parallel rank]`` (vLLM's ``distributed/kv_events.py``).

    Yields:
        ``{"seq", "ts", "dp_rank", "events": [{"type": "BlockStored" | "BlockRemoved" | "AllBlocksCleared",
        "block_hashes", …}]}``; hashes that are bytes are written in hex.
    """
    ts, events, *rank = msgspec.msgpack.decode(payload)
    head = {"seq": seq, "ts": ts, "dp_rank": rank[0] if rank else None}
    part: list[Any] = []
    size = 0
    for event in (one for whole in events for one in _split(whole)):
        length = len(event.get("token_ids") or ()) + len(event.get("block_hashes") or ())
        if part and size + length > _MOST_TOKENS:
            yield head | {"events": part}
            part, size = [], 0
        part.append(_plain(event))
        size += length
    yield head | {"events": part}


def _split(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A very long row of stored blocks as several, each with its parent."""
    tokens, hashes = event.get("token_ids") or [], event.get("block_hashes") or []
    if len(tokens) <= _MOST_TOKENS // 2 or len(tokens) % len(hashes):
        yield event
        return
    block = len(tokens) // len(hashes)
    step = max(1, _MOST_TOKENS // 2 // block)
    for start in range(0, len(hashes), step):
        end = start + step
        out = {**event, "block_hashes": hashes[start:end], "token_ids": tokens[start * block : end * block]}
        if start:
            out["parent_block_hash"] = hashes[start - 1]
        if event.get("extra_keys"):
            out["extra_keys"] = event["extra_keys"][start:end]
        yield out


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
