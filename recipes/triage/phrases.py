"""A grammar of training notes: combines faults, machine parts and ways to describe them. Its words
and frames are in phrases.json.

A model memorises eighty clauses a meaning, but not thousands of combinations. The grammar is used
for training only: held-out notes consist of the clauses in `wordings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from numpy.random import Generator

from recipes.triage import wordings

_TEXTS: Final[dict[str, Any]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
_WORDS: Final[dict[str, list[str]]] = _TEXTS["words"]
_FRAMES: Final[dict[str, list[list[str | list[str]]]]] = _TEXTS["frames"]
_DOUBTS: Final[list[str]] = _TEXTS["doubts"]


def phrase(rng: Generator, meaning: str) -> str:
    """A clause that means `meaning`, with the blanks that `notes` fills; never a held-out
    clause."""
    while True:
        frames = _FRAMES[meaning]
        frame = frames[int(rng.integers(len(frames)))]
        pieces = [_piece(rng, part) for part in frame]
        clause = re.sub(r" +([,:])", r"\1", " ".join(piece for piece in pieces if piece))
        clause = clause.replace("no a ", "no ").replace("real a ", "real ").replace("of a ", "of ")
        if clause not in _HELD_OUT:
            return clause


def doubt(rng: Generator, one: str, other: str) -> str:
    """Either the first or the second meaning: the text does not show which of them is true."""
    first, second = (one, other) if rng.random() < 0.5 else (other, one)
    return _pick(rng, _DOUBTS).format(a=phrase(rng, first), b=phrase(rng, second))


def _piece(rng: Generator, part: str | list[str]) -> str:
    """A list, or the one that `$name` names, gives one of its texts; a text stays as it is."""
    if isinstance(part, str):
        return _pick(rng, _WORDS[part[1:]]) if part.startswith("$") else part
    return _pick(rng, part)


def _pick(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


_HELD_OUT = {
    clause for group in wordings.BY_CLASS.values() for clause in (*group.tune, *group.test)
}
