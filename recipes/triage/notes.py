"""Operators' notes: a decisive clause, small talk around it, corrections, typing errors."""

from __future__ import annotations

from typing import Literal, TypeVar

from numpy.random import Generator

from recipes.triage import phrases, wordings
from recipes.triage.wordings import Split

T = TypeVar("T")
NoteClass = Literal["routine", "concern", "smoke", "drill"]
CLASSES: tuple[NoteClass, ...] = ("routine", "concern", "smoke", "drill")

_HEDGED_SHARE = 0.05
_CORRECTED_SHARE = 0.12
_DOUBTED_SHARE = 0.125  # of the notes from the grammar
_CONTRAST_SHARE = 0.35  # of the drills: they also describe the simulated event
_TYPO_SHARE = 0.25


def write(rng: Generator, meaning: NoteClass, split: Split) -> str:
    """A note that means `meaning`, worded with the clauses of `split` only."""
    body = _hedged(rng, meaning, split) if rng.random() < _HEDGED_SHARE else None
    if body is None:
        body = _plain(rng, meaning, split)
    neutral = wordings.NEUTRAL.of(split)
    before = [_fill(rng, _pick(rng, neutral)) for _ in range(_pick(rng, (0, 0, 0, 1, 1)))]
    after = [_fill(rng, _pick(rng, neutral)) for _ in range(_pick(rng, (0, 0, 1, 1, 2)))]
    return _scribble(rng, [*before, body, *after])


def jot(rng: Generator, meaning: NoteClass) -> str:
    """A training note of one to three fragments of `meaning`, some with machine parts. Some notes
    also have fragments of the event a drill simulates, or of a meaning that is then corrected."""
    fragments = _loose(rng, meaning)
    draw = rng.random()
    if draw < _CORRECTED_SHARE:
        earlier = _loose(rng, _pick(rng, [c for c in CLASSES if c != meaning]))
        correction = f"{_pick(rng, wordings.CORRECTIONS.train)} {fragments[0]}"
        fragments = [*earlier, correction, *fragments[1:]]
    elif meaning == "drill" and draw < _CORRECTED_SHARE + _CONTRAST_SHARE:
        fragments += _loose(rng, "smoke")
        rng.shuffle(fragments)
    neutral = [_fill(rng, _pick(rng, wordings.NEUTRAL.train)) for _ in range(int(rng.integers(2)))]
    body = _pick(rng, (", ", " ", ", ")).join(fragments)
    return _scribble(rng, [*neutral, body] if rng.random() < 0.5 else [body, *neutral])


def vary(rng: Generator, meaning: NoteClass) -> str:
    """A training note from the grammar in `phrases`; one in eight leaves open which of two meanings
    it has."""
    draw = rng.random()
    body = _fill(rng, phrases.phrase(rng, meaning))
    if draw < _DOUBTED_SHARE:
        body = _fill(rng, phrases.doubt(rng, meaning, _other(rng, meaning)))
    elif draw < _DOUBTED_SHARE + _CORRECTED_SHARE:
        earlier = _fill(rng, phrases.phrase(rng, _other(rng, meaning)))
        body = f"{earlier}, {_pick(rng, wordings.CORRECTIONS.train)} {body}"
    elif meaning == "drill" and draw < 0.5:
        played = _fill(rng, phrases.phrase(rng, _pick(rng, ("smoke", "smoke", "concern"))))
        body = f"{body}, {played}" if rng.random() < 0.5 else f"{played}, {body}"
    elif draw > 0.8:
        body = f"{body}, {_fill(rng, phrases.phrase(rng, meaning))}"
    neutral = [_fill(rng, _pick(rng, wordings.NEUTRAL.train)) for _ in range(int(rng.integers(3)))]
    return _scribble(rng, [*neutral, body] if rng.random() < 0.5 else [body, *neutral])


def _other(rng: Generator, meaning: NoteClass) -> NoteClass:
    return _pick(rng, [c for c in CLASSES if c != meaning])


def _loose(rng: Generator, meaning: NoteClass) -> list[str]:
    fragments = []
    for _ in range(int(rng.integers(1, 4))):
        fragment = _pick(rng, wordings.FRAGMENTS[meaning])
        place = rng.random()
        if place < 0.25:
            fragment = _fill(rng, "{part} " + fragment)
        elif place < 0.35:
            fragment = _fill(rng, fragment + " at {place}")
        elif place < 0.45:
            where = _pick(rng, (" under {part}", " near {part}", " on {part}"))
            fragment = _fill(rng, fragment + where)
        fragments.append(fragment)
    return fragments


def _plain(rng: Generator, meaning: NoteClass, split: Split) -> str:
    body = _clause(rng, meaning, split)
    draw = rng.random()
    if draw < _CORRECTED_SHARE:
        earlier = _clause(rng, _pick(rng, [c for c in CLASSES if c != meaning]), split)
        return f"{earlier}, {_pick(rng, wordings.CORRECTIONS.of(split))} {body}"
    if meaning == "drill" and draw < _CORRECTED_SHARE + _CONTRAST_SHARE:
        played = _clause(rng, _pick(rng, ("smoke", "smoke", "concern")), split)
        return f"{body}, {played}" if rng.random() < 0.5 else f"{played}, {body}"
    if draw > 0.8:
        # People often repeat an important point in another form.
        return f"{body}, {_clause(rng, meaning, split)}"
    return body


def _hedged(rng: Generator, meaning: NoteClass, split: Split) -> str | None:
    """A clause that is also used for another meaning; None if this meaning has none."""
    texts, weights = [], []
    for text, first, second, share in wordings.HEDGED.of(split):
        if meaning in (first, second):
            texts.append(text)
            weights.append(share if meaning == first else 1.0 - share)
    if not texts:
        return None
    total = sum(weights)
    return _fill(rng, texts[int(rng.choice(len(texts), p=[w / total for w in weights]))])


def _clause(rng: Generator, meaning: NoteClass, split: Split) -> str:
    return _fill(rng, _pick(rng, wordings.BY_CLASS[meaning].of(split)))


def _fill(rng: Generator, clause: str) -> str:
    if "{" not in clause:
        return clause
    number = int(rng.integers(1, 400))
    place = _pick(rng, wordings.PLACES).format(n=number)
    return clause.format(
        part=_pick(rng, wordings.PARTS),
        place=place,
        who=_pick(rng, wordings.PEOPLE),
        when=_pick(rng, wordings.TIMES),
        n=number,
    )


def _scribble(rng: Generator, pieces: list[str]) -> str:
    """Joins the pieces as a hurried person would: varying case and punctuation, some typing
    errors."""
    case, stop = rng.integers(4), _pick(rng, (". ", ". ", ", ", " - ", "; ", "\n"))
    if case == 0:
        pieces = [p[0].upper() + p[1:] for p in pieces]
    text = stop.join(pieces)
    if rng.random() < 0.05:
        text = text.upper()
    if rng.random() < 0.4:
        text += _pick(rng, (".", "!", " ."))
    if rng.random() < _TYPO_SHARE:
        text = _slip(rng, text)
    return text


def _slip(rng: Generator, text: str) -> str:
    at = int(rng.integers(0, len(text) - 1))
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _pick(rng: Generator, options: list[T] | tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]
