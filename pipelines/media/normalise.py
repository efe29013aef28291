"""Unicode NFC in a time that grows with the length of the text, whatever the text contains.

The standard library orders a run of combining marks by insertion, which takes quadratic time:
60,000 marks on one letter, 120 kB, took 11 s.
"""

from __future__ import annotations

import unicodedata
from operator import itemgetter

LONG_RUN = 32  # marks; writing systems use only a few (UAX 15 limits a stream-safe run to 30)


def nfc(text: str) -> str:
    """Equal to unicodedata.normalize("NFC", text)."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", ordered(text) if _has_long_run(text) else text)


def ordered(text: str) -> str:
    """The text decomposed, with each run of marks in canonical order, so that NFC has nothing left
    to sort."""
    pieces: list[str] = []
    run: list[tuple[int, str]] = []
    for character in text:
        for piece in unicodedata.normalize("NFD", character):
            rank = unicodedata.combining(piece)
            if rank:
                run.append((rank, piece))
                continue
            if run:
                pieces += _sorted(run)
                run = []
            pieces.append(piece)
    return "".join(pieces + _sorted(run))


def _sorted(run: list[tuple[int, str]]) -> list[str]:
    # Marks of equal rank keep their order.
    return [piece for _, piece in sorted(run, key=itemgetter(0))]


def _has_long_run(text: str) -> bool:
    length = 0
    for rank in map(unicodedata.combining, text):
        length = length + 1 if rank else 0
        if length >= LONG_RUN:
            return True
    return False
