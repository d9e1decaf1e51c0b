"""HTTP byte by byte, as clients send it that no library would let us build."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

__all__ = ["Answer", "answers", "chat_body", "post", "raw", "read_all"]


class Answer(NamedTuple):
    """One answer of a connection; ``headers`` by names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(json.loads(self.body)["error"]["code"])

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


def read_all(sock: socket.socket) -> bytes:
    """What comes until the server closes, or resets."""
    found = b""
    try:
        while data := sock.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


def raw(port: int, *parts: bytes, half_close: bool = False, timeout: float = 60.0) -> bytes:
    """Send parts, each in a packet of its own, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            sock.sendall(part)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def answers(data: bytes) -> list[Answer]:
    """The answers in what a connection gave, without those of 1xx; what has no length goes to the end."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        lines = [line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        if status < 200:
            continue
        if headers.get("transfer-encoding") == "chunked":
            body, data = _chunks(data)
        else:
            size = int(headers.get("content-length", 0 if status == 204 else len(data)))
            body, data = data[:size], data[size:]
        found.append(Answer(status, headers, body))
    return found


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            return body, data


def chat_body(**more: Any) -> bytes:
    """A short chat with the echo engine."""
    fields = {
        "model": "echo",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 16,
        **more,
    }
    return json.dumps(fields).encode()


def post(
    body: bytes, *headers: str, path: str = "/v1/chat/completions", version: str = "1.1", length: bool = True,
    key: str = "a-key-of-the-tests",
) -> bytes:  # fmt: skip
    """A POST as bytes, with a Host, an API key and, unless told otherwise, its length."""
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
