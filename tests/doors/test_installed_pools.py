"""An application whose settings give its own workers another pool: a worker of its service has ours all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import together
from tests.support.server import RedisServer
from tests.support.stranger import Folder, service_of

SHOP = """
import os
from celery import Celery
import dynamo_tasks

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"], worker_pool=os.environ["POOL"])
dynamo_tasks.install(app, "svc:W")
"""
CALL = """
import json
from shop import app
from svc import W
print(json.dumps([W.add1.delay({"x": number}).get(timeout=60) for number in range(3)]))
"""


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_setting_is_for_the_applications_own_workers(
    redis_server: RedisServer, tmp_path: Path, pool: str
) -> None:
    folder = Folder(tmp_path, shop=SHOP, svc=service_of("pools"), call=CALL)
    env = {"BROKER": redis_server.url.removesuffix("0") + "11", "POOL": pool}
    with together(folder.celery("-A", "shop", "worker", "--service", "svc:W", "-l", "info", **env)):
        assert folder.python("call.py", **env) == [{"x": 1}, {"x": 2}, {"x": 3}]
