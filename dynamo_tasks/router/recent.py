"""Loads between two snapshots: what was just sent to an instance counts, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from dynamo_tasks.router.policies import Candidate

__all__ = ["Recent"]


class Recent:
    """Adds to each candidate's load what was sent to it since its snapshot was taken.

    Without it, all requests between two snapshots would go to the instance that was idle at the first one.
    """

    def __init__(self) -> None:
        self._sent: Counter[int] = Counter()
        self._snapshot: Any = None

    def adjust(self, candidates: Sequence[Candidate], snapshot: object) -> list[Candidate]:
        """The candidates with the loads that they may have by now.

        Args:
            candidates: As the snapshot has them.
            snapshot: The object that they came from; another one makes the counts start anew.

        Example:
            >>> recent, snapshot = Recent(), {}
            >>> recent.sent(7)
            >>> recent.adjust([], snapshot)
            []
        """
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._sent.clear()
        return [self._with(one) for one in candidates]

    def _with(self, one: Candidate) -> Candidate:
        sent = self._sent[one.instance_id]
        if not sent:
            return one
        return one._replace(load=msgspec.structs.replace(one.load, in_flight=one.load.in_flight + sent))

    def sent(self, instance_id: int) -> None:
        """A request went to an instance."""
        self._sent[instance_id] += 1
