"""All counts of one stamp, with bounded attributes: a value that is not in a known list becomes
`_OTHER`, so callers cannot create time series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from server.telemetry.otel.histogram import Attributes, Histogram, HistogramExemplar, Point
from server.telemetry.otel.items import ObservedCall, RowItem
from server.telemetry.otel.metric_definitions import (
    BATCH_ROWS,
    CALL_DURATION,
    FIRST_TOKEN,
    GENERATED,
    HISTOGRAMS,
    NEXT_TOKEN,
    PREDICTION_DURATION,
    PREDICTIONS,
    STAGE_DURATION,
)
from server.telemetry.outputs import STAGES, time_tuple

OTHER = "_OTHER"
MODALITIES = ("audio", "image", "text")
MIXES = frozenset("+".join(some) for n in (1, 2, 3) for some in combinations(MODALITIES, n))
TASKS = frozenset(("classify", "embed", "generate"))
CODES = frozenset(
    "CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split()
)
# All other codes are the caller's errors: semantic conventions 1.45, gRPC, server side.
SERVER_ERRORS = frozenset(
    "UNKNOWN DEADLINE_EXCEEDED UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS".split()
)
MOST_LABELS = 64
# Task -> operation of the semantic conventions for generative AI, which have none for classify.
OPERATIONS = {"generate": "generate_content", "embed": "embeddings"}


@dataclass(frozen=True, slots=True)
class SpanMark:
    """The sampled span that a value came from."""

    unix_ns: int
    trace_id: int
    span_id: int

    def of(self, value: float) -> HistogramExemplar:
        return HistogramExemplar(value, self.unix_ns, self.trace_id, self.span_id)


class HistogramPoint(NamedTuple):
    name: str
    attributes: Attributes
    point: Point


class CounterPoint(NamedTuple):
    name: str
    attributes: Attributes
    value: float


class MetricStore:
    """One thread writes it; hold the lock while reading the points."""

    def __init__(
        self,
        methods: Collection[str],
        labels: Collection[str],
        model: str = "",
        begins_at_zero: bool = False,
    ) -> None:
        self._model = model
        self._methods = frozenset(methods)
        self._labels = frozenset(sorted(labels)[:MOST_LABELS])
        self._calls: dict[tuple[str, str], Histogram] = {}
        self._rows: dict[tuple[str, str, str], Histogram] = {}
        self._stages: dict[tuple[str, str], tuple[Histogram, ...]] = {}
        self._batches: dict[str, Histogram] = {}
        self._predictions: Counter[tuple[str, str, str]] = Counter()
        self._first_token: Histogram | None = None
        self._next_token: Histogram | None = None
        self._tokens = 0
        self._has_tokens = begins_at_zero
        if begins_at_zero:
            self._begin()

    def _begin(self) -> None:
        """Start every known series at 0, so that a rate is right from its first step."""
        self._first_token, self._next_token = _new(FIRST_TOKEN), _new(NEXT_TOKEN)
        for label in self._labels:
            self._predictions["classify", label, ""] = 0
        for task in OPERATIONS:
            self._predictions[task, "", ""] = 0

    def add_call(self, call: ObservedCall, mark: SpanMark | None) -> None:
        method = call.method if call.method in self._methods else OTHER
        status = call.status if call.status == "OK" or call.status in CODES else OTHER
        histogram = self._calls.get((method, status))
        if histogram is None:
            histogram = self._calls[method, status] = _new(CALL_DURATION)
        histogram.add(call.took_s, mark.of(call.took_s) if mark else None)

    def add_row(self, row: RowItem, mark: SpanMark | None) -> None:
        task = row.task if row.task in TASKS else OTHER
        mix = row.mix if row.mix in MIXES else OTHER
        error = _error_type(row)
        histogram = self._rows.get((task, mix, error))
        if histogram is None:
            histogram = self._rows[task, mix, error] = _new(PREDICTION_DURATION)
        total_s = row.total_ms / 1e3
        histogram.add(total_s, mark.of(total_s) if mark else None)
        self._add_stages(row, task, mix, mark)
        if error:
            label = ""
        else:
            label = row.label if row.label in self._labels else OTHER if row.label else ""
            self._batch(task).add(row.batch_size)
        self._predictions[task, label, error] += 1
        if row.generated_tokens:
            self._add_tokens(row, mark)

    def histograms(self) -> Iterator[HistogramPoint]:
        for (method, status), histogram in self._calls.items():
            yield HistogramPoint(CALL_DURATION, call_attributes(method, status), histogram.point())
        for (task, mix, error), histogram in self._rows.items():
            attributes = _known(task, mix) + (_error(error) if error else ())
            yield HistogramPoint(PREDICTION_DURATION, attributes, histogram.point())
        for (task, mix), stages in self._stages.items():
            for stage, histogram in zip(STAGES, stages, strict=True):
                attributes = (("trefoil.stage", stage), *_known(task, mix))
                yield HistogramPoint(STAGE_DURATION, attributes, histogram.point())
        for name, tokens in ((FIRST_TOKEN, self._first_token), (NEXT_TOKEN, self._next_token)):
            if tokens is not None:
                yield HistogramPoint(
                    name, generation_attributes("generate", self._model), tokens.point()
                )
        for task, histogram in self._batches.items():
            yield HistogramPoint(BATCH_ROWS, (("trefoil.task", task),), histogram.point())

    def counters(self) -> Iterator[CounterPoint]:
        for (task, label, error), count in self._predictions.items():
            attributes: Attributes = (("trefoil.task", task),)
            if label:
                attributes += (("trefoil.label", label),)
            if error:
                attributes += _error(error)
            yield CounterPoint(PREDICTIONS, attributes, count)
        if self._has_tokens or self._tokens:
            yield CounterPoint(GENERATED, (), self._tokens)

    def _add_stages(self, row: RowItem, task: str, mix: str, mark: SpanMark | None) -> None:
        stages = self._stages.get((task, mix))
        if stages is None:
            stages = self._stages[task, mix] = tuple(_new(STAGE_DURATION) for _ in STAGES)
        for histogram, ms in zip(stages, time_tuple(row)[:-1], strict=True):
            if ms or not row.error:  # a failed row has not been through every stage
                histogram.add(ms / 1e3, mark.of(ms / 1e3) if mark else None)

    def _add_tokens(self, row: RowItem, mark: SpanMark | None) -> None:
        self._tokens += row.generated_tokens
        first_s = row.first_token_ms / 1e3
        self._first_token = self._first_token or _new(FIRST_TOKEN)
        self._first_token.add(first_s, mark.of(first_s) if mark else None)
        if row.generated_tokens > 1:
            each_s = max(row.total_ms / 1e3 - first_s, 0.0) / (row.generated_tokens - 1)
            self._next_token = self._next_token or _new(NEXT_TOKEN)
            self._next_token.add(each_s, mark.of(each_s) if mark else None)

    def _batch(self, task: str) -> Histogram:
        if task not in self._batches:
            self._batches[task] = _new(BATCH_ROWS)
        return self._batches[task]


def call_attributes(method: str, status: str) -> Attributes:
    """Attributes as the semantic conventions for gRPC (1.45) require."""
    attributes = (
        ("rpc.system.name", "grpc"),
        ("rpc.method", method),
        ("rpc.status_code", status),
    )
    return attributes + _error(status) if status in SERVER_ERRORS else attributes


def generation_attributes(task: str, model: str = "") -> Attributes:
    """Attributes as the semantic conventions for generative AI require; empty for a task that they
    lack."""
    operation = OPERATIONS.get(task)
    if operation is None:
        return ()
    found = (("gen_ai.operation.name", operation), ("gen_ai.provider.name", "trefoil"))
    return (*found, ("gen_ai.request.model", model)) if model else found


def _new(name: str) -> Histogram:
    return Histogram(HISTOGRAMS[name].bounds)


def _known(task: str, mix: str) -> Attributes:
    return (("trefoil.task", task), ("trefoil.mix", mix))


def _error(code: str) -> Attributes:
    return (("error.type", code),)


def _error_type(row: RowItem) -> str:
    if not row.error:
        return ""
    code = row.error_code
    return code if code in CODES else OTHER
