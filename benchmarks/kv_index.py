"""How fast the index of cached blocks is, what a block costs, and whether NVIDIA Dynamo's tree says the same.

::

    python -m benchmarks.kv_index
    python -m benchmarks.kv_index --oracle   # in an environment with ai-dynamo-runtime (Python 3.12) and xxhash
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dynamo_tasks.protocol.kv.block_hashes import block_hash, sequence_hashes
from dynamo_tasks.protocol.kv.reports import KvBatch
from dynamo_tasks.router.followed import FollowedWorkers
from dynamo_tasks.router.index import KvIndex
from dynamo_tasks.router.predicted import PredictedLoads
from dynamo_tasks.router.worker_blocks import WorkerBlocks

__all__ = ["compare", "main", "measure"]

_SIZE = 64


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


def measure(chains: int = 5000, depth: int = 200, workers: int = 8) -> dict[str, float]:
    """Measure: blocks per second of processor time, and the bytes of one.

    Args:
        chains: Prompts without anything in common.
        depth: Blocks of each.
        workers: Each prompt is cached by two of them.
    """
    rng = random.Random(1)
    prompts = [[rng.getrandbits(64) for _ in range(depth)] for _ in range(chains)]
    index, blocks = KvIndex(), chains * depth
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number, prompt in enumerate(prompts):
        index.store(number % workers, _copy(prompt))
    once = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    def look() -> None:
        for prompt in prompts:
            index.find(prompt)

    def store_again() -> None:
        for number, prompt in enumerate(prompts):
            index.store((number + 1) % workers, prompt)

    tokens = list(range(depth * _SIZE))
    return {
        "lookups_per_s": _rate(blocks, look),
        "stored_blocks_per_s": _rate(blocks, store_again),
        "published_blocks_per_s": _rate(blocks // 4, lambda: _follow(prompts[: chains // 4])),
        "hashed_blocks_per_s": _rate(depth * 20, lambda: [sequence_hashes(tokens, _SIZE) for _ in range(20)]),
        "named_blocks_per_s": _rate(depth * 20, lambda: _name(tokens, depth)),
        "bytes_per_block": once / blocks,
    }


def _copy(values: Sequence[int]) -> list[int]:
    return [int(str(value)) for value in values]  # numbers of their own, as decoded ones are


def _follow(prompts: Sequence[Sequence[int]]) -> None:
    """Batches as they come from Redis, decoded and applied; sixteen blocks in an event."""
    followed = FollowedWorkers(KvIndex(), PredictedLoads())
    number = 0
    for prompt in prompts:
        for start in range(0, len(prompt), 16):
            number += 1
            event = {"type": "BlockStored", "sequence_hashes": [*prompt[start : start + 16]]}
            followed.apply(KvBatch.read({"worker_id": "1f", "event_id": number, "events": [event]}), 0.0)


def _name(tokens: list[int], depth: int) -> None:
    """An engine's events, whose blocks get their names."""
    for _ in range(20):
        event = {
            "type": "BlockStored", "block_hashes": [*range(depth)], "parent_block_hash": None,
            "token_ids": tokens, "block_size": _SIZE,
        }  # fmt: skip
        WorkerBlocks(_SIZE).name(event)


# -- NVIDIA Dynamo's tree -----------------------------------------------------------------------------


def compare(steps: int = 2000, seed: int = 1) -> int:
    """Apply the same random events to Dynamo's tree and to ours; how many look-ups were the same.

    Raises:
        AssertionError: one was not.
    """
    tree: Any = __import__("dynamo._core", fromlist=["RadixTree"]).RadixTree()
    rng, index, same = random.Random(seed), KvIndex(), 0
    prompts = [*_prompts(rng)]
    numbers = dict.fromkeys(range(4), 0)
    held: dict[int, list[list[int]]] = {worker: [] for worker in numbers}
    for _ in range(steps):
        worker, prompt = rng.randrange(4), rng.choice(prompts)
        numbers[worker] += 1
        names = sequence_hashes(prompt, _SIZE)
        if rng.random() < 0.7 or not held[worker]:
            index.store(worker, names)
            held[worker].append(names)
            data: Any = {"stored": {"parent_hash": None, "blocks": _blocks(prompt, names)}}
        else:  # an engine lets go of the end of a prompt that nobody shares first
            names = held[worker].pop(rng.randrange(len(held[worker])))
            shared = {value for other in held[worker] for value in other}
            gone = [value for value in names if value not in shared]
            index.remove(worker, gone)
            data = {"removed": {"block_hashes": gone[::-1]}}
        event = {"event_id": numbers[worker], "data": data, "dp_rank": 0}
        tree.apply_event(worker, json.dumps(event).encode())
        asked = rng.choice(prompts)
        local = [block_hash(asked[at : at + _SIZE]) for at in range(0, len(asked) - _SIZE + 1, _SIZE)]
        theirs = {key[0]: depth for key, depth in tree.find_matches(local).scores.items()}
        ours = index.find(sequence_hashes(asked, _SIZE))
        assert ours == theirs, (ours, theirs)
        same += 1
    return same


def _prompts(rng: random.Random) -> Iterator[list[int]]:
    """Prompts that share beginnings."""
    roots = [[rng.randrange(50_000) for _ in range(_SIZE * 4)] for _ in range(4)]
    for _ in range(60):
        root = rng.choice(roots)[: _SIZE * rng.randrange(1, 5)]
        yield root + [rng.randrange(50_000) for _ in range(_SIZE * rng.randrange(1, 6))]


def _blocks(prompt: list[int], names: list[int]) -> list[dict[str, int]]:
    return [
        {"block_hash": name, "tokens_hash": block_hash(prompt[place * _SIZE : (place + 1) * _SIZE])}
        for place, name in enumerate(names)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kv_index", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--oracle", action="store_true", help="compare with dynamo._core.RadixTree")
    if parser.parse_args(argv).oracle:
        print(f"{compare()} look-ups, all the same as Dynamo's")
        return 0
    for name, value in measure().items():
        print(f"{name:>24} {value:14,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
