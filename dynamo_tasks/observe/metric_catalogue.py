"""Every metric of dynamo-tasks; a part of the catalogue."""

from __future__ import annotations

from dynamo_tasks.observe.schema import Metric

__all__ = ["METRICS"]

# A token every 5 to 100 ms is what engines do; the ends show stalls and batches.
_TOKEN_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 3, 10)
_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ROUND_TRIPS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_REQUESTS = (
    Metric("requests_submitted_total", "counter", "requests", "Requests put into a queue.", ("endpoint",)),
    Metric(
        "requests_rejected_total",
        "counter",
        "requests",
        "Requests refused at admission, by error code.",
        ("endpoint", "code"),
    ),
    Metric(
        "requests_claimed_total",
        "counter",
        "attempts",
        "Attempts that began; more than the submitted ones where work was taken over.",
        ("endpoint",),
    ),
    Metric(
        "requests_forwarded_total",
        "counter",
        "requests",
        "Requests forwarded to an instance; outcome is ok, shared (that one was gone), fenced or gone.",
        ("endpoint", "outcome"),
    ),
    Metric(
        "requests_preempted_total",
        "counter",
        "requests",
        "Running requests that were released for others of a higher priority, and wait again.",
        ("endpoint",),
    ),
    Metric(
        "preemption_seconds",
        "histogram",
        "seconds",
        "From the choice of a running request that leaves its slot to the moment at which that is free.",
        (),
        _ROUND_TRIPS,
    ),
    Metric(
        "requests_finished_total",
        "counter",
        "requests",
        "Requests that this process ended: as their worker, or by a cancel, an expiry or as lost too often.",
        ("endpoint", "state"),
    ),
    Metric(
        "requests_duplicate_total",
        "counter",
        "messages",
        "Messages that were not run; reason is duplicate (owned elsewhere, or ended), gone, expired, wait (too early) "
        "or unsettled (only Celery's completion is run again).",
        ("endpoint", "reason"),
    ),
    Metric(
        "requests_fenced_total",
        "counter",
        "attempts",
        "Attempts that found out that another one owns their request.",
        ("endpoint",),
    ),
    Metric("requests_in_flight", "gauge", "requests", "Requests that this process runs now.", ("endpoint",)),
    Metric(
        "queue_wait_seconds",
        "histogram",
        "seconds",
        "From submit (or `not_before`) to the first claim.",
        ("endpoint",),
        _WAITS,
    ),
    Metric(
        "request_seconds",
        "histogram",
        "seconds",
        "From claim to end, of the attempt that ended the request.",
        ("endpoint", "state"),
        _DURATIONS,
    ),
    Metric(
        "tokens_total",
        "counter",
        "tokens",
        "Tokens of the requests that this process ended, by their usage; kind is prompt, cached or completion.",
        ("endpoint", "kind"),
    ),
)

_STREAMS = (
    Metric("writer_flushes_total", "counter", "flushes", "Flushes of this process's writer."),
    Metric("writer_events_per_flush", "histogram", "events", "Log events in one flush.", (), _BATCH_SIZES),
    Metric("writer_bytes_total", "counter", "bytes", "Payload bytes appended to logs."),
    Metric(
        "writer_flush_seconds",
        "histogram",
        "seconds",
        "From sending a flush to its last reply.",
        (),
        _ROUND_TRIPS,
    ),
    Metric(
        "writer_resyncs_total",
        "counter",
        "requests",
        "Open requests checked after a new connection; outcome is ok, ended, fenced, gone or diverged.",
        ("outcome",),
    ),
    Metric("reader_streams", "gauge", "streams", "Streams that this process reads now."),
    Metric(
        "reader_events_total",
        "counter",
        "events",
        "Log events applied; source is push or xrange.",
        ("source",),
    ),
    Metric("reader_gaps_total", "counter", "events", "Pushes that did not follow the last applied event."),
    Metric(
        "reader_xranges_total",
        "counter",
        "commands",
        "Reads of a log; reason is join, gap, silence, reconnect or slow (its buffer was full).",
        ("reason",),
    ),
    Metric(
        "reader_slow_total",
        "counter",
        "streams",
        "Streams whose consumer (an HTTP client, in a frontend) was too slow: they fell back to the log.",
    ),
    Metric("reader_diverged_total", "counter", "streams", "Readers that were ahead of a restored log."),
)

