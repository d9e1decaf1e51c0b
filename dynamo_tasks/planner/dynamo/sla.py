"""Dynamo's target ``sla``: a model of the engine, asked two ways.

The throughput part predicts the next interval's requests and divides them by what one engine can serve. The load part
adds a worker when every engine's estimate is above a target, and takes one when what is left would still be well below.
With both, the former is the floor of the latter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner.dynamo.engine_model import EngineModel
from dynamo_tasks.planner.dynamo.predictors import PREDICTORS
from dynamo_tasks.planner.dynamo.settings import DynamoSettings
from dynamo_tasks.planner.observation import ForwardPass, Observation, WorkerLoad

__all__ = ["SlaPolicy"]


class SlaPolicy:
    """The two parts, each at its own interval."""

    def __init__(self, settings: DynamoSettings) -> None:
        predictor = PREDICTORS.get(settings.load_predictor)
        if predictor is None:
            raise ConfigError(
                f"planner.load_predictor: no predictor {settings.load_predictor!r}"
                f"{suggest(settings.load_predictor, PREDICTORS)}"
            )
        self._settings = settings
        self._model = EngineModel(settings)
        self._requests, self._prompt, self._output, self._hits = (predictor() for _ in range(4))
        self._hit_rate = 0.0
        self._floor = 1
        self._since: float | None = None
        self._arrivals = self._prompts = self._outputs = 0
        self._cached = 0.0

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        return self._settings.load_adjustment_interval

    def sweep(self, passes: Iterable[ForwardPass]) -> None:
        """Learn from forward passes that were measured before the start: Dynamo's pre-deployment sweep."""
        for one in passes:
            self._model.add(one)

    def wanted(self, seen: Observation) -> int:
        """Return the number of workers; see :meth:`Policy.wanted`."""
        for one in seen.workers:
            if one.step is not None:
                self._model.add(one.step)
        self._gather(seen)
        predicted = self._throughput(seen) if self._settings.enable_throughput_scaling else None
        if not self._settings.enable_load_scaling:
            return self._settings.bounded(seen.live if predicted is None else predicted)
        if predicted is not None:
            self._floor = predicted
        if seen.starting or not seen.workers or not self._model.ready:
            return self._settings.bounded(seen.live)
        return self._settings.bounded(max(self._load(seen), self._floor))

    def _gather(self, seen: Observation) -> None:
        if self._since is None:
            self._since = seen.time - self.interval
        self._arrivals += seen.arrivals
        self._prompts += seen.prompt_tokens
        self._outputs += seen.output_tokens
        self._cached += seen.prompt_tokens * (seen.prefix_hits or 0.0)

    # -- the throughput part ----------------------------------------------------------------------

    def _throughput(self, seen: Observation) -> int | None:
        """Replicas for the next interval; ``None`` before the end of this one, or without a model."""
        seconds = seen.time - (self._since or 0.0)
        if seconds < self._settings.throughput_adjustment_interval - 0.5:
            return None
        count = self._arrivals
        self._requests.add(count)
        if count:
            self._prompt.add(self._prompts / count)
            self._output.add(self._outputs / count)
            self._hits.add(self._cached / max(1, self._prompts))
        self._since, self._arrivals, self._prompts, self._outputs, self._cached = seen.time, 0, 0, 0, 0.0
        self._hit_rate = min(self._hits.next(), 1.0)
        if not self._model.ready:
            return None
        rate = self._model.best_rate(
            self._prompt.next(), self._output.next(), _kv_tokens(seen.workers), self._hit_rate
        )
        return math.ceil(self._requests.next() / seconds / rate) if rate > 0 else None

    # -- the load part ----------------------------------------------------------------------------

    def _load(self, seen: Observation) -> int:
        ready, given, model, hits = seen.ready, self._settings, self._model, self._hit_rate
        first = [model.ttft(one.queued_tokens, _decode_kv(one), hits) for one in seen.workers]
        between = [model.itl(_decode_kv(one)) for one in seen.workers]
        if min(first) > given.ttft or min(between) > given.itl:
            return ready + 1
        if ready > 1 and all(self._has_room(one, ready / (ready - 1)) for one in seen.workers):
            return ready - 1
        return ready

    def _has_room(self, load: WorkerLoad, growth: float) -> bool:
        """Return whether a worker could take its share of one that goes, well within the targets."""
        model, given = self._model, self._settings
        share = given.load_scaling_down_sensitivity / 100
        context = _decode_kv(load) * growth
        own = model.ttft(0, context, self._hit_rate)
        queue = model.ttft(load.queued_tokens * growth, context, self._hit_rate) - own
        if queue >= (given.ttft - own) * share:
            return False
        combined = (_decode_kv(load) + load.queued_tokens) * growth
        if load.kv_tokens and combined >= load.kv_tokens:
            return False
        return model.itl(combined) < given.itl * share


def _decode_kv(load: WorkerLoad) -> float:
    if load.step is not None:
        return load.step.decode_kv_tokens
    return load.kv_usage * load.kv_tokens


def _kv_tokens(workers: tuple[WorkerLoad, ...]) -> int:
    return max((one.kv_tokens for one in workers), default=0)
