"""A pool of drawn and preprocessed photos and sounds, so that training mixes instead of draws.

Everything goes through the serving code: the JPEG and WAV bytes are decoded and preprocessed by
`pipelines.decode`, `pipelines.image` and `pipelines.audio`. Values are kept as float16.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.random import Generator
from tqdm import tqdm

from pipelines import audio, image
from pipelines.decode import DecodedAudio, DecodedImage, Limits, decode
from pipelines.image import Grid
from pipelines.triage import data, drawing, outliers, sounds
from pipelines.triage.drawing import Station
from pipelines.types import Part

_CHUNK = 100
_LIMITS = Limits()
M = TypeVar("M", "Photo", "Sound")


@dataclass(frozen=True, slots=True)
class Photo:
    """`frame` float16 [patches, 588]: one of the two equal frames of a still image."""

    frame: torch.Tensor
    grid: Grid
    station: Station | None  # None: not a station at all

    def patches(self) -> torch.Tensor:
        """float32 [patches, 1176], as the model takes it."""
        side = image.DEFAULT.patch_size
        frame = self.frame.float().view(-1, 3, 1, side * side)
        return frame.expand(-1, -1, 2, -1).reshape(len(self.frame), -1)


@dataclass(frozen=True, slots=True)
class Sound:
    """`mel` float16 [128, frames]."""

    mel: torch.Tensor
    event: str | None  # None: not a machine at all


@dataclass(frozen=True, slots=True)
class Pool:
    photos: list[Photo]
    sounds: list[Sound]


def load_or_make(path: Path, seed: int, photos: int, clips: int, workers: int = 2) -> Pool:
    """The pool kept at `path`, or a new one, kept there; 4 % of it are outliers."""
    if path.exists():
        kept = torch.load(path, weights_only=False)
        if kept["made_with"] == (seed, photos, clips):
            return Pool(kept["photos"], kept["sounds"])
    pool = Pool(
        list(_made(_photos, seed, photos, workers, "photos")),
        list(_made(_sounds, seed + 1, clips, workers, "sounds")),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    torch.save(
        {"made_with": (seed, photos, clips), "photos": pool.photos, "sounds": pool.sounds}, fresh
    )
    fresh.replace(path)
    return pool


def _made(
    make: Callable[[int, int], list[M]], seed: int, count: int, workers: int, what: str
) -> Iterator[M]:
    chunks = range(-(-count // _CHUNK))
    # spawn: a forked copy of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context) as processes,
        tqdm(total=count, desc=what, unit=what[:-1], mininterval=2) as bar,
    ):
        for made in processes.map(partial(make, seed), chunks):
            bar.update(len(made))
            yield from made


def _surroundings(rng: Generator) -> tuple[drawing.Camera, float]:
    return data.surroundings(data.SITES[int(rng.integers(3))], data.SHIFTS[int(rng.integers(2))])


def _photos(seed: int, chunk: int) -> list[Photo]:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, chunk))
    made = []
    for _ in range(_CHUNK):
        camera, _ = _surroundings(rng)
        truth = data.state(rng)
        station = Station(truth.lamp, truth.sign, truth.unit)
        strange = rng.random() < 0.04
        jpeg = (
            outliers.picture(rng, "train")
            if strange
            else drawing.photograph(rng, station, camera, "train")
        )
        decoded = decode(Part("image", jpeg), "pool", _LIMITS)
        assert isinstance(decoded, DecodedImage)
        patches, grid = image.patches(decoded, image.DEFAULT)
        side = image.DEFAULT.patch_size**2
        frame = patches.view(len(patches), 3, 2, side)[:, :, 0].reshape(len(patches), -1)
        made.append(Photo(frame.half(), grid, None if strange else station))
    return made


def _sounds(seed: int, chunk: int) -> list[Sound]:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, chunk))
    made = []
    for _ in range(_CHUNK):
        _, noise = _surroundings(rng)
        event = data.state(rng).sound
        strange = rng.random() < 0.04
        wav = outliers.sound(rng, "train") if strange else sounds.record(rng, event, noise)
        decoded = decode(Part("audio", wav), "pool", _LIMITS)
        assert isinstance(decoded, DecodedAudio)
        mel = audio.log_mel(decoded, audio.DEFAULT)
        made.append(Sound(mel.half(), None if strange else event))
    return made
