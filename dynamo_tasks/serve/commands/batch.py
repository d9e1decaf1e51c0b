"""``dynamo-tasks batch``: batches from a terminal, through the HTTP API."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dynamo_tasks.config.host.given import filled
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.errors import InvalidRequestError, UnavailableError
from dynamo_tasks.serve.commands.common import OneLineGroup
from dynamo_tasks.serve.console.http_api import HttpApi, default_url, key_of
from dynamo_tasks.serve.console.output import plain_console

__all__ = ["batch"]

_LOOK = 0.5
_PATIENCE = 60.0
_ENDED = ("completed", "failed", "expired", "cancelled")
_FIRST_LINE = 10 << 20

_url = click.option(
    "--url", help="Of the frontend; that of the `serve` that runs here, else http://127.0.0.1:8000."
)


def _api(url: str | None) -> HttpApi:
    return HttpApi(filled("--url", url) or default_url(Home.from_environ()), key_of())


@click.group(cls=OneLineGroup, short_help="Batches: submit, status, cancel, results.")
def batch() -> None:
    """Run the requests of a file, one per line, on spare capacity.

    The API key is that of DYNAMO_API_KEY, else the first one of DYNAMO_API_KEYS.
    """


@batch.command(short_help="Run the requests of a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", help="Path that all lines are for; that of the first line by default.")
@click.option("--window", default="24h", show_default=True, help="Time after which it expires.")
@click.option("--metadata", multiple=True, metavar="NAME=TEXT")
@click.option("--wait", is_flag=True, help="Until it has ended; exit code 1 where it is not completed.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File for the results; with --wait."
)
@_url
def submit(
    file: Path, endpoint: str | None, window: str, metadata: tuple[str, ...], wait: bool, output: Path | None,
    url: str | None,
) -> None:  # fmt: skip
    """Upload FILE and make a batch of it; its id goes to stdout."""
    if output is not None and not wait:
        raise click.UsageError("--output needs --wait")
    api, path = _api(url), filled("--endpoint", endpoint) or _endpoint_of(file)
    body: dict[str, Any] = {"endpoint": path, "completion_window": window}
    if metadata:
        body["metadata"] = dict(_pair(one) for one in metadata)
    with _bar("upload", file.stat().st_size, bytes_too=True) as moved:
        uploaded = api.upload(file, "batch", moved)
    made = api.ask("POST", "/v1/batches", {**body, "input_file_id": uploaded["id"]})
    click.echo(made["id"])
    if wait:
        _wait(api, made["id"], output)


def _endpoint_of(file: Path) -> str:
    """The path that the first line is for."""
    with file.open("rb") as lines:
        first = lines.readline(_FIRST_LINE)
    try:
        return str(json.loads(first.decode("utf-8-sig"))["url"])
    except (ValueError, LookupError, TypeError):
        raise InvalidRequestError(f"the first line of {file} names no url; say --endpoint") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--metadata is NAME=TEXT, not {text!r}")
    return name, value


@batch.command(short_help="Where batches stand.")
@click.argument("batch_id", required=False)
@click.option("--wait", is_flag=True, help="Until it has ended; exit code 1 where it is not completed.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
@_url
def status(batch_id: str | None, wait: bool, as_json: bool, url: str | None) -> None:
    """Show BATCH_ID, or the newest ones."""
    api = _api(url)
    if batch_id is None:
        if wait:
            raise click.UsageError("--wait needs a BATCH_ID")
        found = api.ask("GET", "/v1/batches?limit=20")
        _show(found["data"], found if as_json else None)
        return
    if wait:
        _wait(api, batch_id, None)
        return
    found = api.ask("GET", f"/v1/batches/{quote(batch_id)}")
    _show([found], found if as_json else None)


@batch.command(short_help="Cancel a batch; what is done stays.")
@click.argument("batch_id")
@_url
def cancel(batch_id: str, url: str | None) -> None:
    """Cancel BATCH_ID; what is done stays in its results."""
    click.echo(_api(url).ask("POST", f"/v1/batches/{quote(batch_id)}/cancel")["status"])


@batch.command(short_help="The rows of a batch that has ended.")
@click.argument("batch_id")
@click.option("--errors", is_flag=True, help="Those of lines that did not succeed.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; stdout by default.")
@_url
def results(batch_id: str, errors: bool, output: Path | None, url: str | None) -> None:
    """Write the results of BATCH_ID, one JSON object per line."""
    api = _api(url)
    found = api.ask("GET", f"/v1/batches/{quote(batch_id)}")
    if found["status"] not in _ENDED:
        raise InvalidRequestError(f"batch {batch_id} is {found['status']}: there are no results yet")
    _download(api, found["error_file_id" if errors else "output_file_id"], output)


def _download(api: HttpApi, file_id: str | None, output: Path | None) -> None:
    with contextlib.ExitStack() as stack:
        out: IO[bytes] = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
        if file_id is not None:
            api.download(file_id, out)
        out.flush()


def _wait(api: HttpApi, batch_id: str, output: Path | None) -> None:
    """Show a bar until a batch has ended; a frontend that is away for a while is asked again."""
    until = time.monotonic() + _PATIENCE
    with _bar("batch", None) as moved:
        done = 0
        while True:
            try:
                found = api.ask("GET", f"/v1/batches/{quote(batch_id)}")
                until = time.monotonic() + _PATIENCE
            except UnavailableError:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK)
                continue
            counts = found["request_counts"]
            moved(counts["completed"] + counts["failed"] - done, counts["total"], found["status"])
            done = counts["completed"] + counts["failed"]
            if found["status"] in _ENDED:
                break
            time.sleep(_LOOK)
    _show([found], None, err=True)
    if output is not None:
        _download(api, found["output_file_id"], output)
    if found["status"] != "completed":
        raise SystemExit(1)


@contextlib.contextmanager
def _bar(label: str, total: int | None, *, bytes_too: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr, where that is a terminal; a function that moves it on."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    if bytes_too:
        del columns[2]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)

        def moved(by: int, total: int | None = None, said: str | None = None) -> None:
            if total:
                progress.update(task, total=total)
            progress.update(task, advance=by, description=said or label)

        yield moved


def _show(rows: list[dict[str, Any]], document: dict[str, Any] | None, *, err: bool = False) -> None:
    if document is not None:
        click.echo(json.dumps(document, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "status", "done", "failed", "of", "endpoint", "created"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        counts, created = row["request_counts"], time.localtime(row["created_at"])
        table.add_row(
            row["id"], row["status"], str(counts["completed"]), str(counts["failed"]), str(counts["total"]),
            row["endpoint"], time.strftime("%Y-%m-%d %H:%M:%S", created),
        )  # fmt: skip
    console = Console(stderr=True, highlight=False, markup=False, width=200) if err else plain_console()
    console.print(table)
    for row in rows:
        for mistake in (row["errors"] or {"data": []})["data"]:
            where = f"line {mistake['line']}: " if mistake["line"] else ""
            console.print(f"{where}{mistake['message']} ({mistake['code']})")
