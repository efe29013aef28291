"""OpenTelemetry: what is counted, what leaves the process, and that nothing of it is in the way."""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import (
    LogarithmMapping,
)
from opentelemetry.semconv._incubating.attributes import rpc_attributes
from opentelemetry.semconv._incubating.metrics import rpc_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.edge import Edge
from server.engine import Engine
from server.instrumented import CannotExport, Instrumented, known_methods
from server.telemetry.errors import ExportRefused
from server.telemetry.otel import catalogue
from server.telemetry.otel.books import MOST_STAMPS, Served
from server.telemetry.otel.count import Count
from server.telemetry.otel.exporters import Watched
from server.telemetry.otel.file import SqliteFile
from server.telemetry.otel.histogram import BUCKETS, FIRST_INDEX, SCALE, Histogram, place_of
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.items import Call, caller_trace, row_of
from server.telemetry.otel.ledger import OTHER, Ledger, call_attributes
from server.telemetry.otel.metrics import Form, Rendering
from server.telemetry.otel.plan import Plan, named_attributes, plan_of
from server.telemetry.otel.readings import LEVELS, MOST_SLICES, Reading, readings_of
from server.telemetry.otel.sqlite import (
    INSERT_SPAN,
    Batch,
    SqliteEventExporter,
    SqliteMetricExporter,
    SqliteSpanExporter,
)
from server.telemetry.otel.traces import sampler_of, stages_of
from server.telemetry.record import FeatureSpec, Record
from server.telemetry.rows import AlertRow, DriftRow, QualityRow
from tests.otlp_collector import Collector, collector, plain
from tests.running import IDENTITY, channel_to, program, until
from tests.stub_replica import STAMP, stub_config, stub_pool

ROOT = Path(__file__).resolve().parent.parent
PREDICT = "trefoil.v1.Inference/Predict"
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"
ABOUT = {"service.name": "trefoil-server", "service.version": "0.1.0"}


def record(**changes: Any) -> Record:
    made = Record(
        prediction_id="0" * 31 + "1",
        at=1_800_000_000.0,
        stamp=STAMP,
        task="classify",
        mix="audio+image+text",
        label="ok",
        confidence=0.9,
        margin=0.8,
        entropy=0.1,
        closed_set_mass=0.99,
        features=b"",
        slices={"site": "a"},
        client="press-7",
        session="",
        replica=0,
        batch_size=4,
        queue_ms=1.0,
        decode_ms=2.0,
        preprocess_ms=3.0,
        forward_ms=8.0,
        post_ms=0.5,
        total_ms=20.0,
    )
    return replace(made, **changes)


def call(method: str = PREDICT, status: str = "OK", took_s: float = 0.02) -> Call:
    return Call(method, 1_800_000_000_000_000_000, status=status, took_s=took_s)


@contextmanager
def instruments(plan: Plan, served: Served | None = None, **options: Any) -> Iterator[Instruments]:
    now = served or Served(STAMP, "stub", ("ok", "stop"))
    made = Instruments(plan, ABOUT, known_methods(), lambda: now, **options)
    try:
        yield made
    finally:
        made.close()


def one_call(made: Instruments, *records: Record, parent: str = "", status: str = "OK") -> None:
    begun = made.began(PREDICT, parent)
    for one in records:
        made.answered(one, begun)
    made.ended(begun, status, 0.02)


