"""TCP ports of this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket

from dynamo_tasks.errors import ConfigError

__all__ = ["check_port", "free_port", "share_address"]


def free_port(host: str, port: int = 0) -> int | None:
    """Try to listen on a port, or on any free one.

    Args:
        host: Address of this machine, or a name of it.
        port: 0 = any.

    Returns:
        The port, or ``None`` when it is taken.

    Raises:
        OSError: ``host`` is no address of this machine, or the port is reserved.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        found: int = probe.getsockname()[1]
        return found


def check_port(host: str, port: int, option: str = "--host") -> int:
    """The port to serve HTTP on.

    Args:
        host: Value of ``option``.
        port: ``--port``; 0 chooses a free one.
        option: Which one says the host.

    Raises:
        ConfigError: the port is taken, or this machine has no such address.
    """
    try:
        found = free_port(host, port)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{option} {host} --port {port}: {_reason(error)}") from error
    if found is None:
        raise ConfigError(
            f"port {port} on {host} is in use; choose another one with --port (0 = any free one)"
        )
    return found


def share_address(one: str, other: str) -> bool:
    """Return whether a port of the one host cannot be listened on at the other, too.

    Raises:
        ConfigError: one of them is no host.
    """
    first, second = _addresses(one), _addresses(other)
    return bool(first & second) or any(ipaddress.ip_address(name).is_unspecified for name in first | second)


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, 0)}
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host}: {_reason(error)}") from error


def _reason(error: OSError | UnicodeError) -> str:
    return str(error) if isinstance(error, UnicodeError) else error.strerror or str(error)
