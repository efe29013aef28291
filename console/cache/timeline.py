"""Turns the latency rows in memory into the columns of the plots: quantiles, heat map, stages,
shares, sparklines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from console.cache.interned import InternedTexts
from console.cache.latency import LatencyRows
from console.cache.quantiles import quantiles
from console.state.dashboard import ExampleRequest, Floats, LatencyColumns, View

SPARK_POINTS = 48
SETTLE_S = 2.5  # time from the end of a bucket until every server has sent it


@dataclass(frozen=True, slots=True, eq=False)
class ServerLatency:
    """One server: percentiles of the last minute of its data, where that data ends, p95 over the
    window."""

    p95_ms: float = math.nan
    p99_ms: float = math.nan
    newest_s: float = math.nan
    spark: Floats = field(default_factory=lambda: np.zeros(0))


def column_width_s(view: View, rows_width_s: float) -> float:
    """A round number of seconds; at most one column for each pixel, at least one row's width."""
    least = max(view.window_s / max(view.columns, 50), rows_width_s, 0.5)
    for width in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600):
        if width >= least - 1e-9:
            return float(width)
    return 86_400.0


def latency(
    rows: LatencyRows,
    names: InternedTexts,
    view: View,
    span: tuple[float, float],
    shifts_s: Mapping[str, float],
    slo_ms: float,
    now_s: float,
) -> tuple[LatencyColumns, dict[str, ServerLatency]]:
    """(the latency panel's columns, each server on its own)."""
    used = rows.size
    keys, numbers = rows.keys[:used], rows.numbers[:used]
    width = rows.width_s[:used]
    starts_s = keys[:, 0] / 1000 - _by_name(names, keys[:, 1], shifts_s)
    inside = (starts_s + width > span[0]) & (starts_s < span[1])
    typical = float(np.median(width[inside])) if inside.any() else 0.0
    column_s = column_width_s(view, typical)
    origin = np.floor(span[0] / column_s) * column_s
    columns = int(np.ceil((span[1] - origin) / column_s))
    column = ((starts_s - origin) // column_s).astype(np.int64)
    inside &= (column >= 0) & (column < columns)
    shown = inside.copy()
    if view.scope:
        shown &= keys[:, 1] == names.find(view.scope)
    if view.mix:
        shown &= keys[:, 3] == names.find(view.mix)
    counts = _sum(column, shown, rows.counts[:used], columns)
    sums = _sum(column, shown, numbers, columns)
    p50, p95, p99 = quantiles(counts, (0.5, 0.95, 0.99))
    requests = sums[:, 0]
    # The newest columns lack the servers that have not reported them yet; drawn with half the
    # servers, they would look like a jump.
    unsettled = origin + (np.arange(columns) + 1) * column_s > now_s - SETTLE_S
    if view.live and not unsettled.all():
        for values in (p50, p95, p99, requests):
            values[unsettled] = np.nan if values is not requests else 0
        counts[unsettled] = 0
    some = requests > 0
    safe = np.where(some, requests, 1)
    brushed = _brushed(starts_s, shown, view)
    whole = quantiles(
        rows.counts[:used][brushed].sum(axis=0, dtype=np.int64)[None, :], (0.5, 0.95, 0.99)
    )
    newest = float((starts_s + width)[shown].max()) if shown.any() else np.nan
    heat = counts / np.maximum(counts.max(axis=1), 1)[:, None]
    found = LatencyColumns(
        from_s=span[0],
        to_s=span[1],
        column_s=column_s,
        starts=origin + np.arange(columns) * column_s,
        p50=p50,
        p95=p95,
        p99=p99,
        heat=heat.T.astype(np.float32),
        rate=_rate(requests, column_s, origin, newest),
        served=requests,
        errors=np.where(some, sums[:, 1] / safe, np.nan),
        stages=np.where(some, sums[:, 2:7].T / safe, np.nan),
        batch=np.where(some, sums[:, 8] / safe, np.nan),
        total=(float(whole[0][0]), float(whole[1][0]), float(whole[2][0])),
        requests=int(numbers[brushed, 0].sum()),
        slo_ms=slo_ms,
        split=_split(rows, shown, column, columns, view.split, names),
        exemplars=_exemplars(rows, shown, starts_s, names),
        shares=_shares(rows, inside, column, columns, names),
        newest_s=newest,
        width_s=typical,
        mixes=tuple(sorted({names.text(i) for i in np.unique(keys[inside, 3])})) if used else (),
    )
    return found, _latencies(rows, inside, starts_s, span, names)


def _rate(requests: Floats, column_s: float, origin: float, newest: float) -> Floats:
    """Requests a second. The last column is still filling, so it is divided by the time that has
    passed in it."""
    seconds = np.full(len(requests), column_s)
    if newest == newest:
        last = int((newest - origin - 1e-6) // column_s)
        if 0 <= last < len(seconds):
            seconds[last] = max(newest - (origin + last * column_s), column_s / 10)
    return np.asarray(np.where(requests > 0, requests / seconds, np.nan))


def _by_name(names: InternedTexts, ids: NDArray[np.int64], values: Mapping[str, float]) -> Floats:
    found = np.zeros(len(ids))
    for number in np.unique(ids):
        found[ids == number] = values.get(names.text(int(number)), 0.0)
    return found


def _brushed(starts_s: Floats, shown: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
    if view.brush is None:
        return shown
    return np.asarray(shown & (starts_s >= view.brush[0]) & (starts_s < view.brush[1]))


def _sum(
    column: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    values: NDArray[np.generic],
    columns: int,
) -> NDArray[np.float64]:
    """Sum the rows of `values` by column. They are sorted first: adding at scattered places is an
    order of magnitude slower."""
    out = np.zeros((columns, values.shape[1]))
    places = np.flatnonzero(chosen)
    if not len(places):
        return out
    order = places[np.argsort(column[places], kind="stable")]
    sorted_columns = column[order]
    firsts = np.flatnonzero(np.diff(sorted_columns, prepend=-1))
    out[sorted_columns[firsts]] = np.add.reduceat(values[order], firsts, axis=0, dtype=np.float64)
    return out


def _latencies(
    rows: LatencyRows,
    inside: NDArray[np.bool_],
    starts_s: Floats,
    span: tuple[float, float],
    names: InternedTexts,
) -> dict[str, ServerLatency]:
    """The figures of each server for the rows inside the window."""
    found = {}
    servers, counts = rows.keys[: rows.size, 1], rows.counts[: rows.size]
    step = max((span[1] - span[0]) / SPARK_POINTS, 1e-3)
    place = np.clip(((starts_s - span[0]) // step), 0, SPARK_POINTS - 1).astype(np.int64)
    for number in np.unique(servers[inside]):
        mine = inside & (servers == number)
        newest_s = float(starts_s[mine].max())
        last = counts[mine & (starts_s > newest_s - 60)].sum(axis=0, dtype=np.int64)
        p95, p99 = quantiles(last[None, :], (0.95, 0.99))
        spark = quantiles(_sum(place, mine, counts, SPARK_POINTS), (0.95,))[0]
        found[names.text(int(number))] = ServerLatency(
            float(p95[0]), float(p99[0]), newest_s, spark
        )
    return found


def above_since(
    rows: LatencyRows, number: int, starts_offset_s: float, limit_ms: float, step_s: float = 15.0
) -> float:
    """When the p99 last rose above `limit_ms` to stay: the start of the last unbroken run of steps
    above it. NaN without data."""
    used = rows.size
    mine = rows.keys[:used, 1] == number
    if not mine.any():
        return float("nan")
    starts_s = rows.keys[:used, 0] / 1000 - starts_offset_s
    begin = starts_s[mine].min()
    step = ((starts_s - begin) // step_s).astype(np.int64)
    steps = int(step[mine].max()) + 1
    line = quantiles(_sum(step, mine, rows.counts[:used], steps), (0.99,))[0]
    below = np.flatnonzero(~(line > limit_ms))
    first = int(below[-1]) + 1 if len(below) else 0
    return float(begin + min(first, steps - 1) * step_s)


_SPLIT_COLUMN = {"server": 1, "stamp": 2, "mix": 3, "replica": 4}


def _split(
    rows: LatencyRows,
    shown: NDArray[np.bool_],
    column: NDArray[np.int64],
    columns: int,
    split: str,
    names: InternedTexts,
    most: int = 8,
) -> tuple[tuple[str, Floats], ...]:
    if split not in _SPLIT_COLUMN or not shown.any():
        return ()
    used = rows.size
    members = rows.keys[:used, _SPLIT_COLUMN[split]]
    numbers, places = np.unique(members[shown], return_inverse=True)
    busy = np.bincount(places, weights=rows.numbers[:used][shown, 0])
    lines = []
    for index in np.argsort(-busy)[:most]:
        chosen = shown & (members == numbers[index])
        p95 = quantiles(_sum(column, chosen, rows.counts[:used], columns), (0.95,))[0]
        number = int(numbers[index])
        lines.append((f"replica {number}" if split == "replica" else names.text(number), p95))
    return tuple(sorted(lines, key=lambda line: line[0]))


def _shares(
    rows: LatencyRows,
    inside: NDArray[np.bool_],
    column: NDArray[np.int64],
    columns: int,
    names: InternedTexts,
) -> tuple[tuple[str, Floats], ...]:
    """Share of the requests by stamp, for each column."""
    used = rows.size
    if not inside.any():
        return ()
    total = np.bincount(column[inside], weights=rows.numbers[:used][inside, 0], minlength=columns)
    lines = []
    for number in np.unique(rows.keys[:used, 2][inside]):
        mine = inside & (rows.keys[:used, 2] == number)
        part = np.bincount(column[mine], weights=rows.numbers[:used][mine, 0], minlength=columns)
        share = np.where(total > 0, part / np.maximum(total, 1), np.nan)
        lines.append((names.text(int(number)), share))
    return tuple(lines)


def _exemplars(
    rows: LatencyRows,
    shown: NDArray[np.bool_],
    starts_s: Floats,
    names: InternedTexts,
    most: int = 1500,
) -> tuple[ExampleRequest, ...]:
    """The newest requests kept as examples, for a click on the heat map."""
    found: list[ExampleRequest] = []
    places = np.flatnonzero(shown)
    for place in places[np.argsort(-starts_s[places], kind="stable")][: 4 * most]:
        text = rows.exemplars.get(tuple(int(part) for part in rows.keys[place]))
        if not text:
            continue
        server = names.text(int(rows.keys[place, 1]))
        for identity, total_ms, trace in json.loads(text):
            found.append(ExampleRequest(float(starts_s[place]), total_ms, server, identity, trace))
        if len(found) >= most:
            break
    return tuple(found)
