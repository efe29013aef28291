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
    # Category Cf holds the bidi overrides, which can make one name look like another.
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def short(text: str) -> str:
    """The first digits of a digest; a version unchanged."""
    digest = len(text) == 64 and all(character in "0123456789abcdef" for character in text)
    return text[:8] if digest else text
