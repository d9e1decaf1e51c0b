"""Late binding: which request a worker takes."""

from __future__ import annotations

import pytest

from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.router.kv import KvPolicy
from dynamo_tasks.router.late import MARKS, PATIENCE, TURNS, Marks, QueuePolicy, Waiting, marks_of, pick
from dynamo_tasks.router.predicted import RoutingLoad

SIZE = 16


def marks(tokens: int, *hashes: int, policy: QueuePolicy = "reuse") -> Marks:
    return Marks(tokens, SIZE, list(hashes), policy)


def queue(*prompts: Marks | None, tenant: str = "", passed: int = 0) -> list[Waiting]:
    return [Waiting(float(place + 1), passed, one, tenant) for place, one in enumerate(prompts)]


def test_a_long_prompt_has_few_marks_that_say_how_much_of_it_is_cached() -> None:
    hashes = [*range(1000)]
    made = marks_of(16_010, hashes, SIZE)
    assert len(made.hashes) <= MARKS
    assert made.cached({*hashes}) == len(made.hashes) * made.step <= 16_000
    assert 0 <= 8000 - made.cached({*range(500)}) < made.step
    assert made.cached(set()) == 0
    assert Marks.decode(made.encode()) == made
    assert marks_of(40, [7, 8], SIZE).cached({7}) == SIZE


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x93\x01\x02\x03"])
def test_marks_that_cannot_be_read_are_none(data: bytes) -> None:
    assert Marks.decode(data) is None


def test_the_fewest_tokens_to_compute_go_first() -> None:
    window = queue(marks(64, 1, 2, 3), marks(64, 4, 5, 6), marks(40, 8, 9))
    assert pick(window, {4, 5}, 9) == (1, (0,), 32)
    assert pick(window, {5, 6, 9}, 9) == (2, (0, 1), 0)  # a beginning is none without its first block
    assert pick(window, set(), 9).place == 2


def test_in_their_order_and_the_shortest_first_whatever_is_cached() -> None:
    assert pick(queue(marks(64, 1, policy="fcfs"), marks(4, 2)), {2}, 9).place == 0
    assert pick(queue(marks(64, 1, policy="wspt"), marks(60, 2, policy="wspt")), {1}, 9).place == 1


def test_what_nothing_is_known_of_goes_in_its_turn() -> None:
    assert pick(queue(None, marks(16, 1)), {1}, 9).place == 0
    assert pick(queue(marks(900, 3), None, marks(16, 1)), {1}, 9).place == 2


def test_what_was_passed_over_for_long_is_next() -> None:
    old = Waiting(1.0, round(PATIENCE * 20), marks(900))
    young = Waiting(2.0, 0, marks(16, 1))
    assert pick([old, young], {1}, 20).place == 0
    assert pick([old, young], {1}, 40).place == 1


def test_what_came_back_is_next() -> None:
    assert pick([Waiting(-5.0, 0, marks(900)), Waiting(1.0, 99, marks(16, 1))], {1}, 9).place == 0


def test_no_tenant_is_many_turns_ahead_of_another() -> None:
    single = Waiting(1.0, 0, marks(900), "single")
    near = [Waiting(1.0 + TURNS + place, 0, marks(16, 1), "flood") for place in range(3)]
    assert pick([single, *near], {1}, 9) == (1, (), 16)
    far = [Waiting(one.turn + 0.5, 99, one.marks, one.tenant) for one in near]
    assert pick([single, *far], {1}, 9) == (0, (), 0)
    # Any request of a tenant may use its turn: the last one that is cached, too.
    flood = [*queue(marks(900, 3), marks(900, 4), tenant="flood"), near[0]]
    assert pick(flood, {1}, 9) == (2, (0, 1), 16)


@pytest.mark.parametrize(
    ("mode", "loads", "waits"),
    [("off", (900, 900), False), ("soft", (900, 300), False), ("soft", (900, 900), True), ("on", (900, 300), True)],
)  # fmt: skip
def test_a_request_waits_while_workers_are_full(mode: str, loads: tuple[int, int], waits: bool) -> None:
    policy = KvPolicy(KvRouterConfig(router_late_binding=mode), SIZE)  # type: ignore[arg-type]
    for worker, tokens in enumerate(loads, 1):
        policy.loads.report(worker, RoutingLoad(tokens), 0.0)
    policy.index.store(1, range(100))
    choice = policy.choose([1, 2], 1600, range(100), 0.0, step=512)
    assert (choice.worker, choice.late) == (1, waits)
    assert (choice.marks is not None) == (mode != "off")
    assert not policy.choose([1, 2], 1600, range(100), 0.0).late  # workers that do not take late
