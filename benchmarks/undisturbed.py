"""The texts that clients must get whatever happens: those of an engine that nobody disturbs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dynamo_tasks.engines import create_engine

__all__ = ["undisturbed"]


def undisturbed(prompts: Sequence[str], tokens: int) -> list[str]:
    """What the mocker makes of each prompt, without delays and faults."""

    async def generate() -> list[str]:
        engine = await create_engine("mocker")
        texts = []
        for prompt in prompts:
            deltas = engine.generate({"prompt": prompt, "max_tokens": tokens})
            texts.append("".join([delta.text async for delta in deltas]))
        await engine.stop()
        return texts

    return asyncio.run(generate())
