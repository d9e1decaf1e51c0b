"""Passwords never reach a log."""

import pytest

from dynamo_tasks.observe import mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hunter2@db:6379/0", "redis://:***@db:6379/0"),
        ("rediss://user:hunter2@db/0?ssl_cert_reqs=none", "rediss://user:***@db/0?ssl_cert_reqs=none"),
        ("redis://user@db/0", "redis://user@db/0"),
        ("redis://:pa/ss?w@rd@db/0", "redis://:***@db/0"),
        ("redis://db/0?password=hunter2&db=1", "redis://db/0?password=***&db=1"),
        ("redis://db/0?ssl_password=a&API_KEY=b", "redis://db/0?ssl_password=***&API_KEY=***"),
        ("sentinel://:a@h1:1;sentinel://:b@h2:2", "sentinel://:***@h1:1;sentinel://:***@h2:2"),
        ("unix:///tmp/redis.sock", "unix:///tmp/redis.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:pw@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("no url", "no url"),
        ("", ""),
    ],
)
def test_mask_url(url, masked):
    assert mask_url(url) == masked
