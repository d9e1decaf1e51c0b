"""The share that each ``serve`` has of the instances that are wanted."""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_tasks.protocol.scale import Fleet

__all__ = ["share_out"]


def share_out(wanted: int, fleets: Mapping[str, Fleet]) -> dict[str, int]:
    """Share instances out: each keeps what it has, the smallest gets the next one, the largest gives one away.

    Every ``serve`` does this for itself, with the same numbers: nobody has to tell the others.

    Args:
        wanted: Instances of the component as a whole.
        fleets: What each ``serve`` has, and how many it could have.

    Returns:
        Name of each → its share. Where devices are too few, the sum is less than wanted.

    Example:
        >>> share_out(3, {"a": Fleet(running=1), "b": Fleet(most=1)})
        {'a': 2, 'b': 1}
    """
    shares = {name: fleets[name].size for name in sorted(fleets)}
    while sum(shares.values()) > wanted:
        shares[max(shares, key=lambda name: (shares[name], name))] -= 1
    while sum(shares.values()) < wanted:
        room = [name for name in shares if _has_room(fleets[name], shares[name])]
        if not room:
            return shares
        shares[
            min(room, key=lambda name: (fleets[name].failed or fleets[name].hung, shares[name], name))
        ] += 1
    return shares


def _has_room(fleet: Fleet, share: int) -> bool:
    return fleet.most is None or share < fleet.most
