"""Converts a tick of the drift detector to rows for the store and findings for the alert book."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from server.telemetry.drift import scores
from server.telemetry.drift.confirmation import UNKNOWN
from server.telemetry.drift.detector import FAMILIES, DriftDetector, DriftTick, WindowResult
from server.telemetry.drift.profile import FeatureReference
from server.telemetry.drift.structural import Structural
from server.telemetry.drift.windows import HOUR_S
from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.rows import DriftRow

STRUCTURAL_HOLD_S = 3600.0


def drift_rows(detector: DriftDetector, tick: DriftTick) -> list[DriftRow]:
    """One row for each feature x slice x window with any rows."""
    features = detector.layout.reference.features
    return [
        _row(detector.stamp, tick, look, s, position, feature.name)
        for look in tick.looks
        for s in range(len(tick.slices))
        for position, feature in enumerate(features)
        if look.found.n[s, position] or (s, position) in look.changes
    ]


def _row(
    stamp: str, tick: DriftTick, look: WindowResult, s: int, position: int, name: str
) -> DriftRow:
    found, at = look.found, (s, position)
    change = look.changes.get(at)
    return DriftRow(
        tick_unix_ms=int(tick.now * 1000),
        stamp=stamp,
        feature=name,
        slice=tick.slices[s],
        window_s=look.window_s,
        baseline=tick.baseline,
        n_effective=float(found.n[at] / tick.deff[position]),
        n_needed=float(scores.MIN_EFFECTIVE * tick.deff[position]),
        q=float(look.q[at]),
        **found.at(at),
        level=_level(look, at),
        structural=change.message if change else "",
    )


def _level(look: WindowResult, at: tuple[int, int]) -> str:
    if not look.known[at]:
        return "learning"
    level = int(look.level[at])
    return "insufficient" if level == UNKNOWN else scores.LEVELS[level]


@dataclass(frozen=True, slots=True)
class _Culprit:
    """`level` is the confirmed one, 0 while the shift is not confirmed."""

    look: WindowResult
    slice: int
    position: int
    level: int

    @property
    def seen(self) -> int:
        return self.level or int(self.look.level[self.slice, self.position])


def drift_findings(detector: DriftDetector, tick: DriftTick) -> list[Finding]:
    """One finding for each modality, including those without drift."""
    features = detector.layout.reference.features
    groups: dict[str, list[_Culprit]] = {f.spec.modality: [] for f in features}
    for culprit in _culprits(tick):
        groups[features[culprit.position].spec.modality].append(culprit)
    answers = {c.slice for c in groups.get("output", []) if c.level}
    found = []
    for modality, culprits in sorted(groups.items()):
        moved = modality not in FAMILIES and any(c.level and c.slice in answers for c in culprits)
        found.append(_finding(detector, tick, modality, culprits, moved))
    return found


def _culprits(tick: DriftTick) -> Iterator[_Culprit]:
    for s, name in enumerate(tick.slices):
        is_open, confirmed = tick.open[name], tick.confirmed[name]
        for w, look in enumerate(tick.looks):
            for position in np.flatnonzero(is_open[:, w] | (look.level[s] > 0)):
                level = max(int(confirmed[position, w]), int(is_open[position, w]))
                yield _Culprit(look, s, int(position), level)


def _finding(
    detector: DriftDetector,
    tick: DriftTick,
    modality: str,
    culprits: list[_Culprit],
    answers_moved: bool,
) -> Finding:
    key = f"drift/{detector.stamp[:12]}/{modality}"
    confirmed = [c for c in culprits if c.level]
    if not culprits:
        return Finding(key, "drift", "", "", detector.stamp)
    features = detector.layout.reference.features

    def weight(culprit: _Culprit) -> float:
        ks = culprit.look.found.ks[culprit.slice, culprit.position]
        return float(ks) * features[culprit.position].importance

    culprits = sorted(confirmed or culprits, key=weight, reverse=True)
    level = max(c.seen for c in culprits)
    # A shift of inputs that also moved the answers is one level worse.
    level = min(level + answers_moved, len(SEVERITIES) - 1)
    names = tuple(dict.fromkeys(features[c.position].name for c in culprits))
    slices = tuple(dict.fromkeys(tick.slices[c.slice] for c in culprits if tick.slices[c.slice]))
    return Finding(
        key,
        "drift",
        SEVERITIES[level],
        _sentence(features, tick, culprits[0], len(names) - 1),
        detector.stamp,
        confirmed=bool(confirmed),
        features=names,
        slices=slices,
    )


def _sentence(
    features: tuple[FeatureReference, ...], tick: DriftTick, worst: _Culprit, others: int
) -> str:
    found, at = worst.look.found, (worst.slice, worst.position)
    more = f"; also {others} more feature{'s' if others > 1 else ''}" if others else ""
    return (
        f"{features[worst.position].name}{_where(tick.slices[worst.slice])} drifted: "
        f"D {found.ks[at]:.2f}, KL {found.kl[at]:.2f} (expected by chance "
        f"{found.expected_kl[at]:.2f}) over {int(found.n[at]):,} rows in "
        f"{worst.look.window_s // HOUR_S} h{more}"
    )


def structural_findings(detector: DriftDetector, tick: DriftTick) -> list[Finding]:
    """One finding for each modality, from the shortest window with enough rows."""
    features = detector.layout.reference.features
    groups: dict[str, list[tuple[Structural, str, str]]] = {f.spec.modality: [] for f in features}
    seen = set()
    for look in tick.looks:
        for (s, position), change in look.changes.items():
            if (s, position) not in seen:
                spec = features[position].spec
                groups[spec.modality].append((change, spec.name, tick.slices[s]))
        seen |= {(s, p) for s, p in zip(*np.nonzero(look.found.sufficient), strict=True)}
    return [
        _structural(detector.stamp, modality, sorted(found, key=lambda f: -f[0].level))
        for modality, found in sorted(groups.items())
    ]


def _structural(stamp: str, modality: str, found: list[tuple[Structural, str, str]]) -> Finding:
    key = f"structural/{stamp[:12]}/{modality}"
    if not found:
        return Finding(key, "structural", "", "", stamp, hold_s=STRUCTURAL_HOLD_S)
    change, name, where = found[0]
    return Finding(
        key,
        "structural",
        SEVERITIES[change.level],
        f"{name}{_where(where)}: {change.message}",
        stamp,
        features=tuple(dict.fromkeys(name for _, name, _ in found)),
        slices=tuple(dict.fromkeys(where for _, _, where in found if where)),
        hold_s=STRUCTURAL_HOLD_S,
    )


def _where(slice_name: str) -> str:
    return f" at {slice_name}" if slice_name else ""
