"""TCP ports of this machine."""

from __future__ import annotations

import errno
import socket

from dynamo_tasks.errors import ConfigError

__all__ = ["check_port", "free_port"]


def free_port(host: str, port: int = 0) -> int | None:
    """Whether a port can be listened on now.

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


def check_port(host: str, port: int) -> int:
    """The port to serve HTTP on.

    Args:
        host: ``--host``.
        port: ``--port``; 0 chooses a free one.

    Raises:
        ConfigError: the port is taken, or this machine has no such address.
    """
    try:
        found = free_port(host, port)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from error
    if found is None:
        raise ConfigError(
            f"port {port} on {host} is in use; choose another one with --port (0 = any free one)"
        )
    return found
