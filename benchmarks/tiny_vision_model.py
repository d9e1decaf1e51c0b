"""A tiny model that takes images: the Llama of :mod:`benchmarks.tiny_model` behind a vision transformer.

    python -m benchmarks.tiny_vision_model DIR

As in Idefics3. Its weights are random, so it sees nothing; but other pixels give another answer, and a larger image
more tokens. It is of the few architectures that vLLM runs without torchvision, which has no build for CPUs on PyPI.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.tiny_model import (
    SIZES,
    SPECIAL_TOKENS,
    Weights,
    config_of,
    save_weights,
    text_weights,
    write_json,
    write_tokenizer,
)

__all__ = ["IMAGE_TOKENS", "VISION_TEMPLATE", "make_tiny_vision_model"]

IMAGE_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
"""Special tokens of Idefics3; the first one is the placeholder."""
VISION_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header|>{{ message.role }}<|end_header|>"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content or [] %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header|>assistant<|end_header|>{% endif %}"
)

_SIZE = "tiny"
_TILE, _PATCH = 32, 8
"""Pixels of the squares that an image is cut into, and of the patches of those."""
_HIDDEN, _MLP, _LAYERS = 64, 128, 2
_SCALE = 2
"""Patches that become one token, on each side."""


def make_tiny_vision_model(folder: Path, *, template: str = VISION_TEMPLATE, seed: int = 0) -> Path:
    """Write model, tokenizer and image processor.

    Args:
        folder: Where; made if it does not exist.
        template: For chats.
        seed: Of the weights.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, (*SPECIAL_TOKENS, *IMAGE_TOKENS), template)
    write_json(folder / "config.json", _config())
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False})
    write_json(folder / "preprocessor_config.json", _preprocessor())
    tokens = (_TILE // _PATCH // _SCALE) ** 2
    write_json(
        folder / "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": tokens}
    )
    save_weights(folder, _weights(seed))
    return folder


def _config() -> dict[str, Any]:
    text = config_of(SIZES[_SIZE], 1024)
    del text["architectures"]
    vision = {
        "model_type": "idefics3_vision", "hidden_size": _HIDDEN, "intermediate_size": _MLP,
        "num_hidden_layers": _LAYERS, "num_attention_heads": 2, "image_size": _TILE, "patch_size": _PATCH,
        "num_channels": 3, "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    return {
        "architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3", "text_config": text,
        "vision_config": vision, "image_token_id": len(SPECIAL_TOKENS), "scale_factor": _SCALE,
        "torch_dtype": "float32", "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip


def _preprocessor() -> dict[str, Any]:
    half = [0.5, 0.5, 0.5]
    return {
        "image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 2 * _TILE},
        "max_image_size": {"longest_edge": _TILE}, "do_image_splitting": True, "do_resize": True, "do_pad": True,
        "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "image_mean": half, "image_std": half,
        "rescale_factor": 1 / 255, "resample": 1,
    }  # fmt: skip


def _weights(seed: int) -> dict[str, Any]:
    size = SIZES[_SIZE]
    weights = {
        name if name.startswith("lm_head") else name.replace("model.", "model.text_model.", 1): value
        for name, value in text_weights(size, seed).items()
    }
    random, zeros = Weights(seed + 1), Weights(0)
    at = "model.vision_model."

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = random.matrix(rows, columns)
        weights[f"{name}.bias"] = zeros.normal(rows, scale=0)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = zeros.normal(_HIDDEN, scale=0) + 1
        weights[f"{name}.bias"] = zeros.normal(_HIDDEN, scale=0)

    patch = f"{at}embeddings.patch_embedding"
    weights[f"{patch}.weight"] = random.normal(_HIDDEN, 3, _PATCH, _PATCH, scale=2 / (3 * _PATCH**2) ** 0.5)
    weights[f"{patch}.bias"] = zeros.normal(_HIDDEN, scale=0)
    places = (_TILE // _PATCH) ** 2
    weights[f"{at}embeddings.position_embedding.weight"] = random.normal(places, _HIDDEN, scale=1.0)
    norm(f"{at}post_layernorm")
    for layer in range(_LAYERS):
        block = f"{at}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{block}self_attn.{name}", _HIDDEN, _HIDDEN)
        linear(f"{block}mlp.fc1", _MLP, _HIDDEN)
        linear(f"{block}mlp.fc2", _HIDDEN, _MLP)
        norm(f"{block}layer_norm1")
        norm(f"{block}layer_norm2")
    projection = random.matrix(size.hidden, _HIDDEN * _SCALE**2)
    weights["model.connector.modality_projection.proj.weight"] = projection
    return weights


if __name__ == "__main__":
    print(make_tiny_vision_model(Path(sys.argv[1])))
