"""The clauses operators' notes are made of, by their meaning; the text itself is in wordings.json.

Clauses for tuning and testing are never used in training. They are built from words that training
does show, as a new clause from the same trade would be. `notes` fills in the blanks `{part}`,
`{place}`, `{who}`, `{when}` and `{n}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

C = TypeVar("C")
Split = Literal["train", "tune", "test"]
Hedge = tuple[str, str, str, float]

FILE: Final = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, slots=True)
class Wordings(Generic[C]):
    train: tuple[C, ...]
    tune: tuple[C, ...]
    test: tuple[C, ...]

    def of(self, split: Split) -> tuple[C, ...]:
        return {"train": self.train, "tune": self.tune, "test": self.test}[split]


def _clauses(splits: Mapping[str, list[str]]) -> Wordings[str]:
    return Wordings(*(tuple(splits[name]) for name in ("train", "tune", "test")))


def _hedge(item: Any) -> Hedge:
    text, first, second, share = item
    return str(text), str(first), str(second), float(share)


_TEXTS: Final[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))

BY_CLASS: Final = {meaning: _clauses(splits) for meaning, splits in _TEXTS["clauses"].items()}
NEUTRAL: Final = _clauses(_TEXTS["neutral"])
# (text, first meaning, second meaning, share of the first): both readings occur, so no reader can
# be sure of these.
HEDGED: Final = Wordings(
    *(tuple(map(_hedge, _TEXTS["hedged"][name])) for name in ("train", "tune", "test"))
)
# "A, correction: B" means B.
CORRECTIONS: Final = _clauses(_TEXTS["corrections"])
# Single words and short phrases of each meaning, for training only. Strung together they teach that
# an unseen clause still means what its words mean.
FRAGMENTS: Final = {meaning: tuple(words) for meaning, words in _TEXTS["fragments"].items()}
PARTS: Final[tuple[str, ...]] = tuple(_TEXTS["blanks"]["part"])
PLACES: Final[tuple[str, ...]] = tuple(_TEXTS["blanks"]["place"])
PEOPLE: Final[tuple[str, ...]] = tuple(_TEXTS["blanks"]["who"])
TIMES: Final[tuple[str, ...]] = tuple(_TEXTS["blanks"]["when"])
