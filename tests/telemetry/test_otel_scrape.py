"""The answers to a Prometheus scrape."""

from __future__ import annotations

import gzip
import math
import os
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from server.ops.host_figures import GpuFigures, HostFigures, ReplicaFigures
from server.ops.otel_setup import host_of
from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.histogram import SCALE, Histogram
from server.telemetry.otel.histogram_family import HistogramFamily
from server.telemetry.otel.prometheus import MOST_CALLERS, Exposition, takes_protobuf
from server.telemetry.otel.prometheus_protobuf import encoded
from server.telemetry.otel.snapshot import MetricSnapshot
from tests.support.otel_bench import (
    PREDICT,
    counted,
    drift,
    instruments,
    one_call,
    record,
    scrape,
    scraped,
    wait_for,
)
from tests.support.otlp_collector import Collector
from tests.support.patience import patience
from tests.support.prometheus_messages import families as messages
from tests.support.stub_replica import STAMP


def test_a_scrape_shows_calls_stages_state_and_drift() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        made.saw([GaugeReading("trefoil.queue.rows", 3.0), GaugeReading("trefoil.retries", 2)])
        made.follow(lambda: [drift("a", "site=b", ks=0.25)])
        one_call(made, record())
        one_call(made, record(error="INTERNAL/DIED/"), status="INTERNAL")
        wait_for(lambda: counted(made))
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


def test_only_metrics_are_served_on_the_port() -> None:
    with instruments(configuration_of({}, ":0")) as made:
        url = made.messages[0].removeprefix("metrics on ")
        assert b"target_info" in urllib.request.urlopen(url, timeout=patience(10)).read()
        for path in ("/", "/health", "/metrics/", "/favicon.ico"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url.removesuffix("/metrics") + path, timeout=patience(10))
            with refused.value as answer:
                assert (answer.code, answer.read()) == (404, b"only /metrics is here\n")


def test_half_a_request_holds_no_thread_from_a_scrape() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        url = made.messages[0].removeprefix("metrics on ")
        host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
        before = threading.active_count()
        half = [socket.create_connection((host, int(port))) for _ in range(60)]
        for one in half:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        assert b"target_info" in urllib.request.urlopen(url, timeout=patience(10)).read()
        assert threading.active_count() <= before + MOST_CALLERS
        for one in half:
            one.close()


def test_scrapers_share_an_answer_for_ten_times_as_long_as_it_took() -> None:
    now, collected = [0.0], []

    def collect() -> list[MetricSnapshot]:
        collected.append(now[0])
        now[0] += 0.01
        return []

    exposition = Exposition(collect, lambda: now[0])
    bodies = {exposition.text("text/plain") for _ in range(100)}
    assert (len(bodies), len(collected)) == (1, 1)
    exposition.text(PROTOBUF)
    assert len(collected) == 2, "another form has an answer of its own"
    now[0] += 10 * 0.01
    exposition.text("text/plain")
    assert len(collected) == 3


def test_a_scraper_that_takes_gzip_gets_the_same_in_fewer_bytes() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        url = made.messages[0].removeprefix("metrics on ")
        request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip, deflate"})
        with urllib.request.urlopen(request, timeout=patience(10)) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            packed = answer.read()
    assert b"target_info" in gzip.decompress(packed) and b"target_info" not in packed


def test_buckets_of_a_scrape_are_cumulative_and_end_with_all() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        for _ in range(3):
            one_call(made, record())
        wait_for(lambda: counted(made))
        text = scrape(made)
    name = "rpc_server_call_duration_seconds"
    family = next(family for family in plain_text(text) if family.name == name)
    buckets = [one for one in family.samples if one.name.endswith("_bucket")]
    values = [one.value for one in buckets]
    assert values == sorted(values) and values[-1] == 3
    assert buckets[-1].labels["le"] == "+Inf"
    assert next(one.value for one in buckets if one.labels["le"] == "0.025") == 3


def test_openmetrics_scrapes_carry_exemplars(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, "127.0.0.1:0", trace_share=1.0)) as made:
        one_call(made, record())
        wait_for(lambda: counted(made))
        text = scrape(made, "application/openmetrics-text; version=1.0.0")
    found = [
        sample.exemplar.labels["trace_id"]
        for family in open_metrics(text)
        for sample in family.samples
        if family.name == "rpc_server_call_duration_seconds" and sample.exemplar
    ]
    assert found == [receiver.spans()[PREDICT].trace_id.hex()]


# As Prometheus 2.42 sends it with --enable-feature=native-histograms, and 3.x with protobuf first.
PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
TEXTS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (f"{PROTOBUF},{TEXTS}", True),
        (f"{PROTOBUF};q=0.6,text/plain;version=0.0.4;q=0.5", True),
        (f"text/plain;version=0.0.4;q=0.6,{PROTOBUF};q=0.5,*/*;q=0.1", False),
        (PROTOBUF.replace("delimited", "text"), False),
        (f"{PROTOBUF};q=0", False),
        (f"{PROTOBUF};q=high", False),
        (TEXTS, False),
        ("*/*", False),
        ("", False),
    ],
)
def test_protobuf_goes_to_those_who_prefer_it(accept: str, wanted: bool) -> None:
    assert takes_protobuf(accept) == wanted


