"""Telemetry's rows as the Observe service sends them: frozen rows with the fields of
proto/observe.proto. A later row with the same key replaces the earlier one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.telemetry.record import Record


class FormatRows(Protocol):
    """The number of rows with a part in a format that is not decoded, and of all rows with that
    medium."""

    @property
    def format(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def medium(self) -> str: ...

    @property
    def of_rows(self) -> int: ...


MOST_FORMATS = 6
_ROWS_WITH = {"audio": "rows with sound", "image": "rows with a picture"}


def refused_formats(counts: Sequence[FormatRows]) -> str:
    """A text, most frequent format first: the number of rows and their share."""
    return ", ".join(
        f"{one.format} {one.rows} ({_percent(one.rows / max(one.of_rows, 1))} of "
        f"{_ROWS_WITH.get(one.medium, 'rows')})"
        for one in counts[:MOST_FORMATS]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True)
class IntegrityChange:
    """One item that differs from what a replica loaded. `kind`: file, code, memory or library.
    `affects_answers_now`: answers may differ already; otherwise only after the next start."""

    kind: str
    name: str
    message: str
    affects_answers_now: bool


@dataclass(frozen=True, slots=True)
class FormatCount:
    """Rows refused because a part is in a format that is not decoded. `of_rows`: all rows with that
    medium, or all rows where `medium` (audio, image) is not known."""

    format: str  # e.g. M4A
    rows: int
    medium: str
    of_rows: int


@dataclass(frozen=True, slots=True)
class Exemplar:
    prediction_id: str
    total_ms: float
    trace_id: str


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Stage times are sums over the requests; `counts` the 64 log buckets of observe.proto."""

    bucket_unix_ms: int
    width_s: int
    stamp: str
    mix: str
    replica: int
    requests: int
    errors: int
    counts: tuple[int, ...]
    queue_ms: float
    decode_ms: float
    preprocess_ms: float
    forward_ms: float
    post_ms: float
    total_ms: float
    batch_rows: int
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureRow:
    name: str
    modality: str
    kind: str
    unit: str
    categories: tuple[str, ...]
    stamp: str
    edges: tuple[float, ...]
    reference_counts: tuple[int, ...]
    reference_n: float
    importance: float
    groups: tuple[int, ...] = ()  # merged group of each cell, for KL, JS and PSI
    deff: float = 0.0  # design effect of the live rows; 0 means 1


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """Absolute counts for its hour; `slice` "" is all traffic."""

    stamp: str
    feature: str
    slice: str
    hour_unix_s: int
    n: int
    sum: float
    sum_squares: float
    min: float
    max: float
    missing: int
    nonfinite: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DriftRow:
    """`level`: insufficient | learning | ok | warning | high | critical."""

    tick_unix_ms: int
    stamp: str
    feature: str
    slice: str
    window_s: int
    baseline: str
    n: float
    n_effective: float
    n_needed: float
    ks: float = 0.0
    p: float = 1.0
    q: float = 1.0
    kl: float = 0.0
    js: float = 0.0
    psi: float = 0.0
    chi2_p: float = 1.0
    excess_kl: float = 0.0
    expected_kl: float = 0.0
    level: str = "insufficient"
    structural: str = ""


@dataclass(frozen=True, slots=True)
class AlertTransition:
    at_unix_ms: int
    from_state: str
    to_state: str
    actor: str
    detail: str


@dataclass(frozen=True, slots=True)
class AlertRow:
    """`state`: pending | firing | resolved."""

    id: str
    key: str
    kind: str
    severity: str
    state: str
    opened_unix_ms: int
    last_unix_ms: int
    closed_unix_ms: int
    stamp: str
    summary: str
    features: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    acknowledged_by: str = ""
    acknowledged_note: str = ""
    silenced: bool = False
    history: tuple[AlertTransition, ...] = ()


@dataclass(frozen=True, slots=True)
class SilenceRow:
    id: str
    matcher: str
    until_unix_ms: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """A person's note on the time axis; `removed`: it was deleted. The same id on several servers
    is the same note."""

    id: str
    at_unix_ms: int
    to_unix_ms: int
    text: str
    actor: str
    made_unix_ms: int
    removed: bool = False


@dataclass(frozen=True, slots=True)
class DeployRow:
    """`action`: start | load | activate | rollback | refuse | collect | rehearse | stop |
    canary | canary-promoted | canary-rolled-back | canary-held."""

    at_unix_ms: int
    action: str
    stamp: str
    stamp_name: str
    from_stamp: str
    actor: str
    detail: str


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One kept row: the record, and what telemetry has learned about it since."""

    record: Record
    payload_kept: bool = False
    sample_p: float = 0.0
    true_label: str = ""
    example: bytes = b""
    locked: str = ""  # why a requested payload cannot be read


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    n: int
    sum_confidence: float
    sum_correct: float


@dataclass(frozen=True, slots=True)
class QualityRow:
    """Realised figures cover the labelled rows, NaN without any; estimated figures cover all
    rows."""

    bucket_unix_s: int
    width_s: int
    stamp: str
    slice: str
    predictions: int
    labelled: int
    accuracy: float = math.nan
    estimated_accuracy: float = math.nan
    estimated_accuracy_labelled: float = math.nan
    value_per_1000: float = math.nan
    estimated_value_per_1000: float = math.nan
    ece: float = math.nan
    median_label_delay_s: float = math.nan
    reliability: tuple[ReliabilityBin, ...] = ()
    labels: tuple[str, ...] = ()
    confusion: tuple[int, ...] = ()
    value_unit: str = ""


@dataclass(frozen=True, slots=True)
class SliceRow:
    """A part of the traffic with worse results than the rest; `message` describes it."""

    expression: str
    message: str
    support: int
    share: float
    error: float
    error_elsewhere: float
    z: float
    q: float
    value_per_1000: float
    stamp: str
    at_unix_ms: int


# The rows that a console stores unchanged; of a prediction it stores less.
PlainRow = (
    LatencyRow
    | FeatureRow
    | ProfileRow
    | DriftRow
    | AlertRow
    | SilenceRow
    | AnnotationRow
    | DeployRow
    | QualityRow
    | SliceRow
)
Row = PlainRow | PredictionRow


@dataclass(frozen=True, slots=True)
class Change:
    """`cursor` grows with every change during one run of the server."""

    cursor: int
    row: Row


@dataclass(frozen=True, slots=True)
class TelemetryHealth:
    """The health of telemetry itself; counts since start."""

    state: str = "ok"  # ok | degraded: reason
    recorded: int = 0
    dropped: int = 0
    payloads_kept: int = 0
    payloads_dropped: int = 0
    queued: int = 0
    bytes: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)
