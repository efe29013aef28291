"""A collector for tests: the OTLP services over real gRPC, which keep what they are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc


@dataclass
class Collector:
    """`traces`, `metrics` and `logs` are the requests as they came."""

    address: str = ""
    traces: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    refuse: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> dict[str, Any]:
        """The spans by name; with several of a name, the last."""
        return {span.name: span for span in self.all_spans()}

    def all_spans(self) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def events(self) -> dict[str, Any]:
        return {
            record.event_name: record
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        }

    def schemas(self) -> set[str]:
        """The schema URLs of all scopes of all three signals."""
        traces = [one.scope_spans for r in self.traces for one in r.resource_spans]
        metrics = [one.scope_metrics for r in self.metrics for one in r.resource_metrics]
        logs = [one.scope_logs for r in self.logs for one in r.resource_logs]
        return {scope.schema_url for scopes in (*traces, *metrics, *logs) for scope in scopes}

    def points(self, name: str) -> list[Any]:
        """The data points of one metric in the last export that has it, over all resources."""
        for request in reversed(self.metrics):
            found = [
                point
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if metric.name == name
                for point in getattr(metric, metric.WhichOneof("data")).data_points
            ]
            if found:
                return found
        return []


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict of plain values."""
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found


@contextmanager
def collector() -> Iterator[Collector]:
    kept = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_grpc.add_TraceServiceServicer_to_server(
        _Service(kept, kept.traces, trace_pb2.ExportTraceServiceResponse), server
    )
    metrics_grpc.add_MetricsServiceServicer_to_server(
        _Service(kept, kept.metrics, metrics_pb2.ExportMetricsServiceResponse), server
    )
    logs_grpc.add_LogsServiceServicer_to_server(
        _Service(kept, kept.logs, logs_pb2.ExportLogsServiceResponse), server
    )
    kept.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield kept
    finally:
        server.stop(0).wait()


@dataclass
class _Service:
    collector: Collector
    kept: list[Any]
    answer: Callable[[], Any]

    def Export(self, request: Any, context: Any) -> Any:
        if self.collector.refuse.is_set():
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "as the test asks")
        self.kept.append(request)
        return self.answer()
