"""KV events of the real engine, as subscribers of the component get them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from dynamo_tasks import DistributedRuntime
from tests.support.processes import Worker
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS

START_S = 240.0
BLOCK = ENGINE_ARGS["block_size"]


def test_stored_blocks_are_published(tmp_path: Path, tiny_model: Path) -> None:
    server = RedisServer(tmp_path).start()
    args = {**ENGINE_ARGS, "kv_events_config": {"enable_kv_cache_events": True}}
    settings = (
        f"Worker.model={tiny_model}",
        *(f"Worker.engine_args.{name}={json.dumps(value).strip(chr(34))}" for name, value in args.items()),
    )
    try:
        with Worker(server.url, settings=settings, wait=False) as worker:
            worker.wait_ready(START_S)
            asyncio.run(asyncio.wait_for(_check(server.url), 60))
    finally:
        server.stop()


async def _check(url: str) -> None:
    runtime = await DistributedRuntime.create(url)
    try:
        component = runtime.namespace("dynamo").component("Worker")
        client = await component.endpoint("generate").client()
        (instance,) = await client.wait_for_instances()
        prompt = list(range(500, 500 + 3 * BLOCK + 5))
        async for _ in client.generate({"prompt_token_ids": prompt, "max_tokens": 2, "ignore_eos": True}):
            pass
        stored = await _stored(component, 3)
    finally:
        await runtime.aclose()
    workers, events = zip(*stored, strict=True)
    assert set(workers) == {instance.instance_id}
    assert [token for event in events for token in event["token_ids"]] == prompt[: 3 * BLOCK]
    assert {event["block_size"] for event in events} == {BLOCK}
    hashes = [one for event in events for one in event["block_hashes"]]
    assert len(set(hashes)) == 3


async def _stored(component: Any, blocks: int) -> list[tuple[str, dict[str, Any]]]:
    """The worker and the event of so many stored blocks, from the start of the log."""
    found: list[tuple[str, dict[str, Any]]] = []
    async for event in component.subscribe("kv_events", since=0.0):
        batch = event.data()
        found += [(batch["worker_id"], one) for one in batch["events"] if one["type"] == "BlockStored"]
        if sum(len(one["block_hashes"]) for _, one in found) >= blocks:
            break
    return found
