"""Keys of queues, which kombu names, and of what lies beside them; patterns of all keys of a namespace."""

from __future__ import annotations

from functools import lru_cache

__all__ = [
    "PRIORITY_SEPARATOR", "PRIORITY_STEPS", "WAIT_QUEUE_STEP", "consumer_name", "glob_escape", "namespace_patterns",
    "priority_suffix", "queue_keys", "unacked_index_key", "unacked_key",
]  # fmt: skip

PRIORITY_SEPARATOR = "\x06\x16"
"""The separator that kombu puts between the name of a queue and its priority step."""

PRIORITY_STEPS = (0, 3, 6, 9)
"""kombu's steps; a priority belongs to the highest step that is not above it, 0 is served first."""

WAIT_QUEUE_STEP = 10
"""A step that no priority belongs to. Its list is as long as the wait queues behind the others (see
``store/ledger/lua/lib/wait_queue_rules.lua``), since kombu and Flower take the sum of all steps for the
length of a queue."""

_BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")


def glob_escape(text: str) -> str:
    """Text that a pattern of SCAN takes literally."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)


def namespace_patterns(prefix: str, namespace: str) -> list[str]:
    """Patterns of all keys of a namespace: its own, its queues, and kombu's bindings of these."""
    queues = f"{namespace}|"
    return [
        f"{prefix}dt:{namespace}:*",
        f"{prefix}{queues}*",
        *(f"{prefix}{one}{queues}*" for one in _BINDINGS),
    ]


def queue_keys(prefix: str, queue: str) -> list[str]:
    """All keys of a queue: what waits in it by priority, how many lie in its wait queues, and kombu's bindings."""
    suffixes = [*map(priority_suffix, PRIORITY_STEPS), f"{PRIORITY_SEPARATOR}{WAIT_QUEUE_STEP}"]
    return [
        *(f"{prefix}{queue}{suffix}" for suffix in suffixes),
        *(f"{prefix}{one}{queue}" for one in _BINDINGS),
    ]


def consumer_name(lease: int) -> str:
    """Name of the connections on which an instance takes messages, as ``CLIENT LIST`` shows it."""
    return f"dynamo-tasks:consumer:{lease:x}"


def unacked_key(lease: int, prefix: str = "") -> str:
    """Plain tasks' messages that an instance has fetched and not acknowledged (kombu writes it)."""
    return f"{prefix}dt:@unacked:{lease:x}"


def unacked_index_key(lease: int, prefix: str = "") -> str:
    """Their delivery tags by time."""
    return f"{prefix}dt:@unacked_index:{lease:x}"


@lru_cache(maxsize=32)
def priority_suffix(priority: int) -> str:
    """The suffix that kombu adds to a queue's name for a Celery priority 0..9; empty for step 0."""
    bounded = min(max(0, int(priority)), 9)  # JSON of others may have 5.0
    step = max(step for step in PRIORITY_STEPS if step <= bounded)
    return f"{PRIORITY_SEPARATOR}{step}" if step else ""
