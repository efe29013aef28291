"""Events as log records with an event name. Imported only when logs are on."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace as api
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace.propagation import set_span_in_context

from server.telemetry.otel.event import OtelEvent
from server.telemetry.otel.metric_definitions import SCHEMA_URL

SCOPE = "trefoil.server"
SEVERITIES = {
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "high": SeverityNumber.ERROR,
    "critical": SeverityNumber.ERROR4,
}


class Logs:
    def __init__(self, processors: Sequence[LogRecordProcessor], version: str) -> None:
        self._processors = processors
        self._version = version

    def logger(self, resource: Resource) -> Logger:
        """A logger for one resource. All share the same processors, which live longer."""
        provider = LoggerProvider(resource, shutdown_on_exit=False)
        for processor in self._processors:
            provider.add_log_record_processor(processor)
        return provider.get_logger(SCOPE, self._version, SCHEMA_URL)

    def write(self, logger: Logger, event: OtelEvent) -> None:
        logger.emit(
            timestamp=event.unix_ns,
            context=_context(event),
            severity_number=SEVERITIES[event.severity],
            severity_text=event.severity.upper(),
            body=event.body or None,
            attributes=dict(event.attributes),
            event_name=event.name,
        )


def _context(event: OtelEvent) -> Context:
    """The trace of an event, and its span if known."""
    if not event.trace_id:
        return Context()
    flags = api.TraceFlags(api.TraceFlags.SAMPLED)
    context = api.SpanContext(event.trace_id, event.span_id, is_remote=False, trace_flags=flags)
    return set_span_in_context(api.NonRecordingSpan(context), Context())
