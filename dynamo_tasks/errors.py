"""The one error tree of dynamo-tasks.

::

    DynamoError                        500  internal_error
    ├── ConfigError (ValueError)       400  invalid_config         bad YAML, flag, name or environment value
    │   └── InvalidNameError           400  invalid_name           namespace, component or endpoint name
    ├── RequestError                   400  the caller can mend it
    │   ├── InvalidRequestError        400  invalid_request_error  names the field (`param`)
    │   │   ├── ContextLengthError     400  context_length_exceeded  more tokens than the model can hold
    │   │   └── InvalidEventIdError    400  invalid_event_id       malformed, or beyond the top of the stream
    │   ├── AuthenticationError        401  invalid_api_key
    │   ├── ForbiddenError             403  forbidden              from a web page, or under a name, that is not allowed
    │   ├── UnknownModelError          404  model_not_found
    │   ├── UnknownEndpointError       404  endpoint_not_found     lists those that are known (AttributeError)
    │   ├── UnknownServiceError        404  service_not_found      lists those that are known (LookupError)
    │   ├── UnknownMethodError         404  method_not_found       lists those that are known (AttributeError)
    │   ├── RequestNotFoundError       404  request_not_found
    │   ├── AlreadyRegisteredError     409  already_registered     another instance holds this registration
    │   ├── NamespaceInUseError        409  namespace_in_use       instances are registered in it
    │   ├── IdempotencyConflictError   409  idempotency_conflict   same key, another payload
    │   ├── StreamExpiredError         410  stream_expired         the log is past its retention
    │   ├── PayloadTooLargeError       413  payload_too_large
    │   ├── UnsupportedEncodingError   415  unsupported_encoding   names those that are allowed
    │   ├── QueueFullError             429  queue_full             `retry_after` seconds
    │   └── RateLimitError             429  rate_limit_exceeded    of one API key; `retry_after` seconds
    ├── UnavailableError               503  unavailable            `retry_after` seconds
    │   ├── ServerUnavailableError     503  server_unavailable     Redis cannot be reached
    │   │   └── ServerRefusedError     503  server_refused         it refuses commands for the moment, and says why
    │   │       └── ServerFullError    503  server_full            its memory is full: it takes no writes
    │   ├── DeadlineUnreachableError   503  deadline_unreachable   it would wait past its deadline
    │   └── NoInstancesError           503  no_instances           nobody serves the endpoint
    ├── RequestFailedError             500  the request ended without success
    │   ├── EndpointError              500  endpoint_error         the endpoint raised
    │   ├── EngineError                500  engine_error
    │   │   └── EngineDeadError        500  engine_dead
    │   ├── WorkerLostError            500  worker_lost            attempts used up
    │   ├── RequestCancelledError      499  cancelled
    │   ├── RequestExpiredError        504  expired                its deadline or `expires` passed in the queue
    │   ├── DeadlineExceededError      504  deadline_exceeded      while it ran
    │   ├── StreamDivergedError        500  stream_diverged        a reader is ahead of the log
    │   ├── StreamTooLargeError        500  stream_too_large       the byte cap of one stream
    │   ├── NotResumableError          500  not_resumable          it had streamed, and its policy forbids another run
    │   ├── ServiceCallError           500  service_call_failed    a service of a pipeline raised (RuntimeError)
    │   ├── ServiceTimeoutError        504  service_timeout        it did not answer in time (TimeoutError)
    │   └── JobFailedError             500  job_failed             a job of a pipeline; its cause is chained
    ├── ProtocolError                  500  protocol_error         what was read is not what a peer writes
    ├── FencedError                    500  fenced                 another attempt owns the request (internal)
    ├── InstanceDeadError              500  instance_dead          its liveness probe said no (plain serving)
    └── LeaseLostError                 500  lease_lost
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AlreadyRegisteredError", "AuthenticationError", "ConfigError", "ContextLengthError", "DeadlineExceededError",
    "DeadlineUnreachableError", "DynamoError", "EndpointError", "EngineDeadError", "EngineError", "FencedError",
    "ForbiddenError", "IdempotencyConflictError", "InstanceDeadError", "InvalidEventIdError", "InvalidNameError",
    "InvalidRequestError", "JobFailedError", "LeaseLostError", "NamespaceInUseError", "NoInstancesError",
    "NotResumableError", "PayloadTooLargeError", "ProtocolError", "QueueFullError", "RateLimitError",
    "RequestCancelledError", "RequestError", "RequestExpiredError", "RequestFailedError", "RequestNotFoundError",
    "ServerFullError", "ServerRefusedError", "ServerUnavailableError", "ServiceCallError", "ServiceTimeoutError",
    "StreamDivergedError", "StreamExpiredError", "StreamTooLargeError", "UnavailableError", "UnknownEndpointError",
    "UnknownMethodError", "UnknownModelError", "UnknownServiceError", "UnsupportedEncodingError", "WorkerLostError",
    "error_for_code",
]  # fmt: skip

_BY_CODE: dict[str, type[DynamoError]] = {}


class DynamoError(Exception):
    """Something went wrong inside dynamo-tasks."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None
    ):
        """Make the error.

        Args:
            message: What happened and what to do; the class docstring by default.
            param: The field of the request that is at fault, e.g. ``messages[0].role``.
            retry_after: Seconds after which a retry makes sense.
        """
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])
        self.param = param
        self.retry_after = retry_after

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _BY_CODE.setdefault(cls.code, cls)

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self.args[0]) if self.args else ""


