"""Instruments are those of the catalogue."""

import pytest

from dynamo_tasks.observe import METRICS, metrics
from dynamo_tasks.observe.metrics import Instruments
from dynamo_tasks.observe.schema import PREFIX


@pytest.fixture
def instruments():
    return Instruments()


def test_every_metric_of_the_catalogue_is_exposed(instruments):
    families = {family.name: family for family in instruments.registry.collect()}
    for metric in METRICS.values():
        family = families[metric.full_name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)


def test_recorded_values_are_rendered(instruments):
    instruments.counter("requests_submitted_total", endpoint="dynamo.Worker.generate").inc(3)
    instruments.gauge("reader_streams").set(7)
    instruments.histogram("queue_wait_seconds", endpoint="dynamo.Worker.generate").observe(0.02)
    text = instruments.render().decode()
    assert f'{PREFIX}requests_submitted_total{{endpoint="dynamo.Worker.generate"}} 3.0' in text
    assert f"{PREFIX}reader_streams 7.0" in text
    assert f'{PREFIX}queue_wait_seconds_bucket{{endpoint="dynamo.Worker.generate",le="0.025"}} 1.0' in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.counter("nonsense_total"), "'nonsense_total' is not in the catalogue; known: engine_kv"),
        (lambda i: i.gauge("writer_flushes_total"), "'writer_flushes_total' is a counter, not a gauge"),
        (lambda i: i.counter("requests_submitted_total"), "has the labels endpoint, not none"),
        (lambda i: i.gauge("reader_streams", endpoint="x"), "has the labels none, not endpoint"),
    ],
)
def test_wrong_use_raises(instruments, call, message):
    with pytest.raises(LookupError, match=message):
        call(instruments)


def test_process_wide_instruments_are_not_in_the_default_registry():
    from prometheus_client import REGISTRY

    metrics.counter("writer_flushes_total").inc()
    assert b"dynamo_tasks_writer_flushes_total" in metrics.render()
    assert not [family for family in REGISTRY.collect() if family.name.startswith(PREFIX)]


def test_instruments_do_not_share_values(instruments):
    metrics.counter("reader_gaps_total").inc(5)
    assert instruments.registry.get_sample_value(f"{PREFIX}reader_gaps_total") == 0
