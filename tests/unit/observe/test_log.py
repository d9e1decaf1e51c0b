"""Structured log events."""

import json
import logging

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import JsonFormatter, event, set_strict
from dynamo_tasks.observe import log as log_module
from dynamo_tasks.observe.log import choose_format
from dynamo_tasks.observe.schema import LogEvent


@pytest.fixture(autouse=True)
def _strict():
    before = set_strict(True)
    yield
    set_strict(before)


@pytest.fixture
def _debug(caplog):
    caplog.set_level(logging.DEBUG, logger="dynamo_tasks")


@pytest.mark.usefixtures("_debug")
def test_event_becomes_one_record_with_its_parts(caplog):
    event("request.finished", request_id="r1", endpoint="dynamo.Worker.generate", duration_s=0.12345678)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dynamo_tasks.request", logging.DEBUG)
    assert record.getMessage() == (
        "request.finished request_id=r1 endpoint=dynamo.Worker.generate duration_s=0.123457"
    )
    assert record.event == "request.finished"
    assert record.fields["duration_s"] == 0.123457
    assert record.filename == "test_log.py"


def test_event_below_the_level_is_not_formatted(caplog):
    class Explosive:
        def __str__(self):
            raise AssertionError("formatted")

    caplog.set_level(logging.INFO, logger="dynamo_tasks")
    event("request.claimed", request_id=Explosive())
    assert not caplog.records


def test_a_field_may_be_called_name(caplog, monkeypatch):
    monkeypatch.setitem(
        log_module.LOG_EVENTS, "test.named", LogEvent("test.named", logging.INFO, "", ("name",))
    )
    caplog.set_level(logging.INFO, logger="dynamo_tasks")
    event("test.named", name="Worker-0")
    assert caplog.messages == ["test.named name=Worker-0"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', r'"say \"hi\""'),
        ("50%s", "50%s"),
        ("line\nbreak", r'"line\nbreak"'),
        (["a", "b"], "\"['a', 'b']\""),
        (None, "None"),
        (ValueError("bad"), '"ValueError: bad"'),
    ],
)
def test_values_stay_on_one_line(caplog, value, shown):
    event("engine.died", error=value)
    assert caplog.messages == [f"engine.died error={shown}"]


def test_urls_lose_their_password(caplog):
    event(
        "store.connection_lost",
        server="redis://:hunter2@db:6379/0",
        error=OSError("redis://:hunter2@db gone"),
    )
    assert "hunter2" not in caplog.text
    assert caplog.records[0].fields["server"] == "redis://:***@db:6379/0"


def test_unknown_names_and_fields_raise_in_strict_mode():
    with pytest.raises(LookupError, match=r"'request.vanished' is not in the catalogue"):
        event("request.vanished")
    with pytest.raises(LookupError, match=r"'request.expired' has no field \['color'\]; allowed: request_id"):
        event("request.expired", color="red")


def test_unknown_names_are_logged_in_production(caplog):
    set_strict(False)
    event("request.vanished", request_id="r1")
    event("request.expired", color="red")
    assert caplog.messages[0] == "request.vanished request_id=r1"
    assert caplog.records[0].levelno == logging.WARNING


def test_strict_mode_comes_from_the_environment_of_child_processes():
    assert log_module.STRICT_VARIABLE == "DYNAMO_STRICT_TELEMETRY"


def _lines(caplog):
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_json_lines(caplog):
    event("lease.lost", instance_id="1a2b", silent_s=3.5, exc=TimeoutError("no reply"))
    logging.getLogger("dynamo_tasks.other").warning("plain %s", "text")
    lost, plain = _lines(caplog)
    assert (lost["event"], lost["instance_id"], lost["silent_s"]) == ("lease.lost", "1a2b", 3.5)
    assert "TimeoutError: no reply" in lost["traceback"]
    assert (plain["message"], plain["level"], plain["logger"]) == (
        "plain text",
        "WARNING",
        "dynamo_tasks.other",
    )


def test_the_format_is_chosen_by_the_environment():
    logger, handler = logging.Logger("test"), logging.StreamHandler()
    logger.addHandler(handler)
    choose_format(logger, {})
    assert handler.formatter is None
    choose_format(logger, {"DYNAMO_LOG_FORMAT": "json"})
    assert isinstance(handler.formatter, JsonFormatter)
    with pytest.raises(ConfigError, match="DYNAMO_LOG_FORMAT must be json or text, not 'xml'"):
        choose_format(logger, {"DYNAMO_LOG_FORMAT": "xml"})
