import io
from typing import Any

from rich.console import Console

from dynamo_tasks.serve.output import Output
from dynamo_tasks.serve.render import render_status
from dynamo_tasks.serve.spec import Notice, NoticeKind, ProcessSpec


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


def test_status_tells_what_the_server_has_room_for() -> None:
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
