"""Images behind http(s) URLs, fetched from hosts that the operator allows.

A URL is a client's: with it, a server can be sent anywhere (server-side request forgery). So nothing is fetched
by default; of what is allowed, the name is resolved here and the connection goes to the address that was checked, a
redirect is a new URL with all its checks, and time, bytes and the number of fetches are bounded. No proxy is asked, no
cookie or key is sent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from msgspec import Struct

from dynamo_tasks.engines.images.hosts import Address, AllowedHost, ImageURL, Networks, may_reach, target_of
from dynamo_tasks.engines.images.response import ImageResponse
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["FetchSettings", "ImageFetcher"]

_AT_A_TIME = 16
"""Fetches of one process."""
_REDIRECTS = 3
_ADDRESSES = 3
"""Addresses of a host that are tried."""
_CHUNK = 1 << 16


class FetchSettings(Struct, frozen=True, kw_only=True):
    """Settings of what may be fetched.

    Attributes:
        hosts: From where; none = nothing is fetched.
        private: Networks that are allowed beside public addresses.
        timeout: Seconds that all images of one request may take.
    """

    hosts: tuple[AllowedHost, ...] = ()
    private: Networks = ()
    timeout: float = 10.0


class ImageFetcher:
    """Fetches images; belongs to one event loop."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def fetch(self, wanted: Mapping[str, str], most: int, total: int) -> dict[str, bytes]:
        """Fetch the images of one request.

        Args:
            wanted: URL → field of the request that has it.
            most: Bytes that each may have.
            total: Bytes that all of them may have.

        Returns:
            URL → bytes, not looked at.

        Raises:
            InvalidRequestError: One cannot be had; ``param`` is its field.
        """
        found: dict[str, bytes] = {}
        deadline = asyncio.get_running_loop().time() + self._settings.timeout
        for url, at in wanted.items():  # one after the other: a request takes one of the turns
            found[url] = await self._one(at, url, min(most, total), deadline)
            total -= len(found[url])
        return found

    async def _one(self, at: str, url: str, most: int, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline), self._turns:
                return await self._followed(url, most)
        except TimeoutError:
            problem = f"could not be fetched within {self._settings.timeout:g} seconds"
        except (OSError, ssl.SSLError):
            problem = "could not be fetched: its host cannot be reached"
        except ValueError as error:
            problem = str(error)
        raise InvalidRequestError(f"{at} {problem}", param=at)

    async def _followed(self, url: str, most: int) -> bytes:
        target = self._allowed(target_of(url))
        for _ in range(1 + _REDIRECTS):
            response = await self._get(target, most)
            if response.location is None:
                return response.image()
            target = self._allowed(target_of(response.location, target.url))
        raise ValueError(f"could not be fetched: more than {_REDIRECTS} redirects")

    def _allowed(self, target: ImageURL) -> ImageURL:
        if not self._settings.hosts:
            raise ValueError("must be a data: URL (data:image/png;base64,…); this server fetches no images")
        if not any(host.has(target) for host in self._settings.hosts):
            raise ValueError(f"is not allowed: this server fetches no images from {target.authority}")
        return target

    async def _get(self, target: ImageURL, most: int) -> ImageResponse:
        reader, writer = await self._connected(target)
        try:
            writer.write(_request(target))
            response = ImageResponse(most)
            while not response.complete:
                data = await reader.read(_CHUNK)
                response.feed(data)
            return response
        finally:
            writer.transport.abort()  # nothing is left to say; a TLS goodbye would be waited for

    async def _connected(self, target: ImageURL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address of the host that was checked: a name may mean another one a moment later."""
        failure: OSError = OSError("no address")
        for address in (await self._addresses(target))[:_ADDRESSES]:
            try:
                return await asyncio.open_connection(
                    str(address),
                    target.port,
                    ssl=_tls() if target.scheme == "https" else None,
                    server_hostname=target.host if target.scheme == "https" else None,
                )
            except OSError as error:
                failure = error
        raise failure

    async def _addresses(self, target: ImageURL) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise ValueError("is no valid URL") from None
        found = dict.fromkeys(_address(row[4]) for row in rows)
        good = [address for address in found if may_reach(address, self._settings.private)]
        if not good:
            raise ValueError(f"is not allowed: {target.host} has no public address")
        return good


def _address(sockaddr: tuple[Any, ...]) -> Address:
    return ipaddress.ip_address(str(sockaddr[0]))


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _request(target: ImageURL) -> bytes:
    lines = [
        f"GET {target.path} HTTP/1.1",
        f"Host: {target.authority}",
        "User-Agent: dynamo-tasks",
        "Accept: image/png, image/jpeg, image/webp, image/gif",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