def wait_for(happened: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, f"did not happen within {within_s} s"
        time.sleep(0.01)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, named as operators name it. Metrics are sent when the server ends."""
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
        yield found


# ---- what is switched on ---------------------------------------------------------------------


def test_serving_without_it_loads_nothing_of_it() -> None:
    code = (
        "import sys, server.commands.serve, server.instrumented as i\n"
        "from server.config import ServerConfig\n"
        "from server.snapshot import Identity\n"
        "made = i.Instrumented(ServerConfig(), Identity('n','v','i',{},(),False,0.0), environ={})\n"
        "assert made.instruments is None\n"
        "sys.exit(', '.join({'opentelemetry', 'prometheus_client'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scrape_endpoint_alone_loads_nothing_of_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from server.telemetry.otel.instruments import Instruments\n"
        "from server.telemetry.otel.plan import plan_of\n"
        "Instruments(plan_of({}, '127.0.0.1:0'), {}, ()).close()\n"
        "assert 'prometheus_client' in sys.modules\n"
        "sys.exit('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "logs metrics traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, "traces"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_LOGS_EXPORTER": "none"}, "metrics traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"}, ""),
    ],
)
def test_standard_variables_switch_signals_on(environ: dict[str, str], signals: str) -> None:
    assert plan_of(environ).otlp == frozenset(signals.split())


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "--prometheus HOST:PORT"),
        (
            {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "soon"}, "OTEL_METRIC_EXPORT_INTERVAL=soon"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "OTEL_METRIC_EXPORT_INTERVAL=0"),
        ({"OTEL_BLRP_MAX_QUEUE_SIZE": "many"}, "OTEL_BLRP_MAX_QUEUE_SIZE=many"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ExportRefused, match=named):
        plan_of(environ)


@pytest.mark.parametrize("address", ["9464", ":9464", "host:", "host:http", "host:65536"])
def test_a_scrape_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ExportRefused, match="is not HOST:PORT"):
        plan_of({}, address)


def test_a_taken_scrape_address_is_refused_and_nothing_stays_behind(
    receiver: Collector,
) -> None:
    before = threading.active_count()
    with instruments(plan_of({}, "127.0.0.1:0")) as first:
        address = first.said[0].removeprefix("metrics on http://").removesuffix("/metrics")
        with pytest.raises(CannotExport, match="cannot listen"):
            Instrumented(replace(stub_config(), prometheus=address), IDENTITY)
    wait_for(lambda: threading.active_count() <= before)


def test_the_operator_names_the_service() -> None:
    environ = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=a, team=line%203,broken",
        "OTEL_SERVICE_NAME": "b",
    }
    assert named_attributes(environ) == {"service.name": "b", "team": "line 3"}


def test_names_are_those_of_the_conventions() -> None:
    assert catalogue.CALL_DURATION == rpc_metrics.RPC_SERVER_CALL_DURATION
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
    for name in (*catalogue.HISTOGRAMS, *catalogue.COUNTERS, *catalogue.GAUGES):
        assert f"`{name}`" in text, name


# ---- histograms ------------------------------------------------------------------------------


@given(st.floats(min_value=1e-6, max_value=4000.0))
def test_a_value_is_in_the_bucket_the_data_model_says(value: float) -> None:
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
    ledger = Ledger(known_methods(), labels=("ok", "stop"))
    for index in range(500):
        word = f"made-up-{index}"
        ledger.add_call(call(word, word), None)
        odd = record(task=word, mix=word, label=word, client=word, slices={word: word})
        ledger.add_row(row_of(odd), None)
        ledger.add_row(row_of(replace(odd, error=f"{word}/{word}/{word}")), None)
    assert len(list(ledger.histograms())) == 1 + 2 + 5 + 1
    assert len(list(ledger.counters())) == 2
    for one in (*ledger.histograms(), *ledger.counters()):
        assert not any("made-up" in value for _, value in one.attributes), one.attributes
        assert OTHER in dict(one.attributes).values()


def test_labels_of_the_bundle_are_counted_by_name_and_others_together() -> None:
    ledger = Ledger((), labels=("ok", "stop"))
    for label in ("ok", "ok", "stop", "the caller's own"):
        ledger.add_row(row_of(record(label=label)), None)
    counts = {dict(one.attributes)["trefoil.label"]: one.value for one in ledger.counters()}
    assert counts == {"ok": 2, "stop": 1, OTHER: 1}


def test_a_failed_row_counts_only_the_stages_it_went_through() -> None:
    ledger = Ledger((), ())
    failed = record(error="INVALID_ARGUMENT/TOO_DARK/parts[0]", forward_ms=0.0, post_ms=0.0)
    ledger.add_row(row_of(failed), None)
    stages = {
        dict(one.attributes)["trefoil.stage"]: one.point.n
        for one in ledger.histograms()
        if one.name == catalogue.STAGE_DURATION
    }
    assert stages == {"queue": 1, "decode": 1, "preprocess": 1, "forward": 0, "post": 0}


# ---- drift and value -------------------------------------------------------------------------


def drift(feature: str, slice_: str = "", level: str = "ok", ks: float = 0.1) -> DriftRow:
    return DriftRow(0, STAMP, feature, slice_, 3600, "bundle", 500, 400, 320, ks=ks, level=level)


def test_too_little_data_shows_no_score() -> None:
    names = {one.name: one.value for one in readings_of([drift("a", level="insufficient")])}
    assert names == {"trefoil.drift.n": 400, "trefoil.drift.level": LEVELS["insufficient"]}


def test_only_the_worst_slices_are_shown_and_all_traffic_always() -> None:
    rows = [drift("a", f"site={index}", ks=index / 1000) for index in range(500)]
    rows += [drift("a", "site=worst", "critical"), drift("a")]
    shown = [
        dict(one.attributes)["trefoil.slice"]
        for one in readings_of(rows)
        if one.name == "trefoil.drift.ks"
    ]
    assert shown[:2] == ["", "site=worst"]
    assert len(shown) == 1 + MOST_SLICES
    assert "site=499" in shown


def test_value_is_shown_as_far_as_it_is_known() -> None:
    row = QualityRow(0, 3600, STAMP, "", 200, 50, accuracy=0.9, estimated_accuracy=0.8)
    found = {(one.name, dict(one.attributes).get("kind")): one.value for one in readings_of([row])}
    assert found == {
        ("trefoil.quality.accuracy", "realised"): 0.9,
        ("trefoil.quality.accuracy", "estimated"): 0.8,
        ("trefoil.quality.labelled", None): 0.25,
    }


@given(st.sampled_from(sorted(LEVELS)))
def test_every_reading_is_in_the_catalogue(level: str) -> None:
    quality = QualityRow(0, 3600, STAMP, "", 9, 9, 0.9, 0.9, 0.9, 1.0, 1.0, 0.1, 60.0)
    for one in readings_of([drift("a", level=level), quality]):
        assert one.name in catalogue.GAUGES


# ---- metric data -----------------------------------------------------------------------------


def counted(ledger: Ledger) -> list[Count]:
    found = list(ledger.histograms()), list(ledger.counters())
    return [Count((("service.name", "t"),), STAMP, 1, *found, readings=())]


def rendered(rendering: Rendering, ledger: Ledger) -> dict[str, Any]:
    (of_resource,) = rendering.data(counted(ledger)).resource_metrics
    (scope,) = of_resource.scope_metrics
    return {metric.name: metric.data for metric in scope.metrics}


def test_deltas_add_up_to_the_whole() -> None:
    ledger = Ledger(known_methods(), ("ok",))
    parts, whole = (
        Rendering(Form(delta=True), "", time.time_ns),
        Rendering(Form(), "", time.time_ns),
    )
    sums = [0, 0, 0.0]
    for round_ in (3, 0, 5):
        for index in range(round_):
            ledger.add_call(call(took_s=0.001 * (index + 1)), None)
            ledger.add_row(row_of(record()), None)
        data = rendered(parts, ledger)
        if round_:
            (point,) = data[catalogue.CALL_DURATION].data_points
            sums[0] += point.count
            sums[1] += sum(point.positive.bucket_counts)
            sums[2] += point.sum
            (predictions,) = data[catalogue.PREDICTIONS].data_points
            assert predictions.value == round_
        else:
            assert catalogue.CALL_DURATION not in data
    (point,) = rendered(whole, ledger)[catalogue.CALL_DURATION].data_points
    assert sums[:2] == [point.count, sum(point.positive.bucket_counts)] == [8, 8]
    assert math.isclose(sums[2], point.sum)


def test_explicit_buckets_are_the_conventions() -> None:
    ledger = Ledger(known_methods(), ())
    ledger.add_call(call(took_s=0.025), None)
    rendering = Rendering(Form(explicit_buckets=True), "", time.time_ns)
    (point,) = rendered(rendering, ledger)[catalogue.CALL_DURATION].data_points
    assert list(point.explicit_bounds)[:4] == [0.005, 0.01, 0.025, 0.05]
    assert list(point.bucket_counts)[:4] == [0, 0, 1, 0]


# ---- traces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        PARENT + "-more",  # version 00 has nothing more
        PARENT.upper(),
        PARENT[:-1],
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(header: str) -> None:
    assert caller_trace(header) is None


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    found = caller_trace("01" + PARENT[2:] + "-more")
    assert found is not None and found.sampled and f"{found.parent_id:x}" == "b" * 16


def test_the_share_is_kept_over_ids_as_they_are_made(receiver: Collector) -> None:
    with instruments(Plan(otlp=frozenset({"traces"}), trace_share=0.25)) as made:
        begun = [made.began(PREDICT) for _ in range(4000)]
    sampled = sum(bool(one.trace and one.trace.sampled) for one in begun)
    assert 850 < sampled < 1150  # 5 standard deviations


def test_the_environment_may_name_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    plan = plan_of(os.environ)
    sampler, why = sampler_of(plan.trace_share)
    assert "AlwaysOff" in sampler.get_description()
    assert why == "as OTEL_TRACES_SAMPLER says"


def test_stages_lie_inside_the_row_with_the_wait_before_the_forward() -> None:
    row = row_of(record())
    spans = {stage: (began, ended) for stage, began, ended in stages_of(row)}
    assert list(spans) == ["queue", "decode", "preprocess", "forward", "post"]
    end_ns = int(row.at * 1e9)
    assert spans["queue"][0] == end_ns - 20_000_000
    assert spans["post"][1] == end_ns
    assert spans["forward"][0] - spans["preprocess"][1] == 5_500_000
    for (_, ended), (began, _) in zip(
        list(spans.values())[:-1], list(spans.values())[1:], strict=True
    ):
        assert ended <= began


def test_stages_that_sum_to_more_than_the_whole_stay_inside() -> None:
    row = row_of(record(total_ms=4.0))
    end_ns = int(row.at * 1e9)
    for _, began, ended in stages_of(row):
        assert end_ns - 4_000_000 <= began <= ended <= end_ns


def test_a_sampled_call_becomes_a_trace_and_its_record_names_it(receiver: Collector) -> None:
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        begun = made.began(PREDICT)
        kept = made.answered(record(), begun)
        made.ended(begun, "OK", 0.02)
    spans = receiver.spans()
    server = spans[PREDICT]
    assert kept.trace_id == server.trace_id.hex() != ""
    assert server.kind == server.SPAN_KIND_SERVER and server.parent_span_id == b""
    assert plain(server.attributes)["trefoil.prediction.id"] == record().prediction_id
    assert plain(server.attributes)["rpc.status_code"] == "OK"
    stages = [f"trefoil.{stage}" for stage in ("queue", "decode", "preprocess", "forward", "post")]
    assert sorted(spans) == sorted([PREDICT, *stages])
    assert {spans[stage].parent_span_id for stage in stages} == {server.span_id}


def test_the_callers_decision_is_followed(receiver: Collector) -> None:
    with instruments(plan_of(os.environ, trace_share=0.0)) as made:
        one_call(made, record(prediction_id="1" * 32), parent=PARENT)
        one_call(made, record(prediction_id="2" * 32), parent=UNSAMPLED)
        one_call(made, record(prediction_id="3" * 32))
    (server,) = [span for span in receiver.all_spans() if span.kind == span.SPAN_KIND_SERVER]
    assert plain(server.attributes)["trefoil.prediction.id"] == "1" * 32
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == ("a" * 32, "b" * 16)


def test_several_rows_have_a_span_each_between_call_and_stages(receiver: Collector) -> None:
    rows = [record(prediction_id=f"{index:032x}") for index in range(3)]
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        one_call(made, *rows)
    spans = receiver.all_spans()
    (server,) = [span for span in spans if span.name == PREDICT]
    between = [span for span in spans if span.name == "trefoil.prediction"]
    assert {span.parent_span_id for span in between} == {server.span_id}
    assert {plain(span.attributes)["trefoil.prediction.id"] for span in between} == {
        row.prediction_id for row in rows
    }
    forwards = [span.parent_span_id for span in spans if span.name == "trefoil.forward"]
    assert sorted(forwards) == sorted(span.span_id for span in between)


def test_each_row_of_a_stream_is_a_trace_of_its_own(receiver: Collector) -> None:
    method = "trefoil.v1.Inference/PredictStream"
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        begun = made.began(method, streamed=True)
        kept = [made.answered(record(prediction_id=f"{n:032x}"), begun) for n in range(3)]
        made.ended(begun, "OK", 5.0)
    rows = [span for span in receiver.all_spans() if span.name == "trefoil.prediction"]
    assert {span.trace_id.hex() for span in rows} == {one.trace_id for one in kept}
    assert len({one.trace_id for one in kept}) == 3
    assert all(plain(span.attributes)["rpc.method"] == method for span in rows)
    (point,) = receiver.points(catalogue.CALL_DURATION)
    assert (point.count, point.sum) == (1, 5.0)


def test_a_health_check_is_counted_and_not_traced(receiver: Collector) -> None:
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        begun = made.began("grpc.health.v1.Health/Check")
        made.ended(begun, "OK", 0.001)
    assert receiver.all_spans() == []
    (point,) = receiver.points(catalogue.CALL_DURATION)
    assert plain(point.attributes)["rpc.method"] == "grpc.health.v1.Health/Check"


# ---- over OTLP -------------------------------------------------------------------------------


def test_exemplars_lead_to_the_trace(receiver: Collector) -> None:
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        one_call(made, record())
    server = receiver.spans()[PREDICT]
    for name in (catalogue.CALL_DURATION, catalogue.PREDICTION_DURATION, catalogue.STAGE_DURATION):
        for point in receiver.points(name):
            (exemplar,) = point.exemplars
            assert (exemplar.trace_id, exemplar.span_id) == (server.trace_id, server.span_id)


def test_what_belongs_to_a_stamp_is_filed_under_it(receiver: Collector) -> None:
    other = "cd" * 32
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        made.saw([Reading("trefoil.queue.rows", 3.0)])
        one_call(made, record())
        one_call(made, record(stamp=other))
    names = {}
    for resource in receiver.metrics[-1].resource_metrics:
        about = plain(resource.resource.attributes)
        assert about["service.name"] == "trefoil-server"
        metrics = [metric.name for scope in resource.scope_metrics for metric in scope.metrics]
        names[about.get("trefoil.stamp", "")] = metrics
    assert catalogue.STAGE_DURATION in names[STAMP] and catalogue.STAGE_DURATION in names[other]
    assert "trefoil.queue.rows" in names[""]
    traced = {
        plain(resource.resource.attributes)["trefoil.stamp"]
        for request in receiver.traces
        for resource in request.resource_spans
    }
    assert traced == {STAMP, other}


def test_many_stamps_are_forgotten_one_after_the_other(receiver: Collector) -> None:
    with instruments(plan_of(os.environ)) as made:
        for index in range(3 * MOST_STAMPS):
            one_call(made, record(stamp=f"{index:064x}"))
        wait_for(lambda: len(made.collect()) == 1 + MOST_STAMPS)


def test_events_are_for_samples_alerts_deploys_and_errors_of_ours(receiver: Collector) -> None:
    alert = AlertRow("7", "drift", "drift", "critical", "firing", 1, 2, 0, STAMP, "it is dark")
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        one_call(made, record())
        one_call(made, record(error="INVALID_ARGUMENT/TOO_DARK/parts[0]"))
        one_call(made, record(error="INTERNAL/QUARANTINED/"), status="INTERNAL")
        made.alerted(alert)
        made.sampled(record(trace_id="a" * 32), 0.05)
    events = receiver.events()
    assert sorted(events) == ["trefoil.alert", "trefoil.deploy", "trefoil.error",
                              "trefoil.prediction"]  # fmt: skip
    assert plain(events["trefoil.error"].attributes)["trefoil.error"] == "INTERNAL/QUARANTINED/"
    assert events["trefoil.error"].trace_id in {span.trace_id for span in receiver.all_spans()}
    assert events["trefoil.alert"].severity_text == "CRITICAL"
    assert events["trefoil.alert"].body.string_value == "it is dark"
    assert plain(events["trefoil.prediction"].attributes)["trefoil.sample.probability"] == 0.05
    assert events["trefoil.prediction"].trace_id.hex() == "a" * 32
    assert plain(events["trefoil.deploy"].attributes)["trefoil.stamp.name"] == "stub"


def test_drift_and_value_are_read_when_metrics_are_sent(receiver: Collector) -> None:
    with instruments(plan_of(os.environ)) as made:
        made.follow(lambda: [drift("image.brightness", level="critical", ks=0.4)])
    (point,) = receiver.points("trefoil.drift.ks")
    assert point.as_double == 0.4
    assert plain(point.attributes)["trefoil.feature"] == "image.brightness"


def test_what_a_collector_refuses_is_counted(receiver: Collector) -> None:
    receiver.refuse.set()
    with instruments(plan_of(os.environ, trace_share=1.0)) as made:
        one_call(made, record())
        wait_for(lambda: made.lost()["traces"] == 6)
    assert made.lost()["metrics"] == 1
    assert made.lost()["logs"] == 1
    assert made.lost()["backlog"] == 0


@pytest.mark.parametrize("listening", [False, True], ids=["absent", "silent"])
def test_a_collector_that_does_not_answer_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        before = set(threading.enumerate())
        made = Instruments(plan_of(os.environ, trace_share=1.0), ABOUT, known_methods())
        for _ in range(50):
            one_call(made, record())
        made.close(0.5)
        made.close()
        wait_for(lambda: set(threading.enumerate()) <= before)
    assert made.lost()["traces"] == 300


def test_more_than_the_queue_holds_is_dropped_and_counted() -> None:
    class Exporter:
        def export(self, batch: Any) -> Any:
            raise AssertionError("nothing is exported here")

    waiting = plan_of({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}).spans
    watched = Watched(Exporter(), "traces", waiting)
    admitted = sum(watched.admits() for _ in range(110))
    assert (admitted, watched.refused) == (100, 10)


# ---- scraped ---------------------------------------------------------------------------------


def scrape(made: Instruments, accept: str = "") -> str:
    url = next(one for one in made.said if one.startswith("metrics on")).removeprefix("metrics on ")
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_scrape_shows_calls_stages_state_and_drift() -> None:
    with instruments(plan_of({}, "127.0.0.1:0")) as made:
        made.saw([Reading("trefoil.queue.rows", 3.0), Reading("trefoil.retries", 2)])
        made.follow(lambda: [drift("a", "site=b", ks=0.25)])
        one_call(made, record())
        one_call(made, record(error="INTERNAL/DIED/"), status="INTERNAL")
        wait_for(lambda: any(count.histograms for count in made.collect()))
        families = {family.name: family for family in plain_text(scrape(made))}
    calls = {
        (one.labels["rpc_status_code"], one.labels["error_type"]): one.value
        for one in families["rpc_server_call_duration_seconds"].samples
        if one.name.endswith("_count")
    }
    assert calls == {("OK", ""): 1, ("INTERNAL", "INTERNAL"): 1}
    stage = families["trefoil_stage_duration_seconds"].samples[0].labels
    assert stage["trefoil_stamp"] == STAMP[:12]
    assert families["trefoil_queue_rows"].samples[0].value == 3
    assert families["trefoil_retries"].samples[0].value == 2
    assert families["trefoil_drift_ks"].samples[0].labels["trefoil_slice"] == "site=b"
    assert families["target_info"].samples[0].labels["trefoil_stamp"] == STAMP
    assert families["process_resident_memory_bytes"].samples[0].value > 0


def test_buckets_of_a_scrape_are_cumulative_and_end_with_all() -> None:
    with instruments(plan_of({}, "127.0.0.1:0")) as made:
        for _ in range(3):
            one_call(made, record())
        wait_for(lambda: any(count.histograms for count in made.collect()))
        text = scrape(made)
    name = "rpc_server_call_duration_seconds"
    family = next(family for family in plain_text(text) if family.name == name)
    buckets = [one for one in family.samples if one.name.endswith("_bucket")]
    values = [one.value for one in buckets]
    assert values == sorted(values) and values[-1] == 3
    assert buckets[-1].labels["le"] == "+Inf"
    assert next(one.value for one in buckets if one.labels["le"] == "0.025") == 3


def test_openmetrics_scrapes_carry_exemplars(receiver: Collector) -> None:
    with instruments(plan_of(os.environ, "127.0.0.1:0", trace_share=1.0)) as made:
        one_call(made, record())
        wait_for(lambda: any(count.histograms for count in made.collect()))
        text = scrape(made, "application/openmetrics-text; version=1.0.0")
    found = [
        sample.exemplar.labels["trace_id"]
        for family in open_metrics(text)
        for sample in family.samples
        if family.name == "rpc_server_call_duration_seconds" and sample.exemplar
    ]
    assert found == [receiver.spans()[PREDICT].trace_id.hex()]


# ---- into SQLite -----------------------------------------------------------------------------


DAY_S = 86400.0


@contextmanager
def kept(path: Path, **options: Any) -> Iterator[SqliteFile]:
    made = SqliteFile(path, **{"keep_s": DAY_S, **options})
    try:
        yield made
    finally:
        made.close()


def rows_of(path: Path, query: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query, values).fetchall()


def span_rows(count: int, at_ns: int) -> list[tuple[Any, ...]]:
    return [(f"{at_ns}", f"{n}", "", "a", "SERVER", at_ns, at_ns, "OK", "{}") for n in range(count)]


def flushed(file: SqliteFile) -> None:
    assert SqliteSpanExporter(file).force_flush(20_000)


def test_spans_events_and_points_join_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path) as file, instruments(Plan(trace_share=1.0), sink=file) as made:
        for index in range(20):
            broken = "INTERNAL/DIED/" if index % 2 else ""
            one_call(made, record(prediction_id=f"{index:032x}", error=broken))
    joined = rows_of(
        path,
        "SELECT count(*), count(DISTINCT e.trace_id) FROM otel_event e JOIN otel_span s "
        "ON s.trace_id = e.trace_id AND s.span_id = e.span_id WHERE e.name = 'trefoil.error'",
    )
    assert joined == [(10, 10)]
    assert rows_of(path, "SELECT count(*) FROM otel_span") == [(20 * 6,)]
    ((count, buckets),) = rows_of(
        path,
        "SELECT sum(count), buckets FROM otel_point WHERE name = ?",
        catalogue.CALL_DURATION,
    )
    assert count == 20 and sum(json.loads(buckets)["counts"]) == 20
    assert path.stat().st_mode & 0o777 == 0o600


def test_rows_past_their_time_go_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path, wall=lambda: 10 * DAY_S) as file:
        for day in (1, 9.5):
            file.put_nowait(Batch(INSERT_SPAN, span_rows(6000, int(day * DAY_S * 1e9))))
        flushed(file)
        file.sweep()
    assert rows_of(path, "SELECT count(*), min(end_ns) FROM otel_span") == [
        (6000, int(9.5 * DAY_S * 1e9))
    ]


def test_a_file_does_not_outgrow_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path, max_bytes=1 << 20, wall=lambda: DAY_S) as file:
        for hour in range(8):
            file.put_nowait(Batch(INSERT_SPAN, span_rows(5000, hour)))
        flushed(file)
        file.sweep()
        flushed(file)
    ((oldest, count),) = rows_of(path, "SELECT min(end_ns), count(*) FROM otel_span")
    assert oldest > 0 and count > 0
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= 1 << 20


def test_what_the_disk_does_not_take_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path) as file:
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE otel_span RENAME TO elsewhere")
            file.put_nowait(Batch(INSERT_SPAN, span_rows(7, 1)))
            flushed(file)
            assert file.lost == 7
            database.execute("ALTER TABLE elsewhere RENAME TO otel_span")
        file.put_nowait(Batch(INSERT_SPAN, span_rows(3, 1)))
    assert rows_of(path, "SELECT count(*) FROM otel_span") == [(3,)]
    assert file.lost == 7


@pytest.mark.parametrize("content", [None, b"no database at all, but long enough to be one" * 9])
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "otel.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CannotExport, match="--otel-file"):
        Instrumented(replace(stub_config(), otel_file=path), IDENTITY, environ={})


@pytest.mark.parametrize(
    "exporter", [SqliteSpanExporter, SqliteEventExporter, SqliteMetricExporter]
)
def test_a_full_queue_is_a_failure_at_once(exporter: Any) -> None:
    full: queue.Queue[Batch] = queue.Queue(1)
    full.put(Batch("", ()))
    made = exporter(full)
    data = Rendering(Form(), "", time.time_ns).data([]) if exporter is SqliteMetricExporter else []
    assert made.export(data).name == "FAILURE"
    assert made.force_flush(10) is False
    full.get()
    assert made.export(data).name == "SUCCESS"
    made.shutdown()
    made.shutdown()
    assert made.export(data).name == "FAILURE"


def test_a_flush_waits_for_the_writer_and_not_for_ever() -> None:
    sink: queue.Queue[Batch] = queue.Queue()
    made = SqliteSpanExporter(sink)
    assert made.force_flush(10) is False  # nobody writes
    thread = threading.Thread(target=lambda: [sink.get().written.set() for _ in range(2)])  # type: ignore[union-attr]
    thread.start()
    assert made.force_flush(10_000) is True
    thread.join()


# ---- the server itself -----------------------------------------------------------------------


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[str, Kept, Instrumented]]:
    """A real engine over a stub replica behind a real port, instrumented as `server` does it."""
    config = stub_config(listen="127.0.0.1:0", trace_share=1.0, **settings)
    kept = Kept()
    otel = Instrumented(config, IDENTITY)
    engine = Engine(config, stub_pool(config), otel.recorder(kept))
    edge = Edge(engine, config, IDENTITY, leave=lambda: None, interceptors=otel.interceptors(()))
    address = await edge.start()
    otel.watch(engine)
    try:
        await engine.start()
        await until(lambda: engine.snapshot().state == "READY", 60)
        yield address, kept, otel
    finally:
        await edge.stop(0)
        await engine.stop()
        await otel.close()


def request(*texts: str) -> pb.PredictRequest:
    return pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text=text)]) for text in texts])


async def test_a_request_is_traced_from_its_caller_to_the_stages(receiver: Collector) -> None:
    async with served() as (address, kept, _), channel_to(address) as channel:
        stub = stubs.InferenceStub(channel)
        metadata = (("traceparent", PARENT), ("tracestate", "vendor=1"))
        answer = await stub.Predict(request("hum"), metadata=metadata)
        await stub.Predict(request("hum", "hiss"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request("boom"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request("sleep 1"), timeout=0.2)
        async for _ in stub.Generate(pb.GenerateRequest(example=request("a b").examples[0])):
            pass
        stream = stub.PredictStream()
        await stream.write(request("hum"))
        await stream.read()
        await stream.done_writing()
        await until(lambda: len(kept.records) >= 6)
    spans = receiver.all_spans()
    servers = {
        plain(span.attributes)["trefoil.prediction.id"]: span
        for span in spans
        if span.name == PREDICT and "trefoil.prediction.id" in plain(span.attributes)
    }
    mine = servers[answer.results[0].prediction_id]
    assert (mine.trace_id.hex(), mine.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert mine.trace_state == "vendor=1"
    children = {span.name for span in spans if span.parent_span_id == mine.span_id}
    assert "trefoil.forward" in children and "trefoil.queue" in children
    traced = {span.trace_id.hex() for span in spans}
    assert {one.trace_id for one in kept.records} <= traced
    counts = {
        (plain(point.attributes)["rpc.method"].rpartition("/")[2],
         plain(point.attributes)["rpc.status_code"]): point.count
        for point in receiver.points(catalogue.CALL_DURATION)
    }  # fmt: skip
    assert counts == {
        ("Predict", "OK"): 2,
        ("Predict", "INVALID_ARGUMENT"): 1,
        ("Predict", "INTERNAL"): 1,
        ("Predict", "DEADLINE_EXCEEDED"): 1,
        ("Generate", "OK"): 1,
        ("PredictStream", "OK"): 1,
    }
    assert "trefoil.error" in receiver.events()
    deploy = plain(receiver.events()["trefoil.deploy"].attributes)
    assert deploy["trefoil.stamp"] == STAMP


async def test_the_state_of_the_server_can_be_scraped() -> None:
    async with served(prometheus="127.0.0.1:0") as (address, _, otel):
        assert otel.instruments is not None
        made = otel.instruments
        async with channel_to(address) as channel:
            await stubs.InferenceStub(channel).Predict(request("hum"))

        def ready() -> bool:
            return "trefoil_ready 1.0" in scrape(made) and "trefoil_stage" in scrape(made)

        await asyncio.to_thread(wait_for, ready)
        families = {one.name: one for one in plain_text(await asyncio.to_thread(scrape, made))}
    states = {
        one.labels["trefoil_state"]: one.value for one in families["trefoil_replicas"].samples
    }
    assert states == {"ready": 1}
    rows = {one.labels["trefoil_outcome"]: one.value for one in families["trefoil_rows"].samples}
    assert rows["answered"] >= 0
    assert families["target_info"].samples[0].labels["service_instance_id"] == IDENTITY.instance


def test_the_program_exports_what_it_did_and_ends_well(
    receiver: Collector, tiny_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "otel.db"
    flags = ("--warm-pool", "1", "--prometheus", "127.0.0.1:0", "--trace-share", "1")
    flags += ("--otel-file", str(file), "--data", str(tmp_path))
    with program("--bundle", str(tiny_bundle), *flags) as server:
        (line,) = [line for line in server.lines if line.startswith("metrics on")]
        with grpc.insecure_channel(server.address) as channel:
            answer = stubs.InferenceStub(channel).Predict(request("hum"))
        with urllib.request.urlopen(line.removeprefix("metrics on "), timeout=10) as scraped:
            assert "trefoil_replicas" in scraped.read().decode()
        assert server.stop() == 0, "\n".join(server.lines)
    assert not any("Error" in line for line in server.lines), "\n".join(server.lines)
    attributes = plain(receiver.spans()[PREDICT].attributes)
    assert attributes["trefoil.prediction.id"] == answer.results[0].prediction_id
    about = [
        plain(resource.resource.attributes)
        for request in receiver.traces
        for resource in request.resource_spans
    ]
    assert {one["trefoil.stamp"] for one in about} == {answer.stamp.hex}
    assert {one["trefoil.stamp.name"] for one in about} == {answer.stamp.name}
    (point,) = receiver.points(catalogue.PREDICTION_DURATION)
    assert point.count == 1
    kept_id = receiver.spans()[PREDICT].trace_id.hex()
    assert (kept_id,) in rows_of(file, "SELECT DISTINCT trace_id FROM otel_span")


def test_the_program_refuses_what_it_cannot_export(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "server.main", "--bundle", str(tiny_bundle)]
    done = subprocess.run(
        [*command, "--prometheus", "nowhere"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--prometheus 'nowhere' is not HOST:PORT" in done.stderr
