"""vLLM's ``AsyncLLM`` with nothing around it: what an engine gives at best.

Driven over stdin and stdout: a JSON line ``{"concurrency", "requests", "max_tokens", "spread"}`` is answered by one
with ``wall_s`` and ``tokens``. Prompts are those of the load generator, rendered and tokenized before
the clock starts; text is made by vLLM, token by token, as its own server has it done.

    python -m benchmarks.vllm_direct '{"model": "DIR", "max_num_seqs": 64}'
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["main", "token_prompts"]


async def main(arguments: dict[str, Any]) -> None:
    """Serve lines until stdin ends."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    try:
        await _load(llm, arguments["model"], concurrency=1, requests=2, max_tokens=2)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            print(json.dumps(await _load(llm, arguments["model"], **asked)), flush=True)
    finally:
        llm.shutdown()


async def _load(llm: Any, model: str, *, concurrency: int, **load: Any) -> dict[str, Any]:
    prompts = iter(list(token_prompts(model, **load)))
    began = time.perf_counter()
    counts = await asyncio.gather(*[_client(llm, prompts) for _ in range(concurrency)])
    return {"wall_s": time.perf_counter() - began, "tokens": sum(counts)}


def token_prompts(model: str, **load: Any) -> Iterator[tuple[list[int], int]]:
    """The requests of a load: each prompt's token ids, and how many tokens it asks for."""
    from benchmarks.load import Load, Requests
    from dynamo_tasks.engines.text.prompts import prompt_ids
    from dynamo_tasks.engines.text.tokenizer import load_tokenizer
    from dynamo_tasks.protocol.instances import ModelCard

    tokenizer, card = load_tokenizer(model), ModelCard(name="direct")
    asked = Load(url="http://127.0.0.1", model="direct", **load)
    made = Requests(asked)
    for _ in range(asked.requests):
        request, tokens = made.next()
        yield prompt_ids(json.loads(request.partition(b"\r\n\r\n")[2]), tokenizer, card), tokens


async def _client(llm: Any, prompts: Iterator[tuple[list[int], int]]) -> int:
    """One of the concurrent clients: the next prompt when the last answer is complete."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    own = {**llm.model_config.get_diff_sampling_param(), "ignore_eos": True}
    tokens = 0
    for number, (ids, asked) in enumerate(prompts):
        params = SamplingParams(**own, max_tokens=asked, output_kind=RequestOutputKind.DELTA)
        prompt = {"type": "token", "prompt_token_ids": ids}
        async for output in llm.generate(prompt, params, f"{id(prompt)}-{number}"):
            tokens += len(output.outputs[0].token_ids)
    return tokens


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
