"""The stamps that telemetry knows: those that serve now, and earlier ones about which something
arrives late. The files of a bundle are kept in the store, so that feedback finds its yardstick
after a restart or a deploy."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from server.telemetry.record import BundleFiles, FeatureSpec
from server.telemetry.stamps.stamp_state import PastCounts, StampState
from server.telemetry.store.store import Store

REMEMBERED_S = 4 * 3600  # how far back confirmation looks
MOST = 8  # stamps in memory at a time


class StampRegistry(Mapping[str, StampState]):
    """Stamp -> state. Only the writer's thread changes it."""

    def __init__(self, store: Store, past: PastCounts, tick_s: float) -> None:
        self._store = store
        self._past = past
        self._tick_s = tick_s
        self._states: dict[str, StampState] = {}

    def __getitem__(self, stamp: str) -> StampState:
        return self._states[stamp]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def adopt(self, bundle: BundleFiles, now: float) -> StampState:
        """Take over a bundle, replacing what was known of its stamp. Raises ReferenceRefused or
        ObjectiveRefused, after which nothing has changed."""
        bundle = self.with_learnt(bundle)
        known = self._states.get(bundle.stamp)
        if known is not None and known.bundle == bundle:
            return known
        state = StampState(bundle, self._slices(), self._past, self._tick_s)
        with self._store.transaction():
            self._store.names.put_reference(bundle.stamp, bundle.name, state.reference, now)
            self._keep(bundle)
        self._states[bundle.stamp] = state
        self._let_go(bundle.stamp)
        return state

    def with_learnt(self, bundle: BundleFiles) -> BundleFiles:
        """For a bundle without a reference, the bundle with the reference learned from its traffic,
        if there is one."""
        if bundle.reference:
            return bundle
        kept = self._kept(bundle.stamp)
        if kept is None or kept.schema != bundle.schema:
            return bundle
        return replace(bundle, reference=kept.reference)

    def find(self, stamp: str) -> StampState | None:
        """A known stamp, read from the store if necessary."""
        if stamp not in self._states:
            bundle = self._kept(stamp)
            if bundle is None:
                return None
            self._states[stamp] = StampState(bundle, self._slices(), self._past, self._tick_s)
            self._let_go(stamp)
        return self._states[stamp]

    def restore(self, now: float) -> None:
        """After a start, once the rows are counted again: restores the levels of the last ticks
        for stamps that had traffic in the last day."""
        for (stamp,) in self._store.connection.execute(
            "SELECT DISTINCT s.hex FROM profile p JOIN stamp s ON s.id = p.stamp_id"
            " WHERE p.hour >= ?",
            (now - 86400,),
        ).fetchall():
            self.find(stamp)
        since = int((now - REMEMBERED_S) * 1000)
        for stamp, state in self._states.items():
            state.last_at = max(state.last_at, float(self._store.sums.last_hour(stamp)))
            state.detector.restore(self._store.judgements.levels(stamp, since))

    def meet(self, stamp: str, schema: tuple[FeatureSpec, ...], now: float) -> StampState:
        """The state of a stamp that a record named: the known one, or one without a reference."""
        state = self.find(stamp)
        if state is None or (schema and not state.bundle.schema):
            before = state.bundle if state else BundleFiles(stamp)
            state = self.adopt(replace(before, schema=schema), now)
        return state

    def _let_go(self, but: str) -> None:
        while len(self._states) > MOST:
            oldest = min(
                (s for s in self._states if s != but), key=lambda s: self._states[s].last_at
            )
            del self._states[oldest]

    def _slices(self) -> list[str]:
        return [name for name in self._store.names.slice_names() if name]

    def _keep(self, bundle: BundleFiles) -> None:
        self._store.connection.execute(
            "INSERT OR REPLACE INTO bundle VALUES (?, ?, ?, ?, ?, ?)",
            (
                self._store.names.stamp_id(bundle.stamp),
                bundle.name,
                json.dumps([asdict(spec) for spec in bundle.schema]),
                json.dumps(bundle.labels),
                zlib.compress(bundle.reference),
                zlib.compress(bundle.objective),
            ),
        )

    def _kept(self, stamp: str) -> BundleFiles | None:
        row = self._store.connection.execute(
            "SELECT b.name, features, labels, reference, objective FROM bundle b"
            " JOIN stamp s ON s.id = b.stamp_id WHERE s.hex = ?",
            (stamp,),
        ).fetchone()
        if row is None:
            return None
        specs = [
            FeatureSpec(**{**spec, "categories": tuple(spec["categories"])})
            for spec in json.loads(row[1])
        ]
        return BundleFiles(
            stamp,
            row[0],
            tuple(specs),
            tuple(json.loads(row[2])),
            zlib.decompress(row[3]),
            zlib.decompress(row[4]),
        )
