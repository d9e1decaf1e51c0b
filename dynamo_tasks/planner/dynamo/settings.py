"""Settings of Dynamo's rules: its names, its defaults; times are in seconds, as everywhere here."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dynamo_tasks.planner.settings import PlannerSettings, Seconds, Some

__all__ = ["DynamoSettings"]


class DynamoSettings(PlannerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``dynamo-…``. ``min`` is Dynamo's ``min_endpoint``, ``max`` its ``max_gpu_budget``.

    Attributes:
        optimization_target: ``throughput`` and ``latency`` are thresholds of KV use; ``sla`` is a model of the engine.
        ttft: Target of ``sla``.
        itl: Target of ``sla``.
        enable_throughput_scaling: Predict the load, and divide it by what one engine can serve.
        enable_load_scaling: Add or take one worker by what engines report.
        throughput_adjustment_interval: Seconds between decisions of the former.
        load_adjustment_interval: Seconds between decisions of the latter; of ``interval`` of other policies.
        load_predictor: ``constant`` or ``kalman``; Dynamo's own default, ``arima``, is not in this package.
        load_scaling_down_sensitivity: Percent of a target that fewer workers may use up.
        load_min_observations: Forward passes before the model answers.
        max_num_fpm_samples: Forward passes that it remembers.
        fpm_sample_bucket_size: Buckets among which they are spread; a square.
        max_num_batched_tokens: Of the engines.
        max_num_seqs: Of the engines.
    """

    policy = "dynamo"

    optimization_target: Literal["throughput", "latency", "sla"] = "throughput"
    ttft: Seconds = 0.5
    itl: Seconds = 0.05
    enable_throughput_scaling: bool = True
    enable_load_scaling: bool = False
    throughput_adjustment_interval: Seconds = 180.0
    load_adjustment_interval: Seconds = 5.0
    load_predictor: str = "constant"
    load_scaling_down_sensitivity: Annotated[int, Meta(ge=0, le=100)] = 80
    load_min_observations: Some = 5
    max_num_fpm_samples: Some = 64
    fpm_sample_bucket_size: Some = 16
    max_num_batched_tokens: Some = 8192
    max_num_seqs: Some = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimization_target != "sla":
            return
        if not self.enable_throughput_scaling and not self.enable_load_scaling:
            raise ValueError("one of enable_throughput_scaling and enable_load_scaling must be true")
        if self.load_adjustment_interval >= self.throughput_adjustment_interval:
            raise ValueError("load_adjustment_interval must be below throughput_adjustment_interval")

    def bounded(self, wanted: int) -> int:
        """Bring a number between ``min_endpoint`` and ``max_gpu_budget``."""
        return min(max(wanted, self.min), self.max)
