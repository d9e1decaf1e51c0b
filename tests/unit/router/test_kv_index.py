"""The index of cached blocks against a model that is plainly right; batches with losses; names of blocks."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.protocol.kv.block_hashes import sequence_hashes
from dynamo_tasks.protocol.kv.reports import KvBatch
from dynamo_tasks.router.expected import ExpectedBlocks
from dynamo_tasks.router.followed import FollowedWorkers
from dynamo_tasks.router.index import KvIndex
from dynamo_tasks.router.predicted import PredictedLoads
from dynamo_tasks.router.worker_blocks import WorkerBlocks

WORKERS = st.integers(1, 5)
HASHES = st.lists(st.integers(0, 12), max_size=8)
STEPS = st.lists(
    st.tuples(st.sampled_from(["store", "remove", "clear", "drop"]), WORKERS, HASHES), max_size=40
)


def depth(held: set[int], hashes: list[int]) -> int:
    return next((place for place, value in enumerate(hashes) if value not in held), len(hashes))


@given(STEPS, HASHES)
def test_the_index_is_a_set_of_blocks_per_worker(
    steps: list[tuple[str, int, list[int]]], asked: list[int]
) -> None:
    index, model = KvIndex(), dict[int, set[int]]()
    for verb, worker, hashes in steps:
        held = model.setdefault(worker, set())
        if verb == "store":
            index.store(worker, hashes)
            held.update(hashes)
        elif verb == "remove":
            index.remove(worker, hashes)
            held.difference_update(hashes)
        else:
            index.clear(worker) if verb == "clear" else index.drop(worker)
            held.clear()
    found = {worker: depth(held, asked) for worker, held in model.items()}
    assert index.find(asked) == {worker: count for worker, count in found.items() if count}
    assert len(index) == len(set().union(*model.values()))
    assert {worker: index.count(worker) for worker in model} == {w: len(held) for w, held in model.items()}


def stored(*hashes: int) -> dict[str, Any]:
    return {"type": "BlockStored", "sequence_hashes": [*hashes]}


def removed(*hashes: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "sequence_hashes": [*hashes]}


def batch(number: int, *events: dict[str, Any], **more: Any) -> KvBatch:
    return KvBatch.read({"worker_id": "7", "event_id": number, "events": [*events], **more})


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30), st.data())
def test_what_a_router_knows_is_right_once_it_has_a_snapshot(
    changes: list[tuple[bool, int]], data: Any
) -> None:
    index = KvIndex()
    followed = FollowedWorkers(index, PredictedLoads())
    held: set[int] = set()
    number = 0
    for is_stored, value in changes:
        number += 1
        (held.add if is_stored else held.discard)(value)
        if data.draw(st.booleans(), label="lost"):
            continue
        followed.apply(batch(number, stored(value) if is_stored else removed(value)), 0.0)
        if data.draw(st.booleans(), label="read again"):
            followed.apply(batch(number, stored(value) if is_stored else removed(value)), 0.0)
    if not followed.is_known(7) or index.count(7) != len(held):
        parts = [[*held][:2], [*held][2:]]
        for place, part in enumerate(parts):
            number += 1
            assert followed.apply(batch(number, stored(*part), snapshot=1 - place, first=not place), 0.0)
    number += 1
    assert followed.apply(batch(number, stored(99)), 0.0) or not followed.is_known(7)
    if followed.is_known(7):
        assert {value for value in range(10) if index.find([value])} == held
        assert index.find([99]) == {7: 1}


def test_a_gap_is_noticed_and_a_snapshot_that_is_cut_short_is_asked_for_again() -> None:
    index = KvIndex()
    followed = FollowedWorkers(index, PredictedLoads())
    assert followed.apply(batch(1, stored(1)), 0.0)
    assert not followed.apply(batch(3, stored(3)), 0.0)
    assert (followed.gaps, index.find([1]), index.find([3])) == (1, {7: 1}, {})
    assert followed.apply(batch(4, stored(1, 2), snapshot=1, first=True), 0.0)
    assert not followed.apply(batch(6, stored(5)), 0.0)  # 5, the second part, is lost
    assert not followed.is_known(7)
    followed.apply(batch(7, stored(1, 2, 3, 5), snapshot=0, first=True), 0.0)
    assert followed.is_known(7)
    assert index.find([1, 2, 3, 5]) == {7: 4}


def test_a_snapshot_that_another_router_asked_for_changes_nothing() -> None:
    index = KvIndex()
    followed = FollowedWorkers(index, PredictedLoads())
    followed.apply(batch(1, stored(1)), 0.0)
    followed.apply(batch(2, stored(), snapshot=0, first=True), 0.0)
    assert followed.apply(batch(3, removed(9)), 0.0)
    assert index.find([1]) == {7: 1}


def test_an_engines_blocks_get_names_that_prompts_have_too() -> None:
    blocks, tokens = WorkerBlocks(4), [*range(12)]
    head = {"type": "BlockStored", "block_size": 4, "lora_name": None, "medium": "GPU"}
    first = blocks.name(
        {**head, "block_hashes": ["a", "b"], "parent_block_hash": None, "token_ids": tokens[:8]}
    )
    second = blocks.name({**head, "block_hashes": ["c"], "parent_block_hash": "b", "token_ids": tokens[8:]})
    names = sequence_hashes(tokens, 4)
    assert first["sequence_hashes"] + second["sequence_hashes"] == names
    assert blocks.overlap(names) == 3
    gone = blocks.name({"type": "BlockRemoved", "block_hashes": ["b", "unknown"]})
    assert gone["sequence_hashes"] == names[1:2]
    assert (blocks.overlap(names), sorted(blocks.cached())) == (1, sorted([names[0], names[2]]))
    lost = blocks.name({**head, "block_hashes": ["e"], "parent_block_hash": "d", "token_ids": tokens[:4]})
    assert lost["sequence_hashes"] == []
    blocks.name({"type": "AllBlocksCleared"})
    assert blocks.cached() == []


def test_salted_blocks_have_names_of_their_own() -> None:
    blocks, tokens = WorkerBlocks(4), [*range(8)]
    head = {"type": "BlockStored", "block_size": 4, "lora_name": "ada", "parent_block_hash": None}
    named = blocks.name(
        {**head, "block_hashes": [1, 2], "token_ids": tokens, "extra_keys": [["ada", "mine"], ["ada"]]}
    )
    assert named["sequence_hashes"] == sequence_hashes(tokens, 4, "ada", "mine")


def test_what_was_sent_is_expected_for_a_while_and_within_a_bound() -> None:
    expected = ExpectedBlocks(3)
    expected.store(7, [1, 2], 10.0)
    assert expected.find([1, 2, 3], 9.0) == {7: 2}
    expected.store(7, [1, 3], 20.0)
    assert expected.find([1, 2], 10.0) == {7: 1}
    expected.store(7, [5, 6, 8], 20.0)
    assert expected.find([1], 11.0) == {}
    assert expected.find([5, 6, 8], 11.0) == {7: 3}
    expected.drop(7)
    assert expected.find([5], 11.0) == {}
