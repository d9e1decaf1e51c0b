"""A tiny Llama with random weights and a trained byte-level BPE tokenizer, in a folder like any other model.

    python -m benchmarks.tiny_model DIR

Everything is made here, from a seed: no model hub is needed. The text that it writes means nothing, but it
behaves like a model: greedy answers are reproducible and differ from prompt to prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "make_tiny_model"]

SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|start_header|>", "<|end_header|>", "<|tool|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}<|tool|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}<|start_header|>{{ message.role }}<|end_header|>"
    "{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<|tool|>{{ call.function | tojson }}{% endfor %}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header|>assistant<|end_header|>{% endif %}"
)

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM, _MLP, _VOCAB = 96, 2, 3, 1, 32, 192, 1024
_TEXT = (
    "The quick brown fox jumps over the lazy dog, again and again, until the evening comes.",
    "A queue is a promise: what went in comes out, once, in order, and somebody is told of it.",
    "Ein Wörterbuch kennt Größe, Maß und Übermut; naïve Leser nennen es café. 你好，世界！🙂🚀 こんにちは",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} [1, 2.5, true, null]',
    "def main(argv: list[str]) -> int:\n    return sum(len(item) for item in argv)\n",
)


def make_tiny_model(folder: Path, *, max_position: int = 1024, seed: int = 0) -> Path:
    """Write model and tokenizer.

    Args:
        folder: Where; made if it does not exist.
        max_position: Context length in tokens.
        seed: Of the weights.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    _write_json(folder / "config.json", _config(max_position))
    _write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False})
    _write_weights(folder / "model.safetensors", seed)
    return folder


def _config(max_position: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS, "num_attention_heads": _HEADS, "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM, "intermediate_size": _MLP, "vocab_size": _VOCAB, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": max_position,
        "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    # Every id of the vocabulary has a text, since a random model produces all of them.
    missing = _VOCAB - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"w{number}" for number in range(missing)])
    begin = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL_TOKENS[0],
            "eos_token": SPECIAL_TOKENS[1], "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )  # fmt: skip


def _write_weights(file: Path, seed: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> Any:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def matrix(rows: int, columns: int) -> Any:
        return normal(rows, columns, scale=2 / columns**0.5)

    weights = {
        "model.embed_tokens.weight": normal(_VOCAB, _HIDDEN, scale=1.0),
        "model.norm.weight": np.ones(_HIDDEN, np.float32),
        "lm_head.weight": normal(_VOCAB, _HIDDEN, scale=0.5),
    }
    heads, kv_heads = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    for layer in range(_LAYERS):
        shapes = {
            "self_attn.q_proj": (heads, _HIDDEN), "self_attn.k_proj": (kv_heads, _HIDDEN),
            "self_attn.v_proj": (kv_heads, _HIDDEN), "self_attn.o_proj": (_HIDDEN, heads),
            "mlp.gate_proj": (_MLP, _HIDDEN), "mlp.up_proj": (_MLP, _HIDDEN), "mlp.down_proj": (_HIDDEN, _MLP),
        }  # fmt: skip
        for name, (rows, columns) in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(_HIDDEN, np.float32)
    save_file(weights, str(file), metadata={"format": "pt"})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
