"""`install(app)` in ordinary applications, each with one setting that people have.

One process makes them all, beside two workers that were started with the `celery` command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.installed import convert
from tests.support.processes import together
from tests.support.server import RedisServer
from tests.support.stranger import Folder, service_of

SHOP = """
import json, os
from celery import Celery
import dynamo_tasks

app = Celery("shop", **json.loads(os.environ["SHOP"]))
dynamo_tasks.install(app, "svc:W")
"""
CLIENT = """
import json, pickle, sys, warnings
from celery import Celery, Task, chord
from celery.app.amqp import AMQP
from kombu import Queue
from dynamo_tasks import install

R, PICKLED = sys.argv[1:]
warnings.simplefilter("error")
stock = Celery("stock", broker=R, set_as_current=False)  # shares the broker, and nothing else

class Mine(Celery):
    amqp_cls = "__main__:Noted"

class Noted(AMQP):
    noted = True

class Base(Task):
    serializer, autoretry_for = "pickle", (Exception,)

    def apply_async(self, *args, **options):
        fired.append("apply_async")
        return super().apply_async(*args, **options)

def serialized(name):
    return {"backend": R, "task_serializer": name, "result_serializer": name, "accept_content": [name]}

ROWS = {
    "redis": {"backend": R}, "other database": {"backend": R[:-1] + "9"}, "none": {}, "rpc": {"backend": "rpc://"},
    "file": {"backend": "file://" + sys.path[0]}, "cache": {"backend": "cache+memory://"},
    "routes": {"backend": R, "task_routes": {"*": {"queue": "q"}}},
    "queues": {"backend": R, "task_queues": [Queue("q")], "task_create_missing_queues": False},
    "default queue": {"backend": R, "task_default_queue": "q"},
    "no results": {"backend": R, "task_ignore_result": True}, "started": {"backend": R, "task_track_started": True},
    "extended": {"backend": R, "result_extended": True}, "gzip": {"backend": R, "task_compression": "gzip"},
    "sent event": {"backend": R, "task_send_sent_event": True},
    "msgpack": serialized("msgpack"), "yaml": serialized("yaml"), "pickle": serialized("pickle"),
    "pickled calls": {"backend": R, "task_serializer": "pickle"},
    "no pool": {"backend": R, "broker_pool_limit": 0}, "any pool": {"backend": R, "broker_pool_limit": None},
    "pool of one": {"backend": R, "broker_pool_limit": 1}, "no retry": {"backend": R, "task_publish_retry": False},
    "local time": {"backend": R, "enable_utc": False, "timezone": "Europe/Berlin"},
    "not current": {"backend": R, "set_as_current": False}, "late": {"backend": R, "autofinalize": False},
    "shared backend": {"backend": R, "result_backend_thread_safe": True},
    "limited": {"backend": R, "task_annotations": {"*": {"rate_limit": "10/s"}}},
    "own tasks": {"backend": R, "task_cls": Base}, "own app": {"backend": R, "class": Mine},
    "two brokers": {"backend": R, "broker": [R, R]}, "eager": {"backend": R, "task_always_eager": True},
    "made before": {"backend": R},
}

def served(name, settings):
    app = settings.pop("class", Celery)("shop", **{"broker": R, **settings})
    app.on_after_configure.connect(lambda **_: fired.append("before"), weak=False)
    app.on_after_finalize.connect(lambda sender, **_: fired.extend(n for n in sender.tasks if "tell" in n), weak=False)
    if name == "made before":
        app.backend, app.amqp.producer_pool, app.control, app.events
        app.send_task("stock.task", queue="nobody")
    install(app, "svc:W")
    touched = app.configured or app.finalized
    app.on_after_configure.connect(lambda sender, **_: fired.append("after"), weak=False)
    if name == "late":
        app.finalize()
    from svc import W
    stock.send_task("stock.task", queue="nobody")
    again = pickle.loads(pickle.dumps(app)) if name == "own app" else app
    tell = app.tasks["doors.W.tell"]
    return {
        "touched": touched,
        "told": [list(W.tell.delay(2)), list(tell.delay(1)), type(again).__name__ == type(app).__name__],
        "noted": hasattr(app.amqp, "noted"),
        # What a worker of another application writes can be read where both are serialized in one way.
        "got": W.add1.delay({"x": 1}).get(timeout=30) if "result_serializer" not in settings else {"x": 2},
    }

