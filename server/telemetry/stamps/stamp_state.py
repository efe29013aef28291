"""The state of one stamp: its reference and objective, and everything counted for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift import reference
from server.telemetry.drift.binning import BinLayout, BinnedRows
from server.telemetry.drift.detector import Baseline, DriftDetector
from server.telemetry.drift.embedding import EmbeddingDetector, EmbeddingSums
from server.telemetry.drift.profile import Ints, Reference, empty_reference
from server.telemetry.drift.windows import TrailingWindows
from server.telemetry.quality import objective
from server.telemetry.quality.estimates import Yardstick, yardstick
from server.telemetry.record import BundleFiles
from server.telemetry.rows import FeatureRow
from server.telemetry.slices.names import SliceNames
from server.telemetry.stamps.pending_rows import UncountedRow

SENT = ("text", "image", "audio")  # a NaN of these is missing only if the mix names the modality
ALWAYS = "request"


@dataclass(frozen=True, slots=True)
class PastCounts:
    """Counts of a whole hour (its index since 1970) of a stamp, by slice, from the store."""

    profiles: Callable[[str, BinLayout, int], Mapping[str, Ints]]
    embedding: Callable[[str, int], Mapping[str, Ints]]


class StampState:
    """Raises ReferenceRefused or ObjectiveRefused when the bundle's files do not fit."""

    def __init__(
        self, bundle: BundleFiles, slices: Sequence[str], past: PastCounts, tick_s: float
    ) -> None:
        self.bundle = bundle
        self.reference = _reference(bundle)
        self.layout = BinLayout(self.reference)
        self.stick: Yardstick = yardstick(
            bundle.labels,
            self.reference,
            objective.parse(bundle.objective, bundle.labels) if bundle.objective else None,
        )
        self.slices = SliceNames([*self.reference.slices, *slices])
        layout = self.layout
        self.windows = TrailingWindows(
            layout.total, lambda hour: past.profiles(bundle.stamp, layout, hour)
        )
        self.detector = DriftDetector(bundle.stamp, self.layout, self.windows, tick_s)
        self.learnt: Baseline | None = None  # the baseline, once slices have been learned
        self.embedding: EmbeddingSums | None = None
        self.embedding_detector: EmbeddingDetector | None = None
        if self.reference.embedding is not None:
            self.embedding = EmbeddingSums(self.reference.embedding, bundle.schema)
            whole = TrailingWindows(
                self.embedding.size, lambda hour: past.embedding(bundle.stamp, hour), signed=True
            )
            self.embedding_detector = EmbeddingDetector(
                bundle.stamp, self.reference.embedding, whole, tick_s
            )
        self.last_at = 0.0
        self._expected: dict[str, NDArray[np.bool_]] = {}

    @property
    def embedding_places(self) -> list[int]:
        features = self.reference.features
        return [i for i, f in enumerate(features) if f.spec.modality == "embedding"]

    def feature_rows(self) -> list[FeatureRow]:
        """The features as rows of the change feed."""
        return [
            FeatureRow(
                f.name,
                f.spec.modality,
                f.spec.kind,
                f.spec.unit,
                f.spec.categories,
                self.bundle.stamp,
                tuple(f.edges.tolist()),
                tuple(f.counts.tolist()),
                float(f.n),
                f.importance,
            )
            for f in self.reference.features
        ]

    def fits(self, row: UncountedRow) -> bool:
        return len(row.features) == 4 * len(self.reference.features)

    def code(self, rows: Sequence[UncountedRow]) -> BinnedRows:
        """Rows that fit the schema, as bin numbers."""
        matrix = np.frombuffer(b"".join([row.features for row in rows]), dtype="<f4")
        expected = np.stack([self._expects(row.mix) for row in rows])
        return self.layout.code(matrix.reshape(len(rows), -1), expected)

    def _expects(self, mix: str) -> NDArray[np.bool_]:
        """Which features a request of this mix must have."""
        found = self._expected.get(mix)
        if found is None:
            present = {ALWAYS, *(m for m in SENT if m in mix.split("+"))}
            found = np.array([f.spec.modality in present for f in self.reference.features])
            if len(self._expected) < 64:
                self._expected[mix] = found
        return found


def _reference(bundle: BundleFiles) -> Reference:
    if bundle.reference:
        return reference.parse(bundle.reference, bundle.schema)
    return empty_reference(bundle.schema)
