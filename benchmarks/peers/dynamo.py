"""NVIDIA Dynamo: its Rust frontend and its mocker, without etcd and NATS.

Discovery through files, requests over TCP, log level warn. It lives in a virtual environment of its own;
see benchmarks/README.md for how to make it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from string import ascii_lowercase

from benchmarks.procstat import descendants
from benchmarks.target import Target, TargetError

__all__ = ["NvidiaDynamo", "write_tiny_model"]

_MODEL = "tiny"
_VOCABULARY = 4096
_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# 0 does not mean "no delay" there.
_AS_FAST_AS_IT_CAN = 1_000_000.0
# A decode step of its mocker at ratio 1 takes 5.8 ms alone and 6.8 ms in a batch of 64 (measured).
_STEP_MS_AT_RATIO_1 = 6.3


class NvidiaDynamo(Target):
    """One frontend and one mocker worker."""

    name = "NVIDIA Dynamo"

    def __init__(self, *, delay_ms: float, venv: Path):
        """Describe the server.

        Args:
            delay_ms: Milliseconds per decode step, met roughly: its mocker computes them from the batch.
            venv: The virtual environment that holds ``ai-dynamo``.
        """
        super().__init__(delay_ms=delay_ms)
        self._python = venv / "bin" / "python"
        if not self._python.exists():
            raise TargetError(f"no {self._python}; benchmarks/README.md says how to install the peer")

    def start(self, home: Path) -> None:
        """Start frontend and mocker."""
        model = write_tiny_model(home / _MODEL)
        env = {
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(home / "discovery"),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_LOG": "warn",
            "HF_HUB_OFFLINE": "1",
        }
        python = [str(self._python), "-m"]
        self.spawn("frontend", [*python, "dynamo.frontend", "--http-port", str(self.port)], env)
        mocker = [*python, "dynamo.mocker", "--model-path", str(model), "--model-name", _MODEL]
        self.spawn("worker", [*mocker, *_speed(self.delay_ms)], env)

    def groups(self) -> dict[str, set[int]]:
        """Frontend and worker, each with its children."""
        return {role: descendants(self.pid(role)) for role in ("frontend", "worker")}


def _speed(delay_ms: float) -> list[str]:
    """Arguments of the mocker: prefill always as fast as it can, decode steps of ``delay_ms``."""
    speedup = ["--speedup-ratio", f"{_AS_FAST_AS_IT_CAN:g}"]
    if not delay_ms:
        return speedup
    # The decode ratio is multiplied with the other one.
    decode = _STEP_MS_AT_RATIO_1 / delay_ms / _AS_FAST_AS_IT_CAN
    return [*speedup, "--decode-speedup-ratio", f"{decode:.12f}"]


def write_tiny_model(folder: Path) -> Path:
    """Write what a frontend needs to know about a model: a config and a byte-level tokenizer."""
    folder.mkdir(parents=True)
    vocabulary = _vocabulary()
    end = "<|end|>"
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(vocabulary) + 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "eos_token_id": len(vocabulary),
            "bos_token_id": len(vocabulary),
        },
        "generation_config.json": {"eos_token_id": len(vocabulary), "bos_token_id": len(vocabulary)},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "bos_token": end,
            "chat_template": _TEMPLATE,
            "model_max_length": 8192,
        },
        "tokenizer.json": _tokenizer(vocabulary, end),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _tokenizer(vocabulary: dict[str, int], end: str) -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": len(vocabulary), "content": end, "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**special, **flags}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _vocabulary() -> dict[str, int]:
    """The bytes, then words: the mocker draws ids from all over, and each must give text to stream."""
    words = ("\u0120" + "".join(letters) for letters in itertools.product(ascii_lowercase, repeat=3))
    symbols = [*_byte_symbols(), *itertools.islice(words, _VOCABULARY - 256)]
    return {symbol: number for number, symbol in enumerate(symbols)}


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]
