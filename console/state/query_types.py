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

    @property
    def server_line(self) -> str:
        """For one server: the terms that choose among several are left out."""
        return " ".join(clause.term for clause in self.clauses if clause.name != "server")


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


@dataclass(frozen=True, slots=True)
class SearchServers:
    """What the servers are asked: the newest rows of a filter line and a span, or one row by its
    id. `server`: the only one to ask; empty: all that answer."""

    line: str = ""
    span: tuple[float, float] | None = None
    server: str = ""
    prediction_id: str = ""


@dataclass(frozen=True, slots=True)
class Searched:
    """How many servers have answered, and why others have not. `full`: one has more rows."""

    servers: int = 0
    trouble: str = ""
    full: bool = False


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
