"""The failure detector: a pure judge over observations, on the observer's monotonic clock.

An instance is dead

* by *lease*: its counter has not moved for the lease's TTL, as this observer saw it;
* by *presence*: nobody holds its alive channel in two polls in a row, and its counter did not move in between.
  A forked child may keep the socket open; then the lease decides.

After the observer's connection was lost or Redis was replaced, a restarted Redis shows everyone as absent: for
``RETURN_SECONDS`` an absence is believed only of instances that have been seen alive there since. Nor is it believed
when more than half of the instances vanish at once.
A wrong guess is harmless: the fence keeps the old owner from writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynamo_tasks.store.registry import LEASE_TTL

__all__ = ["RETURN_SECONDS", "Detector", "Sighting"]

RETURN_SECONDS = 5.0
"""Seconds that everybody is given to come back, after a reconnect or a change of the Redis server."""


@dataclass(frozen=True)
class Sighting:
    """The observation of an instance by one poll.

    Attributes:
        counter: Value of its lease; ``None`` where the key is gone.
        present: Whether somebody is subscribed to its alive channel.
    """

    counter: str | None
    present: bool


@dataclass
class _Track:
    counter: str | None
    moved_at: float
    absent: int = 0
    seen: bool = False
    """Present at a moment in which its counter moved, since the last disturbance. Its channel alone proves nothing:
    Redis may hold a connection for open whose other end is long gone."""


class Detector:
    """Judges one namespace; feed it with every poll."""

    def __init__(self, ttl: float = LEASE_TTL, return_within: float = RETURN_SECONDS):
        self._ttl = ttl
        self._return_within = return_within
        self._tracks: dict[int, _Track] = {}
        self._all_back_at = 0.0

    def disturbed(self, now: float) -> None:
        """Note a reconnect, or a change of the Redis server: an absent instance may still come back."""
        self._all_back_at = now + self._return_within
        for track in self._tracks.values():
            track.moved_at, track.absent, track.seen = max(track.moved_at, now), 0, False

    def observe(self, sightings: Mapping[int, Sighting], now: float) -> dict[int, str]:
        """Take a poll.

        Args:
            sightings: Of every instance that may own requests, by lease id.
            now: The observer's monotonic clock.

        Returns:
            Lease ids of instances that are dead, and by what: ``lease`` or ``presence``.
        """
        for lease in self._tracks.keys() - sightings.keys():
            del self._tracks[lease]
        for lease, seen in sightings.items():
            self._note(lease, seen, now)
        absent = [lease for lease, track in self._tracks.items() if track.absent]
        # Many at once is Redis, or the network: its subscriptions are gone, and not those who held them.
        few = len(absent) == 1 or 2 * len(absent) <= len(self._tracks)
        dead = {}
        for lease, track in self._tracks.items():
            if now - track.moved_at >= self._ttl:
                dead[lease] = "lease"
            elif few and track.absent >= 2 and (track.seen or now >= self._all_back_at):
                dead[lease] = "presence"
        return dead

    def _note(self, lease: int, seen: Sighting, now: float) -> None:
        track = self._tracks.get(lease)
        if track is None:
            track = self._tracks[lease] = _Track(seen.counter, now)
        elif seen.counter is not None and seen.counter != track.counter:
            track.counter, track.moved_at, track.absent = seen.counter, now, 0
            track.seen = track.seen or seen.present
        track.absent = 0 if seen.present else track.absent + 1

    def forget(self, lease: int) -> None:
        """Forget an instance whose requests were requeued."""
        self._tracks.pop(lease, None)