def test_a_scraper_that_asks_for_protobuf_gets_native_histograms_and_all_else() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        made.saw([GaugeReading("trefoil.queue.rows", 3.0), GaugeReading("trefoil.retries", 2)])
        for _ in range(3):
            one_call(made, record())
        wait_for(lambda: counted(made))
        found = messages(scraped(made, f"{PROTOBUF},{TEXTS}"))
        text = {family.name: family for family in plain_text(scrape(made))}
    (call,) = found["rpc_server_call_duration_seconds"].metric
    assert {one.name: one.value for one in call.label}["rpc_method"] == PREDICT
    native = call.histogram
    assert (native.sample_count, native.schema, native.zero_count) == (3, SCALE, 0)
    assert math.isclose(native.sample_sum, 0.06)
    (span,) = native.positive_span
    high = 2 ** (span.offset / 2**SCALE)  # of the one bucket that has all three
    assert high / 2 ** (1 / 2**SCALE) < 0.02 <= high
    assert (span.length, list(native.positive_delta)) == (1, [3])
    assert native.bucket[-1].cumulative_count == 3 and math.isinf(native.bucket[-1].upper_bound)
    assert found["trefoil_queue_rows"].metric[0].gauge.value == 3
    assert found["trefoil_retries_total"].metric[0].counter.value == 2
    assert found["target_info"].metric[0].gauge.value == 1
    assert found["process_cpu_seconds_total"].metric[0].counter.value > 0
    for name, family in text.items():
        named = f"{name}_total" if family.type == "counter" else name
        assert named in found, "every family of the text form"


def test_runs_of_filled_buckets_are_spans_with_the_difference_to_the_count_before() -> None:
    histogram = Histogram((1.0,))
    for value in (0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.05, 9.0):
        histogram.add(value)
    family = HistogramFamily("a", "about a", ("x",), "")
    family.add([""], histogram.point())
    (metric,) = messages(encoded([family]))["a"].metric
    native = metric.histogram
    assert [(one.offset, one.length) for one in native.positive_span] == [(-8, 1), (7, 2), (24, 1)]
    # Bucket i ends at 2**(i/8): 0.5 is in -8, 1.0 in 0, 1.05 in 1, and 9.0 in 26.
    assert list(native.positive_delta) == [2, 1, -2, 0]
    assert native.zero_count == 1 and 0 < native.zero_threshold < 1e-30
    assert [one.cumulative_count for one in native.bucket] == [6, 8]
    assert not metric.label, "an empty label is none"


def test_a_histogram_without_values_is_a_native_one_by_its_threshold() -> None:
    family = HistogramFamily("a", "", (), "")
    family.add([], Histogram((1.0,)).point())
    native = messages(encoded([family]))["a"].metric[0].histogram
    assert native.zero_threshold > 0 and native.sample_count == 0
    assert not native.positive_span


def test_what_is_known_of_a_stamp_before_any_traffic_is_zero() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        wait_for(lambda: "trefoil_predictions_total" in scrape(made))
        found = {family.name: family for family in plain_text(scrape(made))}
    rows = {
        (one.labels["trefoil_task"], one.labels["trefoil_label"]): one.value
        for one in found["trefoil_predictions"].samples
    }
    assert rows == {
        ("classify", "ok"): 0,
        ("classify", "stop"): 0,
        ("embed", ""): 0,
        ("generate", ""): 0,
    }
    assert [one.value for one in found["trefoil_generated_tokens"].samples] == [0]
    (count,) = (
        one
        for one in found["gen_ai_server_time_to_first_token_seconds"].samples
        if one.name.endswith("_count")
    )
    assert count.value == 0 and count.labels["gen_ai_request_model"] == "stub"


def test_figures_of_the_host_replicas_and_gpus_are_shown_where_there_are_any() -> None:
    gpu = GpuFigures(1, "H200", memory_used_bytes=5, memory_total_bytes=9, utilisation=0.5)
    replica = ReplicaFigures(0, 1.25)
    figures = HostFigures(0.0, cpu_share=0.75, disk_free_bytes=7, gpus=(gpu,), replicas=(replica,))
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        made.saw(host_of(figures))
        found = {family.name: family for family in plain_text(scrape(made))}
    assert found["trefoil_host_cpu"].samples[0].value == 0.75
    assert found["trefoil_host_disk_free"].samples[0].value == 7
    assert "trefoil_host_memory_total" not in found and "trefoil_gpu_power" not in found
    used = found["trefoil_gpu_memory_used"].samples[0]
    assert (used.value, used.labels) == (5, {"trefoil_gpu": "1", "trefoil_gpu_name": "H200"})
    assert found["trefoil_gpu_utilisation"].samples[0].value == 0.5
    cpu = found["trefoil_replica_cpu_seconds"].samples[0]
    assert (cpu.name, cpu.value) == ("trefoil_replica_cpu_seconds_total", 1.25)
    assert cpu.labels["trefoil_replica"] == "0"
