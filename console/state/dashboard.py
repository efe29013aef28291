"""What is asked of the cache (`View`) and what the panels are given (`Board`): immutable, complete,
and small enough to hand to the UI thread ten times a second. Times are unix seconds by the
console's clock; a server's own times are corrected by its clock offset before they get here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from console.state.domain import Action, ServerRecord
from console.state.severity import DOUBTFUL
from server.telemetry.rows import (
    AlertRow,
    DeployRow,
    DriftRow,
    FeatureRow,
    QualityRow,
    SilenceRow,
    SliceRow,
)

Floats = NDArray[np.float64]
MEASURES = ("psi", "ks", "kl", "js")
SPLITS = ("", "server", "stamp", "mix", "replica")


@dataclass(frozen=True, slots=True)
class View:
    """What the operator views. `end_s` None follows the clock."""

    window_s: float = 600.0
    end_s: float | None = None
    brush: tuple[float, float] | None = None
    columns: int = 400
    scope: str = ""  # address of the only server to show; "" = all
    split: str = ""  # one of SPLITS
    mix: str = ""
    measure: str = "psi"
    drift_key: tuple[str, str] | None = None  # feature, slice
    expected_stamp: str = ""
    host: bool = False  # what the hosts use is shown

    @property
    def live(self) -> bool:
        return self.end_s is None


@dataclass(frozen=True, slots=True, eq=False)
class ServerLine(ServerRecord):
    """One server as the fleet panel shows it."""

    severity: str
    state: str
    why: str
    age_s: float  # since it was last heard; inf: never
    p95_ms: float = math.nan  # of the last minute it reported
    slo_ms: float = 0.0
    spark: Floats = field(default_factory=lambda: np.zeros(0))
    odd_parts: tuple[str, ...] = ()
    since_s: float = math.nan  # when it came into this state; NaN: it is ok, or nobody saw it

    @property
    def past(self) -> bool:
        """What it last reported is about then and not about now: shown dimmed, with its time."""
        return self.severity == "unknown" or self.state in ("lost", "unreachable", "stopped")


@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """A request that stands for a cell of the heat map."""

    at_s: float
    total_ms: float
    server: str
    prediction_id: str
    trace_id: str


@dataclass(frozen=True, slots=True, eq=False)
class LatencyColumns:
    """Columns of equal width from `from_s`; NaN where nothing was served or nothing is known."""

    from_s: float
    to_s: float
    column_s: float
    starts: Floats
    p50: Floats
    p95: Floats
    p99: Floats
    heat: NDArray[np.float32]  # [64, columns], each column's share of its largest bucket
    rate: Floats  # requests a second
    served: Floats  # requests
    errors: Floats  # share
    stages: Floats  # [5, columns], mean ms
    batch: Floats  # mean rows of a forward
    total: tuple[float, float, float]  # p50, p95, p99 of the brush or the window
    requests: int
    slo_ms: float
    split: tuple[tuple[str, Floats], ...] = ()  # p95 of the busiest members
    exemplars: tuple[ExampleRequest, ...] = ()
    shares: tuple[tuple[str, Floats], ...] = ()  # traffic share by stamp
    newest_s: float = math.nan  # end of the newest bucket with requests
    width_s: float = 0.0  # of the rows it was made of
    mixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HostColumns:
    """What the hosts use, in columns of equal width; NaN where nothing is known. Shares are 0 to 1,
    of several servers the highest; `power` is watts of all GPUs of the server that draws most,
    `heat` the hottest GPU in degrees Celsius."""

    from_s: float
    column_s: float
    servers: int  # that report any
    cpu: Floats
    memory: Floats
    disk: Floats  # used, of the file system of --data
    gpu_memory: Floats
    gpu: Floats
    power: Floats
    heat: Floats

    @property
    def starts(self) -> Floats:
        return np.asarray(self.from_s + np.arange(len(self.cpu)) * self.column_s)


@dataclass(frozen=True, slots=True, eq=False)
class DriftLine:
    """The worst server's row of one feature and slice. `firing_at` are the servers (addresses)
    with an alert about it that fires: only such a line is loud."""

    row: DriftRow
    server: str
    spark: Floats
    at_s: float
    servers: int = 1
    source: str = "server"  # or "console": computed here for a brushed window
    since_s: float = math.nan  # first of the evaluations in a row with a level above ok
    firing_at: tuple[str, ...] = ()
    name: str = ""  # of `server`, for people
    by_server: tuple[DriftLine, ...] = ()  # of several servers all lines, this one included

    @property
    def firing(self) -> bool:
        return bool(self.firing_at)

    @property
    def key(self) -> tuple[str, str]:
        return (self.row.feature, self.row.slice)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceComparison:
    """Reference against live for one feature and slice over whole hours."""

    feature: FeatureRow
    slice: str
    edges: Floats  # outer edges included, finite
    reference: Floats  # density or share a cell
    live: Floats
    n_reference: float
    n_live: int
    missing: int
    from_s: float
    to_s: float
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()  # of a categorical feature


@dataclass(frozen=True, slots=True)
class SkewCell:
    value: str
    differs: bool
    known: bool
    moved: bool = False  # it changed since the server loaded it


@dataclass(frozen=True, slots=True)
class SkewLine:
    address: str
    name: str
    stamp: str
    stamp_name: str
    cells: tuple[SkewCell, ...]  # in the order of STAMP_PARTS
    since_s: float  # of the deploy that brought this stamp; NaN: not known
    age_s: float = field(compare=False)  # grows by itself, so it is not compared
    dirty: bool
    details: tuple[tuple[str, str, str], ...]  # (what, here, majority) where they differ
    env: tuple[tuple[str, str, str], ...]
    pins: tuple[tuple[str, str, int, float], ...]  # client, stamp, refused, last
    # What changed since its replicas loaded it, worst first: what, the message, and whether answers
    # may differ now, or only after a restart.
    moved: tuple[tuple[str, str, bool], ...] = ()
    signed_by: str = ""
    lost_s: float = math.nan  # when a server that does not answer was heard last

    @property
    def past(self) -> bool:
        """What it ran when it was heard last; it may run something else by now, or nothing."""
        return self.lost_s == self.lost_s

    @property
    def odd(self) -> bool:
        return any(cell.differs for cell in self.cells)

    @property
    def severity(self) -> str:
        """Empty while it is like the fleet and as it was loaded."""
        if any(now for _, _, now in self.moved):
            return "critical"
        return "high" if self.odd or self.moved else ""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of the event list and one mark on the time axis."""

    at_s: float
    severity: str
    text: str
    server: str  # address
    kind: str  # alert | deploy | link | action | note
    id: str
    panel: str
    mark: str = ""  # of a deploy: deploys.mark_of
    detail: str = ""  # lines for the tool tip, where there is more than `text`
    to_s: float = math.nan  # of a note about a span, its end


