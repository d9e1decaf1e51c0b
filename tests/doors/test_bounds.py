"""What a tenant may ask for ends where the operator says, and a log never outlives its record."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.processes import Frontend, Worker, together
from tests.support.readers import MODEL, PACED
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop

ASK: dict[str, Any] = {"model": MODEL, "prompt": "hi", "max_tokens": 2}


@on_loop
async def test_a_log_never_outlives_its_record(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        log = await owner.run(await place.submit(retention=1e9))
        await owner.finish(log)
        cancelled = await place.submit(retention=1e9)
        await place.ledger.cancel(place.namespace, cancelled)
        for request_id in (log.attempt.id, cancelled):
            logged = int(await place.do("PTTL", place.keys.stream(request_id)))
            assert 0 < logged <= int(await place.do("PTTL", place.keys.record(request_id))) + 1000


@pytest.mark.slow
def test_maxima_of_the_operator_and_reservations(own_server: RedisServer) -> None:
    settings = (
        "Frontend.max_retention=100", "Frontend.max_abandon_after=10", "Frontend.max_timeout=50",
        "Frontend.api_keys=[{key: k, concurrent_requests: 2}]",
    )  # fmt: skip
    key = {"Authorization": "Bearer k"}
    with together(Worker(own_server.url, settings=PACED), Frontend(own_server.url, settings=settings)) as (
        _,
        http,
    ):
        for name, most in (("retention", 100), ("abandon_after", 10), ("timeout", 50)):
            status, _, body = http.request("POST", "/v1/completions", {**ASK, name: 1e9}, key)
            assert (status, body["error"]["param"]) == (400, name), body
            assert f"at most {most} s" in body["error"]["message"]
            assert http.request("POST", "/v1/completions", {**ASK, name: most}, key)[0] == 200
        late = http.request("POST", "/v1/completions", ASK, {**key, "X-Request-Timeout": "51"})
        assert late[0] == 400, late
        same = {**key, "Idempotency-Key": "again"}
        assert [http.request("POST", "/v1/completions", ASK, same)[0] for _ in range(5)] == [200] * 5
        for bad in ({**ASK, "model": "none"}, {**ASK, "max_tokens": -1}, {**ASK, "retention": 1e9}):
            assert {http.request("POST", "/v1/completions", bad, key)[0] for _ in range(3)} <= {400, 404}
        assert http.request("POST", "/v1/completions", ASK, key)[0] == 200
