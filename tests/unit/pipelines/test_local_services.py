"""Services in threads: life, queues, hooks, numbers."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError, ServiceCallError
from dynamo_tasks.pipelines import BaseService, LocalEnvironment, LocalServiceTask, ServiceFactory, connect
from dynamo_tasks.pipelines.calls.context import ServiceContext
from dynamo_tasks.pipelines.calls.proxy import ProxyManager
from dynamo_tasks.pipelines.calls.queues import LocalQueueDescriptor
from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
from tests.support.processes import until


class Gate(BaseService):
    """Holds its calls until it is opened; notes how many ran at once."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.log: list[str] = []
        self.running = self.most = 0
        self.lock = threading.Lock()

    def setup(self) -> None:
        self.log.append("setup")

    def close(self) -> None:
        self.log.append("close")

    def process(self, value: Any) -> Any:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.opened.wait(30)
        with self.lock:
            self.running -= 1
        return value

    def endless(self) -> Any:
        try:
            while True:
                yield "more"
        finally:
            self.log.append("ended")

    def breaks(self) -> Any:
        yield 1
        raise ValueError("in mid-stream")

    async def ticks(self) -> Any:
        for n in range(3):
            yield n


class Lab:
    def __init__(self, cls: type = Gate, **options: Any):
        factory = ServiceFactory("gate", cls, **options)
        queue = LocalQueueDescriptor("gate.requests")
        self.manager = ServiceManager({"gate": queue}, max_in_flight=4)
        self.proxy = ProxyManager(self.manager)
        ctx = ServiceContext(
            "gate", request_qd=queue, parallelism=factory.parallelism, env_name="lab", job_id="lab-1", proxy=self.proxy
        )  # fmt: skip
        self.task = LocalServiceTask(factory, ctx)

    def __enter__(self) -> Lab:
        self.task.start_running()
        return self

    def __exit__(self, *exc: object) -> None:
        self.task.service.opened.set()
        self.task.cleanup()
        self.manager.shutdown()


def test_the_queue_is_the_contexts_and_hooks_run_once() -> None:
    with Lab() as lab:
        assert lab.task.ctx.request_qd.get_queue() is lab.manager.check("gate").get_queue()
        assert lab.task.ctx.logger.name == "dynamo_tasks.job.gate"
        lab.task.start_running()
        lab.task.service.opened.set()
        assert lab.proxy.call_sync("gate", 5) == 5
        assert lab.task.is_running
    lab.task.cleanup()
    lab.task.stop()
    assert not lab.task.is_running
    assert lab.task.service.log == ["setup", "close"]


class Slow(Gate):
    """Its setup takes its time."""

    def setup(self) -> None:
        super().setup()
        assert self.opened.wait(30)
        self.log.append("ready")


def test_one_that_is_given_up_while_it_starts_is_stopped() -> None:
    lab = Lab(Slow)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(lab.task.start_running)
        until(lambda: lab.task.service.log)
        ending = threads.submit(lab.task.cleanup)
        wait([ending], timeout=0.2)
        lab.task.service.opened.set()
        starting.result(30), ending.result(30)
    assert (lab.task.is_running, lab.task.service.log) == (False, ["setup", "ready", "close"])
    with pytest.raises(ServiceCallError, match="has ended"):
        lab.task.start_running()
    lab.manager.shutdown()


@pytest.mark.parametrize("parallelism", [1, 3])
def test_calls_are_serial_unless_asked_otherwise(parallelism: int) -> None:
    with Lab(parallelism=parallelism) as lab:
        calls = [lab.proxy.call_async("gate", n) for n in range(4)]
        until(lambda: lab.task.service.running == parallelism)
        lab.task.service.opened.set()
        assert [call.result(30) for call in calls] == [0, 1, 2, 3]
        assert lab.task.service.most == parallelism


def test_stop_answers_what_waits_and_terminate_refuses_it() -> None:
    with Lab() as lab:
        lab.task.service.opened.set()
        calls = [lab.proxy.call_async("gate", n) for n in range(3)]
        lab.task.stop()
        assert [call.result(30) for call in calls] == [0, 1, 2]
    with Lab() as lab:
        calls = [lab.proxy.call_async("gate", n) for n in range(3)]
        until(lambda: lab.task.service.running == 1)
        threading.Timer(0.05, lab.task.service.opened.set).start()
        lab.task.terminate()
        assert calls[0].result(30) == 0
        with pytest.raises(RuntimeError, match="service 'gate' has stopped"):
            calls[2].result(30)


