"""Moments and spans as text and back, always UTC: servers in several places are read together."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

SHORTEST_S = 20.0
LONGEST_S = 90 * 86400.0
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200),
    *(86400, 172800, 604800, 1209600),
)


def ticks(from_s: float, to_s: float, most: int) -> tuple[list[float], str]:
    """Round moments inside the span, at most `most`, and the format to write them in."""
    span = max(to_s - from_s, 1e-6)
    step = next((step for step in _STEPS if span / step <= max(most, 1)), _STEPS[-1])
    first = math.ceil(from_s / step) * step
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
    return [first + index * step for index in range(int((to_s - first) / step) + 1)], form


def clock_text(at_s: float, form: str = "%H:%M:%S") -> str:
    return time.strftime(form, time.gmtime(at_s)) if math.isfinite(at_s) else "–"


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str) -> float:
    """A moment such as 2026-11-23T03:12Z, with or without seconds, always UTC. Raises
    ValueError."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise ValueError(f"{text!r}: expected a time like 2026-11-23T03:12Z")


def parse_span(text: str) -> float:
    """The seconds of 45s, 30m, 6h or 2d. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] not in units or not text[:-1].replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r}: expected a span like 30m, 6h or 2d")
    seconds = float(text[:-1]) * units[text[-1]]
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError(f"{text!r}: between 20s and 90d")
    return seconds


def span_text(seconds: float) -> str:
    """The shortest text that `parse_span` reads back."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and abs(seconds / size - round(seconds / size)) < 1e-6:
            return f"{round(seconds / size)}{unit}"
    return f"{round(seconds)}s"
