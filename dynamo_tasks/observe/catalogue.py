"""Every metric, log event and span of dynamo-tasks.

This is the contract: what is not here cannot be recorded, and ``docs/telemetry.md`` is written from
it. Names are stable within a major version; entries are added, not renamed.
"""

from __future__ import annotations

from logging import DEBUG, ERROR, INFO, WARNING

from dynamo_tasks.observe.schema import LogEvent, Metric
from dynamo_tasks.observe.span_catalogue import SPANS

__all__ = ["LOG_EVENTS", "METRICS", "SPANS"]

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
    m.name: m for m in (*_REQUESTS, *_STREAMS, *_FLEET, *_HTTP, *_ROUTING, *_PIPELINES)
}
"""All metrics by name."""

# Whatever happens once per request is DEBUG: a busy worker ends hundreds per second.
_LOG_EVENTS = (
    LogEvent("request.submitted", DEBUG, "A request was put into its queue.",
             ("request_id", "endpoint", "queue", "priority")),
    LogEvent("request.claimed", DEBUG, "An attempt began.",
             ("request_id", "endpoint", "attempt", "epoch", "queue_wait_s")),
    LogEvent("request.finished", DEBUG, "A request reached its end.",
             ("request_id", "endpoint", "state", "finish_reason", "tokens", "duration_s")),
    LogEvent("request.failed", WARNING, "A request ended with an error.",
             ("request_id", "endpoint", "attempt", "code", "error")),
    LogEvent("request.cancelled", INFO,
             "Somebody else than its worker ended a request; reason is cancelled or abandoned.",
             ("request_id", "endpoint", "reason")),
    LogEvent("request.stopped", INFO, "A running endpoint, and its engine, was stopped; after_s from when its "
             "process was asked to until it had stopped; reason is CANCELLED, FAILED, deadline, time_limit, requeue, …",
             ("request_id", "endpoint", "attempt", "reason", "after_s")),
    LogEvent("request.expired", INFO, "A request's time was over before it was started.",
             ("request_id", "endpoint")),
    LogEvent("request.fenced", WARNING, "Another attempt owns the request; this one was aborted.",
             ("request_id", "endpoint", "epoch")),
    LogEvent("request.duplicate", DEBUG, "A message was not run; reason as in `requests_duplicate_total`.",
             ("request_id", "endpoint", "reason")),
    LogEvent("request.requeued", INFO,
             "A request lost its worker; outcome is requeued, dead (no attempts left) or settle (completion is left).",
             ("request_id", "namespace", "lost_instance", "outcome")),
    LogEvent("request.forwarded", DEBUG,
             "A request was forwarded to an instance; outcome as in `requests_forwarded_total`.",
             ("request_id", "endpoint", "instance_id", "outcome")),
    LogEvent("request.preempted", DEBUG,
             "A request that uses spare capacity was released for others; ran_s since its claim.",
             ("request_id", "endpoint", "epoch", "ran_s")),
    LogEvent("request.retried", INFO, "An endpoint asked for a retry.",
             ("request_id", "endpoint", "retries", "delay_s", "error")),
    LogEvent("queue.name_unknown", WARNING, "A task that nobody here knows was sent by a name that looks like an "
             "endpoint's; none of its namespace is called so now, so it goes where plain tasks go. Was it meant? Set "
             "DYNAMO_GRAPH, or name its queue.", ("endpoint", "queue")),
    LogEvent("queue.nobody_serves", WARNING, "An endpoint was called for the first time, and ten seconds "
             "later no instance serves it: its calls wait.", ("endpoint", "hint")),
    LogEvent("message.malformed", ERROR, "What was taken from a queue is no Celery message; it was dropped.",
             ("queue", "error", "raw")),
    LogEvent("stream.resync", INFO, "Open requests were compared with Redis after a new connection.",
             ("open", "lost", "run_id")),
    LogEvent("writer.failed", ERROR, "A fault of the writer: its open streams are given up, others continue them.",
             ("open", "error")),
    LogEvent("stream.diverged", ERROR, "A reader was ahead of the log; its stream ended with an error.",
             ("request_id", "applied")),
    LogEvent("store.connection_lost", WARNING, "A connection to Redis ended.",
             ("connection", "server", "error")),
    LogEvent("store.unreadable", WARNING, "Something in Redis is in no protocol that this release knows; "
             "it is passed over.", ("name", "error")),
    LogEvent("store.reconnect_failed", WARNING, "A lost connection could not be made again yet.",
             ("connection", "server", "error")),
    LogEvent("store.refused", WARNING,
             "Redis refused a command, e.g. because its memory is full; what passes by itself is tried again.",
             ("error",)),
    LogEvent("store.memory_low", WARNING,
             "Redis has too little memory for the streams of this worker's slots, at 50 tokens/s each.",
             ("used", "limit", "slots", "tokens_per_s")),
    LogEvent("store.reconnected", INFO, "A lost connection works again.",
             ("connection", "server", "attempts", "outage_s", "run_id")),
    LogEvent("lease.lost", ERROR, "The lease of this instance ended while it lived.",
             ("instance_id", "silent_s")),
    LogEvent("worker.start", INFO, "A worker process serves.",
             ("component", "instance_id", "pid", "capacity", "queues", "gpus")),
    LogEvent("worker.stop", INFO, "A worker process ends; reason is warm, soft, cold or error.",
             ("component", "instance_id", "reason", "in_flight", "handed_over")),
    LogEvent("instance.registered", INFO, "An endpoint of this process can be found.",
             ("endpoint", "instance_id", "queue", "model")),
    LogEvent("instance.deregistered", INFO, "An endpoint of this process was taken back.",
             ("endpoint", "instance_id")),
    LogEvent("instance.appeared", DEBUG, "Another instance was found.", ("endpoint", "instance_id", "host")),
    LogEvent("instance.died", WARNING, "Another instance is taken for dead; by is lease or presence.",
             ("namespace", "instance_id", "by")),
    LogEvent("instance.state", INFO, "An instance of this process went from one state to the next, and why.",
             ("component", "instance_id", "old", "new", "reason")),
    LogEvent("planner.failed", ERROR, "A planner's policy raised; what is wanted stays as it is.",
             ("component", "error")),
    LogEvent("scale.wanted", INFO, "Another number of instances is wanted; by is start, queue, idle or planner.",
             ("component", "wanted", "before", "by", "waiting")),
    LogEvent("instance.unhealthy", WARNING, "An instance of this process takes no work until its checks pass.",
             ("component", "instance_id", "reason")),
    LogEvent("instance.dead", ERROR, "A liveness check failed twice: the process requeues what runs and ends.",
             ("component", "instance_id", "reason")),
    LogEvent("events.missed", WARNING, "A subscriber was too slow, or away too long: events behind `after` are gone.",
             ("subject", "after", "next")),
    LogEvent("router.chosen", DEBUG, "`kv` chose an instance, and why.",
             ("request_id", "endpoint", "instance_id", "prompt_tokens", "overlap_tokens", "best_overlap_tokens",
              "prefill_tokens", "active_blocks", "cost", "least_cost", "by_session")),
    LogEvent("router.kv_events_missed", INFO, "Batches of a worker's KV events are missing; its snapshot is asked for.",
             ("worker_id", "event_id")),
    LogEvent("engine.kv_events_lost", WARNING, "A batch of KV events was lost; routers take a snapshot.",
             ("worker_id", "seq", "error")),
    LogEvent("engine.progress", INFO,
             "An engine gets ready; phase is import, configure, load, weights, profile, warmup or ready.",
             ("engine", "model", "phase", "elapsed_s")),
    LogEvent("engine.start", INFO, "An engine is ready.", ("engine", "model", "startup_s")),
    LogEvent("engine.stop", INFO, "An engine was stopped.", ("engine", "model")),
    LogEvent("engine.sleep", INFO, "An engine sleeps at level 1 or 2, or was woken (0).", ("engine", "level")),
    LogEvent("engine.died", ERROR, "An engine failed; the instance leaves the registry.",
             ("engine", "model", "error")),
    LogEvent("sweeper.moved", INFO, "Requests were moved; kind as in `sweeper_moves_total`.",
             ("kind", "count", "namespace", "lost_instance")),
    LogEvent("http.start", INFO, "The HTTP server listens.", ("host", "port", "models")),
    LogEvent("http.stop", INFO, "The HTTP server ends.", ("host", "port", "open_streams")),
    LogEvent("system.start", INFO, "The system port of a process listens.", ("host", "port")),
    LogEvent("http.request", DEBUG, "An HTTP request was answered.",
             ("request_id", "api", "status", "model", "duration_s", "tokens", "key")),
    LogEvent("http.error", ERROR, "An HTTP request failed for a reason of our own.",
             ("request_id", "api", "error")),
    LogEvent("http.cut_off", INFO, "A client went beyond a limit of its connection, which was closed.",
             ("reason", "client")),
    LogEvent("http.full", WARNING, "Connections are refused: there are no descriptors left; reported once a second.",
             ("reason",)),
    LogEvent("http.disconnected", DEBUG, "An HTTP client left before the end.", ("request_id", "api")),
    LogEvent("files.sweep_failed", WARNING, "Contents that nobody needs any more could not be deleted; tried again.",
             ("file", "error")),
    LogEvent("batch.ended", INFO, "A batch has ended.", ("batch", "status", "total", "completed", "failed")),
    LogEvent("batch.run_again", WARNING, "A run of a batch ended without having ended the batch; another one follows.",
             ("batch", "run")),
    LogEvent("batch.supervision_failed", WARNING, "Batches could not be looked after; tried again soon.", ("error",)),
    LogEvent("webhook.refused", WARNING, "An address did not take an event; tried again later.",
             ("host", "event", "tries", "error")),
    LogEvent("webhook.given_up", ERROR, "An address has not taken an event for three days.",
             ("host", "event", "error")),
    LogEvent("webhook.watch_failed", WARNING, "Responses could not be looked at; tried again soon.", ("error",)),
    LogEvent("config.loaded", INFO, "A process knows its configuration and goes to its server.",
             ("graph", "services", "redis_url")),
    LogEvent("config.warning", WARNING, "A setting works, but probably not as meant.", ("key", "problem")),
    LogEvent("service.state", INFO,
             "A service took a step: Created, Configured, Linked, Initialized, Running, Stopping.",
             ("service", "before", "state")),
    LogEvent("job.start", INFO, "A job of a pipeline was started.", ("job", "backend", "operators", "services")),
    LogEvent("job.end", INFO, "A job of a pipeline has ended.", ("job", "state", "records", "duration_s")),
    LogEvent("job.failed", ERROR, "A job of a pipeline failed; operator is the one that could not go on.",
             ("job", "operator", "error")),
    LogEvent("job.bad_record", WARNING, "An operator could not handle a record; policy is skip or dead_letter.",
             ("job", "operator", "policy", "error")),
    LogEvent("job.unbegun", WARNING,
             "Tasks and services of a job wait for a slot: more workers are needed, or a larger concurrency.",
             ("job", "unbegun", "requests")),
    LogEvent("job.hook_failed", ERROR, "`close` of a function or service raised while its job ended.",
             ("job", "name", "error")),
    LogEvent("job.actor_hung", WARNING, "An actor on Ray gave no sign of life for that long; it is started again.",
             ("job", "actor", "silent_s")),
    LogEvent("hook.failed", ERROR, "A hook of a service raised.", ("service", "hook", "error")),
)  # fmt: skip

LOG_EVENTS: dict[str, LogEvent] = {entry.name: entry for entry in _LOG_EVENTS}
"""All log events by name."""