_FLEET = (
    Metric("instances", "gauge", "instances", "Live instances known to this process.", ("endpoint",)),
    Metric(
        "instances_wanted",
        "gauge",
        "instances",
        "Instances that are wanted, by hand, planner or requests.",
        ("component",),
    ),
    Metric(
        "requests_waiting",
        "gauge",
        "requests",
        "Requests that wait for a component, of all priorities; at frontends alone, asked of Redis at each scrape.",
        ("component",),
    ),
    Metric(
        "requests_running",
        "gauge",
        "requests",
        "Requests that all of its instances run; at frontends alone.",
        ("component",),
    ),
    Metric(
        "reconnects_total",
        "counter",
        "connections",
        "New connections after a loss; connection is commands, writer, reader, consumer, presence, watcher, channels "
        "or broker (Celery's).",
        ("connection",),
    ),
    Metric(
        "lease_renewal_seconds", "histogram", "seconds", "Round trip of a lease renewal.", (), _ROUND_TRIPS
    ),
    Metric("leases_lost_total", "counter", "leases", "Leases of this process that ended while it lived."),
    Metric(
        "sweeper_moves_total",
        "counter",
        "requests",
        "Requests moved by this process; kind is requeued, dead, settle, restored, republished, abandoned or disowned.",
        ("kind",),
    ),
    Metric(
        "input_refused_total",
        "counter",
        "messages",
        "What came from Redis and could not be used, so that it was passed over; where is pubsub, fanout, control, "
        "queue, registry, ledger, recovery, log, job, objects or binding.",
        ("where",),
    ),
    Metric(
        "engine_running", "gauge", "sequences", "Running batches of all instances of a model.", ("model",)
    ),
    Metric("engine_waiting", "gauge", "sequences", "Sequences waiting inside their engines.", ("model",)),
    Metric("engine_kv_usage", "gauge", "ratio", "Used share of their KV caches, 0 to 1 (mean).", ("model",)),
    Metric(
        "engine_prefix_hits", "gauge", "ratio", "Share of prompt tokens in their caches (mean).", ("model",)
    ),
    Metric(
        "instance_running", "gauge", "sequences", "Running batch of this process's engine.", ("component",)
    ),
    Metric("instance_waiting", "gauge", "sequences", "Sequences waiting inside of it.", ("component",)),
    Metric("instance_kv_usage", "gauge", "ratio", "Used share of its KV cache, 0 to 1.", ("component",)),
    Metric("instance_prefix_hits", "gauge", "ratio", "Share of prompt tokens in its cache.", ("component",)),
)

_HTTP = (
    Metric("http_requests_total", "counter", "requests", "HTTP requests answered.", ("api", "status")),
    Metric("http_request_seconds", "histogram", "seconds",
           "From the request's last byte to the answer's last byte.", ("api",), _DURATIONS),
    Metric("http_in_flight", "gauge", "requests", "HTTP requests being answered now.", ("api",)),
    Metric("http_tokens_total", "counter", "tokens",
           "Tokens of answers; kind is prompt, cached or completion.", ("model", "kind")),
    Metric("time_to_first_token_seconds", "histogram", "seconds",
           "From the HTTP request to its first token.", ("model",), _WAITS),
    Metric("inter_token_seconds", "histogram", "seconds",
           "Between two deliveries of tokens to one HTTP stream (sampled).", ("model",), _TOKEN_GAPS),
)  # fmt: skip

_TENANTS = (
    Metric("tenant_requests_total", "counter", "requests",
           "HTTP requests of keys to the APIs of models, by tenant, refused ones too; so many tenants have a label of "
           "their own (`Frontend.metric_tenants`), all others are `other`.", ("tenant",)),
    Metric("tenant_tokens_total", "counter", "tokens",
           "Tokens of these; kind is prompt, cached or completion. The exact account is `/v1/usage`.",
           ("tenant", "kind")),
    Metric("tenant_refused_total", "counter", "requests",
           "Requests refused by a limit of their key; code is rate_limit_exceeded or insufficient_quota.",
           ("tenant", "code")),
)  # fmt: skip

_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)
_PROMPTS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

# Dynamo's names where it has one.
_ROUTING = (
    Metric("router_requests_total", "counter", "requests", "Requests whose instance was chosen by `kv` here.",
           ("component",)),
    Metric("router_kv_hit_rate", "histogram", "ratio",
           "Share of a prompt that the chosen worker was expected to have cached.", ("component",), _SHARES),
    Metric("router_input_sequence_tokens", "histogram", "tokens", "Prompts of routed requests.", ("component",),
           _PROMPTS),
    Metric("router_kv_selected_cached_prefix_tokens_total", "counter", "tokens",
           "Tokens of prompts that the chosen workers were expected to have cached; what they really had is "
           "`tokens_total` of kind cached.", ("component",)),
    Metric("router_kv_best_eligible_cached_prefix_tokens_total", "counter", "tokens",
           "The same, had always the worker been chosen that has most.", ("component",)),
    Metric("router_non_max_overlap_selections_total", "counter", "requests",
           "Requests that went to a worker although another one had more of the prompt.", ("component",)),
    Metric("router_kv_blocks", "gauge", "blocks", "Different blocks that are known to be cached somewhere.",
           ("component",)),
    Metric("router_late_total", "counter", "requests",
           "Requests that were left to the worker that has room first.", ("component",)),
    Metric("late_taken_total", "counter", "requests", "Requests that this worker took late."),
    Metric("late_cached_tokens_total", "counter", "tokens", "Prompt tokens of these that it had cached."),
    Metric("late_wait_seconds", "histogram", "seconds", "Their time in the queue.", (), _WAITS),
    Metric("router_kv_event_gaps_total", "counter", "batches", "Times that batches of KV events were missed.",
           ("component",)),
)  # fmt: skip

_PIPELINES = (
    Metric("service_calls_total", "counter", "calls",
           "Calls that a service of a pipeline answered here; outcome is ok, error or expired.",
           ("service", "outcome")),
    Metric("service_call_seconds", "histogram", "seconds", "How long a service of a pipeline ran for a call.",
           ("service",), _ROUND_TRIPS),
    Metric("operator_records_total", "counter", "records",
           "Records that an operator handled here; outcome is ok, skipped, dead or failed.",
           ("pipeline", "operator", "outcome")),
)  # fmt: skip

METRICS: dict[str, Metric] = {
    m.name: m for m in (*_REQUESTS, *_STREAMS, *_FLEET, *_HTTP, *_TENANTS, *_ROUTING, *_PIPELINES)
}
"""All metrics by name."""
