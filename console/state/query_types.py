"""What a panel can ask the cache once, and the answers. Panels import these types, not the
cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from console.state.dashboard import TimelineEvent
from console.state.domain import CachedPrediction
from server.telemetry.filters import Clause
from server.telemetry.rows import FeatureRow


@dataclass(frozen=True, slots=True)
class FindPredictions:
    clauses: tuple[Clause, ...]
    span: tuple[float, float] | None
    aliases: Mapping[str, str]  # display names of servers -> addresses

    @property
    def server_line(self) -> str:
        """The filter line for one server: the terms that choose among servers are left out."""
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
    """A question to the servers: the newest rows that match a filter line in a span, or one row by
    its id. `server`: the only one to ask; empty: all that answer."""

    line: str = ""
    span: tuple[float, float] | None = None
    server: str = ""
    prediction_id: str = ""


@dataclass(frozen=True, slots=True)
class Searched:
    """How many servers have answered, and (address, why) of those that have not. `full`: a server
    has more rows than it sent."""

    servers: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    full: bool = False
    trouble: str = ""  # why no server was asked


@dataclass(frozen=True, slots=True)
class ReadChanges:
    """What changed from one window to the other. `names` and `shifts_s` are by address. `late_ms`
    is the objective; 0 takes the 95th percentile of the window before. `events` happened in both
    windows."""

    before: tuple[float, float]
    after: tuple[float, float]
    names: Mapping[str, str]
    shifts_s: Mapping[str, float]
    late_ms: float = 0.0
    events: tuple[TimelineEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class SideWanted:
    """One side of a comparison: the rows of a server, of a stamp, or all rows, in a window. `facts`
    and `figures` are known without the database."""

    name: str
    span: tuple[float, float]
    server: str = ""
    stamp: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, tuple[float, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadComparison:
    kind: str  # servers | stamps | windows
    here: SideWanted
    there: SideWanted
    shifts_s: Mapping[str, float]
    late_ms: float = 0.0


Query = FindPredictions | ReadPage | ReadPrediction | ReadPayload | ReadChanges | ReadComparison


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
