"""TLS options of the connection to Redis, from the URL and the environment.

``rediss://`` means TLS. A ``sentinel://`` URL means it, for Sentinels and master alike, where it has one of the options
in its query.

The options are those that redis-py and Celery know, in the URL's query or in the environment, where the
URL wins. Celery, kombu and our own connections read them in different ways, so :func:`complete_url`
writes all of them into the URL that each of them gets.

=======================  =============================  =======================================================
query                    environment                    meaning
=======================  =============================  =======================================================
``ssl_cert_reqs``        ``DYNAMO_REDIS_CERT_REQS``     ``required`` (default), ``optional`` or ``none``
``ssl_ca_certs``         ``DYNAMO_REDIS_CA_CERTS``      PEM file of the CA; the system's CAs by default
``ssl_certfile``         ``DYNAMO_REDIS_CERTFILE``      PEM file of the client's certificate
``ssl_keyfile``          ``DYNAMO_REDIS_KEYFILE``       PEM file of its key; by default it is in the same file
``ssl_check_hostname``   ``DYNAMO_REDIS_CHECK_HOSTNAME``  ``true`` (default) or ``false``
=======================  =============================  =======================================================
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError

__all__ = ["SENTINEL_SCHEME", "TLS_SCHEME", "TlsOptions", "complete_url", "with_options"]

TLS_SCHEME, SENTINEL_SCHEME = "rediss", "sentinel"
_VARIABLES = {
    "ssl_cert_reqs": "DYNAMO_REDIS_CERT_REQS",
    "ssl_ca_certs": "DYNAMO_REDIS_CA_CERTS",
    "ssl_certfile": "DYNAMO_REDIS_CERTFILE",
    "ssl_keyfile": "DYNAMO_REDIS_KEYFILE",
    "ssl_check_hostname": "DYNAMO_REDIS_CHECK_HOSTNAME",
}
_MODES = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class TlsOptions:
    """Options of TLS with the Redis server.

    Attributes:
        cert_reqs: ``required``, ``optional`` or ``none``: whether the server must prove who it is.
        ca_certs: PEM file of the CA; ``None`` = the system's.
        certfile: PEM file of our own certificate, for a server that wants one.
        keyfile: PEM file of its key.
        check_hostname: Whether the certificate must be for the URL's host.
    """

    cert_reqs: str = "required"
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True

    @classmethod
    def of(cls, url: str, environ: Mapping[str, str] = os.environ) -> TlsOptions | None:
        """The options of a URL; ``None`` unless it is ``rediss://``.

        Those of a ``sentinel://`` URL are read with the rest of it, see :meth:`given`.

        Raises:
            ConfigError: an option that is not known, or a value that is not allowed; names both.
        """
        parts = _split(url)
        given = {key: value for key, value in parse_qsl(parts.query) if key.startswith("ssl_")}
        if parts.scheme != TLS_SCHEME:
            if given and parts.scheme != SENTINEL_SCHEME:
                raise ConfigError(
                    f"{next(iter(given))} is for TLS, and the Redis URL is {parts.scheme}://; use rediss://"
                )
            return None
        return cls.given(given, environ)

    @classmethod
    def given(cls, given: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> TlsOptions:
        """The options where TLS is wanted.

        Args:
            given: ``ssl_…`` parameters of a URL's query.
            environ: Fills in what they do not say.

        Raises:
            ConfigError: an option that is not known, or a value that is not allowed; names both.
        """
        given = dict(given)
        if unknown := given.keys() - _VARIABLES.keys():
            raise ConfigError(
                f"{min(unknown)} in the Redis URL is not known; allowed: {', '.join(_VARIABLES)}"
            )
        for key, name in _VARIABLES.items():
            if key not in given and (value := variable(name, environ)):
                given[key] = value
        return cls._read(given)

    @classmethod
    def _read(cls, given: dict[str, str]) -> TlsOptions:
        mode = given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
        if mode not in _MODES:
            raise ConfigError(f"ssl_cert_reqs: {mode!r} is not one of {', '.join(_MODES)}")
        flag = given.get("ssl_check_hostname", "true").lower()
        if flag not in _FLAGS:
            raise ConfigError(f"ssl_check_hostname: {flag!r} is not true or false")
        files = {name: given.get(f"ssl_{name}") or None for name in ("ca_certs", "certfile", "keyfile")}
        if files["keyfile"] and not files["certfile"]:
            raise ConfigError("ssl_keyfile needs ssl_certfile, the certificate that it is the key of")
        return cls(mode, **files, check_hostname=_FLAGS[flag] and mode != "none")

    def context(self) -> ssl.SSLContext:
        """The client's TLS context.

        Raises:
            ConfigError: a file cannot be read, or holds something else.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_certs)
            if self.certfile:
                # Without a password to give, OpenSSL would ask the terminal for it.
                context.load_cert_chain(self.certfile, self.keyfile, password="")
        except (OSError, ValueError) as exc:
            files = ", ".join(filter(None, (self.ca_certs, self.certfile, self.keyfile)))
            raise ConfigError(f"TLS for the Redis server: cannot use {files}: {exc}") from exc
        context.check_hostname = self.check_hostname
        context.verify_mode = _MODES[self.cert_reqs]
        return context

    def settings(self) -> dict[str, Any]:
        """As Celery's ``broker_use_ssl``, for what reads that instead of the URL (Flower)."""
        found = {
            "ssl_cert_reqs": _MODES[self.cert_reqs],
            "ssl_ca_certs": self.ca_certs,
            "ssl_certfile": self.certfile,
            "ssl_keyfile": self.keyfile,
            "ssl_check_hostname": self.check_hostname,
        }
        return {key: value for key, value in found.items() if value is not None}

    def query(self) -> dict[str, str]:
        """All of it as parameters of a URL; what is by default as it is, is said too, since Celery wants that."""
        found = {
            "ssl_cert_reqs": self.cert_reqs,
            "ssl_ca_certs": self.ca_certs,
            "ssl_certfile": self.certfile,
            "ssl_keyfile": self.keyfile,
            "ssl_check_hostname": None if self.check_hostname else "false",
        }
        return {key: value for key, value in found.items() if value}


