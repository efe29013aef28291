"""The state of one alert key at one moment, as reported to the alert book."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("", "warning", "high", "critical")


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity` "" means that nothing is wrong. `confirmed` False keeps an alert pending. `hold_s`
    is how long the state must stay ok before the alert closes."""

    key: str
    kind: str  # drift | structural | latency | readiness | skew | telemetry | value
    severity: str
    summary: str
    stamp: str = ""
    confirmed: bool = True
    features: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    hold_s: float = 0.0
