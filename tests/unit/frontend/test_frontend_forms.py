"""Forms that are none."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.files.multipart import Form


@pytest.mark.parametrize("body", [b"\x1f\x8b gzip", b"--XX\n", b"--XX\r\n" + b"a: b\r\n" * 100])
def test_a_client_is_told_and_the_log_is_not_filled(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidRequestError, match="not a form"):
        Form(b"XX").feed(body)
    assert caplog.records == []
