"""What the cache is asked for (`View`) and what the panels are given (`Board`): immutable,
complete, and small enough to hand to the UI thread ten times a second. Times are unix seconds on
the time axis; a server's own times are corrected by its clock offset before they get here."""

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
    """What the operator looks at. `end_s` None follows the clock."""

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
    host: bool = False  # show what the hosts use

    @property
    def live(self) -> bool:
        return self.end_s is None


@dataclass(frozen=True, slots=True, eq=False)
class ServerLine(ServerRecord):
    """One server as the fleet panel shows it."""

    severity: str
    state: str
    why: str
    age_s: float  # time since the last message; inf: none ever came
    p95_ms: float = math.nan  # over the last minute that the server reported
    slo_ms: float = 0.0
    spark: Floats = field(default_factory=lambda: np.zeros(0))
    odd_parts: tuple[str, ...] = ()
    # When this state began; NaN: the state is ok, or the beginning was not seen.
    since_s: float = math.nan

    @property
    def past(self) -> bool:
        """The last report describes the past: it is shown dimmed, with its time."""
        return self.severity == "unknown" or self.state in ("lost", "unreachable", "stopped")


@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """A request that serves as the example of a cell of the heat map."""

    at_s: float
    total_ms: float
    server: str
    prediction_id: str
    trace_id: str


@dataclass(frozen=True, slots=True, eq=False)
class LatencyColumns:
    """Columns of equal width from `from_s`; NaN where there was no request or no data."""

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
    batch: Floats  # mean rows in a forward
    total: tuple[float, float, float]  # p50, p95, p99 of the brush or the window
    requests: int
    slo_ms: float
    split: tuple[tuple[str, Floats], ...] = ()  # p95 of the busiest members
    exemplars: tuple[ExampleRequest, ...] = ()
    shares: tuple[tuple[str, Floats], ...] = ()  # traffic share by stamp
    newest_s: float = math.nan  # end of the newest bucket with requests
    width_s: float = 0.0  # width of the rows the columns were made of
    mixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HostColumns:
    """What the hosts use, in columns of equal width; NaN where nothing is known. Shares are 0 to 1.
    Each figure is the highest among the servers: `power` is the watts of all GPUs of one server,
    `heat` the hottest GPU in degrees Celsius."""

    from_s: float
    column_s: float
    servers: int  # number of servers that report host figures
    cpu: Floats
    memory: Floats
    disk: Floats  # used share of the file system of --data
    gpu_memory: Floats
    gpu: Floats
    power: Floats
    heat: Floats

    @property
    def starts(self) -> Floats:
        return np.asarray(self.from_s + np.arange(len(self.cpu)) * self.column_s)


@dataclass(frozen=True, slots=True, eq=False)
class DriftLine:
    """The row of one feature and slice from the worst server. `firing_at` are the servers
    (addresses) with a firing alert about it: only such a line is loud."""

    row: DriftRow
    server: str
    spark: Floats
    at_s: float
    servers: int = 1
    source: str = "server"  # or "console": computed here for a brushed window
    since_s: float = math.nan  # first of the consecutive evaluations above ok
    firing_at: tuple[str, ...] = ()
    name: str = ""  # display name of `server`
    by_server: tuple[DriftLine, ...] = ()  # the lines of all servers, this one included

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
    moved: bool = False  # it changed after the server loaded it


@dataclass(frozen=True, slots=True)
class SkewLine:
    address: str
    name: str
    stamp: str
    stamp_name: str
    cells: tuple[SkewCell, ...]  # in the order of STAMP_PARTS
    since_s: float  # time of the deploy that brought this stamp; NaN: not known
    age_s: float = field(compare=False)  # grows all the time, so it is not compared
    dirty: bool
    # (what, here, majority) where they differ; without a majority, what the others have.
    details: tuple[tuple[str, str, str], ...]
    env: tuple[tuple[str, str, str], ...]
    pins: tuple[tuple[str, str, int, float], ...]  # client, stamp, refused, last
    # What changed since the replicas loaded it, worst first: what, the message, and whether answers
    # may differ now or only after a restart.
    moved: tuple[tuple[str, str, bool], ...] = ()
    signed_by: str = ""
    lost_s: float = math.nan  # when a server that does not answer was last heard
    tied: bool = False  # it differs from as many servers as it is equal to: no majority

    @property
    def past(self) -> bool:
        """This is what the server ran when it was last heard; by now it may run another bundle, or
        none."""
        return self.lost_s == self.lost_s

    @property
    def odd(self) -> bool:
        return any(cell.differs for cell in self.cells)

    @property
    def severity(self) -> str:
        """Empty while the server is like the fleet and unchanged since it loaded."""
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
    mark: str = ""  # for a deploy: deploys.mark_of
    detail: str = ""  # lines for the tool tip, if there is more than `text`
    to_s: float = math.nan  # for a note about a span, its end


@dataclass(frozen=True, slots=True)
class AlertLine:
    row: AlertRow
    server: str  # address
    name: str
    opened_s: float
    closed_s: float
    offset_ms: float
    silenced_until_s: float = 0.0
    pending: str = ""  # an action on this alert that the server has not confirmed

    @property
    def open(self) -> bool:
        return self.row.state not in ("resolved", "ok")

    @property
    def firing(self) -> bool:
        """Open, and confirmed by enough evaluations to be loud."""
        return self.open and self.row.state != "pending"


@dataclass(frozen=True, slots=True)
class Note:
    """A person's note on the time axis. Every server of the fleet keeps it; it is shown once.
    `pending`: no server has confirmed it yet."""

    id: str
    at_s: float
    to_s: float
    text: str
    actor: str
    pending: bool = False


# Kinds of messages that only count and need no action.
WANT_NOTHING = ("pending", "held", "healthy")


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
    harm: int = DOUBTFUL  # console.state.severity: it decides the headline
    kind: str = ""  # console.state.next_steps: what to do, and the runbook

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
        """The message in the headline; None while there is nothing to do."""
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
    """Figures of the console itself."""

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
    host: HostColumns | None = None  # only if the view asks for it
    drift: tuple[DriftLine, ...] = ()
    # The hours, when the drift was computed by the console.
    drift_span: tuple[float, float] | None = None
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
    # How far the axis is ahead of this machine's clock, where servers simulate time.
    ahead_s: float = 0.0
    speed: float = 1.0  # seconds of the axis that pass in one real second

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
        """The strictest objective of all servers; 0 if none has one."""
        return min((line.slo_ms for line in self.servers if line.slo_ms), default=0.0)
