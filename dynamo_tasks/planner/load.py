"""The policy ``load``: as few workers as keep the targets.

::

    R = (arrivals/s at the end of a start-up + backlog / start-up) · S
    N = max(R + β·√R,  requests in the system / C,  KV caches in use / limit)

``S`` is the time that a prompt takes once somebody works at it: mean TTFT less mean queue time. So ``R`` is, by
Little's law, how many workers are busy with prompts, and ``β·√R`` the square-root rule of staffing (Halfin and Whitt,
1981): a large fleet needs less slack than a small one.

``β`` and ``C`` are learned over ten minutes. If a share ``late`` of the requests waited for longer than ``ttft − S``
with ``n`` workers, then ``β = (n − R)/√R + k·ln(late/(1 − goal))`` would have met the goal; ``k`` is ½ upwards and ⅓
downwards, as one worker less is a guess. If, of the times between tokens, the quantile of the goal was ``itl`` with
``c`` requests per worker, then ``C = c · target/itl`` would have. Prompts that are too long for the target on an idle
worker ask for nobody. Where queue times are not known, the median TTFT stands for ``S``, and late is who missed the
target.
"""

from __future__ import annotations

import math

from dynamo_tasks.planner.forecast import Forecast, Smoothed
from dynamo_tasks.planner.latency import Latency, LatencyWindow
from dynamo_tasks.planner.limits import Patience
from dynamo_tasks.planner.observation import Observation
from dynamo_tasks.planner.settings import LoadSettings

__all__ = ["LoadPolicy"]

_LEVEL, _TREND = 60.0, 300.0
"""Seconds over which arrivals and their trend are smoothed."""
_UP, _DOWN = 1 / 2, 1 / 3
"""How much of a surprise is believed: fewer workers are tried with more care than more are."""
_LEARNED = 600.0
"""Seconds over which slack, concurrency and the time of a prompt are learned."""
_RECENT = 60.0
"""Seconds over which the use of KV caches and slots is smoothed."""
_SLACK, _LEAST_SLACK, _MOST_SLACK = 1.5, 1.0, 8.0
"""The slack before anything is learned, and its bounds: down to minus the second, up to the third."""
_PRIOR = 50.0
"""Requests whose word that slack is worth; before so many have ended, nothing is concluded from their tokens."""


