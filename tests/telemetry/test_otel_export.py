"""What is sent over OTLP, and what happens when there is no receiver."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest

from server.ops.otel_setup import known_methods
from server.telemetry.otel import metric_definitions
from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.exporters import CountedExporter
from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.resources import MOST_STAMPS
from server.telemetry.rows import AlertRow
from tests.support.otel_bench import ABOUT, PREDICT, drift, instruments, one_call, record, wait_for
from tests.support.otlp_collector import Collector, plain
from tests.support.stub_replica import STAMP


def test_exemplars_lead_to_the_trace(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        one_call(made, record())
    server = receiver.spans()[PREDICT]
    for name in (
        metric_definitions.CALL_DURATION,
        metric_definitions.PREDICTION_DURATION,
        metric_definitions.STAGE_DURATION,
    ):
        for point in receiver.points(name):
            (exemplar,) = point.exemplars
            assert (exemplar.trace_id, exemplar.span_id) == (server.trace_id, server.span_id)


def test_what_belongs_to_a_stamp_is_filed_under_it(receiver: Collector) -> None:
    other = "cd" * 32
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        made.saw([GaugeReading("trefoil.queue.rows", 3.0)])
        one_call(made, record())
        one_call(made, record(stamp=other))
    names = {}
    for resource in receiver.metrics[-1].resource_metrics:
        about = plain(resource.resource.attributes)
        assert about["service.name"] == "trefoil-server"
        metrics = [metric.name for scope in resource.scope_metrics for metric in scope.metrics]
        names[about.get("trefoil.stamp", "")] = metrics
    assert (
        metric_definitions.STAGE_DURATION in names[STAMP]
        and metric_definitions.STAGE_DURATION in names[other]
    )
    assert "trefoil.queue.rows" in names[""]
    traced = {
        plain(resource.resource.attributes)["trefoil.stamp"]
        for request in receiver.traces
        for resource in request.resource_spans
    }
    assert traced == {STAMP, other}


def test_many_stamps_are_forgotten_one_after_the_other(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ)) as made:
        for index in range(3 * MOST_STAMPS):
            one_call(made, record(stamp=f"{index:064x}"))
        wait_for(lambda: len(made.collect()) == 1 + MOST_STAMPS)


def test_events_are_for_samples_alerts_deploys_and_errors_of_ours(receiver: Collector) -> None:
    alert = AlertRow("7", "drift", "drift", "critical", "firing", 1, 2, 0, STAMP, "it is dark")
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
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
    with instruments(configuration_of(os.environ)) as made:
        made.follow(lambda: [drift("image.brightness", level="critical", ks=0.4)])
    (point,) = receiver.points("trefoil.drift.ks")
    assert point.as_double == 0.4
    assert plain(point.attributes)["trefoil.feature"] == "image.brightness"


def test_what_a_collector_refuses_is_counted(receiver: Collector) -> None:
    receiver.refuse.set()
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
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
        made = Instruments(configuration_of(os.environ, trace_share=1.0), ABOUT, known_methods())
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

    waiting = configuration_of({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}).spans
    watched = CountedExporter(Exporter(), "traces", waiting)
    admitted = sum(watched.admits() for _ in range(110))
    assert (admitted, watched.refused) == (100, 10)
