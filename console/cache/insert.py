"""Writes rows into tables. Every table has a key, so a row received twice changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, fields

import numpy as np

from console.cache.codec import pack
from console.cache.retention import mark_changed
from console.cache.schema import HOST, LATENCY, PREDICTION
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    HostSnapshot,
    ReceivedRow,
    ServerSnapshot,
)
from server.telemetry.outputs import output_tuple, time_tuple
from server.telemetry.rows import (
    AlertRow,
    AnnotationRow,
    DeployRow,
    DriftRow,
    FeatureRow,
    LatencyRow,
    ProfileRow,
    QualityRow,
    SilenceRow,
    SliceRow,
)

NEW_TEXTS = 20_000  # distinct repeating texts that one server may add
OTHERS = "(other)"  # replaces the texts above that limit


class TextIds:
    """Keeps each repeated text once. Lives with the writing connection. Texts are never deleted, as
    readers hold their numbers. A server that invents texts gets OTHERS after NEW_TEXTS."""

    def __init__(self, connection: sqlite3.Connection, most: int = NEW_TEXTS) -> None:
        self._connection = connection
        self._ids: dict[str, int] = {}
        self._most = most
        self._new: dict[str, int] = {}  # number of new texts, by server
        self.server = ""  # the server whose rows are being written

    def id(self, text: str) -> int:
        found = self._ids.get(text)
        if found is None:
            if self._new.get(self.server, 0) >= self._most and not self._known(text):
                return self.id(OTHERS) if text != OTHERS else self._added(text)
            found = self._added(text)
        return found

    def _known(self, text: str) -> bool:
        row = self._connection.execute("SELECT 1 FROM name WHERE text = ?", (text,))
        return row.fetchone() is not None

    def _added(self, text: str) -> int:
        done = self._connection.execute("INSERT OR IGNORE INTO name (text) VALUES (?)", (text,))
        if done.rowcount > 0:
            self._new[self.server] = self._new.get(self.server, 0) + 1
        row = self._connection.execute("SELECT id FROM name WHERE text = ?", (text,))
        found = self._ids[text] = int(row.fetchone()[0])
        if len(self._ids) > 50_000:  # the names of many servers must not fill the memory
            self._ids.clear()
        return found


_BODY = {  # small rows, kept as JSON
    "alert": "server, id, at_ms",
    "deploy": "server, at_ms, id",
    "quality": "server, at_ms, id",
    "slice": "server, id, at_ms",
    "silence": "server, id, at_ms",
    "annotation": "server, id, at_ms",
    "feature": "stamp, name, at_ms",
}
_COLUMNS = {table: f"{columns}, body" for table, columns in _BODY.items()} | {
    "latency": ", ".join(LATENCY),
    "host": ", ".join(HOST),
    "prediction": ", ".join(PREDICTION),
    "profile": "server, stamp, feature, slice, hour_s, n, sum, sum_squares, min, max, missing,"
    " nonfinite, counts",
    "drift": "tick_ms, server, " + ", ".join(field.name for field in fields(DriftRow)[1:]),
}
# Updated in place, so that the row keeps its number while the panel pages through the table.
_CONFLICT = {
    "prediction": " ON CONFLICT (server, id) DO UPDATE SET true_label = excluded.true_label,"
    " kept = excluded.kept, error = excluded.error, batch_mates = excluded.batch_mates,"
    " error_message = excluded.error_message"
}


def _statement(table: str) -> str:
    columns, conflict = _COLUMNS[table], _CONFLICT.get(table, "")
    marks = ",".join("?" * len(columns.split(", ")))
    columns, marks = ("level, " + columns, "0," + marks) if table == "latency" else (columns, marks)
    verb = "INSERT" if conflict else "INSERT OR REPLACE"
    return f"{verb} INTO {table} ({columns}) VALUES ({marks}){conflict}"


def insert(
    connection: sqlite3.Connection, names: TextIds, events: Sequence[ReceivedRow]
) -> frozenset[str]:
    """Write `events` in one transaction; returns the tables that changed."""
    batches: dict[str, list[tuple[object, ...]]] = {}
    servers: dict[str, tuple[object, ...]] = {}
    heard: dict[str, tuple[object, ...]] = {}
    with connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        for event in events:
            if event.cursor:  # rows of History carry no cursor and move none
                heard[event.server] = (
                    event.received_unix_ms,
                    event.instance,
                    event.cursor,
                    event.server,
                )
            if isinstance(event.row, ServerSnapshot):
                servers[event.server] = (event.server, pack(event.row), event.received_unix_ms)
                if event.row.host.at_unix_ms:
                    names.server = event.server
                    figures = _host(event.row.host, names.id(event.server))
                    batches.setdefault("host", []).append(figures)
            else:
                names.server = event.server
                table, values = _values(event.row, names.id(event.server), names)
                batches.setdefault(table, []).append(values)
        for table, rows in batches.items():
            connection.executemany(_statement(table), rows)
        if "latency" in batches:
            buckets = {int(values[0]) for values in batches["latency"]}  # type: ignore[call-overload]
            mark_changed(connection, 1, buckets)
        connection.executemany(
            "INSERT INTO server (address, body, snapshot_ms, heard_ms, instance, cursor)"
            " VALUES (?1, ?2, ?3, ?3, '', 0) ON CONFLICT (address) DO UPDATE"
            " SET body = ?2, snapshot_ms = ?3",
            list(servers.values()),
        )
        connection.executemany(
            "UPDATE server SET heard_ms = ?, instance = ?, cursor = ? WHERE address = ?",
            list(heard.values()),
        )
    return frozenset(batches) | (frozenset({"server"}) if servers else frozenset())


HOST_MS = 10_000  # a server gets one host row in this many milliseconds


def _host(now: HostSnapshot, server: int) -> tuple[object, ...]:
    """None where a figure is not known. Of several GPUs: the fullest memory, the mean use, the
    total power and the highest temperature."""
    gpus = [(g.memory_used_bytes, g.memory_total_bytes) for g in now.gpus if g.memory_total_bytes]
    uses = [gpu.utilisation for gpu in now.gpus if gpu.utilisation == gpu.utilisation]
    power = [gpu.power_w for gpu in now.gpus if gpu.power_w == gpu.power_w]
    heat = [gpu.temperature_c for gpu in now.gpus if gpu.temperature_c == gpu.temperature_c]
    disk = now.disk_total_bytes
    return (
        now.at_unix_ms - now.at_unix_ms % HOST_MS,
        server,
        now.cpu_share if now.cpu_share == now.cpu_share else None,
        now.memory_used_bytes / now.memory_total_bytes if now.memory_total_bytes else None,
        1 - now.disk_free_bytes / disk if disk else None,
        max((used / total for used, total in gpus), default=None),
        sum(uses) / len(uses) if uses else None,
        sum(power) if power else None,
        max(heat, default=None),
    )


def _values(row: FeedRow, server: int, names: TextIds) -> tuple[str, tuple[object, ...]]:
    match row:
        case LatencyRow():
            return "latency", _latency(row, server, names)
        case CachedPrediction():
            return "prediction", _prediction(row, server, names)
        case DriftRow():
            ids = map(names.id, (row.stamp, row.feature, row.slice))
            return "drift", (row.tick_unix_ms, server, *ids, *astuple(row)[4:])
        case ProfileRow():
            ids = map(names.id, (row.stamp, row.feature, row.slice))
            counts = np.asarray(row.counts, "<u8").tobytes()
            return "profile", (server, *ids, *astuple(row)[3:11], counts)
        case FeatureRow():
            return "feature", (names.id(row.stamp), names.id(row.name), 0, pack(row))
        case AlertRow():
            return "alert", (server, row.id, row.last_unix_ms or row.opened_unix_ms, pack(row))
        case DeployRow():
            key = f"{row.action} {row.stamp}"
            return "deploy", (server, row.at_unix_ms, key, pack(row))
        case QualityRow():
            key = f"{row.stamp} {row.slice} {row.width_s}"
            return "quality", (server, row.bucket_unix_s * 1000, key, pack(row))
        case SliceRow():
            return "slice", (server, row.expression, row.at_unix_ms, pack(row))
        case AnnotationRow():
            return "annotation", (server, row.id, row.at_unix_ms, pack(row))
        case SilenceRow():
            return "silence", (server, row.id, row.until_unix_ms, pack(row))
        case ServerSnapshot():
            raise AssertionError("snapshots are written by insert()")


def _latency(row: LatencyRow, server: int, names: TextIds) -> tuple[object, ...]:
    """The values in the order of LATENCY."""
    exemplars = [(e.prediction_id, e.total_ms, e.trace_id) for e in row.exemplars]
    counts = np.asarray(row.counts, "<u4").tobytes()
    return (
        *(row.bucket_unix_ms, server, names.id(row.stamp), names.id(row.mix), row.replica),
        *(row.width_s, row.requests, row.errors, counts, *time_tuple(row), row.batch_rows),
        json.dumps(exemplars) if exemplars else "",
    )


def _prediction(row: CachedPrediction, server: int, names: TextIds) -> tuple[object, ...]:
    """The values in the order of PREDICTION."""
    return (
        *(server, row.prediction_id, row.at_unix_ms),
        *map(names.id, (row.stamp, row.mix, row.label, row.true_label)),
        *(*time_tuple(row.timing), row.batch_size, row.replica, json.dumps(dict(row.slices))),
        *(row.error, int(row.payload_kept), names.id(row.client), row.session, row.trace_id),
        *(np.asarray(row.features, "<f4").tobytes(), row.task, json.dumps(row.batch_mates)),
        *(row.error_message, *output_tuple(row)),
    )
