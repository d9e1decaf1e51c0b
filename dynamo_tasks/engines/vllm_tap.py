"""Where the tokens of a stream gather while it rests: here, and not in vLLM's objects.

vLLM looks at each token of each stream after each step: statistics, detokenizer, log probabilities, an object for the
stream's reader. For a stream that nobody reads at the moment, and whose text is made here, there is nothing to do but
to keep the id. So outputs of such streams are taken out before vLLM's ``OutputProcessor`` sees them; that is most of
what it would do in a busy worker.

Whatever else comes with a token goes vLLM's own way, behind what has gathered: an end, log probabilities, an error.
What is used of vLLM: ``OutputProcessor.process_outputs(outputs, …)`` is called for each step with objects that have
``request_id``, ``new_token_ids``, ``new_logprobs`` and ``finish_reason``; ``external_req_ids`` and
``request_states`` find a request's state, whose ``queue.output`` is what waits for its reader.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Tap", "Taps"]


class Taps:
    """Of one engine. No stream's is ever shut where vLLM counts tokens for statistics, or sends them at intervals.

    Args:
        llm: vLLM's ``AsyncLLM``.
    """

    def __init__(self, llm: Any):
        self._processor = processor = llm.output_processor
        self._process = processor.process_outputs
        self._counts = bool(llm.log_stats)
        self._shut: dict[str, list[int]] = {}
        processor.process_outputs = self._outputs

    def tap(self, request_id: str) -> Tap:
        """One stream's, by the id that ``generate()`` was given; its first output was taken."""
        known = self._processor.external_req_ids.get(request_id)
        state = self._processor.request_states.get(known[0]) if known else None
        if self._counts or state is None or state.stream_interval != 1:
            return Tap({}, "", None)
        return Tap(self._shut, known[0], state.queue)

    def _outputs(self, outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        shut = self._shut
        if shut:
            rest = []
            for output in outputs:
                gathered = shut.get(output.request_id)
                if gathered is None or output.finish_reason is not None or output.new_logprobs is not None:
                    rest.append(output)
                else:
                    gathered += output.new_token_ids
            outputs = rest
        return self._process(outputs, *args, **kwargs)


class Tap:
    """Open at first."""

    __slots__ = ("_key", "_queue", "_shut")

    def __init__(self, shut: dict[str, list[int]], key: str, queue: Any):
        self._shut = shut
        self._key = key
        self._queue = queue

    def shut(self) -> None:
        """Let tokens gather."""
        if self._queue is not None:
            self._shut[self._key] = []

    def open(self) -> list[int]:
        """Give what has gathered, in order; from now on each token goes to the stream's reader. Idempotent."""
        return self._shut.pop(self._key, [])

    @property
    def passed(self) -> bool:
        """Whether something went vLLM's own way meanwhile: it comes behind what has gathered."""
        return self._queue is None or self._queue.output is not None
