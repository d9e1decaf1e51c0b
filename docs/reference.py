"""Write the pages of the reference from the code: ``python docs/reference.py`` writes ``docs/reference/*.md``."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import dynamo_tasks
from dynamo_tasks import errors, pipelines
from dynamo_tasks.sdk.services.attributes import collect_annotations, collect_attributes
from dynamo_tasks.serve.cli import cli
from dynamo_tasks.services.background import Background
from dynamo_tasks.services.frontend import Frontend
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.router import Router
from dynamo_tasks.services.worker import Worker

FOLDER = Path(__file__).with_name("reference")
NOTE = "Written by `python docs/reference.py`; don't edit it by hand.\n"
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):$", re.MULTILINE)
ENTRY = re.compile(r"^    \*{0,2}(?P<name>[\w., `]+): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)


def plain(text: str) -> str:
    """Docstring markup as Markdown: roles and double back-quotes."""
    text = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").replace("::\n", ":\n")


def cell(text: str) -> str:
    """Text for a table: one line, no bars, no brackets that look like a link."""
    return " ".join(plain(text).split()).replace("|", "\\|")


def sections(doc: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring, and its sections by name."""
    parts = SECTION.split(doc)
    return parts[0].strip(), dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text: str) -> list[tuple[str, str]]:
    """Names and texts of a section such as ``Args``."""
    return [(found["name"].strip("`* "), cell(found["text"])) for found in ENTRY.finditer(text)]


def rendered(doc: str) -> Iterator[str]:
    """A docstring as Markdown: its text, then its sections as tables."""
    head, parts = sections(doc)
    yield plain(head) + "\n"
    for name, text in parts.items():
        rows = entries(text)
        if name.startswith("Example") or not rows:
            yield f"{name}:\n\n{plain(textwrap.dedent(text)).strip()}\n"
        else:
            yield f"| {name} | |\n|---|---|\n" + "".join(f"| `{key}` | {value} |\n" for key, value in rows)


def signature(thing: Any) -> str:
    """The call of a class or a function, without the annotations' modules."""
    try:
        made = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(…)"
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(made)).replace("'", "").replace("(self, ", "(")


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class (or one of ours that it derives from) declares."""
    for name in sorted(dir(thing)):
        if name.startswith("_"):
            continue
        owner = next((base for base in thing.__mro__ if name in vars(base)), object)
        found = inspect.getattr_static(thing, name)
        if owner.__module__.startswith("dynamo_tasks") and inspect.getdoc(found):
            yield name, found


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, for a table."""
    return cell((inspect.getdoc(thing) or "").partition("\n\n")[0])


def described(name: str, thing: Any) -> Iterator[str]:
    """A public name: its signature, its docstring, and its members."""
    yield f"## `{name}`\n"
    yield f"```text\n{name}{signature(thing)}\n```\n"
    yield from rendered(inspect.getdoc(thing) or "")
    rows = list(members(thing)) if inspect.isclass(thing) else []
    if rows:
        yield "| member | |\n|---|---|\n" + "".join(f"| `{key}` | {first_line(one)} |\n" for key, one in rows)


def python_page() -> str:
    """The public names of the library and of the pipelines."""
    parts = ["# Python API\n", NOTE, "Names of `dynamo_tasks`; then those of `dynamo_tasks.pipelines`.\n"]
    parts += ["`app` is the Celery application: `celery -A dynamo_tasks worker` ([Celery](../celery.md)).\n"]
    for name in sorted(set(dynamo_tasks.__all__) - {"app"}):
        parts += described(name, getattr(dynamo_tasks, name))
    for name in sorted(pipelines.__all__):
        thing = getattr(pipelines, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            parts += described(f"pipelines.{name}", thing)
    return "\n".join(parts)


def settings_of(service: Any) -> Iterator[str]:
    """The settings of a service: name, type and default from the class, the meaning from its docstring."""
    inner = service.inner
    head, parts = sections(inspect.getdoc(inner) or "")
    meanings = dict(entries(parts.get("Attributes", "")))
    types = collect_annotations(inner)
    yield f"## {inner.__name__}\n\n{plain(head)}\n"
    yield "| setting | type | default | |\n|---|---|---|---|\n" + "".join(
        f"| `{name}` | {cell(type_name(types.get(name)))} | `{default!r}` | {meanings.get(name, '')} |\n"
        for name, default in collect_attributes(inner).items()
    )


def type_name(annotation: Any) -> str:
    """A type as one writes it."""
    if annotation is None or annotation is Any:
        return ""
    name = (
        annotation.__name__
        if isinstance(annotation, type) and not hasattr(annotation, "__args__")
        else str(annotation)
    )
    return f"`{re.sub(r'[a-z_]+[.]', '', name)}`"


def settings_page() -> str:
    """The settings of the ready-made services."""
    parts = ["# Settings\n", NOTE]
    parts += ["Of the ready-made services. Where they are written: [Configuration](../configuration.md).\n"]
    for service in (Frontend, Processor, Worker, Router, Background):
        parts += settings_of(service)
    return "\n".join(parts)


def command_help(path: list[str], command: click.Command) -> Iterator[str]:
    """The help of a command, and of those below it."""
    # Named as in the command line itself: click keeps the option that a command has made first.
    context = click.Context(
        command,
        info_name=" ".join(path),
        max_content_width=100,
        terminal_width=100,
        help_option_names=["-h", "--help"],
    )
    yield f"## {' '.join(path)}\n"
    yield f"```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if one := command.get_command(context, name):
                yield from command_help([*path, name], one)


def commands_page() -> str:
    """What each command says to ``--help``."""
    head = [
        "# Options of commands\n",
        NOTE,
        "What each command says to `--help`. How they behave: [Command line](../cli.md).\n",
    ]
    return "\n".join([*head, *command_help(["dynamo-tasks"], cli)])


def below(error: type[Exception], depth: int = 0) -> Iterator[tuple[int, Any]]:
    """An error and those that derive from it, with their depth in the tree."""
    yield depth, error
    for one in sorted(error.__subclasses__(), key=lambda one: one.__name__):
        if one.__module__.startswith("dynamo_tasks.errors"):
            yield from below(one, depth + 1)


def errors_page() -> str:
    """The tree of errors."""
    rows = {one: depth for depth, one in below(errors.DynamoError)}
    table = "".join(
        f"| {'&nbsp;' * 4 * depth}`{one.__name__}` | {one.http_status} | `{one.code}` | {first_line(one)} |\n"
        for one, depth in rows.items()
    )
    head = "# Errors\n\n" + NOTE + "\nAll are in `dynamo_tasks.errors`. HTTP clients see status and code, "
    head += "Python clients the class ([HTTP API](../http-api.md#errors)).\n\n"
    return head + "| error | status | code | |\n|---|---|---|---|\n" + table


PAGES: dict[str, Callable[[], str]] = {
    "python": python_page,
    "settings": settings_page,
    "commands": commands_page,
    "errors": errors_page,
}


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(page().rstrip() + "\n")


if __name__ == "__main__":
    main()
