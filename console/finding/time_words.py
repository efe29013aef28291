"""Parses a time range: "last 3 h", "yesterday 14:00-15:00", "03:12-03:40", or two moments. Always
UTC, as everything else the console shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from console.state.timetext import LONGEST_S, SHORTEST_S, clock_text, parse_moment, span_text

EXAMPLES = ("last 15 min", "last 3 h", "today", "yesterday 14:00-15:00", "since 03:12", "2 h ago")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_UNIT = r"(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)"
_NUMBER = r"(\d+(?:\.\d+)?)"
_CLOCK = r"(\d{1,2}):(\d{2})(?::(\d{2}))?"
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = rf"(today|yesterday|{'|'.join(_DAYS)}|\d{{4}}-\d{{2}}-\d{{2}})"
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Unix seconds. `live`: the range ends now and follows the clock."""

    from_s: float
    to_s: float
    live: bool = False

    @property
    def text(self) -> str:
        """The range as text, shown before it is chosen."""
        if self.live:
            return f"the last {span_text(self.to_s - self.from_s)}, following the clock"
        form = "%Y-%m-%d %H:%M:%S"
        return f"{clock_text(self.from_s, form)} to {clock_text(self.to_s, form)} UTC"


def parse(text: str, now_s: float) -> TimeRange:
    """Raises ValueError with what is wrong and what would be right."""
    plain = " ".join(text.lower().replace("–", "-").replace(" to ", "-").split())
    plain = re.sub(r"\s*-\s*", "-", plain) if "T" not in text else plain
    plain = plain.removesuffix(" utc").removesuffix("utc").strip()
    if not plain:
        raise ValueError(f"a time, such as {', '.join(EXAMPLES[:4])}")
    for pattern, make in _FORMS:
        found = re.fullmatch(pattern, plain)
        if found is not None:
            return _checked(make(found, now_s), text, now_s)
    return _checked(_moments(text.strip()), text, now_s)


def _checked(found: TimeRange, text: str, now_s: float) -> TimeRange:
    if found.from_s >= now_s:
        raise ValueError(f"{text!r} is in the future")
    end = min(found.to_s, now_s)
    length = end - found.from_s
    if length < SHORTEST_S:
        raise ValueError(f"{text!r} is shorter than {SHORTEST_S:.0f} s")
    if length > LONGEST_S:
        raise ValueError(f"{text!r} is longer than {span_text(LONGEST_S)}")
    return TimeRange(found.from_s, end, found.live)


def _last(found: re.Match[str], now_s: float) -> TimeRange:
    number, unit = found.group(1) or "1", found.group(2)
    return TimeRange(now_s - float(number) * _UNITS[unit[0]], now_s, True)


def _ago(found: re.Match[str], now_s: float) -> TimeRange:
    """A range around that moment: a tenth of the distance on both sides, at least a minute."""
    back = float(found.group(1)) * _UNITS[found.group(2)[0]]
    half = max(back / 10, 60.0)
    return TimeRange(now_s - back - half, now_s - back + half)


def _day(name: str, now_s: float) -> float:
    """Midnight at the start of the day. A weekday is the last one before today."""
    today = now_s - now_s % DAY_S
    if name in ("", "today"):
        return today
    if name == "yesterday":
        return today - DAY_S
    if name in _DAYS:
        weekday = datetime.fromtimestamp(today, UTC).weekday()
        return today - ((weekday - _DAYS.index(name) - 1) % 7 + 1) * DAY_S
    return parse_moment(name)


def _clock(parts: tuple[str | None, ...]) -> float:
    """Seconds after midnight. Raises ValueError."""
    hours, minutes, seconds = (int(part or 0) for part in parts)
    if hours > 24 or minutes > 59 or seconds > 59 or (hours == 24 and (minutes or seconds)):
        raise ValueError(f"{hours}:{minutes:02d} is not a time of day")
    return hours * 3600.0 + minutes * 60 + seconds


def _whole_day(found: re.Match[str], now_s: float) -> TimeRange:
    day = _day(found.group(2), now_s)
    return TimeRange(day, now_s, True) if found.group(1) else TimeRange(day, day + DAY_S)


def _hours(found: re.Match[str], now_s: float) -> TimeRange:
    """`yesterday 14:00-15:00`. Without a day, the last time that these hours began."""
    day = _day(found.group(1) or "", now_s)
    begin, end = day + _clock(found.groups()[1:4]), day + _clock(found.groups()[4:7])
    if end <= begin:
        end += DAY_S  # the range crosses midnight
    if not found.group(1) and begin >= now_s:
        begin, end = begin - DAY_S, end - DAY_S
    return TimeRange(begin, end)


def _since(found: re.Match[str], now_s: float) -> TimeRange:
    begin = _day(found.group(1) or "", now_s) + _clock(found.groups()[1:4])
    if not found.group(1) and begin >= now_s:
        begin -= DAY_S
    return TimeRange(begin, now_s, True)


def _at(found: re.Match[str], now_s: float) -> TimeRange:
    """Five minutes on both sides of a moment."""
    begin = _day(found.group(1) or "", now_s) + _clock(found.groups()[1:4])
    if not found.group(1) and begin >= now_s:
        begin -= DAY_S
    return TimeRange(begin - 300, begin + 300)


def _moments(text: str) -> TimeRange:
    """`2026-11-23T03:12Z 2026-11-23T04:00Z`, or one such moment."""
    parts = re.split(r"\s+(?:to\s+|-\s+)?|/", text)
    try:
        moments = [parse_moment(part.upper()) for part in parts if part]
    except ValueError:
        raise ValueError(f"{text!r}: expected a time such as {', '.join(EXAMPLES)}") from None
    if len(moments) == 1:
        return TimeRange(moments[0] - 300, moments[0] + 300)
    if len(moments) != 2 or moments[1] <= moments[0]:
        raise ValueError(f"{text!r}: expected a beginning, and an end after it")
    return TimeRange(moments[0], moments[1])


_FORMS: tuple[tuple[str, Callable[[re.Match[str], float], TimeRange]], ...] = (
    (rf"(?:the )?last {_NUMBER} ?{_UNIT}", _last),
    (rf"(?:the )?last()? ?{_UNIT}", _last),
    (rf"{_NUMBER} ?{_UNIT}", _last),
    (rf"{_NUMBER} ?{_UNIT} ago", _ago),
    (rf"(since )?{_DAY}", _whole_day),
    (rf"(?:{_DAY} )?{_CLOCK}-{_CLOCK}", _hours),
    (rf"since (?:{_DAY} )?{_CLOCK}", _since),
    (rf"(?:at |around )?(?:{_DAY} )?{_CLOCK}", _at),
)
