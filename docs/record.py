"""Records ``docs/quickstart.svg`` from a real run: a stream whose worker is killed, and that goes on.

    python docs/record.py

Times, event ids, process ids and text are those of the run; the picture repeats them at the same speed.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from tests.support.serve import Serve
from tests.support.web import events

OUT = Path(__file__).with_name("quickstart.svg")
SERVE = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=40", "--Worker.ServiceArgs.workers=2")
BODY = {"model": "mocker", "prompt": "Once", "max_tokens": 150}
KILL_AFTER = 60
WIDTH, LINE, CHARACTER, COLUMNS = 900, 22, 8.4, 100
COLOURS = {"first": "#7cc4ff", "second": "#8fe388", "told": "#e6e6e6", "small": "#9aa0a6", "kill": "#ff7b72"}


class Shown(NamedTuple):
    """A piece of text: when it comes, where it stands, and in which colour."""

    at: float
    row: int
    column: int
    text: str
    kind: str


class Piece(NamedTuple):
    """An event of the stream as the client got it: seconds since the request, its epoch, its text."""

    at: float
    epoch: str
    text: str


class Run(NamedTuple):
    """What was seen."""

    pieces: list[Piece]
    killed_at: float
    pid: int
    same: bool


def owner(serve: Serve) -> int:
    """The process that runs the one request."""
    return next(one["pid"] for one in serve.instances() if one["component"] == "Worker" and one["in_flight"])


def text_of(data: str) -> str:
    """The text of a chunk of a completion."""
    choices: list[dict[str, Any]] = json.loads(data)["choices"]
    return "".join(choice["text"] for choice in choices)


def record() -> Run:
    """Stream, kill the worker in the middle, compare with an answer that nobody disturbed."""
    with tempfile.TemporaryDirectory() as folder, Serve(Path(folder), *SERVE) as serve:
        begun, pieces, pid, killed_at = time.monotonic(), [], 0, 0.0
        for event_id, data in events(serve.port, "POST", "/v1/completions", {**BODY, "stream": True}):
            if data == "[DONE]":
                break
            pieces.append(Piece(time.monotonic() - begun, event_id.partition("-")[0], text_of(data)))
            if len(pieces) == KILL_AFTER:
                pid = owner(serve)
                os.kill(pid, signal.SIGKILL)
                killed_at = time.monotonic() - begun
        whole = json.loads(serve.post("/v1/completions", BODY).read())["choices"][0]["text"]
        return Run(pieces, killed_at, pid, whole == "".join(piece.text for piece in pieces))


def lines(run: Run) -> list[Shown]:
    """The run as lines of a terminal."""
    first = run.pieces[0].epoch
    shown = [
        Shown(0, 0, 0, f"$ dynamo-tasks serve {' '.join(SERVE).replace('engine_args.', '')}", "told"),
        Shown(0, 1, 0, "$ curl -N http://127.0.0.1:8000/v1/completions -d @once.json", "told"),
    ]
    row, column, told = 3, 0, False
    for piece in run.pieces:
        if not told and piece.epoch != first:
            gap = next(
                two.at - one.at for one, two in zip(run.pieces, run.pieces[1:], strict=False) if two == piece
            )
            shown.append(
                Shown(
                    run.killed_at, row + 1, 0, f"$ kill -9 {run.pid}     # the worker of this stream", "kill"
                )
            )
            shown.append(
                Shown(
                    piece.at,
                    row + 2,
                    0,
                    f"  {gap:.2f} s later another worker goes on: event {piece.epoch}-1",
                    "small",
                )
            )
            row, column, told = row + 3, 0, True
        if column + len(piece.text) > COLUMNS:
            row, column = row + 1, 0
        shown.append(Shown(piece.at, row, column, piece.text, "first" if piece.epoch == first else "second"))
        column += len(piece.text)
    verdict = "no token lost, none repeated: the same text as undisturbed" if run.same else "another text"
    shown.append(Shown(run.pieces[-1].at + 0.3, row + 2, 0, f"data: [DONE]     # {verdict}", "told"))
    return shown


def picture(shown: list[Shown]) -> str:
    """The animation: each piece appears at its time, again and again; without animation all of it is there."""
    length = max(one.at for one in shown) + 4
    height = (max(one.row for one in shown) + 3) * LINE
    parts = []
    for one in shown:
        place = f'x="{20 + one.column * CHARACTER:.1f}" y="{36 + one.row * LINE}" fill="{COLOURS[one.kind]}"'
        when = f'values="0;1;1" keyTimes="0;{one.at / length:.4f};1" dur="{length:.2f}s"'
        animation = f'<animate attributeName="opacity" calcMode="discrete" {when} repeatCount="indefinite"/>'
        parts.append(f"<text {place}>{escape(one.text)}{animation if one.at else ''}</text>")
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    style = "<style>text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}</style>"
    ground = '<rect width="100%" height="100%" rx="8" fill="#1b1f24"/>'
    return "\n".join([opened, style, ground, *parts, "</svg>", ""])


def main() -> None:
    """Record; a run whose text is not the undisturbed one makes no picture."""
    run = record()
    if not run.same:
        raise SystemExit("the text is another one")
    OUT.write_text(picture(lines(run)))


if __name__ == "__main__":
    main()