@dataclass(frozen=True, slots=True)
class AlertLine:
    row: AlertRow
    server: str  # address
    name: str
    opened_s: float
    closed_s: float
    offset_ms: float
    silenced_until_s: float = 0.0
    pending: str = ""  # an action on it that the server has not confirmed

    @property
    def open(self) -> bool:
        return self.row.state not in ("resolved", "ok")

    @property
    def firing(self) -> bool:
        """Open, and seen often enough to be loud."""
        return self.open and self.row.state != "pending"


@dataclass(frozen=True, slots=True)
class Note:
    """What a person wrote on the time axis. Every server of the fleet keeps it: shown once.
    `pending`: no server has confirmed it yet."""

    id: str
    at_s: float
    to_s: float
    text: str
    actor: str
    pending: bool = False


WANT_NOTHING = ("pending", "held", "healthy")  # kinds of messages that only count


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """A link in the status line."""

    severity: str
    text: str
    panel: str
    key: str = ""
    at_s: float = math.nan
    detail: str = ""
    standing: bool = False  # always shown, but not part of the state
    harm: int = DOUBTFUL  # console.state.severity: the headline is chosen by it
    kind: str = ""  # console.state.next_steps: what to do, and the page about it

    @property
    def wants_action(self) -> bool:
        return bool(self.kind) and self.kind not in WANT_NOTHING


@dataclass(frozen=True, slots=True)
class FleetState:
    state: str  # CRITICAL | DEGRADED | UNKNOWN | OFFLINE | HEALTHY
    severity: str
    sentence: str
    messages: tuple[StatusMessage, ...]

    @property
    def worst(self) -> StatusMessage | None:
        """What the sentence is about; None while there is nothing to do."""
        wants = (m for m in self.messages if m.wants_action)
        found = (m for m in wants if not m.standing or self.severity == "ok")
        return next(found, None)


@dataclass(frozen=True, slots=True)
class QualityLine:
    row: QualityRow
    server: str
    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """The console about itself."""

    cache_bytes: int = 0
    read_ms: float = 0.0
    rows_waiting: int = 0
    trouble: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    view: View
    made_s: float
    from_s: float
    to_s: float
    fleet_state: FleetState
    servers: tuple[ServerLine, ...] = ()
    latency: LatencyColumns | None = None
    host: HostColumns | None = None  # where the view asks for it
    drift: tuple[DriftLine, ...] = ()
    drift_span: tuple[float, float] | None = None  # hours, when computed here
    comparison: ReferenceComparison | None = None
    skew: tuple[SkewLine, ...] = ()
    alerts: tuple[AlertLine, ...] = ()
    silences: tuple[tuple[str, SilenceRow], ...] = ()
    actions: tuple[Action, ...] = ()
    timeline_events: tuple[TimelineEvent, ...] = ()
    deploys: tuple[tuple[str, DeployRow], ...] = ()
    notes: tuple[Note, ...] = ()  # newest first
    quality: tuple[QualityLine, ...] = ()
    slices: tuple[tuple[str, SliceRow], ...] = ()
    usage: CacheUsage = CacheUsage()
    offline: bool = False
    ahead_s: float = 0.0  # the axis against this machine's clock, where servers simulate time
    speed: float = 1.0  # seconds of the axis that pass in one

    def name_of(self, address: str) -> str:
        for line in self.servers:
            if line.address == address:
                return line.name
        return address

    @property
    def shifts_s(self) -> dict[str, float]:
        """By address, how far a server's clock is ahead of the axis."""
        return {line.address: line.link.shift_s for line in self.servers}

    @property
    def strictest_slo_ms(self) -> float:
        """Of all servers; 0 where none has an objective."""
        return min((line.slo_ms for line in self.servers if line.slo_ms), default=0.0)
