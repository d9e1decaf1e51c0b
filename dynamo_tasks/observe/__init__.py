"""Telemetry: metrics, log events and spans, all named in one catalogue.

``from dynamo_tasks.observe import event, metrics`` is what the other layers need. The metrics
module (and with it prometheus-client) is loaded only by code that imports it.
"""

from __future__ import annotations

from dynamo_tasks.observe.catalogue import LOG_EVENTS, METRICS, SPANS
from dynamo_tasks.observe.log import JsonFormatter, enabled, event, mask_url, set_strict

__all__ = ["LOG_EVENTS", "METRICS", "SPANS", "JsonFormatter", "enabled", "event", "mask_url", "set_strict"]
