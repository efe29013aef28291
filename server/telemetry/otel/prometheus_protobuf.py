"""Prometheus' protobuf form, the one in which a scraper accepts native histograms.

The messages are those of io.prometheus.client, written field by field: only five of them are
needed, and no Python library has their stubs. A histogram is sent with both its exponential and its
classic buckets; the scraper chooses. Imported only with --prometheus or --http.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar

from server.telemetry.otel.histogram import SCALE, Point, trimmed
from server.telemetry.otel.histogram_family import HistogramFamily, LabelledPoint

CONTENT_TYPE = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
# The value in Prometheus' own libraries. By this field, a histogram without values counts as a
# native one.
ZERO_THRESHOLD = 2.0**-128
# Kind of family -> (its number, the field of a Metric with its value).
KINDS = {"counter": (0, 3), "gauge": (1, 2), "info": (1, 2), "unknown": (3, 5)}
HISTOGRAM = 4
LENGTH, EIGHT_BYTES, VARINT = 2, 1, 0  # wire types
CREATED = "_created"


def encoded(families: Iterable[Metric]) -> bytes:
    """Each family, preceded by its length."""
    return b"".join(_delimited(family) for one in families for family in _families(one))


def _families(family: Metric) -> Iterator[bytes]:
    """Families under the names of this form: a counter's family is named like its samples."""
    if isinstance(family, HistogramFamily):
        metrics = [_labels(one.labels) + _message(7, _histogram(one)) for one in family.points]
        yield _family(family.name, family, HISTOGRAM, metrics)
        return
    kind, field = KINDS.get(family.type, KINDS["unknown"])
    for name, samples in groupby(family.samples, key=lambda sample: sample.name):
        if not name.endswith(CREATED):
            values = ((one.labels, _double(1, one.value)) for one in samples)
            metrics = [_labels(labels) + _message(field, value) for labels, value in values]
            yield _family(name, family, kind, metrics)


def _family(name: str, family: Metric, kind: int, metrics: Iterable[bytes]) -> bytes:
    head = _text(1, name) + _text(2, family.documentation) + _number(3, kind)
    return head + b"".join(_message(4, metric) for metric in metrics) + _text(5, family.unit)


def _labels(labels: Mapping[str, str]) -> bytes:
    """Labels; an empty value is the same as no label."""
    pairs = (_text(1, name) + _text(2, value) for name, value in labels.items() if value)
    return b"".join(_message(1, pair) for pair in pairs)


def _histogram(one: LabelledPoint) -> bytes:
    point = one.point
    written = _number(1, point.n) + _double(2, point.sum)
    for bucket in one.buckets:
        shown = _message(3, _exemplar(bucket.exemplar)) if bucket.exemplar else b""
        written += _message(3, _number(1, bucket.count) + _double(2, bucket.high) + shown)
    written += _number(5, _zigzag(SCALE)) + _double(6, ZERO_THRESHOLD) + _number(7, point.zeros)
    spans, deltas = _native(point)
    for offset, length in spans:
        written += _message(12, _number(1, _zigzag(offset)) + _number(2, length))
    return written + b"".join(_number(13, _zigzag(delta)) for delta in deltas)


def _native(point: Point) -> tuple[list[tuple[int, int]], list[int]]:
    """Spans of filled buckets as (number of empty buckets before it, length), and each count minus
    the previous one. Prometheus numbers a bucket by its upper bound, OpenTelemetry by its lower
    one."""
    first, counts = trimmed(point.counts)
    spans: list[tuple[int, int]] = []
    deltas: list[int] = []
    end, before = 0, 0
    for filled, run in groupby(enumerate(counts, first + 1), key=lambda found: found[1] > 0):
        if not filled:
            continue
        buckets = list(run)
        spans.append((buckets[0][0] - end, len(buckets)))
        end = buckets[-1][0] + 1
        for _, count in buckets:
            deltas.append(count - before)
            before = count
    return spans, deltas


def _exemplar(shown: Exemplar) -> bytes:
    seconds = float(shown.timestamp or 0.0)
    time = _number(1, int(seconds)) + _number(2, int(seconds % 1 * 1e9))
    return _labels(shown.labels) + _double(2, shown.value) + _message(3, time)


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | LENGTH) + _delimited(content)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode()) if text else b""


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | EIGHT_BYTES) + struct.pack("<d", value)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
