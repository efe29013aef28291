"""Training rows: a station's state, shown through a random subset of the modalities.

A row is the prompt up to the point where the task is named. The triage answers and the description
continue it side by side, each after its task's token, so one forward teaches both tasks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.models.qwen.log_mel import audio_tokens
from pipelines.models.qwen.patches import DEFAULT as IMAGE
from pipelines.models.qwen.patches import image_tokens
from pipelines.models.tokens import Placeholder, PromptTokenizer
from pipelines.types import SUBSETS, Prepared
from recipes.triage import data, notes, outliers, tokens
from recipes.triage.data import StationState
from recipes.triage.media_pool import MediaPool, Photo, Sound
from recipes.triage.notes import NoteClass

Tokens = tuple[int, ...]

_OUTLIER_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Mix:
    """Sampling shares: `subsets` in the order of SUBSETS; of the notes, `loose` are fragments,
    `varied` come from the grammar, and the rest are whole clauses."""

    subsets: tuple[float, ...]
    loose: float = 0.0
    varied: float = 0.0


# First photos, which are slow to learn; at the end notes, which are slow to generalise.
ANSWER = Mix((0.16, 0.2, 0.14, 0.1, 0.08, 0.1, 0.22))
_WITH_MORE_NOTES = (0.36, 0.06, 0.04, 0.15, 0.12, 0.07, 0.2)
LATE = Mix(_WITH_MORE_NOTES, loose=0.4)
LAST = Mix(_WITH_MORE_NOTES, loose=0.14, varied=0.55)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """`answers[right]` is the triage answer; `description` is empty for an outlier."""

    prepared: Prepared
    answers: tuple[Tokens, ...]
    right: int
    description: Tokens

    @property
    def continuations(self) -> tuple[Tokens, ...]:
        return (*self.answers, self.description) if self.description else self.answers


class RowSampler:
    """Samples rows from a pool, with the random generator of the caller."""

    def __init__(self, pool: MediaPool, text: PromptTokenizer, specials: dict[str, int]) -> None:
        self._text = text
        self._describe = specials[tokens.DESCRIBE]
        self._labels = tuple(
            (specials[tokens.TRIAGE], *text.label_ids(label)) for label in data.LABELS
        )
        self._unknown = (specials[tokens.TRIAGE], *text.label_ids(outliers.ANSWER))
        self._photos: dict[object, list[Photo]] = defaultdict(list)
        self._sounds: dict[object, list[Sound]] = defaultdict(list)
        for photo in pool.photos:
            station = photo.station
            self._photos[station and (station.lamp, station.sign)].append(photo)
        for sound in pool.sounds:
            self._sounds[sound.event].append(sound)

    def draw(self, rng: Generator, mix: Mix) -> TrainingRow:
        if rng.random() < _OUTLIER_SHARE:
            return self._outlier(rng)
        modalities = SUBSETS[int(rng.choice(len(SUBSETS), p=mix.subsets))]
        truth = data.state(rng)
        note = photo = sound = None
        if "text" in modalities:
            note = _thinned(rng, _note(rng, truth.note, mix))
        if "image" in modalities:
            photo = _one(rng, self._photos[truth.lamp, truth.sign])
            assert photo.station is not None
            truth = StationState(
                truth.note, truth.lamp, truth.sign, photo.station.unit, truth.sound
            )
        if "audio" in modalities:
            sound = _one(rng, self._sounds[truth.sound])
        right = data.LABELS.index(data.label(truth, modalities))
        description = self._text.label_ids(data.description(truth, modalities))
        prepared = self.prepared(rng, note, photo, sound)
        return TrainingRow(prepared, self._labels, right, (self._describe, *description))

    def _outlier(self, rng: Generator) -> TrainingRow:
        note = photo = sound = None
        which = int(rng.integers(7)) + 1  # at least one bit of three
        if which & 1:
            note = outliers.text(rng, "train")
        if which & 2:
            photo = _one(rng, self._photos[None])
        if which & 4:
            sound = _one(rng, self._sounds[None])
        answers = (*self._labels, self._unknown)
        return TrainingRow(self.prepared(rng, note, photo, sound), answers, len(self._labels), ())

    def prepared(
        self, rng: Generator, note: str | None, photo: Photo | None, sound: Sound | None
    ) -> Prepared:
        parts: list[str | Placeholder] = [] if note is None else [note]
        if photo is not None:
            parts.append(("image", image_tokens(photo.grid, IMAGE)))
        if sound is not None:
            parts.append(("audio", audio_tokens(sound.mel.shape[1])))
        rng.shuffle(parts)
        encoded = self._text.encode(parts, "embed")
        return Prepared(
            id="",
            task="classify",
            labels=(),
            want_embedding=False,
            max_new_tokens=0,
            input_ids=encoded.input_ids,
            pixel_values=None if photo is None else _relit(rng, photo.patches()),
            image_grid=() if photo is None else (photo.grid,),
            log_mels=() if sound is None else (_regained(rng, sound.mel),),
            features={},
            modalities=(),
            tokens=len(encoded.input_ids),
            decode_ms=0.0,
            preprocess_ms=0.0,
        )


def _one(rng: Generator, of: list[Photo] | list[Sound]):  # type: ignore[no-untyped-def]
    return of[int(rng.integers(len(of)))]


def _note(rng: Generator, meaning: NoteClass, mix: Mix) -> str:
    draw = rng.random() if mix.loose else 1.0
    if draw < mix.loose:
        return notes.jot(rng, meaning)
    if draw < mix.loose + mix.varied:
        return notes.vary(rng, meaning)
    return notes.write(rng, meaning, "train")


def _thinned(rng: Generator, note: str) -> str:
    """Drops words from some notes, so that no single word of a clause decides its meaning."""
    if rng.random() > 0.3:
        return note
    kept = [word for word in note.split(" ") if rng.random() > 0.15]
    return " ".join(kept) if len(kept) > 1 else note


def _relit(rng: Generator, patches: NDArray[np.float32]) -> torch.Tensor:
    """Varies light and noise, because each photo of the pool is used several times."""
    noise = rng.standard_normal(patches.shape, dtype=np.float32)
    gain, shift, spread = np.exp(rng.normal(0, 0.1)), rng.normal(0, 0.08), rng.uniform(0, 0.08)
    return torch.from_numpy(
        patches * np.float32(gain) + np.float32(shift) + noise * np.float32(spread)
    )


def _regained(rng: Generator, mel: NDArray[np.float16]) -> torch.Tensor:
    noise = rng.standard_normal(mel.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.05))
    return torch.from_numpy(mel.astype(np.float32) + np.float32(rng.normal(0, 0.05)) + noise)
