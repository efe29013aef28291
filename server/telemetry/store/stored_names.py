"""Long repeated texts (stamps, environments, slices) and features, each under its id in
telemetry.db. Part of `Store`, on its connection."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from sqlite_utils import Database

from server.telemetry.drift.profile import Reference, pack_counts


class StoredNames:
    """Remembers the ids it has seen; call `clear` after a transaction was rolled back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tools = Database(connection)
        self._ids: dict[tuple[str, str], int] = {}
        self._features: dict[str, list[int]] = {}

    def clear(self) -> None:
        self._ids.clear()
        self._features.clear()

    def stamp_id(self, stamp: str, name: str = "", at: float = 0.0) -> int:
        return self._name("stamp", "hex", stamp, {"name": name, "first_at": at})

    def env_id(self, text: str) -> int:
        return self._name("env", "text", text, {})

    def slice_id(self, name: str, at: float = 0.0) -> int:
        return self._name("slice", "name", name, {"first_at": at, "last_at": at})

    def _name(self, table: str, column: str, value: str, more: dict[str, Any]) -> int:
        key = (table, value)
        if key not in self._ids:
            columns = ", ".join((column, *more))
            marks = ", ".join("?" * (len(more) + 1))
            self._connection.execute(
                f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",
                (value, *more.values()),
            )
            found = self._connection.execute(
                f"SELECT id FROM {table} WHERE {column} = ?", (value,)
            ).fetchone()
            self._ids[key] = int(found[0])
        return self._ids[key]

    def put_reference(self, stamp: str, name: str, reference: Reference, at: float) -> None:
        """The features of a stamp with their reference counts."""
        self._features.pop(stamp, None)
        stamp_id = self.stamp_id(stamp, name, at)
        if name:
            self._connection.execute("UPDATE stamp SET name = ? WHERE id = ?", (name, stamp_id))
        rows = [
            {
                "stamp_id": stamp_id,
                "position": position,
                "name": f.name,
                "modality": f.spec.modality,
                "kind": f.spec.kind,
                "unit": f.spec.unit,
                "categories": json.dumps(f.spec.categories),
                "importance": f.importance,
                "cells": len(f.counts),
                "centre": f.centre,
                "step": f.step,
                "edges": f.edges.astype("<f8").tobytes(),
                "reference_counts": pack_counts(f.counts),
            }
            for position, f in enumerate(reference.features)
        ]
        known = {
            row[0]: row[1]
            for row in self._connection.execute(
                "SELECT position, id FROM feature WHERE stamp_id = ?", (stamp_id,)
            )
        }
        for row in rows:
            if row["position"] in known:
                row["id"] = known[row["position"]]
        self._tools.table("feature").upsert_all([r for r in rows if "id" in r], pk="id")
        self._tools.table("feature").insert_all([r for r in rows if "id" not in r], pk="id")

    def feature_ids(self, stamp: str) -> list[int]:
        """In order of position."""
        if stamp not in self._features:
            self._features[stamp] = [
                int(row[0])
                for row in self._connection.execute(
                    "SELECT id FROM feature WHERE stamp_id = ? ORDER BY position",
                    (self.stamp_id(stamp),),
                )
            ]
        return self._features[stamp]

    def slice_names(self) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT name FROM slice ORDER BY id")]
