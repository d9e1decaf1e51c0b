"""Lanes: the text that names them, what cannot be one, and where keys are."""

from __future__ import annotations

import pytest

from dynamo_tasks.config.host.redis_lanes import split_lanes
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import mask_url
from dynamo_tasks.store.lanes.directory import rank
from dynamo_tasks.store.lanes.lane import check_share, lane_addresses, share

KEYS = [f"request-{n}" for n in range(2000)]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("redis://a:1/0", ["redis://a:1/0"]),
        ("redis://a:1/0,redis://b:2/0", ["redis://a:1/0", "redis://b:2/0"]),
        (" redis://a:1/0 ,\n rediss://b:2/0\tunix:///run/c.sock ", ["redis://a:1/0", "rediss://b:2/0", "unix:///run/c.sock"]),
        ("redis://:p,w@a:1/0,redis://:p;w@b:2/0", ["redis://:p,w@a:1/0", "redis://:p;w@b:2/0"]),
        (
            "sentinel://s1:26379,s2:26379/main/0,sentinel://s1;sentinel://s2/0?master_name=other",
            ["sentinel://s1:26379,s2:26379/main/0", "sentinel://s1;sentinel://s2/0?master_name=other"],
        ),
    ],
)  # fmt: skip
def test_a_text_of_urls(text: str, urls: list[str]) -> None:
    assert split_lanes(text) == urls


def test_no_password_of_any_lane_is_shown() -> None:
    shown = mask_url("redis://:one@a:1/0, redis://me:two@b:2/0 redis://:three@c:3/0")
    assert shown == "redis://:***@a:1/0, redis://me:***@b:2/0 redis://:***@c:3/0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://a:1/0 redis://b:2/0 redis://a:1/0", "lanes 1 and 3 are the same Redis server"),
        ("redis://a:1/0 redis://a:1/1", "lanes 1 and 2 are the same"),
        ("redis://a:1/0 redis://b:2/1", "lane 2 has the database 1, lane 1 has 0"),
        ("redis://a:1/0 http://b:2", "lane 2: not a Redis URL"),
        ("redis://a:1/0 redis://b:99999/0", "lane 2: the Redis URL is not valid"),
        ("redis://a:1/0 redis://b:2/0#gone", "lane 2: a lane.s URL may end with #drain, not with #gone"),
        ("redis://a:1/0#drain redis://b:2/0", "lane 1 cannot be drained"),
        ("redis://a:1/0#drain", "lane 1 cannot be drained"),
    ],
)
def test_lanes_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        lane_addresses(text)


def test_masters_of_the_same_sentinels_are_two_lanes() -> None:
    assert len(lane_addresses("sentinel://s1,s2/one/0 sentinel://s1,s2/two/0")) == 2


@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_keys_are_spread_evenly(lanes: int) -> None:
    first = [rank(key, lanes)[0] for key in KEYS]
    for number in range(1, lanes + 1):
        assert first.count(number) == pytest.approx(len(KEYS) / lanes, rel=0.15)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_lane_that_is_added_takes_its_share_and_moves_no_other_key(lanes: int) -> None:
    before = [rank(key, lanes)[0] for key in KEYS]
    after = [rank(key, lanes + 1)[0] for key in KEYS]
    moved = [new for old, new in zip(before, after, strict=True) if new != old]
    assert set(moved) == {lanes + 1}
    assert len(moved) == pytest.approx(len(KEYS) / (lanes + 1), rel=0.15)


@pytest.mark.parametrize("limit", [2, 3, 7, 256])
def test_parts_of_a_limit_are_the_limit(limit: int) -> None:
    assert sum(share(limit, number, 2) for number in (1, 2)) == limit


def test_a_limit_that_is_too_small_to_share() -> None:
    check_share("x", None, 3)
    check_share("x", 3, 3)
    with pytest.raises(ConfigError, match="x: 2 cannot be shared by 3 lanes"):
        check_share("x", 2, 3)
