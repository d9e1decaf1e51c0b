"""What URLs say of a server."""

from __future__ import annotations

import ssl

import pytest

from dynamo_tasks.config.host.tls import TlsOptions, complete_url, with_options
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import mask_url
from dynamo_tasks.store.redis.address import Address

LIST = "sentinel://me:p%40ss@h1:1;sentinel://me:p%40ss@h2/3?master_name=m"
SHORT = "sentinel://me:p%40ss@h1:1,h2/m/3"


@pytest.mark.parametrize("url", [LIST, SHORT])
def test_both_forms_of_a_sentinel_url_say_the_same(url: str) -> None:
    address = Address.parse(url)
    assert address.sentinels is not None
    assert (address.sentinels.master, address.sentinels.nodes) == ("m", (("h1", 1), ("h2", 26379)))
    assert (address.db, address.username, address.password) == (3, "me", "p@ss")
    assert str(address) == "m/3 (Sentinels h1:1,h2:26379)"
    assert "p@ss" not in repr(address) + str(address) + mask_url(address.url)
    assert Address.parse(address.url) == address
    assert address.broker_url == "sentinel://me:p%40ss@h1:1/3;sentinel://me:p%40ss@h2:26379/3"
    assert address.broker_options["master_name"] == "m"


@pytest.mark.parametrize(
    "url", ["unix://me:p%40ss@/run/r.sock?db=3", "redis+socket://me:p%40ss@/run/r.sock?virtual_host=3"]
)
def test_a_unix_socket_in_both_ways_to_write_it(url: str) -> None:
    address = Address.parse(url)
    assert (address.path, address.db, address.username, address.password) == ("/run/r.sock", 3, "me", "p@ss")
    assert address.broker_url == "redis+socket://me:p%40ss@/run/r.sock?virtual_host=3"
    assert str(address) == "unix:/run/r.sock/3"
    assert Address.parse(address.broker_url).path == address.path
    assert Address.parse("redis+socket:///run/r.sock?db=5").db == 0, "kombu does not know it"
    assert "p%40ss" not in mask_url(url) + mask_url(address.broker_url) + repr(address)


def test_what_celery_says_in_its_transport_options_counts_where_the_url_is_silent() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": "pw"}}
    address = Address.parse("sentinel://h1;sentinel://h2", options)
    assert address.sentinels is not None
    assert (address.sentinels.master, address.sentinels.password, address.db) == ("m", "pw", 0)
    assert Address.parse(address.url) == address
    assert Address.parse(address.broker_url, address.broker_options) == address
    assert "pw" not in mask_url(address.url)


@pytest.mark.parametrize("url", [f"{LIST}&", f"{SHORT}?"])
def test_tls_options_are_for_sentinels_and_master(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_REDIS_CERTFILE", "/me.pem")
    assert Address.parse(url.rstrip("&?")).tls is None
    address = Address.parse(f"{url}ssl_ca_certs=/ca.pem")
    assert address.tls == TlsOptions("required", "/ca.pem", "/me.pem")
    kwargs = address.broker_options["sentinel_kwargs"]
    assert (kwargs["ssl"], kwargs["ssl_ca_certs"], kwargs["ssl_cert_reqs"]) == (
        True,
        "/ca.pem",
        ssl.CERT_REQUIRED,
    )
    monkeypatch.delenv("DYNAMO_REDIS_CERTFILE")
    assert Address.parse(complete_url(address.url)) == address
    celery_s = with_options(address.broker_url, address.tls.settings())
    assert Address.parse(celery_s, address.broker_options) == address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://h1:1", "which master"),
        ("sentinel://h1:x/m/0", "'h1:x' must be host or host:port"),
        ("sentinel://h1:1;redis://h2:1/0?master_name=m", "must be host or host:port of a Sentinel"),
        ("sentinel://h1:1/m/n/0", "must be DB, NAME or NAME/DB"),
        ("sentinel://h1:1/1;sentinel://h2:1/2?master_name=m", "'1' and '2' contradict each other"),
        ("sentinel://h1:1/m/0?timeout=3", "unknown parameter 'timeout'"),
        ("sentinel://h1:1/m/0?ssl_ca=/x", "ssl_ca in the Redis URL is not known; allowed: ssl_cert_reqs"),
        ("http://h1:1", "expected redis://, rediss://, unix:// or sentinel://"),
    ],
)
def test_a_mistake_in_a_url_is_named(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Address.parse(url)
