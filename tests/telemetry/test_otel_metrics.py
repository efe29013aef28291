"""What OpenTelemetry counts: names, histograms, drift and value, and the metric data made from
them."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import (
    LogarithmMapping,
)
from opentelemetry.semconv._incubating.attributes import rpc_attributes
from opentelemetry.semconv._incubating.metrics import rpc_metrics

from server.ops.otel_setup import known_methods
from server.telemetry.otel import metric_definitions
from server.telemetry.otel.gauges import LEVELS, MOST_SLICES, gauges_of
from server.telemetry.otel.histogram import BUCKETS, FIRST_INDEX, SCALE, Histogram, place_of
from server.telemetry.otel.items import row_of
from server.telemetry.otel.metric_store import (
    OTHER,
    CounterPoint,
    HistogramPoint,
    MetricStore,
    call_attributes,
)
from server.telemetry.otel.metrics import Form, Rendering
from server.telemetry.otel.snapshot import MetricSnapshot
from server.telemetry.rows import QualityRow
from tests.support.otel_bench import PREDICT, ROOT, call, drift, record
from tests.support.stub_replica import STAMP


def test_names_are_those_of_the_conventions() -> None:
    assert metric_definitions.CALL_DURATION == rpc_metrics.RPC_SERVER_CALL_DURATION
    names = dict(call_attributes(PREDICT, "OK"))
    assert names[rpc_attributes.RPC_SYSTEM_NAME] == "grpc"
    assert names[rpc_attributes.RPC_METHOD] == PREDICT


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("OK", None),
        ("INVALID_ARGUMENT", None),  # the caller's own
        ("INTERNAL", "INTERNAL"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ],
)
def test_only_errors_of_the_server_have_an_error_type(status: str, error: str | None) -> None:
    assert dict(call_attributes(PREDICT, status)).get("error.type") == error


def test_every_metric_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "opentelemetry.md").read_text()
    for name in (
        *metric_definitions.HISTOGRAMS,
        *metric_definitions.COUNTERS,
        *metric_definitions.GAUGES,
    ):
        assert f"`{name}`" in text, name


# ---- histograms ------------------------------------------------------------------------------


@given(st.floats(min_value=1e-6, max_value=4000.0))
def test_a_value_is_in_the_bucket_of_the_data_model(value: float) -> None:
    index = place_of(value) + FIRST_INDEX
    assert index == LogarithmMapping(SCALE).map_to_index(value)


def test_values_beyond_the_ends_are_counted_at_the_ends() -> None:
    assert place_of(0.0) == -1
    assert place_of(1e-12) == 0
    assert place_of(1e9) == BUCKETS - 1


@given(st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=1, max_size=30))
def test_a_histogram_counts_every_value_once_in_both_forms(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.add(value)
    point = histogram.point()
    assert point.n == len(values) == sum(point.bounded) == sum(point.counts) + point.zeros
    assert (point.min, point.max) == (min(values), max(values))
    assert math.isclose(point.sum, math.fsum(values), abs_tol=1e-9)
    assert point.bounded[0] == sum(value <= 0.1 for value in values)


def test_no_caller_can_make_series() -> None:
    store = MetricStore(known_methods(), labels=("ok", "stop"))
    for index in range(500):
        word = f"made-up-{index}"
        store.add_call(call(word, word), None)
        odd = record(task=word, mix=word, label=word, client=word, slices={word: word})
        store.add_row(row_of(odd), None)
        store.add_row(row_of(replace(odd, error=f"{word}/{word}/{word}")), None)
    assert len(list(store.histograms())) == 1 + 2 + 5 + 1
    assert len(list(store.counters())) == 2
    points: list[HistogramPoint | CounterPoint] = [*store.histograms(), *store.counters()]
    for one in points:
        assert not any("made-up" in value for _, value in one.attributes), one.attributes
        assert OTHER in dict(one.attributes).values()


def test_labels_of_the_bundle_are_counted_by_name_and_others_together() -> None:
    store = MetricStore((), labels=("ok", "stop"))
    for label in ("ok", "ok", "stop", "the caller's own"):
        store.add_row(row_of(record(label=label)), None)
    counts = {dict(one.attributes)["trefoil.label"]: one.value for one in store.counters()}
    assert counts == {"ok": 2, "stop": 1, OTHER: 1}


def test_a_failed_row_counts_only_the_stages_it_went_through() -> None:
    store = MetricStore((), ())
    failed = record(error="INVALID_ARGUMENT/TOO_DARK/parts[0]", forward_ms=0.0, post_ms=0.0)
    store.add_row(row_of(failed), None)
    stages = {
        dict(one.attributes)["trefoil.stage"]: one.point.n
        for one in store.histograms()
        if one.name == metric_definitions.STAGE_DURATION
    }
    assert stages == {"queue": 1, "decode": 1, "preprocess": 1, "forward": 0, "post": 0}


# ---- drift and value -------------------------------------------------------------------------


def test_too_little_data_shows_no_score() -> None:
    names = {one.name: one.value for one in gauges_of([drift("a", level="insufficient")])}
    assert names == {"trefoil.drift.n": 400, "trefoil.drift.level": LEVELS["insufficient"]}


def test_only_the_worst_slices_are_shown_and_all_traffic_always() -> None:
    rows = [drift("a", f"site={index}", ks=index / 1000) for index in range(500)]
    rows += [drift("a", "site=worst", "critical"), drift("a")]
    shown = [
        dict(one.attributes)["trefoil.slice"]
        for one in gauges_of(rows)
        if one.name == "trefoil.drift.ks"
    ]
    assert shown[:2] == ["", "site=worst"]
    assert len(shown) == 1 + MOST_SLICES
    assert "site=499" in shown


def test_value_is_shown_as_far_as_it_is_known() -> None:
    row = QualityRow(0, 3600, STAMP, "", 200, 50, accuracy=0.9, estimated_accuracy=0.8)
    found = {(one.name, dict(one.attributes).get("kind")): one.value for one in gauges_of([row])}
    assert found == {
        ("trefoil.quality.accuracy", "realised"): 0.9,
        ("trefoil.quality.accuracy", "estimated"): 0.8,
        ("trefoil.quality.labelled", None): 0.25,
    }


@given(st.sampled_from(sorted(LEVELS)))
def test_every_reading_is_in_the_catalogue(level: str) -> None:
    quality = QualityRow(0, 3600, STAMP, "", 9, 9, 0.9, 0.9, 0.9, 1.0, 1.0, 0.1, 60.0)
    for one in gauges_of([drift("a", level=level), quality]):
        assert one.name in metric_definitions.GAUGES


# ---- metric data -----------------------------------------------------------------------------


def counted(store: MetricStore) -> list[MetricSnapshot]:
    found = list(store.histograms()), list(store.counters())
    return [MetricSnapshot((("service.name", "t"),), STAMP, 1, *found, readings=())]


def rendered(rendering: Rendering, store: MetricStore) -> dict[str, Any]:
    (of_resource,) = rendering.data(counted(store)).resource_metrics
    (scope,) = of_resource.scope_metrics
    return {metric.name: metric.data for metric in scope.metrics}


def test_deltas_add_up_to_the_whole() -> None:
    store = MetricStore(known_methods(), ("ok",))
    parts, whole = (
        Rendering(Form(delta=True), "", time.time_ns),
        Rendering(Form(), "", time.time_ns),
    )
    sums = [0, 0, 0.0]
    for round_ in (3, 0, 5):
        for index in range(round_):
            store.add_call(call(took_s=0.001 * (index + 1)), None)
            store.add_row(row_of(record()), None)
        data = rendered(parts, store)
        if round_:
            (point,) = data[metric_definitions.CALL_DURATION].data_points
            sums[0] += point.count
            sums[1] += sum(point.positive.bucket_counts)
            sums[2] += point.sum
            (predictions,) = data[metric_definitions.PREDICTIONS].data_points
            assert predictions.value == round_
        else:
            assert metric_definitions.CALL_DURATION not in data
    (point,) = rendered(whole, store)[metric_definitions.CALL_DURATION].data_points
    assert sums[:2] == [point.count, sum(point.positive.bucket_counts)] == [8, 8]
    assert math.isclose(sums[2], point.sum)


def test_explicit_buckets_are_the_conventions() -> None:
    store = MetricStore(known_methods(), ())
    store.add_call(call(took_s=0.025), None)
    rendering = Rendering(Form(explicit_buckets=True), "", time.time_ns)
    (point,) = rendered(rendering, store)[metric_definitions.CALL_DURATION].data_points
    assert list(point.explicit_bounds)[:4] == [0.005, 0.01, 0.025, 0.05]
    assert list(point.bucket_counts)[:4] == [0, 0, 1, 0]
