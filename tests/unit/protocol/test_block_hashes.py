"""Hashes of KV blocks, as NVIDIA Dynamo's."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.kv.block_hashes import block_hash, chained, seed_of, sequence_hashes

TOKENS = [(place * 7919 + 13) % 50_000 for place in range(100)]
# dynamo._core.compute_block_hash_for_seq(TOKENS, 16) of ai-dynamo-runtime 1.6.1, and with lora_name="ada".
PLAIN = """44165f5f6f08a089 84ad73e3d906f644 c3d6a7532a59c311 c5e98705d3f70e3f 2930df7b3eec88ee
    ba4a7ffca7e3d893"""
LORA = """85a2a64edb1747af efcc4a8efbf80fc5 d064b382f1a6b002 a267b78da7b7cf1e 5a093f17755630c
    80d52a84df052d3e"""


@pytest.mark.parametrize(("lora", "theirs"), [("", PLAIN), ("ada", LORA)])
def test_blocks_have_the_hashes_that_dynamo_gives_them(lora: str, theirs: str) -> None:
    own = [block_hash(TOKENS[at : at + 16], seed_of(lora)) for at in range(0, 96, 16)]
    assert [f"{value:x}" for value in own] == theirs.split()
    chain: int | None = None
    for place, value in enumerate(own):
        chain = chained(chain, value)
        assert sequence_hashes(TOKENS, 16, lora)[place] == chain


def test_only_full_blocks_have_one() -> None:
    assert sequence_hashes(TOKENS[:15], 16) == []
    assert sequence_hashes(TOKENS, 16) == sequence_hashes(TOKENS[:96], 16)


def test_a_salt_changes_all_of_them() -> None:
    ways = [sequence_hashes(TOKENS, 16, lora, salt) for lora in ("", "ada") for salt in ("", "a", "b")]
    assert len({value for way in ways for value in way}) == 6 * 6
