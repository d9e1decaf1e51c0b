"""The keys of a queue are those that kombu makes of it, and no other."""

from dynamo_tasks.store.queue_keys import priority_suffix, queue_keys

LISTS = ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169", "q\x06\x1610"]
"""Of the four priorities, and the one that is as long as the line behind them."""


def test_every_key_of_a_queue_is_named():
    bindings = ["_kombu.binding.q", "_kombu.binding_permanent.q"]
    assert queue_keys("", "q") == [*LISTS, *bindings]
    assert queue_keys("p:", "q") == [f"p:{key}" for key in [*LISTS, *bindings]]


def test_a_priority_of_others_may_be_any_number():
    """A plain task's message of a dead worker is restored by it."""
    given = [-1, 0, 2.9, 3, 5.0, 9, 99, True]
    assert [priority_suffix(one) for one in given] == [
        "", "", "", "\x06\x163", "\x06\x163", "\x06\x169", "\x06\x169", "",
    ]  # fmt: skip
