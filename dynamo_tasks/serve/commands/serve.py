"""``dynamo-tasks serve``: start a graph with all that it needs."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamo_tasks.config.host.given import check_variables, filled, variable
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.console.output import Output, plain_console
from dynamo_tasks.serve.planning.ports import check_port
from dynamo_tasks.serve.processes import signals

if TYPE_CHECKING:
    from dynamo_tasks.serve.planning.plan import PlanOptions
    from dynamo_tasks.serve.processes.spec import ProcessPlan

__all__ = ["serve", "split_flags"]

_FLAG = re.compile(r"--[A-Za-z_][\w-]*(\.[\w-]+)+(=.*)?", re.DOTALL)
_KEYS = "DYNAMO_API_KEYS"
_LEVELS = ["debug", "info", "warning", "error"]


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take ``--Service.key=value`` and ``--Service.key value`` out of a command line.

    Args:
        arguments: As typed.

    Returns:
        The other arguments, and the flags in the form ``--Service.key=value``.

    Raises:
        click.UsageError: a flag without a value.
    """
    rest: list[str] = []
    flags: list[str] = []
    given = iter(arguments)
    for argument in given:
        if not _FLAG.fullmatch(argument):
            rest.append(argument)
        elif "=" in argument:
            flags.append(argument)
        else:
            value = next(given, None)
            if value is None or value.startswith("--"):
                raise click.UsageError(f"{argument} needs a value: {argument}=VALUE")
            flags.append(f"{argument}={value}")
    return rest, flags


class _ServeCommand(click.Command):
    """Collects the flags of services, whose names only the graph knows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, flags = split_flags(args)
        ctx.meta[__name__] = tuple(flags)
        return super().parse_args(ctx, rest)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[--Service.key=value ...]"]


@click.command(cls=_ServeCommand, short_help="Start a graph, with all that it needs, until Ctrl-C.")
@click.argument("graph", required=False)
@click.option(
    "-f",
    "--config",
    metavar="CONFIG",
    help="YAML file with the services' settings.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 = any free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve HTTP on.")
@click.option(
    "--system-port",
    type=click.IntRange(0, 65535),
    envvar="DYNAMO_SYSTEM_PORT",
    metavar="PORT",
    help="Serve /metrics, /live, /health of each process: the first one here, the next ones count on; 0 = any free.",
)
@click.option("--model", metavar="M", help="Model to serve; short for --Worker.model=M.")
@click.option(
    "--service",
    "--service-name",
    "services",
    multiple=True,
    metavar="NAME",
    help="Start only this service (repeatable).",
)
@click.option(
    "--api-key", metavar="KEY", help="Ask every HTTP request for this key (comma list for several)."
)
@click.option(
    "--loglevel", type=click.Choice(_LEVELS), default="warning", show_default=True, help="Of the processes."
)
@click.option(
    "--gpu-allocation/--no-gpu-allocation",
    default=None,
    help="Give each worker GPUs of its own, as many as it asks for (the default).",
)
@click.option("--require-gpu", is_flag=True, help="Refuse to start where no GPU can be seen.")
@click.option(
    "--dry-run", is_flag=True, help="Show settings with their origins, and processes; start nothing."
)
@click.pass_context
def serve(
    ctx: click.Context,
    graph: str | None,
    config: str | None,
    port: int,
    host: str,
    system_port: int | None,
    model: str | None,
    services: tuple[str, ...],
    api_key: str | None,
    loglevel: str,
    gpu_allocation: bool | None,
    require_gpu: bool,
    dry_run: bool,
) -> None:
    """Serve GRAPH (module:Class of its entry service) until Ctrl-C.

    Without arguments: the default graph on the echo engine. Starts an embedded Redis server unless
    DYNAMO_REDIS_URL names one. Any setting of a service can be given as --Service.key=value.
    """
    # The graph is the user's own code in the current directory, where `python -m` finds it too.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    from dynamo_tasks.serve.planning.plan import PlanOptions, default_graph

    config = variable("DYNAMO_CONFIG") if config is None else config
    given = {"GRAPH": graph, "--config": config, "--model": model, "--host": host}
    for name, value in [*given.items(), *(("--service", one) for one in services)]:
        filled(name, value)
    _check_keys(api_key)
    options = PlanOptions(
        graph=graph or default_graph(),
        config=Path(config) if config else None,
        flags=ctx.meta[__name__],
        model=model,
        services=services,
        host=host,
        port=port,
        loglevel=loglevel,
        system_port=system_port,
    )
    gpu_mode = _gpu_mode(gpu_allocation, require_gpu)
    if dry_run:
        _show(options, gpu_mode)
        return
    options = dataclasses.replace(options, port=check_port(host, port))
    ctx.exit(_run(options, api_key, gpu_mode))


def _check_keys(api_key: str | None) -> None:
    """Refuse keys that are given and empty: serving everybody then would be a surprise."""
    if api_key is not None and not api_key.replace(",", " ").strip():
        raise ConfigError("--api-key is given but holds no key; give one or more, separated by commas")
    check_variables({**os.environ, **({} if api_key is None else {_KEYS: api_key})})
    if api_key is not None:
        from dynamo_tasks.frontend.access.configured import keys_from

        keys_from(api_key)


def _gpu_mode(allocation: bool | None, require: bool) -> str | None:
    """The GPU mode of the command line; ``None`` leaves it to the environment."""
    if require and allocation is False:
        raise click.UsageError("--require-gpu and --no-gpu-allocation exclude each other")
    if require:
        return "require"
    return None if allocation is None else "auto" if allocation else "off"


def _run(options: PlanOptions, api_key: str | None, gpu_mode: str | None) -> int:
    from dynamo_tasks.serve.commands.status import snapshot
    from dynamo_tasks.serve.session import Session

    signals.install_handlers()

    async def main() -> int:
        session = Session(
            lambda suffix: _plan(dataclasses.replace(options, node_suffix=suffix), gpu_mode)[0],
            host=options.host,
            port=options.port,
            api_key=api_key,
            output=Output(),
            snapshot=snapshot,
            gpu_mode=gpu_mode,
        )
        return await session.run()

    return asyncio.run(main())


def _plan(options: PlanOptions, gpu_mode: str | None) -> tuple[ProcessPlan, list[str]]:
    """The plan, and what to warn of; a dry run refuses what a real one would."""
    from dynamo_tasks.serve.planning.checks import check_environment
    from dynamo_tasks.serve.planning.plan import make_plan

    plan = make_plan(options)
    return plan, check_environment(plan, options.host, gpu_mode)


def _show(options: PlanOptions, gpu_mode: str | None) -> None:
    from dynamo_tasks.serve.planning.dryrun import render_plan

    plan, problems = _plan(options, gpu_mode)
    plain_console().print(render_plan(plan), soft_wrap=True)
    for problem in problems:
        click.echo(problem, err=True)
