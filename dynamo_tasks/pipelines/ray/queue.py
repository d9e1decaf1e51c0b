"""Calls of services that are Ray actors: their request queue, and what crosses between the processes.

Arguments and results are JSON, as on Celery; Ray carries them as bytes, so it pickles nothing of ours but those.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

import msgspec

from dynamo_tasks.errors import (
    DynamoError,
    EndpointError,
    InvalidRequestError,
    ServiceCallError,
    ServiceTimeoutError,
    WorkerLostError,
)
from dynamo_tasks.pipelines.calls.messages import ServiceRequest, ServiceResponse, describe_error
from dynamo_tasks.pipelines.calls.service_methods import refuse_method
from dynamo_tasks.pipelines.plans.plan import ServicePlan
from dynamo_tasks.pipelines.ray.cluster import ActorWrapper
from dynamo_tasks.protocol.plain import NOT_PLAIN, encode_plain, to_plain

__all__ = ["Answer", "RayQueueDescriptor", "decode_arguments", "encode_arguments"]


class Answer(msgspec.Struct, omit_defaults=True):
    """The result or the error of a method, or one value of a generator.

    Attributes:
        result: What it returned.
        error: ``TypeName: text`` of what it raised.
        error_types: Names of its class and of all bases.
        seconds: How long it ran.
    """

    result: Any = None
    error: str | None = None
    error_types: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def failure(cls, exc: BaseException, seconds: float = 0.0) -> Answer:
        """The answer of a method that raised."""
        return cls(None, describe_error(exc), tuple(one.__name__ for one in type(exc).__mro__), seconds)

    def encode(self) -> bytes:
        """Encode as JSON; a result that is none becomes an error."""
        try:
            return msgspec.json.encode(msgspec.structs.replace(self, result=to_plain(self.result)))
        except NOT_PLAIN as exc:
            return msgspec.json.encode(Answer.failure(InvalidRequestError(f"a result must be JSON: {exc}")))

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Read :meth:`encode`."""
        return msgspec.json.decode(data, type=cls)

    def response(self, request_id: int) -> ServiceResponse:
        """The response, as the caller's manager takes it."""
        failed = self.error is not None
        cause = EndpointError(self.error) if failed else None
        return ServiceResponse(
            not failed, self.result, self.error, self.seconds, request_id, cause, self.error_types
        )


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Arguments of a method as JSON.

    Raises:
        InvalidRequestError: they are none.
    """
    try:
        return encode_plain((args, kwargs))
    except NOT_PLAIN as exc:
        raise InvalidRequestError(f"arguments of a service must be JSON: {exc}") from exc


def decode_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The reverse of :func:`encode_arguments`."""
    return msgspec.json.decode(data, type=tuple[tuple[Any, ...], dict[str, Any]])


class RayQueueDescriptor:
    """The queue of a service that is an actor, named like it; it is its own queue.

    Args:
        job_id: Of the job.
        service: The service.
    """

    kind = "ray"

    def __init__(self, job_id: str, service: ServicePlan):
        self.name = f"{job_id}.{service.name}"
        self._service = service
        self._streams = frozenset(service.streams)
        self._actor: ActorWrapper | None = None

    def __repr__(self) -> str:
        return f"<RayQueueDescriptor {self.name}>"

    def get_queue(self) -> Self:
        """The queue."""
        return self

    def put(self, request: ServiceRequest) -> None:
        """Send a request; its response is put where it says."""
        try:
            self._send(request)
        except DynamoError as exc:
            request.response_queue.put(ServiceResponse.failure(request.request_id, exc))

    def _send(self, request: ServiceRequest) -> None:
        method = request.method_name
        if method not in self._service.methods:
            refuse_method(self._service.name, method, self._service.methods)
        if self._actor is None:
            self._actor = ActorWrapper.find(self.name)
        call = (method, request.left, encode_arguments(request.args, request.kwargs))
        if method in self._streams:
            values = _stream(self._actor, request, call)
            request.response_queue.put(ServiceResponse(True, values, None, 0.0, request.request_id))
        else:
            self._actor.call_async("call", *call).add_done_callback(partial(_answered, request))


def _answered(request: ServiceRequest, future: Future[bytes]) -> None:
    exc = future.exception()
    if exc is None:
        response = Answer.decode(future.result()).response(request.request_id)
    else:
        response = ServiceResponse.failure(request.request_id, exc)
    request.response_queue.put(response)


def _stream(actor: ActorWrapper, request: ServiceRequest, call: tuple[Any, ...]) -> Iterator[Any]:
    """The values of a generator; its reader gets the errors."""
    wait = request.left
    values = actor.stream("stream", *call, first_within=wait)
    try:
        for data in values:
            answer = Answer.decode(data)
            if answer.error is not None:
                raise ServiceCallError(f"Service call failed: {answer.error}") from EndpointError(
                    answer.error
                )
            yield answer.result
    except WorkerLostError as exc:
        raise ServiceCallError(f"Service call failed: {exc}") from exc
    except TimeoutError as exc:
        raise ServiceTimeoutError(
            f"Service call timeout after {wait:.1f}s: {request.service_name}.{request.method_name}"
        ) from exc
