"""The supervisor with real, tiny child processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.errors import ConfigError, UnavailableError
from dynamo_tasks.serve.processes.process import describe_exit
from dynamo_tasks.serve.processes.supervisor import Notice, NoticeKind, ProcessSpec, RestartPolicy, Supervisor
from tests.support.promises import in_time

FAST = RestartPolicy(base_s=0.01, max_s=0.05, max_quick_failures=3)
SLEEP = "print('up'); import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"


class Record:
    """Gathers lines and notices; a test waits for the one it wants."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.notices: list[Notice] = []
        self._change = asyncio.Event()

    def line(self, spec: ProcessSpec, text: str) -> None:
        self.lines.append((spec.name, text))
        self._change.set()

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._change.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._change.clear()
                await self._change.wait()

    def of(self, kind: NoticeKind) -> list[str]:
        return [notice.text for notice in self.notices if notice.kind is kind]


def python(code: str, name: str = "A-0", **options: Any) -> ProcessSpec:
    options.setdefault("restart", FAST)
    return ProcessSpec(
        name=name, argv=(sys.executable, "-S", "-c", code), service=name.partition("-")[0], **options
    )


def supervise(record: Record, *specs: ProcessSpec) -> Supervisor:
    return Supervisor(specs, on_line=record.line, on_notice=record.notice)


def test_runs_and_passes_lines_and_environment_on() -> None:
    async def main() -> None:
        record = Record()
        code = (
            "import os, sys; print(os.environ['X']); sys.stderr.write('half'); sys.stderr.flush(); " + SLEEP
        )
        supervisor = supervise(record, python(code, env={"X": "value"}))
        await supervisor.start()
        await record.until(lambda: ("A-0", "halfup") in record.lines)
        assert record.lines[0] == ("A-0", "value")
        await supervisor.stop()
        assert record.of(NoticeKind.KILLED) == []
        assert supervisor.processes[0].pid is None

    asyncio.run(main())


def test_each_process_has_a_group_of_its_own_in_our_session() -> None:
    """A Ctrl-C must not reach them; and the kernel must share its time among them as among any processes."""

    async def main() -> str:
        record = Record()
        process = python(
            "import os, time; print(os.getpgid(0) == os.getpid(), os.getsid(0), flush=True); time.sleep(60)"
        )
        supervisor = supervise(record, process)
        await supervisor.start()
        await record.until(lambda: record.lines)
        await supervisor.stop()
        return record.lines[0][1]

    assert asyncio.run(main()) == f"True {os.getsid(0)}"


def test_restarts_a_killed_process() -> None:
    async def main() -> None:
        record = Record()
        code = "import os; print(os.environ.get('DYNAMO_RESTARTS')); " + SLEEP
        supervisor = supervise(record, python(code))
        await supervisor.start()
        await record.until(lambda: record.lines[-1:] == [("A-0", "up")])
        pid = supervisor.processes[0].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        await record.until(lambda: record.lines.count(("A-0", "up")) == 2)
        assert record.lines[0] == ("A-0", "None")
        assert record.lines[2] == ("A-0", "1")
        assert supervisor.processes[0].pid != pid
        assert "signal SIGKILL; starts again in" in record.of(NoticeKind.RESTARTING)[0]
        await supervisor.stop()

    asyncio.run(main())


def test_gives_up_after_quick_failures_with_the_reason() -> None:
    async def main() -> None:
        record = Record()
        supervisor = supervise(record, python("print('no paper'); raise SystemExit(7)"), python(SLEEP, "B-0"))
        await supervisor.start()
        reason = await supervisor.wait_failed()
        assert reason == "A-0 ended with exit code 7: no paper (3 quick ends in a row)"
        assert len(record.of(NoticeKind.RESTARTING)) == 2
        assert supervisor.processes[1].pid
        await supervisor.stop()

    asyncio.run(main())


def test_a_bad_configuration_is_not_tried_again() -> None:
    async def main() -> None:
        record = Record()
        supervisor = supervise(
            record, python("print('unknown key'); raise SystemExit(2)"), python(SLEEP, "B-0")
        )
        await supervisor.start()
        assert await supervisor.wait_failed() == "A-0 ended with exit code 2: unknown key"
        assert record.of(NoticeKind.RESTARTING) == []
        await supervisor.stop()

    asyncio.run(main())


def test_a_program_that_does_not_exist_fails_at_once() -> None:
    async def main() -> None:
        record = Record()
        spec = ProcessSpec(name="A-0", argv=("/no/such/program",), service="A")
        supervisor = supervise(record, spec)
        await supervisor.start()
        assert "/no/such/program: No such file or directory" in await supervisor.wait_failed()
        await supervisor.stop()

    asyncio.run(main())


def test_one_of_two_instances_that_never_starts_is_a_failure_of_the_start() -> None:
    """What is configured would never be there: better said than waited for."""

    async def main() -> None:
        record = Record()

        async def never() -> None:
            await asyncio.Event().wait()

        supervisor = supervise(record, python("raise SystemExit(7)"), python(SLEEP, "A-1"))
        await supervisor.start()
        with pytest.raises(UnavailableError, match="A-0 ended with exit code 7"):
            async with asyncio.timeout(10):
                await supervisor.wait_ready(never)
        await supervisor.stop()

    asyncio.run(main())


def test_one_of_two_instances_given_up_later_is_no_failure_of_the_service() -> None:
    async def main() -> None:
        record = Record()
        code = "import time; time.sleep(0.3); raise SystemExit(2)"
        supervisor = supervise(record, python(code), python(SLEEP, "A-1"))
        await supervisor.start()
        await supervisor.wait_ready()
        await record.until(lambda: record.of(NoticeKind.FAILED))
        failed = asyncio.create_task(supervisor.wait_failed())
        await record.until(lambda: ("A-1", "up") in record.lines)
        assert not failed.done()
        pid = supervisor.processes[1].pid
        assert pid
        failed.cancel()
        await supervisor.stop()

    asyncio.run(main())


