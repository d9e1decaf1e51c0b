"""``/v1/batches`` with the real client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from tests.support.batches import BatchPlace, batch_place, chat_line
from tests.support.keys import CHAT, KeyDesk, ask, bearer
from tests.support.processes import ROOT, environment, until
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchPlace]:
    with batch_place(redis_server, tmp_path_factory.mktemp("files"), "batches") as made:
        yield made


def test_a_batch_of_chats(place: BatchPlace) -> None:
    lines = [chat_line(f"q{i}", f"question {i}") for i in range(300)]
    made = place.submit(lines, metadata={"why": "test"})
    assert (made.status, made.object, made.metadata) == ("validating", "batch", {"why": "test"})
    batch = place.ended(made.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (300, 300, 0)
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    assert batch.error_file_id is None
    rows = place.rows(batch.output_file_id)
    assert sorted(row["custom_id"] for row in rows) == sorted(line["custom_id"] for line in lines)
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows)
    body = rows[7]["response"]["body"]
    assert body["object"] == "chat.completion"
    alone = place.client.chat.completions.create(**lines[7]["body"])
    assert body["choices"] == alone.model_dump(exclude_unset=True)["choices"]
    assert sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows) == batch.usage.total_tokens
    assert next(one.id for one in place.client.batches.list()) == made.id
    file = place.client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{made.id}_output.jsonl")


def test_an_idempotency_key_stands_for_one_batch(place: BatchPlace) -> None:
    lines = [chat_line("a", "hello")]
    key = {"Idempotency-Key": "batch-once"}
    made = place.ended(place.submit(lines, extra_headers=key).id)
    ask = {"endpoint": made.endpoint, "completion_window": "24h", "extra_headers": key}
    again = place.client.batches.create(input_file_id=made.input_file_id, **ask)
    assert again.to_dict() == made.to_dict()
    with pytest.raises(openai.ConflictError):
        place.client.batches.create(input_file_id=made.input_file_id, metadata={"a": "b"}, **ask)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "hello", "max_tokens": 4}),
        ("/v1/embeddings", {"input": ["hello", "world"]}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 16}),
    ],
)
def test_other_apis(place: BatchPlace, url: str, body: dict[str, object]) -> None:
    line = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "mocker", **body}}
    batch = place.ended(place.submit([line], url).id)
    [row] = place.rows(batch.output_file_id)
    assert row["response"]["status_code"] == 200, row
    assert row["response"]["body"]["model"] == "mocker"


def test_what_was_gathered_leaves_nothing_for_long(place: BatchPlace) -> None:
    """Before, a record of each line stayed for a day."""
    batch = place.ended(place.submit([chat_line(f"q{i}", "hi", tokens=2) for i in range(300)]).id)
    assert batch.status == "completed"
    long = """local n = 0 for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
      if redis.call('PTTL', key) > 60000 then n = n + 1 end end return n"""

    def kept() -> int:
        names = ("dt:batches:req:*", "dt:batches:log:*", "dt:batches:doc:*")
        return sum(int(place.server.command("EVAL", long, "0", name).strip(b":\r\n")) for name in names)

    until(
        lambda: kept() <= 20, 30, lambda: f"{kept()} keys"
    )  # of other tests: runs, and what was asked directly


def test_a_response_of_a_batch_is_in_its_output_alone(place: BatchPlace) -> None:
    url, body = "/v1/responses", {"model": "mocker", "input": "hi", "max_output_tokens": 16, "store": True}
    batch = place.ended(
        place.submit([{"custom_id": "a", "method": "POST", "url": url, "body": body}], url).id
    )
    [row] = place.rows(batch.output_file_id)
    made = row["response"]["body"]
    assert (row["response"]["status_code"], made["store"], made["status"]) == (200, False, "incomplete")
    with pytest.raises(openai.NotFoundError):
        place.client.responses.retrieve(made["id"])


def test_what_is_wrong_with_one_line_is_in_the_error_file(place: BatchPlace) -> None:
    lines = [chat_line("good", "hi"), chat_line("bad", "hi", temperature=99)]
    batch = place.ended(place.submit(lines).id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 1)
    [good], [bad] = place.rows(batch.output_file_id), place.rows(batch.error_file_id)
    assert good["custom_id"] == "good"
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
    assert bad["response"]["body"]["error"]["param"] == "temperature"


GOOD = chat_line("a", "hi")


@pytest.mark.parametrize(
    ("lines", "code", "line", "param"),
    [
        ([GOOD, "{nonsense"], "invalid_json_line", 2, None),
        ([GOOD, "[1]"], "invalid_json_line", 2, None),
        ([GOOD, GOOD], "duplicate_custom_id", 2, "custom_id"),
        ([GOOD, {**GOOD, "custom_id": "b", "url": "/v1/embeddings"}], "mismatched_url", 2, "url"),
        ([{**GOOD, "method": "GET"}], "invalid_method", 1, "method"),
        ([{**GOOD, "nonsense": 1}], "invalid_json_line", 1, "nonsense"),
        ([{**GOOD, "body": {"messages": []}}], "invalid_request", 1, "body"),
        ([chat_line("a", "hi", stream=True)], "invalid_request", 1, "body.stream"),
        ([GOOD, chat_line("b", "hi", model="other")], "mismatched_model", 2, "body.model"),
        ([chat_line("a", "hi", model="nobody")], "model_not_found", 1, "body.model"),
        (["\n \n"], "empty_file", None, None),
    ],
)
def test_a_file_that_is_wrong_fails_its_batch(
    place: BatchPlace, lines: list[object], code: str, line: int | None, param: str | None
) -> None:
    batch = place.ended(place.submit(lines).id)
    assert (batch.status, batch.output_file_id, bool(batch.failed_at)) == ("failed", None, True)
    [found] = batch.errors.data
    assert (found.code, found.line, found.param) == (code, line, param), found.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
        ({"endpoint": "/v1/magic"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        (
            {"extra_body": {"output_expires_after": {"anchor": "created_at", "seconds": 1}}},
            "output_expires_after.seconds",
        ),
    ],
)
def test_a_body_that_is_wrong_is_refused(place: BatchPlace, fields: dict[str, object], param: str) -> None:
    file = place.client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    good = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as refused:
        place.client.batches.create(**(good | fields))
    assert (refused.value.param or "").startswith(param)


@pytest.mark.slow
def test_a_cancelled_batch_keeps_what_is_done(place: BatchPlace) -> None:
    lines = [chat_line(f"q{i}", "hi", tokens=4 if i < 5 else 5000) for i in range(400)]
    made = place.submit(lines)
    until(lambda: place.client.batches.retrieve(made.id).request_counts.completed == 5, 60)
    assert place.client.batches.cancel(made.id).status == "cancelling"
    batch = place.ended(made.id)
    assert (batch.status, bool(batch.cancelling_at), bool(batch.cancelled_at)) == ("cancelled", True, True)
    good, bad = place.rows(batch.output_file_id), place.rows(batch.error_file_id)
    assert {row["custom_id"] for row in good} == {f"q{i}" for i in range(5)}
    assert len(good) + len(bad) == 400
    assert {row["error"]["code"] for row in bad} == {"batch_cancelled"}
    with pytest.raises(openai.NotFoundError):
        place.client.batches.cancel("batch_" + "0" * 32)
    assert place.client.batches.cancel(made.id).status == "cancelled"


@pytest.mark.slow
def test_a_batch_expires_with_what_is_done(place: BatchPlace) -> None:
    lines = [chat_line(f"q{i}", "hi", tokens=4 if i < 5 else 9000) for i in range(20)]
    batch = place.ended(place.submit(lines, window="6s").id)
    assert (batch.status, bool(batch.expired_at), batch.expires_at) == ("expired", True, batch.created_at + 6)
    good, bad = place.rows(batch.output_file_id), place.rows(batch.error_file_id)
    assert {row["custom_id"] for row in good} == {f"q{i}" for i in range(5)}
    assert {row["error"]["code"] for row in bad} == {"batch_expired"}
    assert len(bad) == 15


def of_key(place: BatchPlace, key: str) -> BatchPlace:
    """The same place, asked with a key."""
    return replace(place, key=key)


def test_lines_wait_for_the_tokens_of_their_key_and_go_on(place: BatchPlace) -> None:
    """They wait, none of them fails; once the key has tokens again, all the rest runs."""
    desk = KeyDesk(place.server.url, "batches")
    made = desk.create("--tokens-per-day", "400")
    mine = of_key(place, made["key"])
    batch = mine.submit([chat_line(f"q{i}", "hi", tokens=50) for i in range(12)])

    def counts() -> tuple[int, int]:
        found = mine.client.batches.retrieve(batch.id).request_counts
        return found.completed, found.failed

    until(lambda: counts()[0] >= 2, 30, lambda: f"the first lines: {counts()}")
    answer = place.frontend.request("POST", CHAT, ask(max_tokens=300), bearer(made["key"]))
    assert answer[2]["error"]["code"] == "insufficient_quota"
    assert counts()[0] < 12
    assert counts()[1] == 0
    desk.keys("update", made["id"], "--tokens-per-day", "100000")
    ended = mine.ended(batch.id)
    assert (ended.status, ended.request_counts.completed, ended.error_file_id) == ("completed", 12, None)
    assert {row["custom_id"] for row in mine.rows(ended.output_file_id)} == {f"q{i}" for i in range(12)}


@pytest.mark.slow
def test_lines_wait_for_the_next_tokens_of_the_minute(place: BatchPlace) -> None:
    made = KeyDesk(place.server.url, "batches").create("--tokens-per-minute", "6000")
    mine = of_key(place, made["key"])
    ended = mine.ended(mine.submit([chat_line(f"q{i}", "hi", tokens=400) for i in range(16)]).id)
    assert (ended.request_counts.completed, ended.request_counts.failed) == (16, 0)
    assert ended.usage.output_tokens == 16 * 400
    assert ended.completed_at - ended.in_progress_at >= 3, (
        "6,400 tokens and prompts, 6,000 at once, then 100 a second"
    )


def test_a_line_that_no_minute_has_tokens_for_is_refused(place: BatchPlace) -> None:
    made = KeyDesk(place.server.url, "batches").create(
        "--tokens-per-minute", "300", "--tokens-per-day", "1000"
    )
    mine = of_key(place, made["key"])
    lines = [
        chat_line("minute", "hi", tokens=500),
        chat_line("day", "hi", tokens=2000),
        chat_line("good", "hi"),
    ]
    ended = mine.ended(mine.submit(lines).id)
    assert [row["custom_id"] for row in mine.rows(ended.output_file_id)] == ["good"]
    bad = {
        row["custom_id"]: row["response"]["body"]["error"]["code"] for row in mine.rows(ended.error_file_id)
    }
    assert bad == {"minute": "rate_limit_exceeded", "day": "insufficient_quota"}


def command(place: BatchPlace, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment(place.server.url, **place.env)
    argv = [sys.executable, "-m", "dynamo_tasks", "batch", *words, "--url", place.frontend.base_url]
    return subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_from_the_terminal(place: BatchPlace, tmp_path: Path) -> None:
    source, output = tmp_path / "in put.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(chat_line(f"q{i}", "hi")) for i in range(5)))
    done = command(place, "submit", str(source), "--metadata", "a=b", "--wait", "--output", str(output))
    assert done.returncode == 0, done.stderr
    batch_id = done.stdout.strip()
    assert "completed" in done.stderr
    assert [json.loads(row)["custom_id"] for row in output.read_text().splitlines()] == [
        f"q{i}" for i in range(5)
    ]
    assert place.client.batches.retrieve(batch_id).metadata == {"a": "b"}
    assert command(place, "results", batch_id).stdout == output.read_text()
    assert command(place, "results", batch_id, "--errors").stdout == ""
    found = json.loads(command(place, "status", batch_id, "--json").stdout)
    assert found["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert batch_id in command(place, "status").stdout
    refused = command(place, "cancel", batch_id)
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: a batch that is completed cannot be cancelled\n",
    )
    source.write_text(json.dumps(chat_line("a", "hi")) + "\n{nonsense")
    failed = command(place, "submit", str(source), "--wait")
    assert failed.returncode == 1
    assert "line 2: " in failed.stderr
