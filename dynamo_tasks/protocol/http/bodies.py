"""JSON bodies of requests, of any kind: what they are decoded with, how deep they may be, and names of parameters.

People change a base URL and keep their code, so a request brings what vLLM, TGI, SGLang, llama.cpp, Ollama, OpenRouter
or LiteLLM know. What has a counterpart here is taken under its own name; what only tunes a sampler that no engine here
has, or speaks of a provider's business, changes nothing. Neither is taken for a typing error: only names that nobody
knows are compared with the known ones.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.structure import check_structure

__all__ = [
    "ALIASES",
    "IGNORED",
    "MAX_DEPTH",
    "PASSED",
    "decode_json",
    "decode_nested",
    "decode_object",
    "resolve_aliases",
    "similar",
]

MAX_DEPTH = 64
"""Levels to which the JSON of a body may be nested."""
_BOM = b"\xef\xbb\xbf"
_OTHERS = {
    b"\x1f\x8b": "gzip, which the header Content-Encoding must say",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F]..)")
_SEARCHED = 256 << 10
"""Bytes in which a reason is looked for."""


def decode_json(raw: bytes) -> Any:
    """Parse the JSON of a request body; a byte order mark before it is skipped.

    Raises:
        InvalidRequestError: Not JSON, not UTF-8, or nested too deeply.
    """
    try:
        body = msgspec.json.decode(raw.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"the body is not valid JSON: {_cause(raw) or exc}") from None
    except RecursionError:
        raise _too_deep() from None
    # Only a body with that many brackets can be that deep; counting them costs nothing.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise _too_deep()
    return body


def _cause(raw: bytes) -> str:
    """Find the cause that the parser's own message does not show."""
    if raw[:2] in _OTHERS:
        return f"it is {_OTHERS[raw[:2]]}; UTF-8 is expected"
    if raw[1:2] == b"\0" or raw[:1] == b"\0":
        return "it is UTF-16 or UTF-32; UTF-8 is expected"
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        return f"byte {exc.start} ({raw[exc.start : exc.start + 1].hex()}) is not UTF-8"
    found = _SURROGATE.search(raw.replace(b"\\\\", b"  ")[:_SEARCHED])
    if found:
        return f"{found[0][:6].decode()} at byte {found.start()} is half of a surrogate pair, which is no character"
    return ""


def decode_nested(raw: bytes) -> Any:
    """Parse JSON that came as a text inside of a body, with the same bounds.

    Raises:
        InvalidRequestError: As :func:`decode_json`, or it holds too much.
    """
    check_structure(raw)
    return decode_json(raw)


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the body is nested more than {MAX_DEPTH} levels deep")


def _deeper_than(value: Any, levels: int) -> bool:
    """Return whether JSON is nested more deeply; level by level, so that nothing here is recursive."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def decode_object(raw: bytes) -> dict[str, Any]:
    """Parse the JSON object of a request body.

    Raises:
        InvalidRequestError: As :func:`decode_json`, or it is no object.
    """
    body = decode_json(raw)
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body must be a JSON object, not {_json_type(body)}")
    return body


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


PASSED = frozenset(
    {
        "add_generation_prompt", "add_special_tokens", "allowed_token_ids", "audio", "bad_words",
        "chat_template_kwargs", "continue_final_message", "documents", "guided_choice", "guided_grammar", "guided_json",
        "guided_regex", "include_stop_str_in_output", "length_penalty", "logits_processors", "mm_processor_kwargs",
        "modalities", "prediction", "prompt_logprobs", "skip_special_tokens", "spaces_between_special_tokens",
        "structured_outputs", "truncate_prompt_tokens", "use_beam_search", "web_search_options",
    }
)  # fmt: skip
"""Known and not checked at the edge: the template or the engine takes or refuses them."""

ALIASES = {
    "ebnf": "guided_grammar",
    "grammar": "guided_grammar",
    "json_schema": "guided_json",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "random_seed": "seed",
    "regex": "guided_regex",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
}
"""Another server's name → the one here, which wins where both are given."""

_OPENAI = """metadata moderation prompt_cache_key prompt_cache_options prompt_cache_retention
    reasoning_effort safety_identifier service_tier store user_location verbosity"""