def test_ready_waits_for_the_predicate() -> None:
    async def main() -> None:
        record = Record()
        answers = iter([False, False, True])

        async def ready() -> bool:
            return next(answers)

        supervisor = supervise(record, python(SLEEP, ready=ready), python(SLEEP, "B-0"))
        await supervisor.start()
        await supervisor.wait_ready()
        assert next(answers, None) is None
        assert record.of(NoticeKind.READY) == ["ready"]
        await supervisor.stop()

    asyncio.run(main())


def test_ready_raises_when_a_service_fails() -> None:
    async def main() -> None:
        async def never() -> bool:
            return False

        supervisor = supervise(Record(), python("raise SystemExit(2)", ready=never))
        await supervisor.start()
        with pytest.raises(UnavailableError, match="A-0 ended with exit code 2"):
            await supervisor.wait_ready()
        await supervisor.stop()

    asyncio.run(main())


def test_stop_kills_what_ignores_sigterm_with_its_children() -> None:
    grandchild = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {DEAF!r}],"
        "stdout=subprocess.DEVNULL); print(p.pid, flush=True); " + DEAF
    )

    async def main() -> float:
        record = Record()
        supervisor = supervise(record, python(grandchild), python(SLEEP, "B-0"))
        await supervisor.start()
        await record.until(lambda: {("A-0", "up"), ("B-0", "up")} <= set(record.lines))
        pids = [int(record.lines[[name for name, _ in record.lines].index("A-0")][1])]
        pids += [process.pid for process in supervisor.processes if process.pid]
        start = time.monotonic()
        await supervisor.stop(within=0.3)
        took = time.monotonic() - start
        assert len(record.of(NoticeKind.KILLED)) == 1
        assert all_gone(pids)
        return took

    in_time(lambda: asyncio.run(main()), 2)


def test_stop_during_a_backoff_is_at_once() -> None:
    async def main() -> float:
        record = Record()
        slow = RestartPolicy(base_s=60, max_s=60)
        supervisor = supervise(record, python("raise SystemExit(1)", restart=slow))
        await supervisor.start()
        await record.until(lambda: record.of(NoticeKind.RESTARTING))
        start = time.monotonic()
        await supervisor.stop()
        await supervisor.stop()
        return time.monotonic() - start

    in_time(lambda: asyncio.run(main()), 1)


def test_stop_at_once_after_start_leaves_nothing() -> None:
    async def main() -> None:
        record = Record()
        supervisor = supervise(record, python(DEAF), python(SLEEP, "B-0"))
        await supervisor.start()
        await supervisor.stop(within=0)
        assert all(process.pid is None for process in supervisor.processes)

    asyncio.run(main())


def test_what_a_killed_child_leaves_behind_is_killed() -> None:
    code = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {DEAF!r}]);"
        "print('child', p.pid, flush=True); " + SLEEP
    )

    async def main() -> None:
        record = Record()
        supervisor = supervise(record, python(code))
        await supervisor.start()
        await record.until(lambda: len(record.lines) >= 3)
        (orphan,) = (int(text.split()[1]) for _, text in record.lines if text.startswith("child"))
        pid = supervisor.processes[0].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        await record.until(lambda: record.of(NoticeKind.RESTARTING))
        assert all_gone([orphan])
        await supervisor.stop()

    asyncio.run(main())


KILLED = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from test_supervisor import DEAF, Record, python, supervise
async def main():
    popen = "subprocess.Popen([sys.executable, '-S', '-c', %r])" % DEAF
    code = f"import subprocess, sys; print({{popen}}.pid);"
    record = Record()
    supervisor = supervise(record, python(code + DEAF), python(DEAF, "B-0"))
    await supervisor.start()
    await record.until(lambda: len(record.lines) == 4)
    pids = [process.pid for process in supervisor.processes]
    pids += [int(text) for _, text in record.lines if text.isdigit()]
    print(*pids, supervisor._guard.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_nothing_outlives_a_killed_supervisor() -> None:
    code = KILLED.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 4
        assert all(ProcessId.of(pid) for pid in pids)
        process.kill()
    assert all_gone(pids)


def test_children_die_with_a_killed_supervisor_even_without_the_guard() -> None:
    code = KILLED.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        *children, grandchild, guard = map(int, process.stdout.readline().split())
        os.kill(guard, signal.SIGKILL)
        process.kill()
    assert all_gone(children)
    os.kill(grandchild, signal.SIGKILL)


def test_names_are_unique() -> None:
    with pytest.raises(ConfigError, match="two processes are named 'A-0'"):
        supervise(Record(), python(SLEEP), python(SLEEP))


def test_backoff_doubles_to_its_limit() -> None:
    policy = RestartPolicy(base_s=1, max_s=8, jitter=0)
    assert [policy.delay(n) for n in range(7)] == [1, 1, 2, 4, 8, 8, 8]
    varied = {RestartPolicy(base_s=1, jitter=0.5).delay(1) for _ in range(20)}
    assert len(varied) > 1
    assert all(0.5 <= delay <= 1.5 for delay in varied)


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-99, "signal -99")]
)
def test_describe_exit(code: int, text: str) -> None:
    assert describe_exit(code) == text.replace("signal -99", "signal 99")


def all_gone(pids: list[int]) -> bool:
    """Whether all processes end within two seconds."""
    found = [process for pid in pids if (process := ProcessId.of(pid))]
    return all(process.wait_gone(10) for process in found)
