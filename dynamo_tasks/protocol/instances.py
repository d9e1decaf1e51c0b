"""The data that an instance publishes about itself."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.versions import PROTOCOL

__all__ = ["ASLEEP", "InstanceInfo", "Load", "ModelCard"]

ASLEEP = "asleep"
"""Name of the one endpoint that an instance registers while it sleeps: it serves nothing, and can be seen and woken."""


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts that a frontend must know to serve a model.

    Attributes:
        name: The served model name (``model`` of an OpenAI request).
        kind: ``chat`` (chat and completions), ``completions`` or ``embeddings``.
        tokenizer: A path to tokenizer files, or ``"bytes"``: one token per UTF-8 byte.
        chat_template: Jinja source; ``None`` = the tokenizer's own, or a plain role-per-line template.
        max_model_len: Tokens of prompt + answer; 0 = no limit.
        adapters: Names of LoRA adapters that are served as models too.
        tool_call_parser: What reads tool calls in its answers, if anything.
        reasoning_parser: What reads reasoning in its answers, if anything.
        heeds_tool_choice: Its engine does what ``tool_choice`` asks for by itself, without a parser.
        images: Most images of one request; 0 = it takes text alone.
        image_placeholder: What stands for an image where its chat template knows nothing of images; ``{n}`` in it is
            which image of the request it is, from 1. ``None`` = the engine needs nothing there.
        kv_block_size: Tokens per block of its prefix cache; 0 = unknown, or it has none.
        kv_events: Its workers publish what is in their caches.
        step_tokens: Most tokens that a step of its engine computes; 0 = unknown.
    """

    name: str
    kind: str = "chat"
    tokenizer: str = "bytes"
    chat_template: str | None = None
    max_model_len: int = 0
    adapters: list[str] = []
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    heeds_tool_choice: bool = False
    images: int = 0
    image_placeholder: str | None = None
    kv_block_size: int = 0
    kv_events: bool = False
    step_tokens: int = 0


class Load(msgspec.Struct, omit_defaults=True):
    """A snapshot of an instance's load.

    Attributes:
        in_flight: Requests that it runs now.
        capacity: Its slots.
        tokens: Tokens that it has produced since its start.
        running: Sequences in the engine's batch.
        waiting: Sequences inside the engine that do not run yet.
        kv_usage: Used share of the KV cache, 0..1.
        prefix_hits: Share of prompt tokens that the prefix cache had, 0..1.
        tokens_per_s: Over the last second or so.
        state: Of the instance, see ``runtime/hosting/lifecycle.py``.
        preemptible: Requests among them that it would release for others.
        preemptions: Requests that it has released so far.
        taken: Requests that it has begun since its start.
        prefill_tokens: Tokens of prompts that it has yet to compute.
        kv_active_blocks: KV blocks that its requests need, those that wait included.
        kv_total_blocks: KV blocks that it has.
        waits: Requests that it has begun, each at its first attempt, by their time in the queue: counts in the buckets
            of the planner's ``BOUNDS``, without the empty ones at the end.
        waited_s: Seconds that these requests waited in the queue, together.
        engine_waited_s: Seconds that requests have waited inside of its engine, together, as far as that tells.
    """

    in_flight: int = 0
    capacity: int = 0
    tokens: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    tokens_per_s: float = 0.0
    state: str = "Running"
    running: int = 0
    prefix_hits: float = 0.0
    preemptible: int = 0
    preemptions: int = 0
    taken: int = 0
    prefill_tokens: int = 0
    kv_active_blocks: int = 0
    kv_total_blocks: int = 0
    waits: tuple[int, ...] = ()
    waited_s: float = 0.0
    engine_waited_s: float = 0.0

    @classmethod
    def decode(cls, data: bytes | str) -> Load:
        """Decode from JSON.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except UNREADABLE as exc:
            raise ProtocolError(f"the load of an instance cannot be read: {exc}") from exc


class InstanceInfo(msgspec.Struct, frozen=True, omit_defaults=False):
    """Registration of one endpoint of one instance (a JSON object in the registry)."""

    component: str
    endpoint: str
    namespace: str
    lease_id: int
    transport: dict[str, str]
    version: int = PROTOCOL
    host: str = ""
    pid: int = 0
    started: float = 0.0
    capacity: int = 0
    model: ModelCard | None = None
    extra: dict[str, Any] = {}
    http: str | None = None
    """The URL at which this instance serves its HTTP methods, e.g. ``http://127.0.0.1:8001``."""
    streaming: bool = True
    """``True`` if the endpoint gives a stream; else it gives one value."""

    @property
    def id(self) -> EndpointId:
        """The endpoint that it serves."""
        return EndpointId(self.namespace, self.component, self.endpoint)

    @property
    def instance_id(self) -> str:
        """The lease id in hex."""
        return f"{self.lease_id:x}"

    def encode(self) -> bytes:
        """Encode as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes | str) -> InstanceInfo:
        """Decode from JSON; unknown fields of a newer peer are ignored.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except UNREADABLE as exc:
            raise ProtocolError(f"a registration cannot be read: {exc}") from exc
