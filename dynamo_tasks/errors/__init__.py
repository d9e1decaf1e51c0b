"""The one error tree of dynamo-tasks.

::

    DynamoError                        500  internal_error
    ├── ConfigError (ValueError)       400  invalid_config         bad YAML, flag, name or environment value
    │   └── InvalidNameError           400  invalid_name           namespace, component or endpoint name
    ├── RequestError                   400  the caller can mend it
    │   ├── InvalidRequestError        400  invalid_request_error  names the field (`param`)
    │   │   ├── ContextLengthError     400  context_length_exceeded  more tokens than the model can hold
    │   │   ├── InvalidEventIdError    400  invalid_event_id       malformed, or beyond the top of the stream
    │   │   └── PreviousResponseError  400  previous_response_not_found  what a response shall follow is not there
    │   ├── AuthenticationError        401  invalid_api_key
    │   ├── ForbiddenError             403  forbidden              from a web page, or under a name, that is not allowed
    │   ├── UnknownModelError          404  model_not_found
    │   ├── UnknownEndpointError       404  endpoint_not_found     lists those that are known (AttributeError)
    │   ├── UnknownServiceError        404  service_not_found      lists those that are known (LookupError)
    │   ├── UnknownMethodError         404  method_not_found       lists those that are known (AttributeError)
    │   ├── RequestNotFoundError       404  request_not_found
    │   ├── ObjectNotFoundError        404  not_found              a file, a batch, a conversation; or another key's
    │   ├── AlreadyRegisteredError     409  already_registered     another instance holds this registration
    │   ├── NamespaceInUseError        409  namespace_in_use       instances are registered in it
    │   ├── IdempotencyConflictError   409  idempotency_conflict   same key, another payload
    │   ├── ObjectConflictError        409  conflict               it has changed meanwhile, or its state forbids that
    │   ├── ConversationLockedError    409  conversation_locked    a response goes on in it
    │   ├── StreamExpiredError         410  stream_expired         the log is past its retention
    │   ├── PayloadTooLargeError       413  payload_too_large
    │   ├── UnsupportedEncodingError   415  unsupported_encoding   names those that are allowed
    │   ├── QueueFullError             429  queue_full             `retry_after` seconds
    │   └── RateLimitError             429  rate_limit_exceeded    of one API key; `retry_after` seconds
    │       └── InsufficientQuotaError 429  insufficient_quota     its budget of the day
    ├── UnavailableError               503  unavailable            `retry_after` seconds
    │   ├── ServerUnavailableError     503  server_unavailable     Redis cannot be reached
    │   │   └── ServerRefusedError     503  server_refused         it refuses commands for the moment, and says why
    │   │       └── ServerFullError    503  server_full            its memory is full: it takes no writes
    │   ├── StorageUnavailableError    503  storage_unavailable    files cannot be read or written
    │   ├── DeadlineUnreachableError   503  deadline_unreachable   it would wait past its deadline
    │   ├── NotStartedError            503  not_started            no worker runs, and none can be started
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

from dynamo_tasks.errors.base import (
    ConfigError,
    DynamoError,
    FencedError,
    InstanceDeadError,
    InvalidNameError,
    LeaseLostError,
    ProtocolError,
)
from dynamo_tasks.errors.failures import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EndpointError,
    EngineDeadError,
    EngineError,
    JobFailedError,
    NoInstancesError,
    NotResumableError,
    NotStartedError,
    RequestCancelledError,
    RequestExpiredError,
    RequestFailedError,
    ServerFullError,
    ServerRefusedError,
    ServerUnavailableError,
    ServiceCallError,
    ServiceTimeoutError,
    StorageUnavailableError,
    StreamDivergedError,
    StreamTooLargeError,
    UnavailableError,
    WorkerLostError,
    error_for_code,
)
from dynamo_tasks.errors.refusals import (
    AlreadyRegisteredError,
    AuthenticationError,
    ContextLengthError,
    ConversationLockedError,
    ForbiddenError,
    IdempotencyConflictError,
    InsufficientQuotaError,
    InvalidEventIdError,
    InvalidRequestError,
    NamespaceInUseError,
    ObjectConflictError,
    ObjectNotFoundError,
    PayloadTooLargeError,
    PreviousResponseError,
    QueueFullError,
    RateLimitError,
    RequestError,
    RequestNotFoundError,
    StreamExpiredError,
    UnknownEndpointError,
    UnknownMethodError,
    UnknownModelError,
    UnknownServiceError,
    UnsupportedEncodingError,
)

__all__ = [
    "AlreadyRegisteredError",
    "AuthenticationError",
    "ConfigError",
    "ContextLengthError",
    "ConversationLockedError",
    "DeadlineExceededError",
    "DeadlineUnreachableError",
    "DynamoError",
    "EndpointError",
    "EngineDeadError",
    "EngineError",
    "FencedError",
    "ForbiddenError",
    "IdempotencyConflictError",
    "InstanceDeadError",
    "InsufficientQuotaError",
    "InvalidEventIdError",
    "InvalidNameError",
    "InvalidRequestError",
    "JobFailedError",
    "LeaseLostError",
    "NamespaceInUseError",
    "NoInstancesError",
    "NotResumableError",
    "NotStartedError",
    "ObjectConflictError",
    "ObjectNotFoundError",
    "PayloadTooLargeError",
    "PreviousResponseError",
    "ProtocolError",
    "QueueFullError",
    "RateLimitError",
    "RequestCancelledError",
    "RequestError",
    "RequestExpiredError",
    "RequestFailedError",
    "RequestNotFoundError",
    "ServerFullError",
    "ServerRefusedError",
    "ServerUnavailableError",
    "ServiceCallError",
    "ServiceTimeoutError",
    "StorageUnavailableError",
    "StreamDivergedError",
    "StreamExpiredError",
    "StreamTooLargeError",
    "UnavailableError",
    "UnknownEndpointError",
    "UnknownMethodError",
    "UnknownModelError",
    "UnknownServiceError",
    "UnsupportedEncodingError",
    "WorkerLostError",
    "error_for_code",
]  # fmt: skip
