"""Cache files for measuring the console: large ones made quickly, and the rows of a day."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from console.cache.insert import TextIds, insert
from console.cache.schema import open_for_writing
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    ReceivedRow,
    ServerSnapshot,
)
from server.telemetry.outputs import Timing
from server.telemetry.rows import DriftRow, LatencyRow

SERVERS = 20
MIXES = ("text", "image+text", "audio+image+text")
FEATURES = tuple(f"feature.{number:02d}" for number in range(12))
SLICES = ("", "site=a", "site=b", "lang=de")
STAMP = "a" * 64
SEED_ROWS = 60_000


def address(number: int) -> str:
    return f"10.0.0.{number}:8500"


def snapshot(number: int) -> ServerSnapshot:
    return ServerSnapshot(
        server=f"gpu-{number:02d}", state="ready", warm_replicas=4, wanted_replicas=4,
        slo_ms=250.0, stamp=STAMP, stamp_parts={"weights": STAMP}, telemetry_state="ok",
    )  # fmt: skip


def bucket(at: float, mix: str, rng: np.random.Generator, width_s: int = 10) -> LatencyRow:
    counts = np.zeros(64, int)
    counts[26:36] = rng.poisson(20, 10)
    total = float(counts.sum() * 35)
    return LatencyRow(
        bucket_unix_ms=int(at * 1000), width_s=width_s, stamp=STAMP, mix=mix, replica=0,
        requests=int(counts.sum()), errors=0, counts=tuple(int(c) for c in counts),
        queue_ms=total * 0.2, decode_ms=0.0, preprocess_ms=0.0, forward_ms=total * 0.7,
        post_ms=0.0, total_ms=total, batch_rows=0,
    )  # fmt: skip


def prediction(identity: str, at_ms: int) -> CachedPrediction:
    return CachedPrediction(
        identity, at_ms, STAMP, "text", "ok", confidence=0.8, timing=Timing(1, 2, 3, 20, 1, 27),
        slices={"site": "a", "region": "lon"}, session="s", trace_id="t" * 32,
        features=tuple(float(x) for x in range(40)), task="classify", client="camera",
        batch_mates=("x" * 20,) * 4,
    )  # fmt: skip


def make(path: Path, gigabytes: float, now: float) -> int:
    """Latency rows of the last six hours, drift of the last hour, and predictions until the file
    has the requested size; returns the number of predictions."""
    db = open_for_writing(path)
    db.execute("PRAGMA synchronous = OFF")
    names, rng = TextIds(db), np.random.default_rng(1)
    insert(db, names, [ReceivedRow(address(n), 1, "x", now * 1000, snapshot(n))
                       for n in range(SERVERS)])  # fmt: skip
    pool = [bucket(0, mix, rng) for mix in MIXES for _ in range(20)]
    for begin in range(int(now - 6 * 3600), int(now), 600):
        rows = [
            ReceivedRow(address(number), 0, "", 0,
                  replace(pool[(at + number + m * 20) % len(pool)], bucket_unix_ms=at * 1000))
            for at in range(begin, begin + 600, 10)
            for number in range(SERVERS)
            for m in range(3)
        ]  # fmt: skip
        insert(db, names, rows)
    for tick in range(int(now - 3600), int(now), 300):
        insert(db, names, [ReceivedRow(address(n), 0, "", 0, row)
                           for n in range(SERVERS) for row in drift_rows(tick)])  # fmt: skip
    seed = [prediction(f"p{n}", int(now * 1000) - n) for n in range(SEED_ROWS)]
    insert(
        db, names, [ReceivedRow(address(n % SERVERS), 0, "", 0, row) for n, row in enumerate(seed)]
    )
    db.close()
    return grow(path, gigabytes)


def grow(path: Path, gigabytes: float) -> int:
    """Make an existing cache larger."""
    db = open_for_writing(path)
    db.execute("PRAGMA synchronous = OFF")
    _double(db, path, gigabytes * 1e9)
    count = int(db.execute("SELECT count(*) FROM prediction").fetchone()[0])
    db.close()
    return count


def _double(db: sqlite3.Connection, path: Path, size: float) -> None:
    """Copy the predictions, each time earlier and under other names, until the file is large
    enough."""
    columns = [row[1] for row in db.execute("PRAGMA table_info(prediction)")]
    kept = [name for name in columns if name not in ("seq", "id", "at_ms")]
    turn = int(db.execute("SELECT count(*) FROM prediction").fetchone()[0]) // SEED_ROWS
    while path.stat().st_size < size:
        turn += 1
        db.execute(
            f"INSERT INTO prediction (id, at_ms, {', '.join(kept)}) SELECT id || '.{turn}',"
            f" at_ms - {SEED_ROWS * turn}, {', '.join(kept)} FROM prediction"
            " ORDER BY seq LIMIT ?",
            (SEED_ROWS,),
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def drift_rows(tick_s: float) -> Iterator[DriftRow]:
    for number, feature in enumerate(FEATURES):
        for place in SLICES:
            yield DriftRow(
                tick_unix_ms=int(tick_s * 1000), stamp=STAMP, feature=feature, slice=place,
                window_s=3600, baseline="bundle", n=2600, n_effective=1800, n_needed=320, ks=0.02,
                p=0.4, q=0.6, kl=0.01 * number, js=0.01, psi=0.02, excess_kl=0.01 * number,
                level="ok",
            )  # fmt: skip


def minute(
    now: float, pool: list[LatencyRow], number: int, predictions: int = 4
) -> list[ReceivedRow]:
    """What twenty servers send in one minute: buckets of 10 s by mix, a snapshot each, predictions,
    and a tick of drift every fifth minute."""
    rows: list[tuple[int, FeedRow]] = []
    for n in range(SERVERS):
        rows.append((n, snapshot(n)))
        rows += [
            (n, replace(pool[(n + m * 20 + s) % len(pool)], bucket_unix_ms=int((now + s) * 1000)))
            for s in range(0, 60, 10)
            for m in range(3)
        ]
        rows += [(n, prediction(f"{n}-{number}-{k}", int((now + k) * 1000)))
                 for k in range(predictions)]  # fmt: skip
        if number % 5 == 0:
            rows += [(n, row) for row in drift_rows(now)]
    return [ReceivedRow(address(n), number + 1, "x", now * 1000, row) for n, row in rows]
