"""The Worker's count of its requests: taken where the engine does not say itself what routers ask for."""

from __future__ import annotations

import asyncio

from dynamo_tasks.engines import create_engine
from dynamo_tasks.services.kv_events import KvReporter

PAYLOAD = {"prompt_token_ids": [*range(10)]}


def test_what_the_engine_says_of_itself_is_not_counted_beside_it() -> None:
    async def check() -> None:
        engine = create_engine("mocker")
        reporter = KvReporter(engine)
        await reporter.start(None, "1")
        assert not reporter.counts
        assert reporter.stats() == engine.stats()

    asyncio.run(check())


def test_prompts_count_until_their_first_token_where_the_engine_does_not_know() -> None:
    async def check() -> None:
        reporter = KvReporter(create_engine("echo"))
        await reporter.start(None, "1")
        assert reporter.counts
        with reporter.request("a", PAYLOAD) as first, reporter.request("b", PAYLOAD):
            assert (reporter.load().prefill_tokens, reporter.load().active_requests) == (20, 2)
            first.got_token()
            assert reporter.load().prefill_tokens == 10
        assert (reporter.load().prefill_tokens, reporter.load().active_requests) == (0, 0)

    asyncio.run(check())
