"""A PING for a Redis server over a plain socket.

``serve`` must know whether Redis answers before anything of the library runs; one AUTH and one PING
need no client library. Protocol: https://valkey.io/topics/protocol/ (RESP2).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from dynamo_tasks.config.host.redis_url import check_redis_url
from dynamo_tasks.config.host.tls import TlsOptions
from dynamo_tasks.errors import ConfigError, ServerUnavailableError
from dynamo_tasks.observe import mask_url
from dynamo_tasks.store.redis.refusals import PASSING, code_of

__all__ = ["PingAddress", "ping"]

_SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True)
class PingAddress:
    """The parts of a Redis URL that a PING needs.

    Attributes:
        scheme: ``redis``, ``rediss`` (TLS) or ``unix``.
        host: Host name; for ``unix`` the path of the socket.
        port: TCP port; 0 for ``unix``.
        username: ``""`` = the default user.
        password: ``""`` = none. Not shown by ``repr``.
        tls: How TLS is spoken; ``None`` without.
    """

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = ""
    tls: TlsOptions | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse ``redis://[user:password@]host[:port][/db]``, ``rediss://…`` or ``unix://path``.

        Raises:
            ConfigError: another scheme, no host, a port that is none, TLS options that are wrong.
        """
        check_redis_url(url)
        tls = TlsOptions.of(url)
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ConfigError(
                f"Redis URL {mask_url(url)!r}: scheme must be one of {', '.join(_SCHEMES)}, sentinel"
            )
        port = parts.port or 6379
        unix = parts.scheme == "unix"
        host = unquote(parts.path) if unix else parts.hostname or ""
        if not host:
            raise ConfigError(f"Redis URL {mask_url(url)!r} names no {'socket path' if unix else 'host'}")
        return cls(
            scheme=parts.scheme,
            host=host,
            port=0 if unix else port,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=tls,
        )

    def __repr__(self) -> str:
        return f"Address({self.scheme}://{self.host}:{self.port})"


def ping(url: str, *, timeout: float = 2.0) -> str:
    """Ask a Redis server whether it answers.

    Args:
        url: See :meth:`PingAddress.parse`; with ``sentinel://`` the master is asked, over the library's own client.
        timeout: Seconds for the connection, and for each reply.

    Returns:
        ``"PONG"``, or the word of a refusal that passes, e.g. ``"LOADING"`` while the server still reads its data.

    Raises:
        ConfigError: the URL is not valid.
        ServerUnavailableError: no connection, a wrong password, or something that is not a Redis server.
    """
    if url.startswith("sentinel://"):
        from dynamo_tasks.store.redis import sentinel

        return asyncio.run(sentinel.ping(url, timeout))
    address = PingAddress.parse(url)
    try:
        with _connected(address, timeout) as connection, connection.makefile("rb") as replies:
            if address.password:
                words = [address.username, address.password] if address.username else [address.password]
                connection.sendall(_command("AUTH", *words))
                _simple(replies.readline(1024), url)
            connection.sendall(_command("PING"))
            return _simple(replies.readline(1024), url)
    except OSError as error:
        if isinstance(error, ServerUnavailableError):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        raise ServerUnavailableError(f"no Redis server answers at {mask_url(url)}: {reason}") from error


@contextlib.contextmanager
def _connected(address: PingAddress, timeout: float) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        if address.scheme == "unix":
            plain = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            plain.settimeout(timeout)
            plain.connect(address.host)
        else:
            plain = stack.enter_context(socket.create_connection((address.host, address.port), timeout))
        if address.tls is None:
            yield plain
            return
        yield stack.enter_context(address.tls.context().wrap_socket(plain, server_hostname=address.host))


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def _simple(line: bytes, url: str) -> str:
    text = line.decode("utf-8", "replace").strip()
    if text.startswith("+"):
        return text[1:]
    if text.startswith("-"):
        if (code := code_of(text[1:])) in PASSING:
            return code
        raise ServerUnavailableError(f"Redis server at {mask_url(url)} refuses: {text[1:]}")
    raise ServerUnavailableError(f"what listens at {mask_url(url)} is no Redis server")
