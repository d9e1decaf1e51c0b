"""``@service``: a class becomes a service, and with ``dynamo=`` a distributed component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk.services.dynamo_config import DynamoConfig, as_dynamo_config
from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["service"]

T = TypeVar("T")


class _Default(int):
    """A default that can be distinguished from the same value written out."""


_ONE_WORKER = _Default(1)

_OPTIONS = frozenset(
    {"backlog", "cmd", "concurrency", "description", "endpoints", "extra_ports", "grpc", "http", "logging"}
    | {
        "max_runners",
        "metrics",
        "monitoring",
        "name",
        "path_prefix",
        "runner_probe",
        "ssl",
        "threads",
        "timeout",
    }
    | {"planner", "scale", "tracing"}
)
"""Other keywords of ``@service``: ours, and those of BentoML's that are passed on to it."""


def service(
    inner: type[T] | None = None,
    /,
    *,
    dynamo: Mapping[str, Any] | DynamoConfig | None = None,
    resources: Mapping[str, Any] | None = None,
    workers: int | Literal["cpu_count"] = _ONE_WORKER,
    traffic: Mapping[str, Any] | None = None,
    image: Any = None,
    envs: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Make a class a service, as ``@service`` or ``@service(...)``.

    Args:
        inner: The class.
        dynamo: ``{"enabled", "namespace", "name"}``: a distributed component, unless ``enabled`` is false.
            Without it a plain in-process service in namespace ``default``.
        resources: ``{"gpu", "cpu", "memory"}`` of each worker.
        workers: Processes; ``"cpu_count"``: one for each CPU.
        traffic: ``{"timeout" (seconds), "concurrency", "max_queue"}`` of the component as a whole,
            ``"max_stream_bytes"`` of one request (64 MiB).
        image: Container image, for deployment tools.
        envs: Environment variables, a mapping or ``[{"name": …, "value": …}]``.
        labels: Free labels.
        **options: ``concurrency`` (slots per process), ``scale`` (``{"min", "max", "idle", "start", "share", "turn",
            "sleep"}``), ``planner``, ``name``, and options that BentoML knows.

    Returns:
        A :class:`DynamoService`.

    Raises:
        InvalidNameError: a namespace, component or endpoint name with a character that is not allowed.
        ConfigError: an unknown argument, or one of the wrong type or out of range.

    Example:
        >>> @service(dynamo={"namespace": "dynamo"}, resources={"gpu": 1})
        ... class Worker:
        ...     model: str = "tiny"
        >>> Worker.dynamo_address()
        ('dynamo', 'Worker')
    """
    for option in options:
        if option not in _OPTIONS:
            known = {*_OPTIONS, "dynamo", "resources", "workers", "traffic", "image", "envs", "labels"}
            raise ConfigError(f"@service has no argument {option!r}{suggest(option, known)}")
    config = {"resources": resources, "workers": workers, "traffic": traffic, "labels": labels, **options}
    config = {key: value for key, value in config.items() if value is not None}
    if workers is _ONE_WORKER:
        del config["workers"]  # not written, so its origin is not this decorator
    component = as_dynamo_config(dynamo)

    def decorate(cls: Any) -> DynamoService[T]:
        if isinstance(cls, DynamoService):  # one class, two services: each takes it as it was written
            cls = cls.written
        if not isinstance(cls, type):
            raise ConfigError(f"@service decorates a class, not {cls!r}")
        return DynamoService(config, cls, image, envs, component)

    return decorate if inner is None else decorate(inner)
