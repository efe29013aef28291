"""A telemetry writer without its thread, for tests of its effect on the file."""

from __future__ import annotations

from pathlib import Path

from server.telemetry.change_feed import ChangeFeed
from server.telemetry.settings import TelemetrySettings
from server.telemetry.store.reader import Reader
from server.telemetry.writer import TelemetryWriter
from tests.support.telemetry_bench import NOW, SCHEMA, Clock, bundle, record

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = bundle(rows=600)


class WriterBench:
    """A writer without its thread, on a clock that is set."""

    def __init__(
        self, folder: Path, now: float = NOW, monotonic: Clock | None = None, **more: object
    ) -> None:
        self.clock = Clock(now)
        self.changes = ChangeFeed()
        self.steps: list[object] = []
        self.writer = TelemetryWriter(
            TelemetrySettings(folder, **more),  # type: ignore[arg-type]
            self.changes,
            self.clock,
            monotonic or self.clock,
            self.steps.append,
            lambda row, probability: None,
        )
        self.reader = Reader(lambda: self.writer.store.path)

    def put(self, first: int, last: int, at: float | None = None, **more: object) -> None:
        when = self.clock.now if at is None else at
        self.writer.write([(record(i, when, **more), SCHEMA) for i in range(first, last)])

    def tables(self) -> list[str]:
        rows = self.writer.store.connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'prediction_2%'"
        )
        return sorted(row[0] for row in rows)

    def counted(self) -> int:
        """Rows in the stored sums of the first feature, all traffic."""
        self.writer.flush()
        (found,) = self.writer.store.connection.execute(
            "SELECT sum(p.n + p.missing + p.nonfinite + p.absent) FROM profile p"
            " JOIN slice s ON s.id = p.slice_id JOIN feature f ON f.id = p.feature_id"
            " WHERE s.name = '' AND f.position = 0"
        ).fetchone()
        return int(found)
