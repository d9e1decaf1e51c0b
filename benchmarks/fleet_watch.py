"""What a planner sees of a virtual fleet: counts and times since its last look."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.virtual_fleet import Arrival, Worker
from dynamo_tasks.engines.mocker.sequence import SequenceState
from dynamo_tasks.planner import ForwardPass, Latency, Observation, WorkerLoad

__all__ = ["FleetWatch", "inter_token", "queue_time", "time_to_first"]


def time_to_first(arrival: Arrival) -> float:
    """Seconds from the arrival to the first token."""
    return arrival.first - arrival.request.at


def inter_token(arrival: Arrival) -> float:
    """Mean seconds between two tokens; of a single one 0."""
    return (arrival.last - arrival.first) / max(1, arrival.request.output - 1)


def queue_time(arrival: Arrival) -> float:
    """Seconds from the arrival to the begin of the first step that computed something of it."""
    return arrival.begun - arrival.request.at


class FleetWatch:
    """Gathers what happens, and sums it up at each look."""

    def __init__(self) -> None:
        self._came: list[Arrival] = []
        self._began: list[Arrival] = []
        self._ended: list[Arrival] = []
        self._waiting: list[Arrival] = []
        self._tokens = 0

    def arrived(self, arrival: Arrival) -> None:
        """A request came."""
        self._came.append(arrival)
        self._waiting.append(arrival)

    def stepped(self, worker: Worker, ended: list[Arrival]) -> None:
        """A worker ended a step, and with it these requests."""
        self._began += worker.begun
        self._ended += ended
        self._tokens += worker.step.decoding + len(worker.begun)

    def look(self, now: float, ready: Iterable[Worker], starting: int, draining: int) -> Observation:
        """Sum up what happened since the last look."""
        self._waiting = waiting = [one for one in self._waiting if one.worker < 0]
        prompts = sum(one.request.prompt for one in self._came)
        workers = tuple(_load(worker) for worker in ready)
        seen = Observation(
            time=now, ready=len(workers), starting=starting, draining=draining, workers=workers,
            waiting=len(waiting), oldest_wait=now - waiting[0].request.at if waiting else 0.0,
            queued_tokens=sum(one.request.prompt for one in waiting),
            arrivals=len(self._came), prompt_tokens=prompts, output_tokens=self._tokens,
            prefix_hits=_hits(self._began), ttft=Latency.of([*map(time_to_first, self._began)]),
            queue_time=Latency.of([*map(queue_time, self._began)]), itl=Latency.of([*map(inter_token, self._ended)]),
        )  # fmt: skip
        self._came, self._began, self._ended, self._tokens = [], [], [], 0
        return seen


def _hits(begun: list[Arrival]) -> float | None:
    tokens = sum(one.request.prompt for one in begun)
    return sum(one.credit for one in begun) / tokens if tokens else None


def _load(worker: Worker) -> WorkerLoad:
    cache = worker.scheduler.cache
    return WorkerLoad(
        running=len(worker.live), slots=worker.args.max_num_seqs, kv_usage=cache.usage,
        kv_tokens=cache.num_blocks * cache.block_size, queued_tokens=worker.backlog, step=_pass(worker),
    )  # fmt: skip


def _pass(worker: Worker) -> ForwardPass | None:
    """The step that goes on; an engine without work tells nothing."""
    if not worker.steps:
        return None
    sequences = [one.sequence for one in worker.live.values() if one.sequence is not None]
    decoding = [one for one in sequences if one.state is SequenceState.DECODE]
    return ForwardPass(
        seconds=worker.step.seconds, prefill_tokens=worker.step.prefill,
        prefills=sum(one.state is SequenceState.PREFILL for one in sequences),
        decode_kv_tokens=sum(len(one.prompt) + one.produced for one in decoding), decodes=len(decoding),
    )  # fmt: skip
