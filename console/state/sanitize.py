"""Text from servers made safe to show on one line: no control or bidi characters, bounded."""

from __future__ import annotations

import unicodedata

LONGEST = 2000


def sanitized(text: str, longest: int = LONGEST) -> str:
    """`text` without characters that move the cursor or the reading direction, elided when long."""
    elided = len(text) > longest
    head = text[:longest]
    if not head.isascii() or not head.isprintable():
        head = "".join(_visible(character) for character in head)
    return f"{head}… ({len(text):,} characters)" if elided else head


def _visible(character: str) -> str:
    if character in "\n\t\r":
        return " "
    # Cf holds the bidi overrides, with which one name can be dressed up as another.
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


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
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def milliseconds(value: float) -> str:
    """31 ms, 3.4 ms, 2.1 s; a dash for what was not measured."""
    if value != value:
        return "–"
    if value < 9.95:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 9950 else f"{value / 1000:.1f} s"


def short(text: str) -> str:
    """A digest by its first digits; a version whole."""
    digest = len(text) == 64 and all(character in "0123456789abcdef" for character in text)
    return text[:8] if digest else text


def thousands(count: int) -> str:
    """1,640 as 1.6k, where four digits do not fit."""
    return f"{count / 1000:.1f}k" if count >= 1000 else str(count)