class LoadPolicy:
    """Learns how long prompts take and how much slack the targets need; looks ahead by a worker's start."""

    def __init__(self, settings: LoadSettings) -> None:
        self._settings = settings
        self._patience = Patience(settings.limits)
        self._arrivals = Forecast(_LEVEL, _TREND)
        self._service, self._prompt = Smoothed(_LEARNED), Smoothed(_LEARNED)
        self._slack, self._waits = Smoothed(_LEARNED), LatencyWindow(_LEARNED)
        self._concurrency, self._itl = Smoothed(_LEARNED), LatencyWindow(_LEARNED)
        self._requests, self._rate = Smoothed(_LEARNED), Smoothed(_LEARNED)
        self._held = Smoothed(_RECENT)
        self._last: float | None = None
        self._knows_waits = False
        self._slack.add(_SLACK, _PRIOR, 0.0)

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        return self._settings.interval

    def wanted(self, seen: Observation) -> int:
        """Return the number of workers; see :meth:`Policy.wanted`."""
        passed = self.interval if self._last is None else max(seen.time - self._last, 1e-3)
        self._last = seen.time
        self._arrivals.add(seen.arrivals / passed, passed)
        self._requests.add(seen.requests, passed, passed)
        self._rate.add(seen.arrivals / passed, passed, passed)
        if seen.arrivals:
            self._prompt.add(seen.prompt_tokens / seen.arrivals, seen.arrivals, passed)
        if seen.ready:
            self._learn(seen, passed)
        return self._patience.decide(seen.time, seen.live, self._need(seen))

    # -- what is learned --------------------------------------------------------------------------

    def _learn(self, seen: Observation, passed: float) -> None:
        self._held.add(self._full(seen), 1.0, passed)
        if seen.itl is not None:
            self._itl.add(seen.itl, passed)
            self._concurrency.add(seen.requests / seen.ready, seen.itl.count, passed)
        if seen.ttft is not None:
            self._learn_waits(seen.ttft, seen.queue_time, passed)
            if work := self._work(0.0):
                self._slack.add((seen.ready - work) / math.sqrt(work), seen.ttft.count, passed)

    def _learn_waits(self, ttft: Latency, queue_time: Latency | None, passed: float) -> None:
        if queue_time is not None:
            self._service.add(max(0.0, ttft.mean - queue_time.mean), ttft.count, passed)
            self._waits.add(queue_time, passed)
        else:  # the median is hardly longer for the waits of few
            self._waits.add(ttft, passed)
            self._service.add(self._waits.quantile(0.5), ttft.count, passed)
        self._knows_waits = queue_time is not None

    def _full(self, seen: Observation) -> float:
        """Workers that KV caches and slots need."""
        given = self._settings
        caches = sum(one.kv_usage for one in seen.workers) / given.kv_usage
        slots = [one.slots for one in seen.workers if one.slots]
        taken = seen.requests * len(slots) / sum(slots) / given.busy if slots else 0.0
        return max(caches, taken)

    def _work(self, ahead: float, backlog: float = 0.0) -> float:
        return (self._arrivals.ahead(ahead) + backlog) * (self._service.value or 0.0)

    # -- what is needed ---------------------------------------------------------------------------

    def _need(self, seen: Observation) -> float:
        if not seen.ready:
            return max(seen.live, 1 if seen.waiting else 0)
        if not (seen.requests or seen.arrivals):
            return 0.0  # an idle look; only a whole cool-down of them counts
        ahead = self._settings.start_up + self.interval
        prompts = self._blindly(seen) if self._service.value is None else self._for_prompts(seen, ahead)
        held = min(self._held.value or 0.0, self._full(seen))
        return max(prompts, self._for_tokens(ahead), held)

    def _blindly(self, seen: Observation) -> float:
        """One more while somebody waits for too long: all that can be said before a first token was timed."""
        return seen.ready + 1.0 if seen.oldest_wait > self._settings.ttft else 0.0

    def _for_prompts(self, seen: Observation, ahead: float) -> float:
        given = self._settings
        work = self._work(ahead, self._backlog(seen) / max(ahead, 30.0))
        # A budget below a tenth of the target is no use: the prompts are too long for it, with a queue or without.
        own = (self._service.value or 0.0) if self._knows_waits else 0.0
        budget = max(given.ttft - own, given.ttft / 10)
        allowed, heard = 1 - given.goal, self._waits.count
        unheard = max(0.0, _PRIOR - heard)
        late = (self._waits.over(budget) * heard + allowed * unheard) / (heard + unheard)
        surprise = math.log(max(late / allowed, 0.02))
        slack = (self._slack.value or 0.0) + surprise * (_UP if surprise > 0 else _DOWN)
        return work + min(max(slack, -_LEAST_SLACK), _MOST_SLACK) * math.sqrt(work)

    def _for_tokens(self, ahead: float) -> float:
        concurrency, itl = self._concurrency.value, self._itl.quantile(self._settings.goal)
        if not concurrency or self._itl.count < _PRIOR:
            return 0.0
        stay = (self._requests.value or 0.0) / max(self._rate.value or 0.0, 1e-9)
        return self._arrivals.ahead(ahead) * stay / (concurrency * self._settings.itl / max(itl, 1e-6))

    def _backlog(self, seen: Observation) -> float:
        """Requests whose prompts nobody has computed."""
        tokens = sum(one.queued_tokens for one in seen.workers)
        return seen.waiting + tokens / max(1.0, self._prompt.value or 1.0)
