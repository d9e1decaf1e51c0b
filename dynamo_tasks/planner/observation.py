"""The facts that a planner sees of one component at one look."""

from __future__ import annotations

import msgspec

from dynamo_tasks.planner.latency import Latency

__all__ = ["ForwardPass", "Observation", "WorkerLoad"]


class ForwardPass(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of an engine, as far as the engine tells.

    Attributes:
        seconds: Its length.
        prefill_tokens: Tokens of prompts that it computed.
        prefills: Requests to which they belong.
        decode_kv_tokens: Tokens of context of the requests that got a token.
        decodes: Those requests.
    """

    seconds: float
    prefill_tokens: int = 0
    prefills: int = 0
    decode_kv_tokens: int = 0
    decodes: int = 0


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The load of one ready worker.

    Attributes:
        running: Requests that it has, those that wait inside of its engine included.
        slots: Most requests that it takes; 0 = not known.
        kv_usage: Used share of its KV cache, 0..1.
        kv_tokens: Tokens that its KV cache holds; 0 = not known.
        queued_tokens: Tokens of prompts that it has and did not compute yet.
        step: Its latest forward pass, if the engine tells.
    """

    running: int = 0
    slots: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0
    queued_tokens: int = 0
    step: ForwardPass | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A component as a policy sees it. Counts of a span of time are those since the last look.

    Attributes:
        time: Now, in seconds on any clock that never goes back.
        ready: Workers that take requests.
        starting: Workers that were started and are not ready yet.
        draining: Workers that take no more requests and end what they run.
        waiting: Requests in the component's queue, which no worker has.
        oldest_wait: Seconds for which the oldest of them has waited.
        queued_tokens: Tokens of their prompts; 0 = not known.
        workers: Loads of the ready ones.
        arrivals: Requests that came.
        prompt_tokens: Tokens of the prompts of requests that came.
        output_tokens: Tokens that were produced.
        prefix_hits: Share of the prompts' tokens that caches had, 0..1.
        ttft: Times to the first token.
        queue_time: Times from the arrival to the begin of the work at it.
        itl: Mean times between tokens of requests that ended.
    """

    time: float
    ready: int = 0
    starting: int = 0
    draining: int = 0
    waiting: int = 0
    oldest_wait: float = 0.0
    queued_tokens: int = 0
    workers: tuple[WorkerLoad, ...] = ()
    arrivals: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_hits: float | None = None
    ttft: Latency | None = None
    queue_time: Latency | None = None
    itl: Latency | None = None

    @property
    def live(self) -> int:
        """Workers that are there or will be without another decision."""
        return self.ready + self.starting

    @property
    def requests(self) -> int:
        """Requests that wait or run."""
        return self.waiting + sum(one.running for one in self.workers)
