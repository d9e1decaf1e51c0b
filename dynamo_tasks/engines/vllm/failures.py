"""vLLM's errors, said as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dynamo_tasks.errors import (
    DynamoError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    UnavailableError,
)

__all__ = ["translated"]


@contextmanager
def translated(api: Any, died: Callable[[str], EngineDeadError]) -> Iterator[None]:
    """Say what vLLM raises inside as an error of our tree.

    Args:
        api: The module :mod:`dynamo_tasks.engines.vllm.api`.
        died: Makes the error for an engine that is dead.
    """
    try:
        yield
    except api.EngineDeadError as error:
        raise died("its process ended") from error
    except api.EngineGenerateError as error:
        # It wraps what went wrong with one request.
        raise _said(api, error.__cause__ or error) from error
    except (api.VLLMClientError, api.GracefulHTTPError, api.GenerationError) as error:
        raise _said(api, error) from error


def _said(api: Any, error: BaseException) -> DynamoError:
    text = str(error) or type(error).__name__
    if isinstance(error, api.GracefulHTTPError | api.RetryableRequestError):
        return UnavailableError(
            f"vLLM: {text}", retry_after=1.0
        )  # its own limits (max_num_queued_reqs), a pause
    if isinstance(
        error, api.VLLMClientError | ValueError
    ):  # a value that it could not read is the request's fault
        return InvalidRequestError(text, param=getattr(error, "parameter", None))
    return EngineError(f"vLLM: {text}")
