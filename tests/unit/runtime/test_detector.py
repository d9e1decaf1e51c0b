"""Who is dead, on a clock of the test's own."""

from __future__ import annotations

from dynamo_tasks.runtime.supervision.detector import Detector, Sighting

HERE = Sighting("1", True)


def _poll(detector: Detector, now: float, **seen: Sighting) -> dict[int, str]:
    return detector.observe({int(name[1:]): sighting for name, sighting in seen.items()}, now)


def test_an_instance_whose_counter_moves_is_alive_whatever_its_channel_says() -> None:
    detector = Detector(ttl=3)
    for tick in range(30):
        assert _poll(detector, tick * 0.2, i1=Sighting(str(tick), False), i2=Sighting(str(tick), True)) == {}


def test_absent_twice_with_a_still_counter_is_dead_by_presence() -> None:
    detector = Detector(ttl=3)
    assert _poll(detector, 0.0, i1=Sighting("7", True), i2=Sighting("1", True)) == {}
    assert _poll(detector, 0.2, i1=Sighting("7", False), i2=Sighting("2", True)) == {}
    assert _poll(detector, 0.4, i1=Sighting("7", False), i2=Sighting("3", True)) == {1: "presence"}


def test_a_frozen_process_is_dead_by_lease() -> None:
    detector = Detector(ttl=3)
    assert _poll(detector, 0.0, i1=Sighting("7", True)) == {}
    assert _poll(detector, 2.9, i1=Sighting("7", True)) == {}
    assert _poll(detector, 3.0, i1=Sighting("7", True)) == {1: "lease"}


def test_a_lease_key_that_is_gone_counts_as_still() -> None:
    detector = Detector(ttl=3)
    _poll(detector, 0.0, i1=Sighting("7", True))
    assert _poll(detector, 1.0, i1=Sighting(None, True)) == {}
    assert _poll(detector, 3.1, i1=Sighting(None, True)) == {1: "lease"}


def test_when_more_than_half_vanish_at_once_only_the_lease_counts() -> None:
    detector = Detector(ttl=3)
    _poll(detector, 0.0, i1=HERE, i2=HERE, i3=HERE)
    gone = Sighting("1", False)
    for now in (0.2, 0.4, 0.6):
        assert _poll(detector, now, i1=gone, i2=gone, i3=Sighting(str(now), True)) == {}
    assert _poll(detector, 3.0, i1=gone, i2=gone, i3=Sighting("x", True)) == {1: "lease", 2: "lease"}


def test_the_only_instance_is_dead_by_presence() -> None:
    detector = Detector(ttl=3)
    _poll(detector, 0.0, i1=HERE)
    _poll(detector, 0.2, i1=Sighting("1", False))
    assert _poll(detector, 0.4, i1=Sighting("1", False)) == {1: "presence"}


def test_after_a_disturbance_it_only_watches() -> None:
    detector = Detector(ttl=3, return_within=5)
    _poll(detector, 0.0, i1=HERE, i2=HERE)
    detector.disturbed(1.0)
    for now in (1.2, 1.4, 1.6):
        assert _poll(detector, now, i1=Sighting("1", False), i2=Sighting(str(now), True)) == {}
    # the lease is counted from the disturbance on
    assert _poll(detector, 3.9, i1=Sighting("1", False), i2=Sighting("z", True)) == {}
    assert _poll(detector, 4.1, i1=Sighting("1", False), i2=Sighting("zz", True)) == {1: "lease"}


def test_who_came_back_after_a_disturbance_and_vanishes_is_dead_by_presence() -> None:
    detector = Detector(ttl=3, return_within=5)
    _poll(detector, 0.0, i1=HERE, i2=HERE, i3=HERE)
    detector.disturbed(1.0)
    gone = Sighting("1", False)
    for now in (1.2, 1.4):  # a restarted server: nobody is there yet
        assert _poll(detector, now, i1=gone, i2=gone, i3=gone) == {}
    assert _poll(detector, 1.6, i1=Sighting("2", True), i2=Sighting("2", True), i3=gone) == {}
    gone = Sighting("2", False)
    assert _poll(detector, 1.8, i1=gone, i2=Sighting("3", True), i3=Sighting("2", True)) == {}
    assert _poll(detector, 2.0, i1=gone, i2=Sighting("4", True), i3=Sighting("3", True)) == {1: "presence"}


def test_a_half_open_connection_is_no_sign_of_life_after_a_disturbance() -> None:
    """The network was away. The server still counts a subscriber that it will drop before the instance is back."""
    detector = Detector(ttl=3, return_within=5)
    _poll(detector, 0.0, i1=HERE, i2=HERE)
    detector.disturbed(9.0)
    assert _poll(detector, 9.0, i1=HERE, i2=Sighting("2", True)) == {}
    for tick, now in enumerate((9.2, 9.4, 9.6)):
        assert _poll(detector, now, i1=Sighting("1", False), i2=Sighting(f"3{tick}", True)) == {}


def test_an_instance_that_left_is_forgotten() -> None:
    detector = Detector(ttl=3)
    _poll(detector, 0.0, i1=HERE, i2=HERE)
    assert _poll(detector, 5.0, i2=Sighting("2", True)) == {}
