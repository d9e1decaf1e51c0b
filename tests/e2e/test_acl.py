"""The shipped ACL file: the whole path under its users, and what each of them may not do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.batches import BatchPlace, background_of, chat_line
from tests.support.processes import ROOT, Flower, Frontend, Worker, environment, together, until
from tests.support.server import RedisServer

SHIPPED = ROOT / "docker" / "users.acl"
PASSWORDS = {"worker": "w-secret", "frontend": "f-secret", "monitor": "m-secret", "flower": "o-secret"}
ASK: dict[str, Any] = {
    "model": "mocker", "max_tokens": 150, "stream": True, "messages": [{"role": "user", "content": "go on"}]
}  # fmt: skip
PACED = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=10")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The shipped users, with a default user for the test itself."""
    folder = tmp_path_factory.mktemp("acl")
    lines = SHIPPED.read_text().splitlines()
    users = "\n".join(["user default on nopass ~* &* +@all", *lines[1:], ""])
    for name, password in PASSWORDS.items():
        users = users.replace(f"@{name.upper()}_PASSWORD@", password)
    (folder / "users.acl").write_text(users)
    with RedisServer(folder, "--aclfile", str(folder / "users.acl")) as server:
        yield server


def url_of(server: RedisServer, user: str) -> str:
    return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/0"


def refusals(server: RedisServer) -> list[dict[str, Any]]:
    """What the server refused to anybody so far."""
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return [
            {key: row[key] for key in ("reason", "object", "username", "context")} for row in client.acl_log()
        ]


def test_the_default_user_is_off_and_nobody_has_a_password_yet() -> None:
    lines = SHIPPED.read_text().splitlines()
    assert lines[0].startswith("user default off ")
    assert [line.split()[1] for line in lines[1:]] == list(PASSWORDS)
    assert all(f">@{line.split()[1].upper()}_PASSWORD@" in line and " -@all " in line for line in lines[1:])


@pytest.mark.slow
def test_the_whole_path_under_least_privileges(server: RedisServer) -> None:
    """Serve, complete, resume, cancel, kill a worker, Celery results, inspect, status: and nothing was refused."""
    work, http = url_of(server, "worker"), url_of(server, "frontend")
    with together(
        Worker(work, "-E", settings=PACED, name="a"),
        Worker(work, "-E", settings=PACED, name="b"),
        Frontend(http),
        Frontend(http),
    ) as (one, two, frontend, other):
        _resume(frontend, other)
        _cancel(frontend)
        _recover(frontend, [one, two])
        _celery(work)
        shown = json.loads(_output(url_of(server, "monitor"), "-m", "dynamo_tasks", "status", "--json"))
        assert shown["instances"]
        assert refusals(server) == [], one.output[-2000:] + two.output[-2000:]
        for worker in (one, two):
            if worker.alive:
                assert worker.terminate(20) == 0
    assert refusals(server) == []


def _resume(frontend: Frontend, other: Frontend) -> None:
    stream = frontend.events("POST", "/v1/chat/completions", ASK)
    first, data = next(stream)
    request = json.loads(data)["id"].removeprefix("chatcmpl-")
    stream.close()  # type: ignore[attr-defined]
    rest = list(other.events("GET", f"/v1/requests/{request}/stream", headers={"Last-Event-ID": first}))
    assert rest[-1][1] == "[DONE]"
    assert other.get(f"/v1/requests/{request}")[1]["status"] == "succeeded"


def _cancel(frontend: Frontend) -> None:
    stream = frontend.events("POST", "/v1/chat/completions", ASK | {"max_tokens": 10_000})
    request = json.loads(next(stream)[1])["id"].removeprefix("chatcmpl-")
    status, _, body = frontend.request("DELETE", f"/v1/requests/{request}?purge=true")
    assert (status, body["status"]) == (200, "cancelled")
    list(stream)


def _recover(frontend: Frontend, workers: list[Worker]) -> None:
    streams = [frontend.events("POST", "/v1/chat/completions", ASK) for _ in range(6)]
    for stream in streams:
        next(stream)
    workers[0].kill()
    for stream in streams:
        events = list(stream)
        assert events[-1][1] == "[DONE]"
        assert json.loads(events[-2][1])["choices"][0]["finish_reason"] == "length"


