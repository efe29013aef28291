"""Prediction ids: UUID version 7 (RFC 9562) as 32 hex digits, so that ids sort by time and the day
of a prediction can be told from its id alone."""

from __future__ import annotations

import secrets
import time


def prediction_id(unix_ms: int | None = None) -> str:
    """48 bits of unix milliseconds, version, 12 random bits, variant, 62 random bits."""
    at_ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    noise = secrets.randbits(74)
    high = (at_ms & (1 << 48) - 1) << 16 | 0x7000 | noise >> 62
    low = 0b10 << 62 | noise & (1 << 62) - 1
    return f"{high << 64 | low:032x}"
