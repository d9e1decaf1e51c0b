"""Endpoints in somebody else's Celery application: `install(app)`."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery

import dynamo_tasks
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.queue.installed import check_settings
from dynamo_tasks.runtime import default_app
from dynamo_tasks.sdk import set_resolver
from dynamo_tasks.store.client import close_shared
from dynamo_tasks.wiring import default_app as default_app_port
from tests.support.processes import Worker, together
from tests.support.serve import Serve
from tests.support.server import RedisServer

SERVICE = "tests.support.shop_teller:Teller"


class Shop(NamedTuple):
    """One application and where it lives; the first one has a result backend of its own."""

    name: str
    prefix: str
    broker: str
    results: str | None
    app: Celery

    @property
    def env(self) -> dict[str, str]:
        own = {"SHOP_RESULTS": self.results} if self.results else {}
        return {"SHOP_BROKER": self.broker, "SHOP_PREFIX": self.prefix, "SHOP_NAME": self.name, **own}


@pytest.fixture(scope="module")
def own_process() -> Iterator[None]:
    """What `install` changes in this process is put back."""
    yield
    set_resolver(None)
    default_app_port.fill(default_app)


def _worker(shop: Shop, **more: Any) -> Worker:
    return Worker("", app="tests.support.shop", service=SERVICE, name=shop.name, env=shop.env, **more)


@pytest.fixture(scope="module")
def shops(redis_server: RedisServer, own_process: None) -> Iterator[list[Shop]]:
    """Three applications of one name on one server: two prefixes in a database, and another database."""
    from tests.support.shop import make_app

    five, six = (redis_server.url.removesuffix("0") + number for number in "56")
    places = [("one", "one:", five, five), ("two", "two:", five, None), ("three", "", six, None)]
    found = [Shop(*place, make_app(place[2], place[1], result_backend=place[3])) for place in places]
    with together(*(_worker(shop) for shop in found)):
        yield found
    for url in (five, six):
        close_shared(url)


def test_applications_of_one_server_do_not_hear_each_other(shops: list[Shop]) -> None:
    results = [shop.app.tasks["shop.Teller.tell"].delay(50) for shop in shops]
    for shop, result in zip(shops, results, strict=True):
        words = [f"{shop.name}-{number}" for number in range(50)]
        assert list(result) == words
        assert result.get(timeout=30) == words
        with redis.Redis.from_url(shop.broker, decode_responses=True) as client:
            keys = set(client.scan_iter("*"))
        assert f"{shop.prefix}dt:shop:log:{result.id}" in keys
        # Celery's own backend knows no prefix of the broker; that is the application's business.
        ours = {key for key in keys if "dt:" in key or "|" in key}
        assert all(
            key.startswith(("one:", "two:") if shop.prefix else ("dt:", "shop|", "_kombu")) for key in ours
        )
        others = {f"{other.prefix}dt:shop:req:{result.id}" for other in shops if other.prefix != shop.prefix}
        assert not others & keys


def test_a_prefork_worker_keeps_its_tasks_and_may_read_streams(shops: list[Shop]) -> None:
    shop = shops[0]
    plain = ("-c", "1", "--without-gossip", "--without-mingle")
    with Worker("", *plain, app="tests.support.shop", service="", name="theirs", env=shop.env) as worker:
        send = shop.app.send_task
        assert send("tests.support.shop.where").get(timeout=30) == "ForkProcess"
        assert send("tests.support.shop.poem", (3,)).get(timeout=30) == "one-0 one-1 one-2"
        banner = worker.output.split("[queues]")[1].split("[tasks]")[0]
        assert "shop" in banner
        assert "Teller" not in banner
        assert worker.terminate() == 0


def test_an_endpoint_is_found_by_its_name_alone(shops: list[Shop]) -> None:
    sent = shops[1].app.send_task("shop.Teller.who", (None,))
    assert dynamo_tasks.StreamResult(sent.id, app=shops[1].app).get(timeout=30) == "two"


def test_our_own_commands_and_http_know_its_prefix(shops: list[Shop], tmp_path: Path) -> None:
    shop = shops[0]
    env = {"DYNAMO_REDIS_URL": shop.broker, "DYNAMO_KEY_PREFIX": shop.prefix}

    def cli(*arguments: str) -> str:
        argv = [sys.executable, "-m", "dynamo_tasks", *arguments]
        done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (instance,) = json.loads(cli("status", "--json"))["instances"]
    assert (instance["component"], instance["endpoints"]) == ("Teller", ["tell", "who"])
    assert cli("call", "shop.Teller.who", "null").strip() == shop.name
    result = shop.app.tasks["shop.Teller.tell"].delay(3)
    assert "one-0one-1one-2" in cli("tail", result.id)
    with Serve(tmp_path, "tests.support.shop_front:Front", **env) as serve:
        assert serve.post("/ask", None).read() == b'"one"'


@pytest.mark.parametrize("broker", ["amqp://localhost//", "memory://", "sqs://"])
def test_a_broker_without_streams_is_refused_in_one_line(broker: str, own_process: None) -> None:
    with pytest.raises(ConfigError, match=r"dynamo-tasks needs Redis or Valkey 7\.0 or newer as broker"):
        dynamo_tasks.install(Celery("theirs", broker=broker, set_as_current=False))


def test_a_broker_behind_sentinels_is_one_server(own_process: None) -> None:
    app = Celery("theirs", broker="sentinel://:pw@h1:1;sentinel://:pw@h2:2", set_as_current=False)
    app.conf.broker_transport_options = {"master_name": "m"}
    installed: Any = dynamo_tasks.install(app, SERVICE)
    assert installed.server_url == "sentinel://:pw@h1:1,h2:2/m/0"
    assert installed.connection_for_write().transport_cls == "sentinel"
    backend = installed.endpoint_backend
    assert [(host["host"], host["port"]) for host in backend.connparams["hosts"]] == [("h1", 1), ("h2", 2)]
    assert backend._transport_options["master_name"] == "m"
    with pytest.raises(ConfigError, match="broker_use_ssl: True alone means no TLS"):
        check_settings("theirs", "sentinel://h1:1", {"broker_use_ssl": True})
    app.conf.broker_use_ssl = {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert installed.server_url.endswith("/m/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fca.pem")
    app.conf.broker_transport_options = {}
    with pytest.raises(ConfigError, match="which master"):
        installed.server_url  # noqa: B018 - a property that refuses


def test_settings_that_come_later_are_refused_at_the_first_call(own_process: None) -> None:
    app = Celery("theirs", set_as_current=False)
    dynamo_tasks.install(app, SERVICE)
    app.conf.broker_url = "amqp://localhost//"
    with pytest.raises(ConfigError, match="amqp://"):
        app.tasks["shop.Teller.who"].delay(None)


@pytest.mark.parametrize(
    "settings",
    [
        {"broker_transport_options": {"sep": ":"}},
        {"broker_transport_options": {"priority_steps": [0, 1]}},
        {"task_protocol": 1},
    ],
    ids=str,
)
def test_settings_that_are_in_the_way_are_refused(settings: dict[str, object], own_process: None) -> None:
    with pytest.raises(ConfigError):
        dynamo_tasks.install(
            Celery("theirs", broker="redis://localhost:1/0", changes=settings, set_as_current=False)
        )


@pytest.mark.parametrize(
    ("broker", "arguments", "line"),
    [
        ("amqp://localhost//", (), "cannot hold streams"),
        ("redis://127.0.0.1:1/0", ("-P", "threads"), "leave -P away"),
    ],
)
def test_a_worker_that_cannot_work_says_so_in_one_line(
    broker: str, arguments: tuple[str, ...], line: str
) -> None:
    env = {"SHOP_LATE_BROKER": broker}
    with Worker("", *arguments, app="tests.support.shop", service=SERVICE, env=env, wait=False) as worker:
        assert worker.popen.wait(20) == 2
        assert line in worker.output
        assert "Traceback" not in worker.output
