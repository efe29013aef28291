"""Spans, made from a call's timings after it was answered, for sampled traces only.

There is one span for the call. With one prediction, the stages are its children; with several, each
prediction has a span between. Imported only when traces are on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace.propagation import set_span_in_context

from server.telemetry.otel.items import ROOT, Alone, ObservedCall, RowItem, Trace
from server.telemetry.otel.metric_definitions import SCHEMA_URL
from server.telemetry.otel.metric_store import (
    SERVER_ERRORS,
    SpanMark,
    call_attributes,
    generation_attributes,
)
from server.telemetry.outputs import STAGES, time_tuple

Attributes = dict[str, str | int | float | Sequence[str]]
SCOPE = "trefoil.server"
PREDICTION = "trefoil.prediction"
NS_PER_MS = 1_000_000
HTTP_1: Attributes = {"network.protocol.name": "http", "network.protocol.version": "1.1"}
HTTP_2: Attributes = {"network.protocol.name": "http", "network.protocol.version": "2"}


def sampler_of(share: float | None) -> tuple[Sampler, str]:
    """(sampler, reason). With None it is the one that OTEL_TRACES_SAMPLER names.

    The specification replaces TraceIdRatioBased by ProbabilitySampler, which Python has only as an
    experiment. When that changes, only this function needs to change.
    """
    if share is None:
        return TracerProvider(shutdown_on_exit=False).sampler, "as set by OTEL_TRACES_SAMPLER"
    return ParentBased(TraceIdRatioBased(share)), f"{share:g} of the traces no caller decided on"


class GivenTraceIds(IdGenerator):
    """The trace id is known before the span exists: set `trace_id`, then start the root span."""

    trace_id = 0

    def generate_span_id(self) -> int:
        return random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def is_trace_id_random(self) -> bool:
        return True


class Traces:
    """`begin` belongs to the request path, everything else to the draining thread."""

    def __init__(self, sampler: Sampler, processors: Sequence[SpanProcessor], version: str) -> None:
        self._sampler = sampler
        self._processors = processors
        self._version = version
        self._ids = GivenTraceIds()
        self.address = ""  # address of the gRPC port

    def begin(self, caller: Trace | None) -> Trace:
        """The caller's trace, or a new one, with the sampler's decision."""
        trace = caller or Trace(random.getrandbits(128) or 1)
        decision = self._sampler.should_sample(_context(caller), trace.trace_id, SCOPE).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        return Trace(trace.trace_id, trace.parent_id, sampled, trace.state)

    def tracer(self, resource: Resource) -> Tracer:
        """A tracer for one resource. All share the same processors, which live longer."""
        provider = TracerProvider(
            sampler=self._sampler,
            resource=resource,
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        for processor in self._processors:
            provider.add_span_processor(processor)
        tracer = provider.get_tracer(SCOPE, self._version, SCHEMA_URL)
        assert isinstance(tracer, Tracer)
        return tracer

    def write_call(self, tracer: Tracer, call: ObservedCall, model: str) -> list[SpanMark]:
        """The marks of the call's own span and then of each of its rows."""
        assert call.trace is not None
        ended_ns = call.began_unix_ns + int(call.took_s * 1e9)
        attributes: Attributes = dict(call_attributes(call.method, call.status))
        attributes |= self._connection(call)
        if len(call.rows) == 1:
            attributes |= _row_attributes(call.rows[0], model)
        self._ids.trace_id = call.trace.trace_id
        span = tracer.start_span(
            call.method,
            _context(call.trace),
            api.SpanKind.SERVER,
            attributes,
            start_time=call.began_unix_ns,
        )
        if call.status in SERVER_ERRORS:
            span.set_status(api.StatusCode.ERROR)
        mark = _mark(span, ended_ns)
        if len(call.rows) == 1:
            _write_stages(tracer, span, call.rows[0])
            marks = [mark, mark]
        else:
            marks = [
                mark,
                *(
                    self._write_row(tracer, set_span_in_context(span), row, model)
                    for row in call.rows
                ),
            ]
        span.end(ended_ns)
        return marks

    def write_alone(self, tracer: Tracer, alone: Alone, model: str) -> SpanMark:
        """Write a row of a stream. Like a call, it names both ends and has its own status."""
        assert alone.trace is not None
        self._ids.trace_id = alone.trace.trace_id
        row, call = alone.row, alone.call
        if call is None:
            return self._write_row(tracer, _context(alone.trace), row, model)
        attributes: Attributes = dict(call_attributes(call.method, row.error_code or "OK"))
        attributes |= self._connection(call)
        kind = api.SpanKind.SERVER
        return self._write_row(tracer, _context(alone.trace), row, model, kind, attributes)

    def _connection(self, call: ObservedCall) -> Attributes:
        found = connection_attributes(call.peer, call.http_address or self.address)
        return found | (HTTP_1 if call.http_address else HTTP_2)

    def _write_row(
        self,
        tracer: Tracer,
        context: Context | None,
        row: RowItem,
        model: str,
        kind: api.SpanKind = api.SpanKind.INTERNAL,
        more: Attributes | None = None,
    ) -> SpanMark:
        began_ns, ended_ns = _interval(row)
        attributes = {**_row_attributes(row, model), **(more or {})}
        span = tracer.start_span(PREDICTION, context, kind, attributes, start_time=began_ns)
        if row.error_code in SERVER_ERRORS:
            span.set_status(api.StatusCode.ERROR)
        _write_stages(tracer, span, row)
        span.end(ended_ns)
        return _mark(span, ended_ns)


