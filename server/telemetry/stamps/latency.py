"""Latency in ten-second buckets: a count in each of 64 log buckets and the sum of each stage, for
each stamp, modality mix and replica. Counts add up over time and servers; percentiles would not."""

from __future__ import annotations

import math
from typing import NamedTuple

from server.telemetry.outputs import TIME_NAMES, time_tuple
from server.telemetry.record import Record
from server.telemetry.rows import Exemplar, LatencyRow

WIDTH_S = 10
WIDE_S = 300  # width of the rows that replace old ten-second rows
BUCKETS = 64
FIRST_MS = 0.25
EXEMPLARS = 4  # kept for each row: the slowest request of each of the highest buckets


class LatencyKey(NamedTuple):
    bucket_unix_s: int
    width_s: int
    stamp: str
    mix: str
    replica: int


def bucket_of(ms: float) -> int:
    """Bucket i holds [0.25 * 2^(i/4), 0.25 * 2^((i+1)/4)) ms; the outer two hold the rest."""
    if not ms > FIRST_MS:
        return 0
    return min(int(4 * math.log2(ms / FIRST_MS)), BUCKETS - 1) if ms < 1e9 else BUCKETS - 1


def key_of(record: Record) -> LatencyKey:
    bucket = int(record.at // WIDTH_S) * WIDTH_S
    return LatencyKey(bucket, WIDTH_S, record.stamp, record.mix, max(record.replica, 0))


class LatencySums:
    __slots__ = ("requests", "errors", "counts", "stages", "batch_rows", "_exemplars")

    def __init__(self) -> None:
        self.requests = self.errors = self.batch_rows = 0
        self.counts = [0] * BUCKETS
        self.stages = [0.0] * len(TIME_NAMES)
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, record: Record) -> None:
        self.requests += 1
        self.errors += record.error != ""
        self.batch_rows += record.batch_size
        bucket = bucket_of(record.total_ms)
        self.counts[bucket] += 1
        self._add_times(record)
        known = self._exemplars.get(bucket)
        if known is None or record.total_ms > known.total_ms:
            self._show(
                bucket, Exemplar(record.prediction_id, record.total_ms, record.trace_id[:64])
            )

    def merge(self, row: LatencyRow) -> None:
        self.requests += row.requests
        self.errors += row.errors
        self.batch_rows += row.batch_rows
        self.counts = [a + b for a, b in zip(self.counts, row.counts, strict=True)]
        self._add_times(row)
        for exemplar in row.exemplars:
            self._show(bucket_of(exemplar.total_ms), exemplar)

    def row(self, key: LatencyKey) -> LatencyRow:
        return LatencyRow(
            bucket_unix_ms=key.bucket_unix_s * 1000,
            width_s=key.width_s,
            stamp=key.stamp,
            mix=key.mix,
            replica=key.replica,
            requests=self.requests,
            errors=self.errors,
            counts=tuple(self.counts),
            **dict(zip(TIME_NAMES, self.stages, strict=True)),
            batch_rows=self.batch_rows,
            exemplars=tuple(self._exemplars[b] for b in sorted(self._exemplars, reverse=True)),
        )

    def _add_times(self, source: Record | LatencyRow) -> None:
        self.stages = [a + b for a, b in zip(self.stages, time_tuple(source), strict=True)]

    def _show(self, bucket: int, exemplar: Exemplar) -> None:
        self._exemplars[bucket] = exemplar
        if len(self._exemplars) > EXEMPLARS:
            del self._exemplars[min(self._exemplars)]
