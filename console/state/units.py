"""Quantities as people write them: the one place where a number becomes text. Never an exponent,
never a unit that only a library knows. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNKNOWN = "–"  # what was not measured
Z95 = 1.959964  # two-sided 95 % of the normal distribution
# The unit's name in telemetry -> what is written after the number.
_UNITS: Mapping[str, str] = {
    "1": "",
    "nat": "nats",
    "bit": "bits",
    "token": "tokens",
    "part": "parts",
    "row": "rows",
}
_THOUSANDS = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))


def number(value: float, digits: int = 3) -> str:
    """16,000 · 3.14 · 0.00021 · 0: `digits` that count, and no exponent at any size."""
    if not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    places = digits - 1 - math.floor(math.log10(size))
    text = f"{value:,.{min(places, 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A value with its unit, as people write it: `15.9 kHz`, `1.2 KiB`, `-24.1 dB`, `0.45 nats`."""
    if not math.isfinite(value):
        return UNKNOWN
    if unit == "By":
        return size(value)
    if unit == "s":
        return duration(value)
    if unit == "ms":
        return milliseconds(value)
    if unit in ("Hz", "W"):
        return prefixed(value, unit, digits)
    text, after = number(value, digits), unit_text(unit)
    return f"{text} {after}" if after else text


def unit_text(unit: str) -> str:
    """The text after a number or at an axis; empty for a plain number."""
    return "bytes" if unit == "By" else _UNITS.get(unit, unit)


def prefixed(value: float, unit: str, digits: int = 3) -> str:
    """A value with a prefixed unit, such as 15.9 kHz."""
    sign = next((s for s, f in reversed(_THOUSANDS) if abs(value) >= f), "")
    return f"{number(value / dict(_THOUSANDS)[sign], digits)} {sign}{unit}"


def duration(seconds: float) -> str:
    """An age or a span in the largest fitting unit: 0.4 s, 31 s, 4 min, 3 h 05, 2 d."""
    if seconds != seconds:
        return "?"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 9.95:
        return f"{sign}{seconds:.1f} s"
    if seconds < 90:
        return f"{sign}{seconds:.0f} s"
    if seconds < 5400:
        return f"{sign}{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{sign}{hours} h {minutes:02d}"
    return f"{sign}{seconds / 86400:.0f} d"


def size(count: float) -> str:
    """Bytes in binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{number(count)} {unit}"
        count /= 1024
    return f"{number(count)} TiB"


def milliseconds(value: float) -> str:
    """31 ms, 3.4 ms, 2.1 s; a dash for a value that was not measured."""
    if value != value:
        return UNKNOWN
    if value < 9.95:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 9950 else f"{value / 1000:.1f} s"


def thousands(count: int) -> str:
    """1,640 as 1.6k, where four digits do not fit."""
    return f"{count / 1000:.1f}k" if count >= 1000 else str(count)


def share(value: float, places: int = 1) -> str:
    """A share in per cent, such as 84.3 %."""
    return f"{value * 100:.{places}f} %" if value == value else UNKNOWN


def percent(value: float) -> str:
    """A share to two digits: 1.4 %, 25 %, 0 %."""
    return share(value, 0 if value >= 0.0995 or not value else 1)


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The 95 % interval of the share behind `hits` of `n`, valid also for few rows and near 0 and 1
    (score interval: Wilson 1927). NaN without rows."""
    if n <= 0:
        return math.nan, math.nan
    p, z2 = hits / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(max(p * (1 - p) / n + z2 / (4 * n * n), 0.0))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(value: float, n: float) -> str:
    """`84.3 % (80–88)`: a share of `n` rows with its 95 % interval."""
    return f"{share(value)} {interval(value, n)}" if value == value and n > 0 else UNKNOWN


def percent_of(value: float, n: float) -> str:
    """`25 % (20–31)`, `1.4 % (0.8–2.6)`: the same to two digits."""
    return f"{percent(value)} {interval(value, n)}" if value == value and n > 0 else UNKNOWN


def interval(value: float, n: float) -> str:
    """`(80–88)`, `(0.8–2.6)`: the 95 % interval of a share of `n` rows, in per cent."""
    low, high = wilson(value * n, n)
    places = 0 if high >= 0.0995 else 1
    return f"({low * 100:.{places}f}–{high * 100:.{places}f})"


def points_of(value: float, fixed: float, n: float) -> str:
    """`-3.2 ±4`: how many points a share of `n` rows is above a share known without error, and the
    longer side of its 95 % interval."""
    if value != value or fixed != fixed or n <= 0:
        return UNKNOWN
    longer = max(abs(side - value) for side in wilson(value * n, n))
    return f"{(value - fixed) * 100:+.1f} ±{longer * 100:.0f}"