def _write_stages(tracer: Tracer, parent: api.Span, row: RowItem) -> None:
    context = set_span_in_context(parent)
    for stage, began_ns, ended_ns in stages_of(row):
        span = tracer.start_span(f"trefoil.{stage}", context, start_time=began_ns)
        span.end(ended_ns)


def stages_of(row: RowItem) -> Iterator[tuple[str, int, int]]:
    """(stage, began, ended) in unix nanoseconds, of the stages that the row passed.

    Only durations are known. The stages before the forward are placed from the start, the forward
    and the later stages from the end: the gap between them is the wait for the batch.
    """
    began_ns, ended_ns = _interval(row)
    lengths = [int(ms * NS_PER_MS) for ms in time_tuple(row)[:-1]]
    at_ns = began_ns
    for stage, length in zip(STAGES[:3], lengths[:3], strict=True):
        if length:
            yield stage, at_ns, min(at_ns + length, ended_ns)
            at_ns = min(at_ns + length, ended_ns)
    forward_ns, post_ns = lengths[3:]
    at_ns = max(at_ns, ended_ns - forward_ns - post_ns)
    for stage, length in zip(STAGES[3:], (forward_ns, post_ns), strict=True):
        if length:
            yield stage, at_ns, min(at_ns + length, ended_ns)
            at_ns = min(at_ns + length, ended_ns)


def span_context(trace: Trace) -> api.SpanContext:
    return api.SpanContext(
        trace.trace_id,
        trace.parent_id,
        is_remote=True,
        trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED if trace.sampled else 0),
        trace_state=api.TraceState.from_header([trace.state]) if trace.state else None,
    )


def _context(trace: Trace | None) -> Context:
    """An empty context unless there is a remote parent, so that nothing of this thread's context is
    used."""
    if trace is None or trace.parent_id == ROOT:
        return Context()
    return set_span_in_context(api.NonRecordingSpan(span_context(trace)), Context())


def _interval(row: RowItem) -> tuple[int, int]:
    ended_ns = int(row.at * 1e9)
    return ended_ns - int(row.total_ms * NS_PER_MS), ended_ns


def _mark(span: api.Span, at_ns: int) -> SpanMark:
    context = span.get_span_context()
    return SpanMark(at_ns, context.trace_id, context.span_id)


def connection_attributes(peer: str, server: str) -> Attributes:
    """Attributes from `ipv4:10.0.0.7:4711`, as gRPC names a peer, and HOST:PORT or unix:PATH of the
    server."""
    scheme, _, address = peer.partition(":")
    found: Attributes = {}
    if scheme in ("ipv4", "ipv6"):
        host, _, port = unquote(address).rpartition(":")
        for prefix in ("client", "network.peer"):
            found[f"{prefix}.address"] = host.strip("[]")
            found[f"{prefix}.port"] = int(port) if port.isdecimal() else 0
        found["network.transport"] = "tcp"
    elif scheme == "unix":
        found["network.transport"] = "unix"
    host, _, port = server.rpartition(":")
    if server.startswith("unix:"):
        found["server.address"] = server.removeprefix("unix:")
    elif port.isdecimal():
        found |= {"server.address": host.strip("[]"), "server.port": int(port)}
    return found


def _generation_attributes(row: RowItem, model: str) -> Attributes:
    found: Attributes = dict(generation_attributes(row.task, model))
    if not found:
        return found
    if model:
        found["gen_ai.response.model"] = model
    found |= {"gen_ai.response.id": row.prediction_id, "gen_ai.output.type": "text"}
    if not row.error:
        found["gen_ai.usage.input_tokens"] = row.tokens_used
    if row.task == "embed":
        del found["gen_ai.output.type"]
    if row.generated_tokens:
        found["gen_ai.usage.output_tokens"] = row.generated_tokens
        found["gen_ai.response.finish_reasons"] = (row.finish_reason,)
        found["gen_ai.response.time_to_first_chunk"] = row.first_token_ms / 1e3
    return found


def _row_attributes(row: RowItem, model: str) -> Attributes:
    attributes: Attributes = {
        "trefoil.prediction.id": row.prediction_id,
        "trefoil.stamp": row.stamp,
        "trefoil.task": row.task,
        "trefoil.mix": row.mix,
        "trefoil.client": row.client,
        "trefoil.replica": row.replica,
        "trefoil.batch.rows": row.batch_size,
    }
    attributes |= _generation_attributes(row, model)
    if row.error:
        attributes["trefoil.error"] = row.error
        if row.error_code in SERVER_ERRORS:
            attributes["error.type"] = row.error_code
    else:
        attributes["trefoil.label"] = row.label
        attributes["trefoil.confidence"] = row.confidence
    return attributes
