import click
import pytest

from dynamo_tasks.serve.commands.serve import split_flags


@pytest.mark.parametrize(
    ("typed", "rest", "flags"),
    [
        (["workers.agg:Frontend", "--port", "1"], ["workers.agg:Frontend", "--port", "1"], []),
        (["--Worker.engine=mocker"], [], ["--Worker.engine=mocker"]),
        (["--Worker.engine", "mocker", "g:F"], ["g:F"], ["--Worker.engine=mocker"]),
        (["--Worker.ServiceArgs.workers=2", "-f", "x"], ["-f", "x"], ["--Worker.ServiceArgs.workers=2"]),
        (["--Worker.enable-prefix-caching=true"], [], ["--Worker.enable-prefix-caching=true"]),
        (["--Worker.prompt=a=b\nc"], [], ["--Worker.prompt=a=b\nc"]),
        (["--port=1"], ["--port=1"], []),
    ],
)
def test_split_flags(typed: list[str], rest: list[str], flags: list[str]) -> None:
    assert split_flags(typed) == (rest, flags)


@pytest.mark.parametrize("typed", [["--Worker.engine"], ["--Worker.engine", "--port"]])
def test_a_flag_without_a_value_is_refused(typed: list[str]) -> None:
    with pytest.raises(click.UsageError, match=r"--Worker\.engine needs a value"):
        split_flags(typed)
