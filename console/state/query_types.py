"""What a panel can ask the cache once, and the answers. Panels know these, not the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from console.state.domain import CachedPrediction
from server.telemetry.filters import Clause
from server.telemetry.rows import FeatureRow


@dataclass(frozen=True, slots=True)
class FindPredictions:
    clauses: tuple[Clause, ...]
    span: tuple[float, float] | None
    aliases: Mapping[str, str]  # server names for people to addresses


@dataclass(frozen=True, slots=True)
class ReadPage:
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadPrediction:
    server: str
    prediction_id: str


@dataclass(frozen=True, slots=True)
class ReadPayload:
    server: str
    prediction_id: str


Query = FindPredictions | ReadPage | ReadPrediction | ReadPayload


@dataclass(frozen=True, slots=True, eq=False)
class FoundPredictions:
    numbers: NDArray[np.int64]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class PredictionPage:
    rows: Mapping[int, tuple[str, CachedPrediction]]


@dataclass(frozen=True, slots=True)
class PredictionDetail:
    server: str
    prediction_id: str
    row: CachedPrediction | None
    batch_mates: tuple[CachedPrediction, ...] = ()
    features: tuple[FeatureRow, ...] = ()  # of the stamp, in the order of the row's features


@dataclass(frozen=True, slots=True)
class KeptPayload:
    server: str
    prediction_id: str
    body: bytes | None
    why: str = ""
