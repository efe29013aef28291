"""Which parts of OpenTelemetry are switched on, and which settings are refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from server.ops.otel_setup import CannotExport, OtelSetup
from server.telemetry.errors import ExportRefused
from server.telemetry.otel.configuration import configuration_of, named_attributes
from tests.support.otel_bench import ROOT, instruments, wait_for
from tests.support.otlp_collector import Collector
from tests.support.running import IDENTITY
from tests.support.stub_replica import stub_config


def run_alone(code: str) -> None:
    """In a process that has imported nothing else."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_serving_without_it_loads_nothing_of_it() -> None:
    code = (
        "import sys, server.commands.serve, server.ops.otel_setup as i\n"
        "from server.config import ServerConfig\n"
        "from server.api.snapshot_messages import ServerIdentity\n"
        "identity = ServerIdentity('n','v','i',{},(),False,0.0)\n"
        "made = i.OtelSetup(ServerConfig(), identity, environ={})\n"
        "assert made.instruments is None\n"
        "sys.exit(', '.join({'opentelemetry', 'prometheus_client'} & set(sys.modules)) or 0)"
    )
    run_alone(code)


def test_a_scrape_endpoint_alone_loads_nothing_of_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from server.telemetry.otel.instruments import Instruments\n"
        "from server.telemetry.otel.configuration import configuration_of\n"
        "Instruments(configuration_of({}, '127.0.0.1:0'), {}, ()).close()\n"
        "assert 'prometheus_client' in sys.modules\n"
        "sys.exit('opentelemetry' in sys.modules)"
    )
    run_alone(code)


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
    assert configuration_of(environ).otlp == frozenset(signals.split())


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
        configuration_of(environ)


@pytest.mark.parametrize("address", ["9464", "host:", ":", "host:http", "host:65536"])
def test_a_scrape_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ExportRefused, match="is not HOST:PORT"):
        configuration_of({}, address)


def test_a_taken_scrape_address_is_refused_and_nothing_stays_behind(
    receiver: Collector,
) -> None:
    before = threading.active_count()
    with instruments(configuration_of({}, "127.0.0.1:0")) as first:
        address = first.messages[0].removeprefix("metrics on http://").removesuffix("/metrics")
        with pytest.raises(CannotExport, match="cannot listen"):
            OtelSetup(replace(stub_config(), prometheus=address), IDENTITY)
    wait_for(lambda: threading.active_count() <= before)


def test_the_operator_names_the_service() -> None:
    environ = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=a, team=line%203,broken",
        "OTEL_SERVICE_NAME": "b",
    }
    assert named_attributes(environ) == {"service.name": "b", "team": "line 3"}