def test_a_call_whose_caller_has_given_up_is_not_run() -> None:
    with Lab() as lab:
        first = lab.proxy.call_async("gate", 1)
        with pytest.raises(TimeoutError):
            lab.proxy.call_sync("gate", 2, timeout=0.01)
        lab.task.service.opened.set()
        assert first.result(30) == 1
        until(lambda: lab.task.get_statistics()["expired"] == 1)
        assert lab.task.get_statistics()["requests"] == 1
        assert 'dynamo_tasks_service_expired_total{service="gate"} 1' in lab.task.export_metrics()


def test_calls_in_flight_are_bounded() -> None:
    with Lab() as lab:
        calls = [lab.proxy.call_async("gate", n) for n in range(4)]
        fifth: list[Any] = []
        thread = threading.Thread(target=lambda: fifth.append(lab.proxy.call_async("gate", 5)))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert lab.manager.in_flight == 4
        lab.task.service.opened.set()
        thread.join(30)
        assert [call.result(30) for call in [*calls, *fifth]] == [0, 1, 2, 3, 5]


def test_a_future_can_be_cancelled() -> None:
    with Lab() as lab:
        call = lab.proxy.call_async("gate", 1)
        assert call.cancel()
        lab.task.service.opened.set()
        assert lab.proxy.call_sync("gate", 2) == 2
        with pytest.raises(CancelledError):
            call.result(1)


def test_a_stream_that_nobody_reads_any_more_ends_its_generator() -> None:
    with Lab() as lab:
        stream = lab.proxy.call_sync("gate", method="endless")
        assert next(stream) == "more"
        del stream
        until(lambda: lab.task.service.log == ["setup", "ended"])
        held = lab.proxy.call_sync("gate", method="endless")
        lab.task.terminate()  # does not wait for a reader that does not read
        assert lab.task.service.log == ["setup", "ended", "ended"]
        held.close()


def test_a_generator_that_breaks_tells_its_reader() -> None:
    with Lab() as lab:
        stream = lab.proxy.call_sync("gate", method="breaks")
        assert next(stream) == 1
        with pytest.raises(RuntimeError, match="Service call failed: ValueError: in mid-stream"):
            next(stream)
        assert list(lab.proxy.call_sync("gate", method="ticks")) == [0, 1, 2]


def test_proxies_are_cached_until_they_are_reset() -> None:
    with Lab() as lab:
        proxy = lab.proxy.services.gate
        assert lab.proxy.services.gate is proxy
        assert lab.proxy.services["gate"] is proxy
        lab.proxy.reset()
        assert lab.proxy.services.gate is not proxy
        assert dir(lab.proxy.services) == ["gate"]


def test_retry_on_takes_types_or_names() -> None:
    with (
        Lab() as lab,
        pytest.raises(ConfigError, match="retry_on takes exception types or their names, not 5"),
    ):
        lab.proxy.call_sync("gate", 1, retries=1, retry_on=5)


def test_slots_without_a_place_for_the_context_are_refused() -> None:
    class Tight:
        __slots__ = ("x",)

    env = LocalEnvironment("tight")
    env.register_service("tight", Tight)
    with pytest.raises(ConfigError, match=r"Tight has __slots__ without a place for its context: .*'ctx'"):
        connect(env)


def test_a_service_that_cannot_start_leaves_nothing_behind() -> None:
    class Broken(BaseService):
        def setup(self) -> None:
            raise ValueError("no licence")

    before = set(threading.enumerate())
    env = LocalEnvironment("half")
    env.register_service("good", Gate)
    env.register_service("broken", Broken)
    with pytest.raises(ValueError, match="no licence"):
        connect(env)
    # A library's thread, which an earlier test started, may come and go meanwhile; ours have their names.
    left = [thread.name for thread in threading.enumerate() if thread not in before and "half" in thread.name]
    assert left == []
