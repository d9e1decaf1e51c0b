"""Failures: the service cannot answer now, or a request ended without success."""

from __future__ import annotations

from dynamo_tasks.errors.base import BY_CODE, DynamoError

__all__ = [
    "DeadlineExceededError",
    "DeadlineUnreachableError",
    "EndpointError",
    "EngineDeadError",
    "EngineError",
    "JobFailedError",
    "NoInstancesError",
    "NotResumableError",
    "NotStartedError",
    "RequestCancelledError",
    "RequestExpiredError",
    "RequestFailedError",
    "ServerFullError",
    "ServerRefusedError",
    "ServerUnavailableError",
    "ServiceCallError",
    "ServiceTimeoutError",
    "StorageUnavailableError",
    "StreamDivergedError",
    "StreamTooLargeError",
    "UnavailableError",
    "WorkerLostError",
    "error_for_code",
]


class UnavailableError(DynamoError):
    """The service cannot answer at the moment."""

    code = "unavailable"
    http_status = 503


class ServerUnavailableError(UnavailableError, ConnectionError):
    """The Redis server cannot be reached."""

    code = "server_unavailable"


class ServerRefusedError(ServerUnavailableError):
    """The Redis server is there, and refuses commands for the moment."""

    code = "server_refused"


class ServerFullError(ServerRefusedError):
    """The memory of the Redis server is full."""

    code = "server_full"


class StorageUnavailableError(UnavailableError):
    """The storage of files cannot be used at the moment."""

    code = "storage_unavailable"


class DeadlineUnreachableError(UnavailableError):
    """The component is busy for longer than the request may wait."""

    code = "deadline_unreachable"


class NoInstancesError(UnavailableError):
    """No live instance serves the endpoint."""

    code = "no_instances"


class NotStartedError(UnavailableError):
    """No worker runs, and none can be started."""

    code = "not_started"


class RequestFailedError(DynamoError):
    """The request ended without success."""

    code = "request_failed"


class EndpointError(RequestFailedError):
    """The endpoint raised an error."""

    code = "endpoint_error"


class EngineError(RequestFailedError):
    """The engine failed."""

    code = "engine_error"


class EngineDeadError(EngineError):
    """The engine process is dead."""

    code = "engine_dead"


class WorkerLostError(RequestFailedError):
    """The request lost its worker too often."""

    code = "worker_lost"


class RequestCancelledError(RequestFailedError):
    """The request was cancelled."""

    code = "cancelled"
    http_status = 499


class RequestExpiredError(RequestFailedError):
    """The request expired before a worker could start it."""

    code = "expired"
    http_status = 504


class DeadlineExceededError(RequestFailedError, TimeoutError):
    """The request ran past its deadline or time limit."""

    code = "deadline_exceeded"
    http_status = 504


class StreamDivergedError(RequestFailedError):
    """Redis forgot events that this reader has already seen."""

    code = "stream_diverged"


class StreamTooLargeError(RequestFailedError):
    """The stream reached its byte cap."""

    code = "stream_too_large"


class NotResumableError(RequestFailedError):
    """Output was already streamed, and the endpoint's policy forbids to run it again."""

    code = "not_resumable"


class ServiceCallError(RequestFailedError, RuntimeError):
    """A service of a pipeline raised; its error is chained as the cause."""

    code = "service_call_failed"


class ServiceTimeoutError(RequestFailedError, TimeoutError):
    """A service of a pipeline did not answer in time."""

    code = "service_timeout"
    http_status = 504


class JobFailedError(RequestFailedError):
    """A job of a pipeline failed; what it failed with is chained as the cause."""

    code = "job_failed"


def error_for_code(code: str, message: str, *, param: str | None = None) -> DynamoError:
    """Rebuild an error that crossed a process; of an unknown code (a newer peer's) as :class:`EndpointError`."""
    known: dict[str, type[DynamoError]] = {**BY_CODE, DynamoError.code: DynamoError}
    return known.get(code, EndpointError)(message, param=param)