def _celery(url: str) -> None:
    code = """
import workers.agg as graph
from celery import chain, group
from dynamo_tasks import app
ask = graph.Worker.generate.s({"prompt": "a", "max_tokens": 3})
print(graph.Worker.generate.delay({"prompt": "a", "max_tokens": 3}).get(timeout=20))
print(group(ask, ask).apply_async().get(timeout=20))
print(app.control.inspect(timeout=2).active_queues())
"""
    assert "dynamo|Worker" in _output(url, "-c", code)


def _output(url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_flower_under_its_own_user(server: RedisServer) -> None:
    with together(
        Worker(url_of(server, "worker"), "-E", settings=PACED, name="seen"),
        Flower(url_of(server, "flower"), "--basic-auth=me:o-key"),
    ) as (_, flower):
        until(lambda: _workers(flower) or not flower.alive, 30, "Flower lists the worker")
        assert flower.alive, flower.output
    assert refusals(server) == []


def _workers(flower: Flower) -> Any:
    status, workers = flower.get("/api/workers?refresh=1", "me:o-key")
    return status == 200 and workers


EVERYBODY = [
    "FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN", "ACL LIST", "SAVE", "MONITOR", "SCRIPT FLUSH",
    "GET other", "SET other 1", "PUBLISH other x", "SUBSCRIBE other", "EVAL return(redis.call('GET','other')) 0",
    "FLUSHDB", "CONFIG SET maxmemory 1", "SCAN 0", "RANDOMKEY", "DBSIZE", "ACL SETUSER x on", "BGREWRITEAOF",
    "SCRIPT KILL",
    "FUNCTION LOAD x", "FCALL f 0", "SLOWLOG GET", "MEMORY DOCTOR", "REPLICAOF NO ONE", "SWAPDB 0 1", "MOVE dt:x 1",
    "MIGRATE h 1 dt:x 0 1", "RESTORE dt:x 0 x", "DUMP dt:x", "OBJECT ENCODING dt:x", "SORT dt:x BY other GET other",
    "COPY dt:x other", "RENAME dt:x other", "CLIENT PAUSE 1", "CLIENT REPLY OFF", "CLIENT TRACKING on",
    "PUBSUB CHANNELS",
    "PSUBSCRIBE *", "SUBSCRIBE __keyspace@0__:dt:x", "LMOVE dynamo|Worker other LEFT LEFT", "XTRIM dt:x MAXLEN 0",
    "EVAL return(redis.call('FLUSHALL')) 0", "EVAL return(redis.call('KEYS','*')) 0",
    "EVAL return(redis.call('PUBLISH','other','x')) 0",
]  # fmt: skip
FORBIDDEN = {
    "worker": [
        "SET celery-other 1", "PUBLISH news x", "LPUSH celery x", "BRPOP celery 1", "GET unacked", "SUBSCRIBE news",
        "XGROUP DESTROY dt:dynamo:events:x g", "EVAL return(redis.call('SET','celery','x')) 0",
    ],
    "frontend": [
        "BLMPOP 1 1 dynamo|Worker LEFT", "GET celery-task-meta-x", "PUBLISH /0.celery.pidbox shutdown",
        "SADD _kombu.binding.x y", "SET _kombu.binding.dynamo|Worker x", "DEL _kombu.binding.dynamo|Worker",
        "LPOP dynamo|Worker", "RPOP dynamo|Worker", "LREM dynamo|Worker 0 x", "DEL dynamo|Worker",
        "SET dynamo|Worker x", "LTRIM dynamo|Worker 1 0", "RENAME dynamo|Worker other", "EXPIRE dynamo|Worker 1",
        "LSET dynamo|Worker 0 x",
        "LPOP dynamo|Worker\x06\x163", "LPOP dynamo-tasks", "LREM dynamo-tasks 0 x", "DEL dynamo-tasks",
        "PUBLISH dt:dynamo:control:0:1 x", "SUBSCRIBE dt:dynamo:control:0:1", "CLIENT KILL TYPE pubsub",
        "CLIENT KILL ID 1", "CLIENT LIST", "CLIENT PAUSE 1", "CLIENT UNBLOCK 1", "SETEX celery-task-meta-x 1 y",
        "EVAL return(redis.call('LPOP',KEYS[1])) 1 dynamo|Worker", "EVAL return(redis.call('DEL','dynamo|Worker')) 0",
        "EVAL return(redis.call('PUBLISH','dt:dynamo:control:0:1','x')) 0", "XGROUP DESTROY dt:dynamo:events:x g",
        "PSUBSCRIBE dt:*", "SORT dt:x", "RESTORE dt:x 0 x", "DUMP dt:x", "SCAN 0", "OBJECT ENCODING dt:x",
        "SWAPDB 0 1", "MOVE dt:x 1", "SLOWLOG GET", "LATENCY LATEST", "MODULE LIST", "REPLICAOF NO ONE",
        "FUNCTION LIST",
    ],
    "monitor": [
        "SET dt:dynamo:lease:1 1", "DEL dt:dynamo:req:1", "RPUSH dynamo|Worker {}", "SUBSCRIBE dt:@client:0:x",
        "PUBLISH /0.celery.pidbox shutdown", "EVAL return(1) 0", "CLIENT KILL ID 1", "CLIENT LIST", "CLIENT UNBLOCK 1",
        "SUBSCRIBE /0.celery.pidbox", "SUBSCRIBE dt:dynamo:alive:0:1", "PUBLISH dt:dynamo:alive:0:1 x", "MULTI",
        "GET celery-task-meta-x", "SMEMBERS _kombu.binding.x", "LPOP dynamo|Worker", "LRANGE dynamo|Worker 0 -1",
        "EXPIRE dt:dynamo:req:1 1", "HSET dt:dynamo:req:1 st x", "XADD dt:dynamo:log:1 * a b", "SCRIPT LOAD x",
        "GET celery",
    ],
    "flower": [
        "GET dt:dynamo:lease:1", "RPUSH dynamo|Worker {}", "SET celery-task-meta-x 1", "SUBSCRIBE dt:@client:0:x",
        "SET _kombu.binding.dynamo|Worker x", "PUBLISH dt:dynamo:control:0:1 x", "LPOP dynamo|Worker",
        "DEL dynamo|Worker",
    ],
}  # fmt: skip


@pytest.mark.parametrize("user", PASSWORDS)
def test_everything_else_is_refused(server: RedisServer, user: str) -> None:
    with redis.Redis.from_url(url_of(server, user)) as client:
        allowed = [words for words in EVERYBODY + FORBIDDEN[user] if not _refused(client, words.split())]
    assert allowed == []


def _refused(client: redis.Redis, words: list[str]) -> bool:
    try:
        client.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError as exc:
        return "ACL failure" in str(exc)  # from inside of a script
    return False


@pytest.mark.slow
def test_files_and_batches_under_least_privileges(server: RedisServer, tmp_path: Path) -> None:
    before = refusals(server)
    env = {"DYNAMO_FILES_URL": tmp_path.as_uri(), "DYNAMO_NAMESPACE": "acl-batches"}
    with together(
        Worker(url_of(server, "worker"), settings=PACED, env=env),
        background_of(url_of(server, "worker"), env),
        Frontend(url_of(server, "frontend"), env=env),
    ) as (worker, background, frontend):
        place = BatchPlace(server, tmp_path, env, frontend, worker, background)
        batch = place.ended(place.submit([chat_line(f"q{i}", "hi") for i in range(20)]).id)
        assert (batch.status, len(place.rows(batch.output_file_id))) == ("completed", 20)
        for file in place.client.files.list():
            place.client.files.delete(file.id)
        until(lambda: not list((tmp_path / "acl-batches").glob("*")), 60)
        assert place.client.batches.cancel(place.submit([chat_line("a", "hi", tokens=5000)]).id)
    assert refusals(server) == before
