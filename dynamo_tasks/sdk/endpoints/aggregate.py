"""Aggregates: each makes one result of the values that a generator yields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.sdk.endpoints.payloads import give_plain

if TYPE_CHECKING:
    from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint

__all__ = ["Aggregate", "ListAggregate", "new_aggregate"]


class Aggregate(Protocol):
    """Makes one result of the values of a stream."""

    def add(self, value: Any) -> None:
        """Take the next value: plain data, or a token delta."""

    def result(self) -> Any:
        """The result; plain data."""


class ListAggregate:
    """The default: the list of all values."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def add(self, value: Any) -> None:
        """Take the next value."""
        self._values.append(value.as_dict() if isinstance(value, TokenDelta) else value)

    def result(self) -> list[Any]:
        """All values."""
        return self._values


class _Users:
    """One that users wrote: it sees values as callers do, and may return what is to be made plain."""

    def __init__(self, made: Aggregate, endpoint: DynamoEndpoint) -> None:
        self._made = made
        self._endpoint = endpoint

    def add(self, value: Any) -> None:
        self._made.add(value.as_dict() if isinstance(value, TokenDelta) else value)

    def result(self) -> Any:
        return give_plain(self._made.result(), self._endpoint)


def new_aggregate(endpoint: DynamoEndpoint) -> Aggregate:
    """A fresh aggregate for one request of an endpoint."""
    if endpoint.aggregate is None:
        return ListAggregate()
    made: Aggregate = endpoint.aggregate()
    # ours takes token deltas as they are: the hot path
    return made if type(made) is CompletionAggregate else _Users(made, endpoint)