_VLLM = """bypass_prefix_cache cache_hit_threshold ec_transfer_params include_reasoning
    kv_transfer_params media_io_kwargs repetition_detection request_id return_token_ids
    return_tokens_as_token_ids stream_interval thinking_token_budget vllm_xargs"""
_SGLANG = """bootstrap_host bootstrap_port bootstrap_room custom_logit_processor custom_params
    data_parallel_rank disagg_prefill_dp_rank extra_key lora_path no_stop_trim
    return_cached_tokens_details return_hidden_states return_routed_experts rid separate_reasoning
    session_params stop_regex stream_reasoning"""
_TGI = """adapter_id best_of_n decoder_input_details details do_sample max_time return_full_text
    top_n_tokens truncate typical_p watermark"""
_HF = """dynamic_temperature early_stopping encoder_repetition_penalty epsilon_cutoff eta_cutoff
    guidance_scale max_length min_length no_repeat_ngram_size num_beams num_return_sequences
    penalty_alpha sampler_order sampler_priority smoothing_curve smoothing_factor
    temperature_last"""
_LLAMA_CPP = """adaptive_decay adaptive_target backend_sampling cache_prompt dry_allowed_length
    dry_base dry_multiplier dry_penalty_last_n dry_sequence_breakers dynatemp_exponent
    dynatemp_range id_slot lora min_keep mirostat mirostat_eta mirostat_mode mirostat_tau
    n_cache_reuse n_discard n_indent n_keep n_probs parse_tool_calls penalize_nl post_sampling_probs
    reasoning_budget reasoning_format repeat_last_n response_fields return_progress return_tokens
    samplers t_max_predict_ms tfs tfs_z thinking_forced_open timings_per_token top_a top_n_sigma
    typ_p typical xtc_probability xtc_threshold"""
_OLLAMA = """context f16_kv format images keep_alive low_vram main_gpu num_batch num_ctx num_gpu
    num_gqa num_keep num_thread numa options raw system template think truncate use_mlock use_mmap
    vocab_only"""
_OPENROUTER = """cache_control debug image_config include_reasoning models plugins provider
    reasoning route session_id structured_output trace transforms usage"""
_CLIENTS = """allowed_openai_params api_base api_key api_type api_version base_url cache caching
    chat_session_id context_window_fallback_dict custom_llm_provider deployment_id drop_params
    enable_search enable_thinking extra_body extra_headers extra_query fallbacks guardrails headers
    input_type litellm_call_id litellm_metadata logprob_start_len mock_response model_info
    num_retries organization prompt_mode provider_options request_timeout return_logprob
    safe_mode safe_prompt tags task thinking thinking_budget top_logprobs_num"""

IGNORED = frozenset(
    " ".join(
        (_OPENAI, _VLLM, _SGLANG, _TGI, _HF, _LLAMA_CPP, _OLLAMA, _OPENROUTER, _CLIENTS)
    ).split()
)  # fmt: skip
"""Accepted, and without a meaning here."""

# Each comparison costs some 0.1 ms; a body may hold a million unknown fields, or one of ten million letters.
_COMPARED, _COMPARED_LENGTH = 32, 64
_NEAR = 0.8
"""Similarity from which on a name that nobody knows counts as a misspelt known one."""


def resolve_aliases(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request in which other servers' names have become the ones here; itself where it has none of them."""
    if ALIASES.keys().isdisjoint(body):
        return body
    found = {name: value for name, value in body.items() if name not in ALIASES}
    for alias, name in ALIASES.items():
        value = body.get(alias)
        if value is not None and found.get(name) is None and not _means_no_limit(name, value):
            found[name] = value
    return found


def _means_no_limit(name: str, value: Any) -> bool:
    """Ollama's and llama.cpp's -1 and -2."""
    return name == "max_tokens" and value in (-1, -2)


def similar(names: Collection[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first name that nobody knows and that looks like a known one, with the one that was probably meant."""
    unknown = set(names).difference(known, IGNORED, ALIASES)
    if not unknown:
        return None
    compared = [name for name in names if name in unknown and len(name) <= _COMPARED_LENGTH]
    for name in compared[:_COMPARED]:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=_NEAR)
        if near:
            return name, near[0]
    return None
