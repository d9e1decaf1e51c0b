import math

import pytest

from dynamo_tasks.engines.embedding import hash_vector

CAT = "The cat sits on the mat and looks at the bird."
CATS = "A cat sits on a mat and looks at two birds."
TAX = "Quarterly revenue forecasts exceeded guidance."


def vector(text: str, dimensions: int = 256) -> list[float]:
    return hash_vector(list(text.encode()), dimensions)


def cosine(a: str, b: str) -> float:
    return math.fsum(x * y for x, y in zip(vector(a), vector(b), strict=True))


@pytest.mark.parametrize("dimensions", [1, 2, 7, 256, 1024])
def test_unit_length(dimensions: int) -> None:
    for text in (CAT, "a", "ab"):
        assert len(vector(text, dimensions)) == dimensions
        assert math.hypot(*vector(text, dimensions)) == pytest.approx(1)


def test_similar_texts_are_closer() -> None:
    assert cosine(CAT, CAT) == pytest.approx(1)
    assert cosine(CAT, CATS) > 0.5
    assert cosine(CAT, CATS) > cosine(CAT, TAX) + 0.3


def test_same_in_every_process() -> None:
    assert hash_vector([97, 98], 4) == pytest.approx([0.948683, 0.0, 0.0, 0.316228], abs=1e-6)
