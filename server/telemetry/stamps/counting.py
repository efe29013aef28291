"""Adds batches of records to all sums: profiles, trailing windows, latency, quality.

It works in memory, so a full disk cannot make it fail. Rows wait until `settle` counts them
together; `flush` writes what changed. TelemetryWriter decides when.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.telemetry.drift import embedding
from server.telemetry.drift.binning import EXTRA, BinLayout, Block
from server.telemetry.drift.profile import Ints, Profile, unpack_counts
from server.telemetry.drift.windows import HOUR_S, SLOT_S
from server.telemetry.quality.count_arrays import add_answers, packed, unpacked
from server.telemetry.quality.estimates import QualityCounts
from server.telemetry.record import Record
from server.telemetry.rows import LatencyRow
from server.telemetry.stamps.latency import LatencyKey, LatencySums, key_of
from server.telemetry.stamps.open_sums import OpenSums
from server.telemetry.stamps.pending_rows import UncountedRow, by_stamp, grouped, slices_of
from server.telemetry.stamps.registry import StampRegistry
from server.telemetry.stamps.stamp_state import StampState
from server.telemetry.store.store import Store

WARM_S = 2 * HOUR_S  # sums of hours older than this are removed from memory
WARM_LATENCY_S = 120

MOST_WAITING = 1024  # rows of a stamp that wait to be counted

HourKey = tuple[str, int, str]  # stamp, hour (unix s), slice


class Counting:
    """Rows of stamps that `states` cannot find are only counted in the latency."""

    def __init__(self, store: Store, states: StampRegistry) -> None:
        self._store = store
        self._states = states
        self.profiles: OpenSums[HourKey, Block] = OpenSums(self._stored_block)
        self.latency: OpenSums[LatencyKey, LatencySums] = OpenSums(self._stored_latency)
        self.quality: OpenSums[HourKey, QualityCounts] = OpenSums(self._stored_quality)
        self.embedding: OpenSums[tuple[str, int], Ints] = OpenSums(self._stored_embedding)
        self._fresh: set[LatencyKey] = set()
        self._waiting: dict[str, list[UncountedRow]] = {}  # by stamp
        self.malformed = 0  # records whose features do not fit their stamp

    def add(self, records: Sequence[Record], now: float) -> None:
        """Count rows: in the latency at once, in all other sums at the next `settle`."""
        for record in records:
            key = key_of(record)
            self.latency.change(key).add(record)
            self._fresh.add(key)
        for stamp, rows in by_stamp(records).items():
            state = self._states.find(stamp)
            if state is None:
                continue
            state.last_at = max(state.last_at, max(row.at for row in rows))
            waiting = self._waiting.setdefault(stamp, [])
            waiting += rows
            if len(waiting) >= MOST_WAITING:
                self._settle(state, self._waiting.pop(stamp), now)

    def settle(self, now: float) -> None:
        """Count the waiting rows; call it before anything is read."""
        waiting, self._waiting = self._waiting, {}
        for stamp, rows in waiting.items():
            state = self._states.find(stamp)
            if state is not None:
                self._settle(state, rows, now)

    def _settle(self, state: StampState, rows: Sequence[UncountedRow], now: float) -> None:
        _advance(state, now)
        tags = [state.slices.of(row.slices) for row in rows]
        self._add_quality(state, rows, tags)
        self.malformed += sum(1 for row in rows if row.features and not state.fits(row))
        self._add_profiles(state, rows, tags)

    def remember(self, records: Sequence[Record], now: float) -> None:
        """Add rows that the stored sums already include, only to the last hour's window, which is
        not stored. Call it only after a start."""
        for stamp, rows in by_stamp(records).items():
            state = self._states.find(stamp)
            if state is None:
                continue
            state.last_at = max(state.last_at, max(row.at for row in rows))
            _advance(state, now)
            fitting = [row for row in rows if state.fits(row)]
            if fitting:
                self._remember(state, fitting)

    def _remember(self, state: StampState, rows: Sequence[UncountedRow]) -> None:
        coded, tags = state.code(rows), [state.slices.of(row.slices) for row in rows]
        for slot, members in grouped([int(row.at // SLOT_S) for row in rows]):
            if state.embedding is not None and state.embedding_detector is not None:
                sums = state.embedding.of(coded, members)
                state.embedding_detector.windows.add_recent("", slot * SLOT_S, sums)
            for name, inside in slices_of(tags, members):
                added = state.layout.block().add(coded, inside)
                state.windows.add_recent(name, slot * SLOT_S, added)

    def _add_profiles(
        self, state: StampState, rows: Sequence[UncountedRow], tags: Sequence[Sequence[str]]
    ) -> None:
        fitting = [i for i, row in enumerate(rows) if state.fits(row)]
        if not fitting:
            return
        coded = state.code([rows[i] for i in fitting])
        tags = [tags[i] for i in fitting]
        for slot, members in grouped([int(rows[i].at // SLOT_S) for i in fitting]):
            hour = slot * SLOT_S // HOUR_S * HOUR_S
            if state.embedding is not None and state.embedding_detector is not None:
                sums = state.embedding.of(coded, members)
                kept = self.embedding.change((state.bundle.stamp, hour))
                kept += sums
                state.embedding_detector.windows.add("", slot * SLOT_S, sums)
            for name, inside in slices_of(tags, members):
                block = self.profiles.change((state.bundle.stamp, hour, name))
                state.windows.add(name, slot * SLOT_S, block.add(coded, inside))

    def _add_quality(
        self, state: StampState, rows: Sequence[UncountedRow], tags: Sequence[Sequence[str]]
    ) -> None:
        """Add rows to the quality counts: only classifications have a confidence that can prove
        right or wrong."""
        judged = [i for i, row in enumerate(rows) if row.judged]
        if not judged:
            return
        confidence = np.array([rows[i].confidence for i in judged])
        places = np.searchsorted(state.stick.edges, confidence, side="right")
        predicted = np.array([state.stick.label(rows[i].label) for i in judged])
        kept = [tags[i] for i in judged]
        hours = [int(rows[i].at // HOUR_S) * HOUR_S for i in judged]
        for hour, members in grouped(hours):
            for name, inside in slices_of(kept, members):
                counts = self.quality.change((state.bundle.stamp, hour, name))
                add_answers(counts, places[inside], confidence[inside], predicted[inside])

    def fresh_latency(self) -> list[LatencyRow]:
        """The rows that changed since the last call, with their current values."""
        fresh, self._fresh = self._fresh, set()
        found = [(key, self.latency.get(key)) for key in sorted(fresh)]
        return [sums.row(key) for key, sums in found if sums is not None]

    def quality_of(self, stamp: str, hour: int, name: str) -> QualityCounts:
        """The open or the stored counts; do not change them."""
        found = self.quality.get((stamp, hour, name))
        return found if found is not None else self._stored_quality((stamp, hour, name))

    def flush(self) -> None:
        """Write all changes, inside the caller's transaction. Call `written` once it is
        committed."""
        for (stamp, hour, name), block in self.profiles.changed():
            state = self._states.find(stamp)
            if state is None:
                continue
            ids = self._store.names.feature_ids(stamp)
            profiles = [(ids[i], state.layout.profile(block, i)) for i in range(len(ids))]
            key = (self._store.names.stamp_id(stamp), hour, self._store.names.slice_id(name, hour))
            self._store.sums.put_profiles(*key, profiles)
        self._store.sums.put_latency([sums.row(key) for key, sums in self.latency.changed()])
        for (stamp, hour, name), counts in self.quality.changed():
            key = (self._store.names.stamp_id(stamp), hour, self._store.names.slice_id(name, hour))
            self._store.sums.put_sums("quality", key, packed(counts))
        for (stamp, hour), sums in self.embedding.changed():
            hour_key = (self._store.names.stamp_id(stamp), hour)
            self._store.sums.put_sums("profile_embedding", hour_key, embedding.packed(sums))

    def written(self, now: float) -> None:
        for sums in (self.profiles, self.latency, self.quality, self.embedding):
            sums.written()
        self.profiles.put_away(lambda key: key[1] < now - WARM_S)
        self.quality.put_away(lambda key: key[1] < now - WARM_S)
        self.embedding.put_away(lambda key: key[1] < now - WARM_S)
        self.latency.put_away(lambda key: key.bucket_unix_s < now - WARM_LATENCY_S)

    def past(self, stamp: str, layout: BinLayout, hour: int) -> dict[str, Ints]:
        """Flat counts of a whole hour (index, not seconds) by slice: the open ones, else the stored
        ones."""
        found: dict[str, Ints] = {}
        for name, position, *sums, blob, crc in self._store.sums.profiles(stamp, hour * HOUR_S):
            flat = found.setdefault(name, np.zeros(layout.total, dtype=np.int64))
            _restore(layout, flat, position, sums[:EXTRA], blob, crc)
        for (key_stamp, key_hour, name), block in self.profiles.items():
            if key_stamp == stamp and key_hour == hour * HOUR_S:
                found[name] = block.counts.copy()
        return found

    def past_embedding(self, stamp: str, hour: int) -> dict[str, Ints]:
        found = self.embedding.get((stamp, hour * HOUR_S))
        return {
            "": self._stored_embedding((stamp, hour * HOUR_S)) if found is None else found.copy()
        }

    def _stored_embedding(self, key: tuple[str, int]) -> Ints:
        sums = self._state_of(key[0]).embedding
        size = sums.size if sums is not None else 1
        return embedding.unpacked(self._store.sums.embedding(*key), size)

    def forget(self, stamp: str) -> None:
        """Forget a stamp's counts: its features will be counted in other cells. Write the open
        counts first."""
        self.profiles.drop(lambda key: key[0] == stamp)
        self.quality.drop(lambda key: key[0] == stamp)
        self.embedding.drop(lambda key: key[0] == stamp)

    def _stored_block(self, key: HourKey) -> Block:
        layout = self._state_of(key[0]).layout
        block = layout.block()
        for _, position, *sums, blob, crc in self._store.sums.profiles(*key):
            try:
                counts = unpack_counts(blob, int(layout.sizes[position]), crc)
            except (ValueError, IndexError):
                continue  # damaged, or of another schema: counting starts from zero
            layout.restore(block, position, Profile(counts, *sums))
        return block

    def _stored_latency(self, key: LatencyKey) -> LatencySums:
        sums = LatencySums()
        row = self._store.sums.latency(key)
        if row is not None:
            sums.merge(row)
        return sums

    def _stored_quality(self, key: HourKey) -> QualityCounts:
        stick = self._state_of(key[0]).stick
        blob = self._store.sums.quality(*key)
        if blob is not None:
            try:
                return unpacked(blob, stick)
            except ValueError:
                # Of another label set: a stamp cannot change its labels, but a file can be damaged.
                pass
        return QualityCounts.of(stick)

    def _state_of(self, stamp: str) -> StampState:
        state = self._states.find(stamp)
        assert state is not None, "sums are opened for known stamps only"
        return state


def _restore(
    layout: BinLayout, flat: Ints, position: int, extras: Sequence[int], blob: bytes, crc: int
) -> None:
    if position >= len(layout.sizes):
        return
    start, size = int(layout.offsets[position]), int(layout.sizes[position])
    try:
        flat[start : start + size] = unpack_counts(blob, size, crc)
    except ValueError:
        return
    flat[start + size : start + size + len(extras)] = extras


def _advance(state: StampState, now: float) -> None:
    state.windows.advance(now)
    if state.embedding_detector is not None:
        state.embedding_detector.windows.advance(now)
