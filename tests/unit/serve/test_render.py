import io
from typing import Any

from rich.console import Console

from dynamo_tasks.serve.console.output import Output
from dynamo_tasks.serve.console.status_view import render_status
from dynamo_tasks.serve.processes.spec import Notice, NoticeKind, ProcessSpec


def instance(component: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "namespace": "dynamo",
        "component": component,
        "endpoints": ["generate", "embed"],
        "instance_id": f"{number:x}",
        "host": "box",
        "pid": 100 + number,
        "state": "ready",
        "in_flight": number,
        "load": {"in_flight": number, "capacity": 256, "tokens_per_s": 512.4},
        **more,
    }


def test_a_job_shows_its_operators_and_services() -> None:
    row = {
        "parallelism": 2,
        "records_in": 10,
        "records_out": 8,
        "skipped": 1,
        "dead": 1,
        "lag": 5,
        "rate": 2.5,
    }
    calls = {"service": "profile", "requests": 4, "errors": 1, "average_s": 0.0015, "queued": 2}
    job = {
        "namespace": "shop", "id": "demo-1", "state": "RUNNING", "error": None,
        "operators": [{"name": "map-1", **row}], "services": [calls],
    }  # fmt: skip
    shown = {"redis_url": "redis://h/0", "namespaces": ["shop"], "instances": []}
    lines = text({**shown, "jobs": [job]})
    assert lines[2] == "    └── job demo-1  running"
    assert lines[4].split() == ["map-1", "2", "10", "8", "1", "1", "5", "2.5"]
    assert lines[5] == "        service profile  4 calls, 1 errors, 1.5 ms, 2 waiting"
    over = {**job, "state": "FAILED", "error": "ValueError: x"}
    assert text({**shown, "jobs": [over]})[2] == "    └── job demo-1  failed  ValueError: x"
    ended = {**job, "state": "SUCCEEDED"}
    assert text({**shown, "jobs": [ended]})[2:] == ["    └── job demo-1  succeeded"]


SHOWN: dict[str, Any] = {
    "redis_url": "redis://:secret@127.0.0.1:6379/0",
    "namespaces": ["dynamo", "empty"],
    "queued": {"dynamo.Worker": 3, "dynamo.Gone": 2, "dynamo.Idle": 0},
    "instances": [instance("Worker", 2, lease=2.75), instance("Worker", 1), instance("Router", 3)],
}


def text(shown: dict[str, Any], width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_status(shown))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_status_tree() -> None:
    assert text(SHOWN) == [
        "redis://:***@127.0.0.1:6379/0",
        "├── dynamo",
        "│   ├── Gone    0 instances, 2 queued, 0 tokens/s",
        "│   ├── Router  embed, generate  1 instance, 0 queued, 512 tokens/s",
        "│   │   instance  lease  process  state  in flight  tokens/s",
        "│   │   3             -  103@box  ready      3/256       512",
        "│   └── Worker  embed, generate  2 instances, 3 queued, 1025 tokens/s",
        "│       instance  lease  process  state  in flight  tokens/s",
        "│       1             -  101@box  ready      1/256       512",
        "│       2         2.8 s  102@box  ready      2/256       512",
        "└── empty",
    ]


def test_status_shows_what_the_server_has_room_for() -> None:
    memory = {
        "used": 64 << 20,
        "limit": 8 << 30,
        "capped": True,
        "tokens_per_s": 3_642_000,
        "retention_s": 60.0,
    }
    said = "memory 64 of 8,192 MiB (maxmemory): room for 3,642,000 tokens/s kept for 60 s"
    assert text({**SHOWN, "memory": memory})[:2] == ["redis://:***@127.0.0.1:6379/0", said]
    open_end = text({**SHOWN, "memory": {**memory, "capped": False}})[1]
    assert "(the machine; maxmemory is not set)" in open_end


def test_status_of_nothing() -> None:
    lines = text({"redis_url": "redis://h/0", "namespaces": [], "instances": []})
    assert lines == ["redis://h/0", "no namespaces: nothing is served here"]


def test_output_is_plain_and_unwrapped_without_a_terminal() -> None:
    file = io.StringIO()
    output = Output(Console(file=file, width=20, highlight=False, markup=False))
    spec = ProcessSpec(name="Worker-0", argv=("x",), service="Worker")
    output.names(["Worker-0", "Frontend"])
    output.say("try", "curl -N http://127.0.0.1:8000/v1/chat/completions [x]")
    output.log(spec, "\x1b[31mred\x1b[0m [bold]text[/bold] that is longer than the console")
    output.notice(Notice(NoticeKind.STARTED, spec, "pid 7"))
    assert file.getvalue().splitlines() == [
        "try        curl -N http://127.0.0.1:8000/v1/chat/completions [x]",
        "Worker-0 | red [bold]text[/bold] that is longer than the console",
        "Worker-0 * pid 7",
    ]


def test_output_has_colours_on_a_terminal() -> None:
    file = io.StringIO()
    output = Output(
        Console(file=file, width=80, force_terminal=True, color_system="standard", highlight=False)
    )
    output.names(["Worker-0"])
    output.log(ProcessSpec(name="Worker-0", argv=("x",), service="Worker"), "line")
    assert "\x1b[36mWorker-0 | \x1b[0mline" in file.getvalue()


def test_status_shows_what_uses_spare_capacity() -> None:
    load = {"capacity": 8, "preemptible": 5, "preemptions": 12}
    shown = {**SHOWN, "instances": [instance("Worker", 1, load=load), instance("Worker", 2, load=load)]}
    (line,) = [line for line in text(shown) if "Worker" in line]
    assert line.endswith("tokens/s, 10 on spare capacity, 24 preempted so far")


def test_status_shows_what_caches_had_where_they_had_any() -> None:
    found = [
        instance("Worker", number, load={"capacity": 256, "prefix_hits": 0.375 * number}) for number in (0, 1)
    ]
    rows = [
        line for line in text({**SHOWN, "instances": found}) if "ready" in line or "instance  lease" in line
    ]
    assert [row.split()[-2:] for row in rows] == [["tokens/s", "cached"], ["0", "%"], ["38", "%"]]
