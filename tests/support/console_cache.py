"""Rows for a cache of the console, and functions that read them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from console.cache import rows
from console.cache.build_board import BoardBuilder
from console.cache.insert import TextIds, insert
from console.state.domain import (
    FeedRow,
    ReceivedRow,
)
from server.telemetry.rows import FeatureRow, LatencyRow
from server.telemetry.stamps.latency import bucket_of
from tests.support.blank_rows import blank

T0 = 1_790_000_000.0  # unix s


def events(found: Sequence[FeedRow], server: str = "a:1") -> list[ReceivedRow]:
    return [ReceivedRow(server, 1 + n, "life", T0 * 1000, row) for n, row in enumerate(found)]


def bucket(at_s: float, ms: float = 30.0, requests: int = 10, **more: object) -> LatencyRow:
    counts = [0] * 64
    counts[bucket_of(ms)] = requests
    values: dict[str, object] = {
        "bucket_unix_ms": int(at_s * 1000), "width_s": 2, "stamp": "s" * 64, "mix": "text",
        "requests": requests, "counts": tuple(counts), "forward_ms": ms * requests,
        "total_ms": ms * requests,
    }  # fmt: skip
    return blank(LatencyRow, **{**values, **more})


def put(db: sqlite3.Connection, found: Sequence[FeedRow], server: str = "a:1") -> frozenset[str]:
    return insert(db, TextIds(db), events(found, server))


def builder(path: Path) -> BoardBuilder:
    found = rows.open_for_reading(path)
    assert found is not None
    return BoardBuilder(found)


def feature(**more: object) -> FeatureRow:
    edges = tuple(float(x) for x in np.linspace(-2, 2, 31))
    values: dict[str, object] = {
        "name": "audio.snr_db", "kind": "numeric", "stamp": "s", "edges": edges,
        "reference_counts": (100,) * 32,
    }  # fmt: skip
    return blank(FeatureRow, **{**values, **more})
