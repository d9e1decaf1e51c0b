"""vLLM's KV events as JSON values; where to listen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from dynamo_tasks.engines.vllm.kv_events import KvEvents, read_batch
from dynamo_tasks.errors import ConfigError


def _batch(*events: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), 0])


def _stored(blocks: int, size: int = 16) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": [index.to_bytes(4, "big") for index in range(1, blocks + 1)],
        "parent_block_hash": None, "token_ids": list(range(blocks * size)), "block_size": size,
    }  # fmt: skip


def test_a_batch_is_json() -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [7]}
    (found,) = read_batch(3, _batch(_stored(2), removed, {"type": "AllBlocksCleared"}))
    assert (found["seq"], found["ts"], found["dp_rank"]) == (3, 1.5, 0)
    assert found["events"][0]["block_hashes"] == ["00000001", "00000002"]
    assert found["events"][1:] == [removed, {"type": "AllBlocksCleared"}]
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_a_very_long_prompt_is_reported_in_parts() -> None:
    whole = _stored(20_000)
    parts = list(read_batch(1, _batch(whole)))
    assert all(len(msgspec.json.encode(part)) < 1 << 20 for part in parts)
    events = [event for part in parts for event in part["events"]]
    assert [token for event in events for token in event["token_ids"]] == whole["token_ids"]
    hashes = [one for event in events for one in event["block_hashes"]]
    assert hashes == [one.hex() for one in whole["block_hashes"]]
    for before, event in pairwise(events):
        assert event["parent_block_hash"] == before["block_hashes"][-1]


def test_where_to_listen() -> None:
    assert KvEvents.of({}) is None
    assert KvEvents.of({"kv_events_config": {"enable_kv_cache_events": False}}) is None
    own, other = (KvEvents.of({"kv_events_config": {"enable_kv_cache_events": True}}) for _ in range(2))
    assert own
    assert other
    assert own.config["endpoint"].startswith("ipc://")
    assert own.config["endpoint"] != other.config["endpoint"]
    own.close()
    other.close()


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:5557", "inproc://x", "tcp://*:0", "tcp://*"])
def test_an_endpoint_at_which_nobody_can_listen(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"kv_events_config\.endpoint must be ipc://PATH or tcp://\*:PORT"):
        KvEvents({"endpoint": endpoint})
