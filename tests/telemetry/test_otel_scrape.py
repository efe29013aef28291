"""What Prometheus is shown."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.prometheus import MOST_CALLERS
from tests.support.otel_bench import PREDICT, drift, instruments, one_call, record, scrape, wait_for
from tests.support.otlp_collector import Collector
from tests.support.patience import patience
from tests.support.stub_replica import STAMP


def test_a_scrape_shows_calls_stages_state_and_drift() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
        made.saw([GaugeReading("trefoil.queue.rows", 3.0), GaugeReading("trefoil.retries", 2)])
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


def test_buckets_of_a_scrape_are_cumulative_and_end_with_all() -> None:
    with instruments(configuration_of({}, "127.0.0.1:0")) as made:
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
    with instruments(configuration_of(os.environ, "127.0.0.1:0", trace_share=1.0)) as made:
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
