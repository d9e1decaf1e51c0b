from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dynamo_tasks.engines.mocker.sequence import KVCache, chain_hash


def test_chain_hash_depends_on_what_went_before() -> None:
    assert chain_hash(0, [1, 2]) == chain_hash(0, [1, 2])
    assert chain_hash(0, [1, 2]) != chain_hash(1, [1, 2])


def test_blocks_stay_findable_until_reused_least_recently_used_first() -> None:
    cache = KVCache(4, 16)
    first, second = cache.take([], 2), cache.take([], 2)
    assert first is not None
    assert second is not None
    for block, value in zip([*first, *second], [10, 11, 20, 21], strict=True):
        cache.publish(block, value)
    cache.release(first)
    cache.release(second)
    assert cache.used == 0
    assert cache.find([10, 11, 12]) == first
    cache.take([], 1)
    assert cache.find([10, 11]) == first[:1], "the end of the oldest chain goes first"
    assert cache.find([20, 21]) == second


def test_take_all_or_nothing() -> None:
    cache = KVCache(3, 16)
    held = cache.take([], 2)
    assert held is not None
    assert cache.take([], 2) is None
    assert cache.used == 2
    assert cache.take(held, 3) is not None
    assert cache.grow() is None
    cache.release(held)
    assert cache.used == 3, "another sequence shares them"


def test_an_idle_shared_block_is_not_counted_twice() -> None:
    cache = KVCache(2, 16)
    held = cache.take([], 1)
    assert held is not None
    cache.publish(held[0], 7)
    cache.release(held)
    assert cache.take(cache.find([7]), 3) is None
    assert cache.take(cache.find([7]), 2) is not None


class Blocks(RuleBasedStateMachine):
    """Against a plain count of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(6, 1)
        self.holders: list[list[int]] = []

    @rule(values=st.lists(st.integers(0, 3), max_size=4), extra=st.integers(0, 3))
    def take(self, values: list[int], extra: int) -> None:
        shared = self.cache.find(list(dict.fromkeys(values)))
        before = self.cache.used
        blocks = self.cache.take(shared, len(shared) + extra)
        if blocks is None:
            assert self.cache.used == before
            return
        assert len(set(blocks)) == len(blocks)
        fresh = blocks[len(shared) :]
        assert not any(block in held for held in self.holders for block in fresh)
        self.holders.append(blocks)

    @rule(which=st.integers(0, 5), value=st.integers(0, 3))
    def publish(self, which: int, value: int) -> None:
        if which < len(self.holders) and self.holders[which]:
            self.cache.publish(self.holders[which][-1], value)

    @rule(which=st.integers(0, 5))
    def release(self, which: int) -> None:
        if which < len(self.holders):
            self.cache.release(self.holders.pop(which))

    @invariant()
    def counts(self) -> None:
        assert self.cache.used == len({block for held in self.holders for block in held})


Blocks.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestBlocks = Blocks.TestCase
