"""The settings of telemetry; the server fills them from its flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.telemetry.drift.windows import SLOT_S
from server.telemetry.sampler import MOST_BYTES
from server.telemetry.store.payload_keys import NO_KEYS, PayloadKeys
from server.telemetry.store.retention import RetentionLimits


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """`flush_s` is the most by which the sums of a killed server lag: predictions are written every
    0.2 s, and the sums are counted again from them."""

    folder: Path
    tick_s: float = SLOT_S
    flush_s: float = 30.0
    sweep_s: float = 600.0
    size_s: float = 1.0  # time between checks of the file's size
    feed_interval_s: float = 2.0  # time between latency rows of a bucket that is still filling
    sample_share: float = 0.05
    sample_bytes: int = MOST_BYTES
    on_alert: str = ""  # a command line
    about: Mapping[str, str] = field(default_factory=dict)  # added to every alert
    runbooks: str = "docs/runbooks"  # base address of the pages about each kind of alert
    speed: float = 1.0  # unix seconds that pass in one real second, for a simulated clock
    slo_ms: float = 0.0  # the latency objective for the 99th percentile; 0: none
    baseline: str = "bundle"  # bundle | previous | last-week | FROM..TO (ISO times)
    payload_keys: PayloadKeys = NO_KEYS  # without keys, payloads are stored unencrypted
    limits: RetentionLimits = field(default_factory=RetentionLimits)
