"""The interface of telemetry that the rest of the server uses, and its null object.

`put`, `changes`, `health`, `report` and `deployed` return at once and may be called on the event
loop; all others read a disk or wait for the writer: call them from a worker thread
(request/worker_threads.py).
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from server.config import ServerConfig
from server.errors import ServerError
from server.telemetry.change_feed import FeedBatch
from server.telemetry.errors import TelemetryError
from server.telemetry.findings import Finding
from server.telemetry.record import BundleFiles, FeatureSpec, Record
from server.telemetry.rows import (
    AlertRow,
    AnnotationRow,
    DeployRow,
    DriftRow,
    PredictionRow,
    QualityRow,
    Row,
    SilenceRow,
    TelemetryHealth,
)
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.feedback import FeedbackItem, FeedbackResult
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.payload_keys import NO_KEYS
from server.telemetry.store.payload_keys import read as read_keys
from server.telemetry.store.retention import RetentionLimits
from server.telemetry.store.worst_slices import SliceSearch, SliceSearchResult

OFF = "off"


class TelemetryPort(Protocol):
    """The methods of telemetry that the server needs. A subclass inherits those that return
    nothing."""

    def close(self) -> None:
        return

    def adopt(self, bundle: BundleFiles) -> None:
        """This bundle is about to serve. Raises ReferenceRefused or ObjectiveRefused."""
        return

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        return

    def deployed(self, row: DeployRow) -> None:
        return

    def report(self, findings: Sequence[Finding]) -> None:
        """Report what the server found about itself."""
        return

    def health(self) -> TelemetryHealth: ...

    def changes(self, after: int) -> FeedBatch:
        """The changes since a cursor; from 0 everything that is true now."""

    def standing(self) -> list[DriftRow | QualityRow]:
        """The latest drift and quality rows."""

    def history(self, span: TimeSpan, kinds: Sequence[str]) -> Iterator[Row]: ...

    def samples(
        self, line: str, span: TimeSpan | None, limit: int, payload: bool
    ) -> list[PredictionRow]:
        """Raises BadFilter."""

    def by_id(self, ids: Sequence[str], payload: bool) -> list[PredictionRow]: ...

    def worst_slices(self, wanted: SliceSearch) -> SliceSearchResult: ...

    def acknowledge(self, alert_id: str, actor: str, note: str, undo: bool) -> AlertRow:
        """Raises UnknownAlert."""

    def silence(self, matcher: str, until: float, actor: str, reason: str) -> SilenceRow:
        """Raises BadFilter or ValueError."""

    def end_silence(self, silence_id: str) -> SilenceRow:
        """Raises UnknownAlert."""

    def annotate(self, row: AnnotationRow) -> AnnotationRow:
        """Keep a person's note, or delete it. Raises UnknownAlert and TooMany."""

    def feedback(self, items: Sequence[FeedbackItem]) -> list[FeedbackResult]: ...


class TelemetryOff(TelemetryError):
    """A request to store something was made to a server without telemetry."""


class NullTelemetry(TelemetryPort):
    """Nothing is stored, so there is nothing to show and nothing to join; `state` has the
    reason."""

    def __init__(self, state: str = OFF) -> None:
        self._state = state

    def health(self) -> TelemetryHealth:
        return TelemetryHealth(state=self._state)

    def changes(self, after: int) -> FeedBatch:
        return FeedBatch([], 0, True)

    def standing(self) -> list[DriftRow | QualityRow]:
        return []

    def history(self, span: TimeSpan, kinds: Sequence[str]) -> Iterator[Row]:
        return iter(())

    def samples(
        self, line: str, span: TimeSpan | None, limit: int, payload: bool
    ) -> list[PredictionRow]:
        return []

    def by_id(self, ids: Sequence[str], payload: bool) -> list[PredictionRow]:
        return []

    def worst_slices(self, wanted: SliceSearch) -> SliceSearchResult:
        return SliceSearchResult([], 0, False)

    def acknowledge(self, alert_id: str, actor: str, note: str, undo: bool) -> AlertRow:
        raise self._refusal()

    def silence(self, matcher: str, until: float, actor: str, reason: str) -> SilenceRow:
        raise self._refusal()

    def end_silence(self, silence_id: str) -> SilenceRow:
        raise self._refusal()

    def annotate(self, row: AnnotationRow) -> AnnotationRow:
        raise self._refusal()

    def feedback(self, items: Sequence[FeedbackItem]) -> list[FeedbackResult]:
        raise self._refusal()

    def _refusal(self) -> TelemetryOff:
        return TelemetryOff(f"this server stores nothing: telemetry is {self._state}")


def telemetry_of(
    config: ServerConfig,
    wall: Callable[[], float],
    alerted: Callable[[AlertRow], None] = lambda row: None,
    sampled: Callable[[Record, float], None] = lambda record, probability: None,
) -> TelemetryPort:
    """Telemetry as the flags configure it; `alerted` and `sampled` are as in Telemetry.

    It never fails because of a disk: a server that cannot store anything still serves.

    Raises ServerError for an --on-alert that cannot be run, or an unknown --baseline.
    """
    if not config.telemetry:
        return NullTelemetry()
    # Imported late: when off, it costs no memory.
    from server.telemetry.stamps.baselines import BadBaseline
    from server.telemetry.telemetry import Telemetry

    try:
        return Telemetry(settings_of(config), wall, alerted=alerted, sampled=sampled)
    except ValueError as error:
        raise ServerError(f"--on-alert {config.on_alert!r}: {error}") from None
    except BadBaseline as error:
        raise ServerError(f"--baseline {error}") from None
    except (OSError, sqlite3.Error) as error:
        return NullTelemetry(f"degraded: nothing is kept: {error}")


def settings_of(config: ServerConfig) -> TelemetrySettings:
    return TelemetrySettings(
        folder=config.data,
        tick_s=config.tick_s,
        baseline=config.baseline,
        sample_share=config.sample_share,
        on_alert=config.on_alert,
        speed=config.simulated_time[1] if config.simulated_time else 1.0,
        slo_ms=config.slo_ms,
        about={
            "server": config.name or socket.gethostname(),
            "listen": config.listen,
            "environment": config.environment,
        },
        runbooks=config.runbooks,
        payload_keys=read_keys(config.payload_key) if config.payload_key else NO_KEYS,
        limits=RetentionLimits(
            predictions_days=config.keep_days,
            payload_days=config.keep_days,
            max_bytes=config.max_telemetry_bytes,
        ),
    )
