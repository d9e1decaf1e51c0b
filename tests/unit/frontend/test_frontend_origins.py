"""Names and pages: what is configured, and how it is checked."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import ConfigError, ForbiddenError
from dynamo_tasks.frontend.access.admission import Origins
from dynamo_tasks.frontend.access.configured import HOSTS, PAGES, is_loopback, listed


def test_both_settings_are_lists_or_commas_or_variables() -> None:
    assert listed(PAGES, ["https://App.example", "http://localhost:3000"]) == (
        "https://app.example",
        "http://localhost:3000",
    )
    assert listed(PAGES, "https://a.example, *") == ("https://a.example", "*")
    assert listed(PAGES, [], {"DYNAMO_CORS_ORIGINS": "null,app://ui"}) == ("null", "app://ui")
    assert listed(HOSTS, None, {"DYNAMO_ALLOWED_HOSTS": "api.example.,*.example,[::1]"}) == (
        "api.example.",
        "*.example",
        "[::1]",
    )
    assert listed(PAGES, None, {}) == listed(HOSTS, (), {}) == ()


@pytest.mark.parametrize(
    "wrong", ["app.example", "https://app.example/", "https://", "https://a.example/path", "https://a b"]
)
def test_what_is_no_origin(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is no origin, as https"):
        listed(PAGES, [wrong])


@pytest.mark.parametrize("wrong", ["http://api.example", "api.example:80", "api/x", "a b", "ex*mple"])
def test_what_is_no_name(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is no name without a port"):
        listed(HOSTS, [wrong])


def known(origins: Origins, host: str) -> bool:
    try:
        origins.check({"type": "http", "method": "GET", "headers": [(b"host", host.encode())]})
    except ForbiddenError:
        return False
    return True


def test_names_are_checked_without_keys_or_where_they_are_given() -> None:
    plain = Origins((), (), "gpu.example", open_to_all=True)
    assert known(plain, "gpu.example:8000")
    assert not known(plain, "api.example")
    given = Origins((), ("*.api.example", "api.example"), "0.0.0.0", open_to_all=False)
    assert known(given, "api.example") and known(given, "eu.api.example:443")  # noqa: PT018
    assert not known(given, "evilapi.example")
    root = Origins((), ("root.example.", "[2001:db8::1]"), "0.0.0.0", open_to_all=False)
    assert known(root, "root.example") and known(root, "root.example.:80") and known(root, "[2001:db8::1]:80")  # noqa: PT018
    assert known(Origins((), (), "0.0.0.0", open_to_all=False), "whatever.example")
    assert known(Origins((), ("*",), "0.0.0.0", open_to_all=True), "whatever.example")


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_sent_twice_is_nobodys_origin(order: int) -> None:
    sent = [
        (b"host", b"localhost"),
        *[(b"origin", one) for one in (b"http://localhost", b"http://evil.example")][::order],
    ]
    with pytest.raises(ForbiddenError):
        Origins((), (), "127.0.0.1", open_to_all=True).check(
            {"type": "http", "method": "POST", "headers": sent}
        )


def test_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "x.localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "gpu.example")))
