"""Many requests that ask for a retry at once: each gets it, and ends with the state and the event of its last run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.server import RedisServer
from tests.support.stranger import Folder

SERVICE = """
from dynamo_tasks import current_context, dynamo_endpoint, service

@service(dynamo={"namespace": "again"})
class Flaky:
    @dynamo_endpoint
    async def run(self, request: int) -> int:
        context = current_context()
        if context.retries < 2:
            context.retry(ValueError("not yet"), countdown=0)
        return context.retries
"""
CLIENT = """
import json, threading, time
from collections import defaultdict
from dynamo_tasks import app
from svc import Flaky

heard, ready = defaultdict(list), threading.Event()

def listen():
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda e: heard[e.get("uuid")].append(e["type"])})
        for _ in receiver.consume(limit=None, timeout=None, wakeup=True):
            ready.set()

threading.Thread(target=listen, daemon=True).start()
assert ready.wait(30)
calls = [Flaky.run.delay(number) for number in range(100)]
got = [call.get(timeout=90) for call in calls]
deadline = time.monotonic() + 30
while time.monotonic() < deadline and any(heard[call.id][-1:] != ["task-succeeded"] for call in calls):
    time.sleep(0.1)
print(json.dumps({
    "got": got, "states": [app.AsyncResult(call.id).state for call in calls],
    "events": [heard[call.id] for call in calls],
}))
"""


def test_each_gets_its_retries(redis_server: RedisServer, tmp_path: Path) -> None:
    folder = Folder(tmp_path, svc=SERVICE, client=CLIENT)
    env = {"DYNAMO_REDIS_URL": redis_server.url}
    worker = ("-A", "dynamo_tasks", "worker", "--service", "svc:Flaky", "-E", "-l", "info", "-c", "30")
    with folder.celery(*worker, **env):
        told = folder.python("client.py", timeout=150, **env)
    assert told["got"] == [2] * 100
    assert set(told["states"]) == {"SUCCESS"}
    # The retry's message is out before its event, as in Celery: the next run may be told to have started first.
    for heard in told["events"]:
        kinds = Counter(one for one in heard if one != "task-received")
        assert kinds == {"task-started": 3, "task-retried": 2, "task-succeeded": 1}
        assert heard[-1] == "task-succeeded"
