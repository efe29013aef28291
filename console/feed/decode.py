"""Turns wire messages into rows. A server may be wrong, old or hostile: control characters are
removed from texts, texts and lists are bounded, and a row that cannot be true is refused with the
reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from console.feed.allowance import ROW_BYTES, SNAPSHOT_BYTES
from console.state import domain
from console.state.domain import LATENCY_BUCKETS, ReceivedRow
from console.state.sanitize import sanitized
from proto import observe_pb2
from server.telemetry import rows

T = TypeVar("T")
MOST_ITEMS = 4096
EARLIEST_MS = 946_684_800_000  # the year 2000
LATEST_MS = 4_102_444_800_000  # the year 2100

KINDS: Mapping[str, type] = {
    "snapshot": domain.ServerSnapshot,
    "latency": rows.LatencyRow,
    "profile": rows.ProfileRow,
    "drift": rows.DriftRow,
    "alert": rows.AlertRow,
    "deploy": rows.DeployRow,
    "prediction": domain.CachedPrediction,
    "quality": rows.QualityRow,
    "feature": rows.FeatureRow,
    "slice": rows.SliceRow,
    "silence": rows.SilenceRow,
    "annotation": rows.AnnotationRow,
}


class RowRefused(Exception):
    """A row that cannot be true. The message names the row and the reason."""


def event(message: observe_pb2.WatchEvent, server: str, received_ms: float) -> ReceivedRow | None:
    """The event of one message; None for a kind this console does not know (a newer server).
    Raises RowRefused."""
    kind = message.WhichOneof("event")
    if kind is None or kind not in KINDS:
        return None
    size = message.ByteSize()
    longest = SNAPSHOT_BYTES if kind == "snapshot" else ROW_BYTES
    if size > longest:
        raise RowRefused(f"{kind}: {size:,} bytes; the limit is {longest:,}")
    row: Any = build(KINDS[kind], getattr(message, kind))
    _check(kind, row)
    # On the axis's clock, also where time is simulated.
    if kind == "snapshot" and row.host.at_unix_ms:
        at_ms = message.server_unix_ns // 1_000_000 or row.host.at_unix_ms
        row = dataclasses.replace(row, host=dataclasses.replace(row.host, at_unix_ms=at_ms))
    return ReceivedRow(
        server=server,
        cursor=message.cursor,
        instance=sanitized(message.instance, 100),
        received_unix_ms=received_ms,
        row=row,
        size=size,
    )


def build(kind: type[T], message: Any) -> T:
    """The dataclass of the same field names, filled from a protobuf message."""
    return kind(
        **{
            name: read(getattr(message, name))
            for name, read in _plan(cast(Hashable, kind), cast(Hashable, type(message)))
        }
    )


@cache
def _plan(kind: Any, message: Any) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """One reader for each field. Fields that the message does not have keep their default."""
    hints = get_type_hints(kind)
    described = message.DESCRIPTOR.fields_by_name
    return tuple(
        (field.name, _reader(hints[field.name], described[field.name]))
        for field in dataclasses.fields(kind)
        if field.name in described
    )


def _reader(hint: Any, field: Any) -> Callable[[Any], Any]:
    nested: Any = hint
    origin = get_origin(hint)
    if origin is tuple:
        element: Any = get_args(hint)[0]
        if dataclasses.is_dataclass(element):
            kind: Any = element
            return lambda items: tuple(build(kind, item) for item in items[:MOST_ITEMS])
        if element is str:
            return lambda items: tuple(sanitized(item) for item in items[:MOST_ITEMS])
        return lambda items: tuple(items[:MOST_ITEMS])
    if origin is not None:
        return _mapping
    if dataclasses.is_dataclass(hint):
        return lambda item: build(nested, item)
    if field.enum_type is not None:
        values = field.enum_type.values_by_number
        return lambda number: values[number].name.lower() if number in values else str(number)
    return sanitized if hint is str else lambda value: value


def _mapping(found: Mapping[str, str]) -> dict[str, str]:
    pairs = list(found.items())[:MOST_ITEMS]
    return {sanitized(key, 200): sanitized(value) for key, value in pairs}


_TIMES = {
    "latency": "bucket_unix_ms",
    "drift": "tick_unix_ms",
    "deploy": "at_unix_ms",
    "prediction": "at_unix_ms",
    "alert": "opened_unix_ms",
    "annotation": "at_unix_ms",
}
_TIMES_S = {"profile": "hour_unix_s", "quality": "bucket_unix_s"}


def _check(kind: str, row: Any) -> None:
    at_ms = getattr(row, _TIMES[kind]) if kind in _TIMES else None
    if kind in _TIMES_S:
        at_ms = getattr(row, _TIMES_S[kind]) * 1000
    if at_ms is not None and not EARLIEST_MS < at_ms < LATEST_MS:
        raise RowRefused(f"{kind}: time {at_ms} ms is not between the years 2000 and 2100")
    if kind == "latency":
        _check_latency(row)
    if kind == "profile" and any(count > 1 << 62 for count in row.counts):
        raise RowRefused("profile: a count above 2^62")
    if kind == "feature" and not all(map(math.isfinite, row.edges)):
        raise RowRefused(f"feature {row.name}: an edge that is not finite")
    if kind == "alert" and not row.id:
        raise RowRefused("alert: no id")
    if kind == "annotation" and not row.id:
        raise RowRefused("annotation: no id")
    if kind == "prediction" and not row.prediction_id:
        raise RowRefused("prediction: no id")


def _check_latency(row: rows.LatencyRow) -> None:
    if len(row.counts) != LATENCY_BUCKETS:
        raise RowRefused(f"latency: {len(row.counts)} buckets, {LATENCY_BUCKETS} expected")
    sums = (row.queue_ms, row.decode_ms, row.preprocess_ms, row.forward_ms, row.post_ms)
    if not all(math.isfinite(value) and value >= 0 for value in (*sums, row.total_ms)):
        raise RowRefused("latency: a stage that is negative or not finite")
    if not 0 < row.width_s <= 86_400:
        raise RowRefused(f"latency: width {row.width_s} s")
