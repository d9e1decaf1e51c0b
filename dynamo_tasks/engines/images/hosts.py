"""Hosts from which images may be fetched, as the operator lists them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

from msgspec import Struct

from dynamo_tasks.errors import ConfigError

__all__ = [
    "Address",
    "AllowedHost",
    "ImageURL",
    "Networks",
    "allowed_hosts",
    "may_reach",
    "networks",
    "target_of",
]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

_PORTS = {"https": 443, "http": 80}
_ENTRY = re.compile(r"(?:(https?)://)?(\*|(?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_PLAIN = re.compile(r"[!-~]+", re.ASCII)
_LONGEST = 8192
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that a gateway turns into those of IPv4 (RFC 6052)."""


class AllowedHost(Struct, frozen=True):
    """One entry of the list.

    Attributes:
        scheme: ``https`` or ``http``.
        name: A host, ``*.example`` for all below it, or ``*`` for any.
        port: TCP.
    """

    scheme: str
    name: str
    port: int

    def has(self, target: ImageURL) -> bool:
        """Return whether a URL is of this host."""
        if (target.scheme, target.port) != (self.scheme, self.port):
            return False
        if self.name.startswith("*."):
            return target.host.endswith(self.name[1:])
        return self.name in ("*", target.host)


class ImageURL(Struct, frozen=True):
    """A URL that was taken apart.

    Attributes:
        url: It.
        scheme: ``https`` or ``http``.
        host: In lower case, without a dot at its end.
        port: TCP.
        path: With its query.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as the header ``Host`` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def allowed_hosts(entries: object) -> tuple[AllowedHost, ...]:
    """Read the list.

    Args:
        entries: ``images.example``, ``*.example``, ``*``, each perhaps with a port or ``http://`` in front; https
            by default.

    Raises:
        ConfigError: An entry is something else.
    """
    return tuple(_entry(entry) for entry in _listed(entries, "image_hosts"))


def _entry(entry: str) -> AllowedHost:
    found = _ENTRY.fullmatch(entry.lower())
    if found is None:
        raise ConfigError(
            f"image_hosts: {entry!r} is no host; allowed are names, *.name and *, with a port or http:// if need be",
            param="image_hosts",
        )
    scheme = found[1] or "https"
    return AllowedHost(scheme, found[2].strip("[]"), int(found[3] or _PORTS[scheme]))


def networks(entries: object) -> Networks:
    """Read a list of networks: ``10.0.0.0/8``.

    Raises:
        ConfigError: An entry is something else.
    """
    try:
        return tuple(ipaddress.ip_network(entry) for entry in _listed(entries, "image_networks"))
    except ValueError as error:
        raise ConfigError(f"image_networks: {error}", param="image_networks") from None


def _listed(entries: object, name: str) -> Sequence[str]:
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{name} must be a list of texts", param=name)
    return entries


def target_of(url: str, base: str = "") -> ImageURL:
    """Take a URL apart.

    Args:
        url: It; relative to ``base`` in a redirect.
        base: Where the redirect came from.

    Raises:
        ValueError: It is none that may be fetched from anywhere; says why.
    """
    if len(url) > _LONGEST or not _PLAIN.fullmatch(url) or "\\" in url:
        raise ValueError(f"must be a URL of at most {_LONGEST} ASCII characters, the others percent-encoded")
    try:
        parts = urlsplit(urljoin(base, url))
        port = parts.port
    except ValueError:
        raise ValueError("is no valid URL") from None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise ValueError("must be a data: or an https: URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password")
    host = (parts.hostname or "").lower().removesuffix(".")
    if not host:
        raise ValueError("has no host")
    return ImageURL(parts.geturl(), scheme, host, port or _PORTS[scheme], _path(parts))


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def may_reach(address: Address, private: Networks) -> bool:
    """Return whether images may be fetched from an address: a public one, or one of the operator's networks.

    An address that stands for another one (IPv4 inside of IPv6, in each of its forms) must be good both ways.
    """
    return all(_is_public(one) or _inside(one, private) for one in _meanings(address))


def _meanings(address: Address) -> Iterable[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner: list[Address | None] = [address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.ipv4_mapped is not None:  # the address itself is of no network
        return [address.ipv4_mapped]
    return [address, *(one for one in inner if one is not None)]


def _inside(address: Address, private: Networks) -> bool:
    return any(address in network for network in private)


def _is_public(address: Address) -> bool:
    site = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site)
