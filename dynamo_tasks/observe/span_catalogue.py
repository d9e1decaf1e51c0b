"""Every span of dynamo-tasks; a part of the catalogue."""

from __future__ import annotations

from dynamo_tasks.observe.schema import SpanSpec

__all__ = ["SPANS"]

_SPANS = (
    SpanSpec("dynamo.http", "frontend", "server", "From an HTTP request to the end of its answer.",
         ("http.request.method", "http.request.method_original", "http.route", "http.response.status_code",
          "error.type", "url.path", "url.scheme", "server.address", "server.port", "client.address",
          "network.protocol.version", "user_agent.original", "gen_ai.operation.name", "gen_ai.provider.name",
          "gen_ai.request.model", "gen_ai.response.model", "gen_ai.usage.input_tokens",
          "gen_ai.usage.output_tokens", "gen_ai.usage.cache_read.input_tokens", "dynamo.request_id")),
    SpanSpec("dynamo.submit", "client", "producer", "Ledger record and message are written.",
         ("dynamo.request_id", "dynamo.endpoint", "messaging.system", "messaging.operation.name",
          "messaging.operation.type", "messaging.destination.name", "messaging.message.id")),
    SpanSpec("dynamo.run", "worker", "consumer", "One attempt, from claim to end; linked to its predecessor.",
         ("dynamo.request_id", "dynamo.endpoint", "dynamo.attempt", "dynamo.epoch", "dynamo.state",
          "messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.message.id",
          "dynamo.late.instance_id", "dynamo.late.prompt_tokens", "dynamo.late.overlap_tokens",
          "dynamo.late.prefill_tokens", "dynamo.late.place", "dynamo.late.passed", "dynamo.late.window",
          "dynamo.late.waited_s")),
    SpanSpec("dynamo.generate", "worker", "internal", "The engine's part of an attempt.",
         ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.usage.input_tokens",
          "gen_ai.usage.output_tokens", "gen_ai.usage.cache_read.input_tokens",
          "gen_ai.response.finish_reasons")),
    SpanSpec("dynamo.route", "client", "internal", "The choice of an instance by `kv`: why this one.",
         ("dynamo.request_id", "dynamo.endpoint", "dynamo.instance_id", "dynamo.prompt_tokens",
          "dynamo.overlap_tokens", "dynamo.best_overlap_tokens", "dynamo.prefill_tokens", "dynamo.active_blocks",
          "dynamo.cost", "dynamo.least_cost", "dynamo.by_session", "dynamo.late")),
    SpanSpec("dynamo.recover", "worker", "internal", "A sweep that requeues what a dead instance held.",
         ("dynamo.lost_instance", "dynamo.moved")),
)  # fmt: skip

SPANS: dict[str, SpanSpec] = {span.name: span for span in _SPANS}
"""All spans by name."""
