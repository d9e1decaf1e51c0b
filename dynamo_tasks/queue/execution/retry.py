"""Retries by Celery after an endpoint's error: ``autoretry_for`` and its companions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.time import get_exponential_backoff_interval

from dynamo_tasks.sdk.context import RetryRequested

__all__ = ["RETRY_OPTIONS", "RetryPolicy"]

RETRY_OPTIONS = frozenset(
    {
        "autoretry_for",
        "dont_autoretry_for",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
    }
)
"""Task options that this module takes over: Celery's own wrapper would retry a request that has ended."""


class RetryPolicy:
    """The options of one endpoint.

    Args:
        options: As given to ``@dynamo_endpoint``; the defaults are Celery's.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._for = tuple(options.get("autoretry_for", ()))
        self._not_for = tuple(options.get("dont_autoretry_for", ()))
        self._kwargs = dict(options.get("retry_kwargs", {}))
        self._backoff = int(options.get("retry_backoff", 0))
        self._backoff_max = int(options.get("retry_backoff_max", 600))
        self._jitter = bool(options.get("retry_jitter", True))
        self._max = self._kwargs.get("max_retries", options.get("max_retries", 3))

    def check(self, exc: Exception, retries: int) -> None:
        """Ask for a retry, if this error is to be retried and retries are left.

        Raises:
            RetryRequested: it is.
        """
        if not isinstance(exc, self._for) or isinstance(exc, self._not_for):
            return
        if self._max is not None and retries >= self._max:
            return
        countdown = self._kwargs.get("countdown")
        if self._backoff:
            countdown = get_exponential_backoff_interval(
                factor=max(1, self._backoff),
                retries=retries,
                maximum=self._backoff_max,
                full_jitter=self._jitter,
            )
        raise RetryRequested(exc, countdown, self._max) from exc
