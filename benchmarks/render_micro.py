"""How long one single-token event takes to become an SSE event.

    python benchmarks/render_micro.py [--rounds 5]

Prints microseconds per event, the best of some rounds: decoding alone, rendering with it, and the
difference, which is what rendering costs on top. The bar is 3 µs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.protocol.events import Event, EventId, Kind
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, encode_deltas

EVENTS = 20_000
BATCHES = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts (5)")
    rounds = parser.parse_args().rounds
    events = _events()
    decoding = _best(lambda: _decode(events), rounds)
    print(f"decode only              {decoding:6.2f} µs/event")
    for api in ("chat", "completions"):
        for batch in BATCHES:
            total = _best(partial(_render, api, events, batch), rounds)
            extra = total - decoding
            print(f"{api:<12} batch {batch:>3}   {total:6.2f} µs/event, {extra:5.2f} on top of decoding")


def _events() -> list[Event]:
    epoch = 1_763_790_000_000
    texts = (" token", "Zürich", 'a "quoted"\nline', "。")
    return [
        Event(EventId(epoch, seq), str(Kind.TOKENS), encode_deltas([TokenDelta(texts[seq % 4], [seq])]))
        for seq in range(1, EVENTS + 1)
    ]


def _decode(events: list[Event]) -> None:
    for event in events:
        decode_deltas(event.data)


def _render(api: str, events: list[Event], batch: int) -> None:
    renderer = CompletionRenderer(Render(api, "00000000-0000-4000-8000-000000000000", "tiny", 1_763_790_000))
    for start in range(0, EVENTS, batch):
        renderer.render(events[start : start + batch])


def _best(work: Callable[[], None], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best / EVENTS * 1e6


if __name__ == "__main__":
    main()
