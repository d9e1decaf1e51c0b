"""Refusals: the caller can mend what it asked for."""

from __future__ import annotations

from dynamo_tasks.errors.base import DynamoError

__all__ = [
    "AlreadyRegisteredError",
    "AuthenticationError",
    "ContextLengthError",
    "ConversationLockedError",
    "ForbiddenError",
    "IdempotencyConflictError",
    "InsufficientQuotaError",
    "InvalidEventIdError",
    "InvalidRequestError",
    "NamespaceInUseError",
    "ObjectConflictError",
    "ObjectNotFoundError",
    "PayloadTooLargeError",
    "PreviousResponseError",
    "QueueFullError",
    "RateLimitError",
    "RequestError",
    "RequestNotFoundError",
    "StreamExpiredError",
    "UnknownEndpointError",
    "UnknownMethodError",
    "UnknownModelError",
    "UnknownServiceError",
    "UnsupportedEncodingError",
]


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


class PreviousResponseError(InvalidRequestError):
    """The response that another one shall follow is not there, or has not ended."""

    code = "previous_response_not_found"


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


class ObjectNotFoundError(RequestError, LookupError):
    """No object with this id is known."""

    code = "not_found"
    http_status = 404


class ObjectConflictError(RequestError):
    """The object has changed meanwhile, or its state forbids what was asked for."""

    code = "conflict"
    http_status = 409


class ConversationLockedError(RequestError):
    """A response goes on in this conversation, or its items have changed meanwhile; try again in a few seconds."""

    code = "conversation_locked"
    http_status = 409


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
    """The API key is at its limit of requests, or of tokens."""

    code = "rate_limit_exceeded"
    http_status = 429


class InsufficientQuotaError(RateLimitError):
    """The API key has used up its budget of the day."""

    code = "insufficient_quota"
