"""vLLM's ``AsyncLLM`` with nothing around it: what an engine gives at best.

Driven over stdin and stdout: a JSON line ``{"concurrency", "requests", "max_tokens"}`` is answered by one with
``wall_s``, ``requests`` and ``tokens``. Prompts are those of the load generator, rendered and tokenized before
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
        await _load(llm, arguments["model"], 1, 2, 2)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            found = await _load(
                llm, arguments["model"], asked["concurrency"], asked["requests"], asked["max_tokens"]
            )
            print(json.dumps(found), flush=True)
    finally:
        llm.shutdown()


async def _load(llm: Any, model: str, concurrency: int, requests: int, max_tokens: int) -> dict[str, Any]:
    prompts = iter(list(token_prompts(model, requests)))
    began = time.perf_counter()
    counts = await asyncio.gather(*[_client(llm, prompts, max_tokens) for _ in range(concurrency)])
    return {"wall_s": time.perf_counter() - began, "requests": requests, "tokens": sum(counts)}


def token_prompts(model: str, requests: int) -> Iterator[list[int]]:
    """The prompts of the load generator, as token ids."""
    from benchmarks.load import Load, Requests
    from dynamo_tasks.engines.payload import prompt_ids
    from dynamo_tasks.engines.tokenizer import load_tokenizer
    from dynamo_tasks.protocol.instances import ModelCard

    tokenizer, card = load_tokenizer(model), ModelCard(name="direct")
    made = Requests(Load(url="http://127.0.0.1", model="direct", requests=requests))
    for _ in range(requests):
        body = json.loads(made.next().partition(b"\r\n\r\n")[2])
        yield prompt_ids(body, tokenizer, card)


async def _client(llm: Any, prompts: Iterator[list[int]], max_tokens: int) -> int:
    """One of the concurrent clients: the next prompt when the last answer is complete."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    own = {**llm.model_config.get_diff_sampling_param(), "max_tokens": max_tokens, "ignore_eos": True}
    params = SamplingParams(**own, output_kind=RequestOutputKind.DELTA)
    tokens = 0
    for number, ids in enumerate(prompts):
        prompt = {"type": "token", "prompt_token_ids": ids}
        async for output in llm.generate(prompt, params, f"{id(prompt)}-{number}"):
            tokens += len(output.outputs[0].token_ids)
    return tokens


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