told = {}
for name, settings in ROWS.items():
    fired = []
    try:
        told[name] = served(name, settings)
    except Exception as exc:
        told[name] = {"error": f"{type(exc).__name__}: {exc}"}
    told[name]["fired"] = fired

app = Celery("shop", **json.loads(PICKLED))
install(app, "svc:W")
from svc import W
told["chord"] = chord([W.add1.s({"x": number}) for number in range(3)], W.total.s()).delay().get(timeout=30)
told["by name"] = app.send_task("doors.W.add1", ({"x": 1},)).get(timeout=30)
told["pings"] = app.control.inspect(timeout=20, limit=1).ping() or {}
print(json.dumps(told))
"""
ROWS = CLIENT.split("ROWS = {")[1].split("\n}\n")[0]
NAMES = re.findall(r'"([a-z ]+)": (?:{|serialized)', ROWS)


@pytest.fixture(scope="module")
def told(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What became of each application."""
    place = redis_server.url.removesuffix("0")
    plain = {"broker": f"{place}7", "backend": f"{place}7"}
    pickled = {
        "broker": f"{place}8", "backend": f"{place}8", "task_serializer": "pickle", "result_serializer": "pickle",
        "accept_content": ["pickle"],
    }  # fmt: skip
    folder = Folder(tmp_path_factory.mktemp("shop"), svc=service_of("doors"), shop=SHOP, client=CLIENT)
    worker = ("-A", "shop", "worker", "--service", "svc:W", "-l", "info")
    one, two = (
        folder.celery(*worker, "-n", f"{name}@%h", SHOP=json.dumps(settings))
        for name, settings in (("plain", plain), ("pickled", pickled))
    )
    with together(one, two):
        yield folder.python("client.py", plain["broker"], json.dumps(pickled))
        assert "Traceback" not in one.output + two.output


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_application_calls_endpoints(told: dict[str, Any], name: str) -> None:
    found = told[name]
    assert "error" not in found
    assert found["told"] == [["w0", "w1"], ["w0"], True]
    assert found["got"] == {"x": 2}
    assert found["noted"] == (name == "own app")
    assert "apply_async" in found["fired"] if name == "own tasks" else True
    # Who listens for the settings is called, whenever it said so; and nothing is read before it could.
    if name != "made before":
        assert not found["touched"]
        assert [one for one in found["fired"] if one != "apply_async"][:3] == [
            "before",
            "after",
            "doors.W.tell",
        ]


def test_parts_of_a_chord_are_read_as_they_are_written(told: dict[str, Any]) -> None:
    assert told["chord"] == 6


def test_a_call_by_name_is_read_whatever_tasks_are_serialized_as(told: dict[str, Any]) -> None:
    assert told["by name"] == {"x": 2}


def test_commands_reach_a_worker_whatever_tasks_are_serialized_as(told: dict[str, Any]) -> None:
    assert any(name.startswith("pickled@") for name in told["pings"])


def test_what_an_application_of_ours_has_one_that_becomes_one_has_too() -> None:
    made = create_app(server_url="redis://127.0.0.1:1/0", make_host=lambda *_, **__: None)
    theirs = Celery("theirs", set_as_current=False)
    before = set(vars(theirs))
    converted = convert(theirs, lambda *_, **__: None)
    assert set(vars(made)) - set(vars(converted)) == {"_server_url"}  # an installed one's is its broker's
    assert set(vars(converted)) - before <= set(vars(made)) | {"_theirs"}
    assert converted.steps["worker"] == made.steps["worker"]
    names = [sorted(option.name for option in app.user_options["worker"]) for app in (made, converted)]
    assert names[0] == names[1] == ["config", "operators", "service", "set"]