def complete_url(url: str, environ: Mapping[str, str] = os.environ) -> str:
    """The URL with everything in it that the environment and the defaults add; others than ``rediss://`` unchanged.

    Raises:
        ConfigError: see :meth:`TlsOptions.of`.

    Example:
        >>> complete_url("rediss://db/0", {"DYNAMO_REDIS_CA_CERTS": "/ca.pem"})
        'rediss://db/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fca.pem'
    """
    options = TlsOptions.of(url, environ)
    if options is None:
        return url
    parts = _split(url)
    others = [(key, value) for key, value in parse_qsl(parts.query) if not key.startswith("ssl_")]
    return urlunsplit(parts._replace(query=urlencode([*others, *options.query().items()])))


def with_options(url: str, options: Any) -> str:
    """A URL with the TLS options that kombu and Celery keep apart from it (``broker_use_ssl``).

    Args:
        url: ``redis://``, ``rediss://`` or ``sentinel://``.
        options: A mapping of ``ssl_…`` options with values as :mod:`ssl` has them; anything else = none.
    """
    if not isinstance(options, Mapping):
        return url
    parts = _split(url)
    query = dict(parse_qsl(parts.query)) | {
        key: _text(value) for key, value in options.items() if value is not None or key == "ssl_cert_reqs"
    }
    scheme = SENTINEL_SCHEME if parts.scheme == SENTINEL_SCHEME else TLS_SCHEME
    return urlunsplit(parts._replace(scheme=scheme, query=urlencode(query)))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as exc:
        raise ConfigError(f"the Redis URL is not valid: {exc}") from None


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, ssl.VerifyMode):
        return value.name.removeprefix("CERT_").lower()
    return str(value).lower() if isinstance(value, bool) else str(value)
