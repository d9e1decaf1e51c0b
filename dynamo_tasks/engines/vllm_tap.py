"""Where a stream's tokens gather while it rests: in vLLM, which then makes one object of all of them.

Else vLLM makes an object per token, and merges those that wait in the stream's queue. Its ``stream_interval`` is
for that: how many new tokens it waits for. It belongs to the state of one request and is read at each step, on this
loop; so it may change between two steps. Two rules of vLLM's (``RequestState.make_request_output``):

- at 1, each step's tokens are given, and the offset of what was given stands still;
- above 1, everything behind that offset is given once there is enough of it, or at the end, and the offset moves on.

So the offset is set when the interval leaves 1, and what has gathered is asked for when it comes back.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Tap"]

_SHUT = 1 << 30


class Tap:
    """One stream's; open at first. Does nothing where the engine has an interval of its own.

    Args:
        llm: vLLM's ``AsyncLLM``.
        request_id: As ``generate()`` was given it; its first output was taken.
    """

    def __init__(self, llm: Any, request_id: str):
        processor = llm.output_processor
        known = processor.external_req_ids.get(request_id)
        state = processor.request_states.get(known[0]) if known else None
        self._state = state if state is not None and state.stream_interval == 1 else None

    def shut(self) -> None:
        """Let tokens gather; an end is given all the same."""
        state = self._state
        if state is not None and state.stream_interval == 1:
            state.sent_tokens_offset = state.detokenizer.num_output_tokens()
            state.stream_interval = _SHUT

    def open(self) -> None:
        """Give what has gathered now, and from now on each token."""
        state = self._state
        if state is None or state.stream_interval == 1:
            return
        state.stream_interval = 1
        gathered = state.detokenizer.output_token_ids[state.sent_tokens_offset :]
        if gathered:
            state.queue.put(state.make_request_output(gathered, None, None, None))
