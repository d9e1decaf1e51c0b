"""The cost of giving a request to a worker: the least is chosen.

Ours, in tokens: what the worker has yet to compute before this request's first token, what of its prompt is not cached
there, and how full the KV cache would be, ``kv_pressure`` tokens for a full one: steps become slower with it, and
cached prefixes are lost sooner. It is the default since it answers sooner than Dynamo's on every trace
(docs/routing.md).

NVIDIA Dynamo's, in blocks (1.6.1, ``kv_router/scheduling``), with its parameters, names and defaults.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from dynamo_tasks.router.late import QueuePolicy
from dynamo_tasks.router.predicted import RoutingLoad

__all__ = ["KvCandidate", "KvRouterConfig", "costs_of", "sample"]

Positive = Annotated[float, Meta(ge=0)]


class KvRouterConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``router_mode: kv``; those of Dynamo under its names, with its defaults.

    Attributes:
        cost: ``tokens`` (ours) or ``dynamo``.
        kv_pressure: Of ``tokens``: tokens that a full KV cache is worth.
        overlap_score_credit: What a cached token is worth of one that need not be computed.
        overlap_score_credit_decay: Of ``dynamo``: how much less, per prompt that a worker has before it beyond the
            least loaded one.
        prefill_load_scale: Of ``dynamo``: weight of the prompts against the blocks in use.
        decode_active_request_weight: Of ``dynamo``: blocks that each active request counts for.
        router_temperature: 0 = always the cheapest; above, cheaper ones are likelier.
        use_kv_events: Follow the workers' events; otherwise only what this router itself has sent is believed cached.
        router_ttl_secs: Without events: for so long.
        router_predicted_ttl_secs: With events: for so long the blocks of what this router sends are expected at their
            worker before it has reported them; 0 = they are not.
        router_replica_sync: Share choices with the other routers of the component as they are made.
        router_max_blocks: Most blocks of one worker that are believed or expected.
        router_late_binding: ``off``; ``soft``: while all workers are full, requests wait in the queue, and a worker
            that has room takes the one that reuses most of its cache; ``on``: also while the chosen one is full.
        router_queue_threshold: A worker is full with more tokens of prompts before it than so many of its steps.
        router_queue_policy: Which one is taken: ``reuse``, the fewest tokens to compute; ``wspt``, the shortest
            prompt; ``fcfs``, the first.
        router_session_affinity_ttl_secs: Seconds for which a session goes to the worker of its last request; 0 = off.
        router_session_affinity_mode: ``soft``: while that worker costs at most ``router_session_affinity_slack``
            tokens (or blocks) more than the cheapest; ``hard``: while it lives.
        router_session_affinity_slack: See above.
        router_session_affinity_fields: What names a session beside the header ``X-Dynamo-Session-ID``:
            ``prompt_cache_key``, ``user``; the first that a request has.
    """

    cost: Literal["tokens", "dynamo"] = "tokens"
    kv_pressure: Positive = 8000.0
    overlap_score_credit: Positive = 1.0
    overlap_score_credit_decay: Positive = 0.0
    prefill_load_scale: Positive = 1.0
    decode_active_request_weight: Positive = 0.0
    router_temperature: Positive = 0.0
    use_kv_events: bool = True
    router_ttl_secs: Annotated[float, Meta(gt=0)] = 120.0
    router_predicted_ttl_secs: Positive = 60.0
    router_replica_sync: bool = True
    router_max_blocks: Annotated[int, Meta(ge=1)] = 1 << 18
    router_late_binding: Literal["off", "soft", "on"] = "off"
    router_queue_threshold: Positive = 1.0
    router_queue_policy: QueuePolicy = "reuse"
    router_session_affinity_ttl_secs: Positive = 0.0
    router_session_affinity_mode: Literal["soft", "hard"] = "soft"
    router_session_affinity_slack: Positive = 4096.0
    router_session_affinity_fields: tuple[Literal["prompt_cache_key", "user"], ...] = ()


class KvCandidate(NamedTuple):
    """A worker that could take the request.

    Attributes:
        overlap: Tokens of its prompt that the worker has cached.
        new_blocks: Blocks of the prompt that the worker does not hold yet.
        load: Of the worker.
    """

    overlap: int
    new_blocks: int
    load: RoutingLoad


def costs_of(
    config: KvRouterConfig, candidates: Mapping[int, KvCandidate], prompt: int, block_size: int
) -> dict[int, float]:
    """The cost of each worker.

    Args:
        config: Which cost, and its parameters.
        candidates: By worker.
        prompt: Tokens of the prompt.
        block_size: Tokens per block.
    """
    if config.cost == "dynamo":
        return _dynamo(config, candidates, prompt, block_size)
    return {worker: _tokens(config, candidate, prompt) for worker, candidate in candidates.items()}


def _tokens(config: KvRouterConfig, candidate: KvCandidate, prompt: int) -> float:
    load = candidate.load
    # At least one: the last token of a prompt is computed whatever is cached.
    own = max(1.0, prompt - config.overlap_score_credit * candidate.overlap)
    share = (load.active_blocks + candidate.new_blocks) / load.total_blocks if load.total_blocks else 0.0
    return load.prefill_tokens + own + config.kv_pressure * share


def _dynamo(
    config: KvRouterConfig, candidates: Mapping[int, KvCandidate], prompt: int, block_size: int
) -> dict[int, float]:
    least = min(candidate.load.prefill_tokens for candidate in candidates.values())
    found: dict[int, float] = {}
    for worker, (overlap, new_blocks, load) in candidates.items():
        excess = (load.prefill_tokens - least) / max(1, prompt)
        credit = config.overlap_score_credit / (1 + config.overlap_score_credit_decay * excess) * overlap
        prefill = max(0.0, load.prefill_tokens + prompt - credit) / block_size
        decode = load.active_blocks + new_blocks + config.decode_active_request_weight * load.active_requests
        found[worker] = config.prefill_load_scale * prefill + decode
    return found


def sample(costs: Mapping[int, float], temperature: float, rng: random.Random) -> int:
    """Choose a worker: the cheapest, one of those that are equal at random; or by softmax at a temperature.

    Args:
        costs: By worker; at least one.
        temperature: The costs are scaled to 0..1 first, as Dynamo does.
        rng: Source of randomness.
    """
    least, most = min(costs.values()), max(costs.values())
    if temperature <= 0 or least == most:
        equal = [worker for worker, cost in costs.items() if cost == least]
        return equal[0] if len(equal) == 1 else rng.choice(equal)
    weights = [math.exp(-(cost - least) / ((most - least) * temperature)) for cost in costs.values()]
    return rng.choices([*costs], weights)[0]
