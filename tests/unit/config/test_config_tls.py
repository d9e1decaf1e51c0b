"""TLS options of Redis URLs and of the environment."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.config.host.tls import TlsOptions, complete_url, with_options
from dynamo_tasks.errors import ConfigError


def test_plain_urls_have_no_tls() -> None:
    assert TlsOptions.of("redis://h/0", {"DYNAMO_REDIS_CA_CERTS": "/ca.pem"}) is None
    assert complete_url("redis://h/0?a=b", {"DYNAMO_REDIS_CA_CERTS": "/ca.pem"}) == "redis://h/0?a=b"


def test_the_server_must_prove_who_it_is_by_default() -> None:
    options = TlsOptions.of("rediss://h/0", {})
    assert options == TlsOptions()
    context = options.context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("mode", ["none", "NONE", "CERT_NONE"])
def test_verification_can_be_switched_off(mode: str) -> None:
    options = TlsOptions.of(f"rediss://h/0?ssl_cert_reqs={mode}", {})
    assert options is not None
    context = options.context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_the_hostname_alone_can_be_left_unchecked() -> None:
    options = TlsOptions.of("rediss://h/0?ssl_check_hostname=false", {})
    assert options is not None
    assert (options.context().verify_mode, options.context().check_hostname) == (ssl.CERT_REQUIRED, False)


def test_the_environment_fills_in_and_the_url_wins() -> None:
    environ = {
        "DYNAMO_REDIS_URL": "rediss://u:p%40ss@h:1/2?ssl_ca_certs=/url.pem&x=1",
        "DYNAMO_REDIS_CA_CERTS": "/environ.pem",
        "DYNAMO_REDIS_CERTFILE": "/me.pem",
        "DYNAMO_REDIS_KEYFILE": "/me.key",
    }
    url = resolve_redis_url(environ)
    assert TlsOptions.of(url, {}) == TlsOptions("required", "/url.pem", "/me.pem", "/me.key")
    assert url.startswith("rediss://u:p%40ss@h:1/2?x=1&ssl_cert_reqs=required&")
    assert complete_url(url, environ) == url


def test_celery_s_options_go_into_the_url() -> None:
    ours = {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_ca_certs": "/a b.pem", "ssl_keyfile": None}
    assert with_options("redis://h:1/0", ours) == "rediss://h:1/0?ssl_cert_reqs=none&ssl_ca_certs=%2Fa+b.pem"
    assert with_options("redis://h:1/0", {"ssl_cert_reqs": None}) == "rediss://h:1/0?ssl_cert_reqs=none"
    assert with_options("redis://h:1/0", False) == "redis://h:1/0"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rediss://h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs: 'maybe' is not one of required, optional, none"),
        ("rediss://h/0?ssl_check_hostname=x", "ssl_check_hostname: 'x' is not true or false"),
        ("rediss://h/0?ssl_ca_cert=/x", "ssl_ca_cert in the Redis URL is not known; allowed: ssl_cert_reqs,"),
        ("rediss://h/0?ssl_keyfile=/x", "ssl_keyfile needs ssl_certfile"),
        (
            "redis://h/0?ssl_ca_certs=/x",
            "ssl_ca_certs is for TLS, and the Redis URL is redis://; use rediss://",
        ),
    ],
)
def test_what_is_wrong_is_named(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TlsOptions.of(url, {})
    assert message in caught.value.message


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            TlsOptions(ca_certs=str(tmp_path / name)).context()
