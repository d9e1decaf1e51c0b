"""A tiny Llama with random weights and a trained byte-level BPE tokenizer, in a folder like any other model.

    python -m benchmarks.tiny_model DIR [SIZE]

Everything is made here, from a seed: no model hub is needed. The text that it writes means nothing, but it
behaves like a model: greedy answers are reproducible and differ from prompt to prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "CHAT_TEMPLATE",
    "SIZES",
    "SPECIAL_TOKENS",
    "VOCAB",
    "Size",
    "Weights",
    "config_of",
    "make_tiny_model",
    "save_weights",
    "text_weights",
    "write_json",
    "write_tokenizer",
]

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


class Size(NamedTuple):
    """Widths and depth of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int


SIZES = {
    "tiny": Size(hidden=96, layers=2, heads=3, kv_heads=1, head_dim=32, mlp=192),
    "even": Size(hidden=96, layers=2, heads=4, kv_heads=2, head_dim=32, mlp=192),
    "small": Size(hidden=512, layers=8, heads=8, kv_heads=4, head_dim=64, mlp=1408),
}
"""``tiny`` has 0.36 million weights, ``even`` about as many, that two processes can share, ``small`` 25 million."""

VOCAB = 1024
_TEXT = (
    "The quick brown fox jumps over the lazy dog, again and again, until the evening comes.",
    "A queue is a promise: what went in comes out, once, in order, and somebody is told of it.",
    "Ein Wörterbuch kennt Größe, Maß und Übermut; naïve Leser nennen es café. 你好，世界！🙂🚀 こんにちは",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} [1, 2.5, true, null]',
    "def main(argv: list[str]) -> int:\n    return sum(len(item) for item in argv)\n",
)


def make_tiny_model(folder: Path, *, size: str = "tiny", max_position: int = 1024, seed: int = 0) -> Path:
    """Write model and tokenizer.

    Args:
        folder: Where; made if it does not exist.
        size: A name of :data:`SIZES`.
        max_position: Context length in tokens.
        seed: Of the weights.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_json(folder / "config.json", config_of(SIZES[size], max_position))
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False})
    save_weights(folder, text_weights(SIZES[size], seed))
    return folder


def config_of(size: Size, max_position: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size.hidden,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim, "intermediate_size": size.mlp, "vocab_size": VOCAB, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": max_position,
        "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip


def write_tokenizer(
    folder: Path, special_tokens: tuple[str, ...] = SPECIAL_TOKENS, template: str = CHAT_TEMPLATE
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    # Every id of the vocabulary has a text, since a random model produces all of them.
    missing = VOCAB - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"w{number}" for number in range(missing)])
    begin = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL_TOKENS[0],
            "eos_token": SPECIAL_TOKENS[1], "clean_up_tokenization_spaces": False,
            "chat_template": template,
        },
    )  # fmt: skip


class Weights:
    """Random weights, from a seed."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._random = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float) -> Any:
        return (self._random.standard_normal(shape) * scale).astype("float32")

    def matrix(self, rows: int, columns: int) -> Any:
        return self.normal(rows, columns, scale=2 / columns**0.5)


def text_weights(size: Size, seed: int) -> dict[str, Any]:
    """Weights of a Llama by their names."""
    import numpy as np

    random = Weights(seed)
    normal, matrix = random.normal, random.matrix
    weights = {
        "model.embed_tokens.weight": normal(VOCAB, size.hidden, scale=1.0),
        "model.norm.weight": np.ones(size.hidden, np.float32),
        "lm_head.weight": normal(VOCAB, size.hidden, scale=0.5),
    }
    hidden, mlp = size.hidden, size.mlp
    heads, kv_heads = size.heads * size.head_dim, size.kv_heads * size.head_dim
    for layer in range(size.layers):
        shapes = {
            "self_attn.q_proj": (heads, hidden), "self_attn.k_proj": (kv_heads, hidden),
            "self_attn.v_proj": (kv_heads, hidden), "self_attn.o_proj": (hidden, heads),
            "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
        }  # fmt: skip
        for name, (rows, columns) in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(size.hidden, np.float32)
    return weights


def save_weights(folder: Path, weights: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1]), size=(*sys.argv, "tiny")[2]))
