"""Drift from the cache. For now it shows the server's own rows; for a brushed window it computes
scores here, with the server's own functions. Works without any server."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from console.cache.codec import unpack
from console.cache.interned import InternedTexts
from console.state import firing
from console.state.dashboard import DriftLine
from console.state.severity import rank
from server.telemetry.drift import scores
from server.telemetry.drift.profile import FeatureReference
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import DriftRow, FeatureRow

HOUR_S = 3600
TICKS_SHOWN = 36
# Levels of a row with too few samples, or without a reference.
UNDECIDED = ("insufficient", "learning")
_FIELDS = tuple(field.name for field in fields(DriftRow) if field.name != "tick_unix_ms")
_COLUMNS = ", ".join(("server", "tick_ms", *_FIELDS))
Features = Mapping[tuple[str, str], FeatureRow]  # by (stamp, name)


def features(db: sqlite3.Connection) -> dict[tuple[str, str], FeatureRow]:
    rows = (
        unpack(FeatureRow, body)
        for (body,) in db.execute("SELECT body FROM feature ORDER BY rowid")
    )
    return {(row.stamp, row.name): row for row in rows}


def newest(
    db: sqlite3.Connection,
    names: InternedTexts,
    until_ms: float,
    stamps: Mapping[str, str],
    measure: str,
) -> tuple[DriftLine, ...]:
    """The last tick of every server up to `until_ms`. Each feature and slice gets the line of the
    worst server, with that server's most significant window; worst line first. Rows of a stamp that
    the server (`stamps`, by address) no longer serves are left out: a new stamp starts afresh."""
    first = db.execute(
        "SELECT min(tick_ms) FROM (SELECT DISTINCT tick_ms FROM drift WHERE tick_ms <= ?"
        " AND tick_ms > ? ORDER BY tick_ms DESC LIMIT ?)",
        (until_ms, until_ms - 24 * 3600_000, TICKS_SHOWN),
    ).fetchone()[0]
    if first is None:
        return ()
    history: dict[tuple[int, str, str, str], dict[int, list[DriftRow]]] = {}
    for row in db.execute(
        f"SELECT {_COLUMNS} FROM drift WHERE tick_ms >= ? AND tick_ms <= ? ORDER BY tick_ms",
        (first, until_ms),
    ):
        found = _row(row, names)
        key = (row[0], found.stamp, found.feature, found.slice)
        history.setdefault(key, {}).setdefault(found.window_s, []).append(found)
    lines: dict[tuple[str, str], list[DriftLine]] = {}
    for (server, stamp, feature, place), windows in history.items():
        address = names.text(server)
        if stamps.get(address, stamp) != stamp:
            continue
        ticks = _most_significant(list(windows.values()))
        spark = np.array([getattr(tick, measure) for tick in ticks])
        at_s = ticks[-1].tick_unix_ms / 1000
        since_s = firing.since_s([(tick.tick_unix_ms / 1000, tick.level) for tick in ticks])
        line = DriftLine(ticks[-1], address, spark, at_s, since_s=since_s)
        lines.setdefault((feature, place), []).append(line)
    return worst_first([_worst(found, measure) for found in lines.values()], measure)


def _row(row: Sequence[object], names: InternedTexts) -> DriftRow:
    values = dict(zip(_FIELDS, row[2:], strict=True))
    for name in ("stamp", "feature", "slice"):
        values[name] = names.text(values[name])  # type: ignore[arg-type]
    for name, value in values.items():
        if value is None:  # SQLite keeps NaN as NULL
            values[name] = math.nan
    return DriftRow(tick_unix_ms=row[1], **values)  # type: ignore[arg-type]


def _most_significant(windows: Sequence[list[DriftRow]]) -> list[DriftRow]:
    """For each tick, the row of the worst window. A window with too few rows is used only if all
    have too few. Among equals the longest wins, as it has the most rows."""
    newest = max(ticks[-1].tick_unix_ms for ticks in windows)
    latest = [ticks for ticks in windows if ticks[-1].tick_unix_ms == newest]

    def order(ticks: list[DriftRow]) -> tuple[bool, int, int]:
        row = ticks[-1]
        return row.level in UNDECIDED, rank(row.level), -row.window_s

    return min(latest, key=order)


def _worst(lines: Sequence[DriftLine], measure: str) -> DriftLine:
    worst = min(lines, key=lambda line: _order(line.row, measure))
    return replace(worst, servers=len(lines), by_server=tuple(lines) if len(lines) > 1 else ())


def _order(row: DriftRow, measure: str) -> tuple[int, float]:
    value = getattr(row, measure)
    level = 4 if row.level in UNDECIDED else rank(row.level)
    return level, -value if value == value else 0.0


def worst_first(lines: Sequence[DriftLine], measure: str) -> tuple[DriftLine, ...]:
    return tuple(sorted(lines, key=lambda line: (_order(line.row, measure), line.key)))


@dataclass(frozen=True, slots=True)
class _FeatureScores:
    """The scores of one feature of one stamp against its reference, by slice."""

    feature: str
    stamp: str
    places: tuple[str, ...]
    found: scores.DriftScores
    deff: float


def hours_of(from_s: float, to_s: float) -> tuple[int, int]:
    """The whole hours that a window touches, because profiles are hourly."""
    return int(from_s // HOUR_S) * HOUR_S, math.ceil(to_s / HOUR_S) * HOUR_S


def in_window(
    db: sqlite3.Connection,
    names: InternedTexts,
    known: Features,
    span: tuple[float, float],
    measure: str,
) -> tuple[tuple[DriftLine, ...], tuple[float, float]]:
    """Scores over the hours that `span` touches, all servers of a stamp added up: (lines, hours).

    Hourly profiles do not show how bursty the traffic was, and all features are tested at once. So
    rows count as the server lets them count before it has measured burstiness, and all tests form
    one family.
    """
    begin, end = hours_of(*span)
    sums: dict[tuple[str, str, str], np.ndarray] = {}
    for stamp, feature, place, counts in db.execute(
        "SELECT stamp, feature, slice, counts FROM profile WHERE hour_s >= ? AND hour_s < ?",
        (begin, end),
    ):
        key = (names.text(stamp), names.text(feature), names.text(place))
        found = np.frombuffer(counts, "<u8").astype(np.int64)
        held = sums.get(key)
        if held is None or held.shape == found.shape:
            sums[key] = found if held is None else held + found
    scored_features = []
    for (stamp, name), group in _grouped(sums).items():
        row = known.get((stamp, name))
        reference = reference_of(row) if row is not None else None
        if reference is not None and (scored := _scored(reference, stamp, group)) is not None:
            scored_features.append(scored)
    lines: dict[tuple[str, str], list[DriftLine]] = {}
    if scored_features:
        q = scores.benjamini_hochberg(
            np.concatenate([scored.found.p for scored in scored_features])
        )
        ends = np.cumsum([len(scored.places) for scored in scored_features])[:-1]
        for scored, own in zip(scored_features, np.split(q, ends), strict=True):
            for line in _judged(scored, own, end):
                lines.setdefault(line.key, []).append(line)
    found_lines = [_worst(found, measure) for found in lines.values()]
    return worst_first(found_lines, measure), (begin, end)


def _grouped(
    sums: Mapping[tuple[str, str, str], np.ndarray],
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    grouped: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for (stamp, feature, place), counts in sums.items():
        grouped.setdefault((stamp, feature), {})[place] = counts
    return grouped


def _scored(
    reference: FeatureReference, stamp: str, counts: Mapping[str, np.ndarray]
) -> _FeatureScores | None:
    fitting = {p: c for p, c in counts.items() if len(c) == len(reference.counts)}
    if not fitting:
        return None
    deff = max(reference.deff, scores.UNMEASURED)
    live = np.stack(list(fitting.values()))
    found = scores.compare(reference, live, reference.counts, deff, reference.deff)
    return _FeatureScores(reference.name, stamp, tuple(fitting), found, deff)


def _judged(scored: _FeatureScores, q: np.ndarray, end_s: float) -> list[DriftLine]:
    found = scored.found
    levels = scores.levels_of(found, q)
    lines = []
    for index, place in enumerate(scored.places):
        level = scores.LEVELS[levels[index]] if found.sufficient[index] else "insufficient"
        row = DriftRow(
            tick_unix_ms=int(end_s * 1000),
            stamp=scored.stamp,
            feature=scored.feature,
            slice=place,
            window_s=0,
            baseline="bundle",
            n_effective=float(found.n_effective[index]),
            n_needed=float(scores.MIN_EFFECTIVE * scored.deff),
            q=float(q[index]),
            **found.at(index),
            level=level,
            structural="",
        )
        lines.append(DriftLine(row, "", np.zeros(0), end_s, source="console"))
    return lines


def reference_of(row: FeatureRow) -> FeatureReference | None:
    """The server's reference, as far as the wire carries it; None when its cells do not fit."""
    counts = np.asarray(row.reference_counts, np.int64)
    cells = len(row.edges) + 1 if row.kind != "categorical" else len(row.categories) + 1
    if len(counts) != cells or counts.sum() == 0:
        return None
    groups = np.asarray(row.groups, np.int64)
    if len(groups) != cells or (len(groups) and groups.max() >= cells):
        groups = _equal_mass(counts) if row.kind != "categorical" else np.arange(cells)
    # Numbered without gaps, whatever the server sent.
    groups = np.unique(groups, return_inverse=True)[1]
    spec = FeatureSpec(row.name, row.modality, row.kind, row.unit, row.categories)
    return FeatureReference(
        spec, np.asarray(row.edges), counts, groups, deff=row.deff if row.deff >= 1 else 1.0
    )


def _equal_mass(counts: np.ndarray, groups: int = 16) -> np.ndarray:
    before = counts.cumsum() - counts / 2
    found = np.floor(before / counts.sum() * groups).astype(np.int64)
    return np.unique(np.clip(found, 0, groups - 1), return_inverse=True)[1]