class ConfigError(DynamoError, ValueError):
    """The configuration is not valid."""

    code = "invalid_config"
    http_status = 400


class InvalidNameError(ConfigError):
    """A namespace, component or endpoint name has a character that is not allowed."""

    code = "invalid_name"


class RequestError(DynamoError):
    """The request cannot be served as it stands; the caller can mend it."""

    code = "request_error"
    http_status = 400


class InvalidRequestError(RequestError, ValueError):
    """A field of the request is not valid."""

    code = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """Prompt and answer have more tokens than the model can hold."""

    code = "context_length_exceeded"


class InvalidEventIdError(InvalidRequestError):
    """The event id is malformed or lies beyond the top of the stream."""

    code = "invalid_event_id"


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    http_status = 401


class ForbiddenError(RequestError):
    """The request comes from a web page, or under a name of the server, that is not allowed."""

    code = "forbidden"
    http_status = 403


class UnknownModelError(RequestError):
    """No instance serves this model."""

    code = "model_not_found"
    http_status = 404


class UnknownEndpointError(RequestError, AttributeError):
    """The component has no such endpoint."""

    code = "endpoint_not_found"
    http_status = 404


class UnknownServiceError(RequestError, LookupError):
    """The environment has no such service."""

    code = "service_not_found"
    http_status = 404


class UnknownMethodError(RequestError, AttributeError):
    """The service has no such method."""

    code = "method_not_found"
    http_status = 404


class RequestNotFoundError(RequestError, LookupError):
    """No request with this id is known."""

    code = "request_not_found"
    http_status = 404


class AlreadyRegisteredError(RequestError):
    """Another instance holds this registration."""

    code = "already_registered"
    http_status = 409


class NamespaceInUseError(RequestError):
    """Instances are registered in the namespace."""

    code = "namespace_in_use"
    http_status = 409


class IdempotencyConflictError(RequestError):
    """The idempotency key was used with another payload."""

    code = "idempotency_conflict"
    http_status = 409


class StreamExpiredError(RequestError):
    """The stream is past its retention and was deleted."""

    code = "stream_expired"
    http_status = 410


class PayloadTooLargeError(RequestError):
    """The payload is larger than allowed."""

    code = "payload_too_large"
    http_status = 413


class UnsupportedEncodingError(RequestError):
    """The body is compressed in a way that is not supported."""

    code = "unsupported_encoding"
    http_status = 415


class QueueFullError(RequestError):
    """The component's queue is at its limit."""

    code = "queue_full"
    http_status = 429


class RateLimitError(RequestError):
    """The API key is at its limit of requests."""

    code = "rate_limit_exceeded"
    http_status = 429


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


class DeadlineUnreachableError(UnavailableError):
    """The component is busy for longer than the request may wait."""

    code = "deadline_unreachable"


class NoInstancesError(UnavailableError):
    """No live instance serves the endpoint."""

    code = "no_instances"


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


class ProtocolError(DynamoError):
    """Something was read from Redis that neither this release nor a peer of it writes."""

    code = "protocol_error"


class FencedError(DynamoError):
    """Another attempt owns the request now."""

    code = "fenced"


class InstanceDeadError(DynamoError):
    """A liveness probe of what this process serves said no."""

    code = "instance_dead"


class LeaseLostError(DynamoError):
    """The lease of this instance is gone."""

    code = "lease_lost"


def error_for_code(code: str, message: str, *, param: str | None = None) -> DynamoError:
    """Rebuild an error that crossed a process; of an unknown code (a newer peer's) as :class:`EndpointError`."""
    known: dict[str, type[DynamoError]] = {**_BY_CODE, DynamoError.code: DynamoError}
    return known.get(code, EndpointError)(message, param=param)
