"""A pool of generated and preprocessed photos and sounds that training samples from.

The serving code decodes and preprocesses the JPEG and WAV bytes:
`pipelines.media.decode`, `pipelines.models.qwen.patches` and `pipelines.models.qwen.log_mel`.
Values are stored as float16.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from pipelines.media.decode import DecodedAudio, DecodedImage, InputLimits, decode
from pipelines.models.qwen import log_mel
from pipelines.models.qwen import patches as image
from pipelines.models.qwen.patches import Grid
from pipelines.types import Part
from recipes.triage import data, drawing, outliers, sounds
from recipes.triage.drawing import Station

OUTLIER_SHARE = 0.05
_CHUNK = 100
_LIMITS = InputLimits()
Half = NDArray[np.float16]
M = TypeVar("M", "Photo", "Sound")


@dataclass(frozen=True, slots=True)
class Photo:
    """`frame` [patches, 588]: one of the two equal frames of a still image."""

    frame: Half
    grid: Grid
    station: Station | None  # None: an outlier
    ease: float

    def patches(self) -> NDArray[np.float32]:
        """[patches, 1176], as the model takes it."""
        side = image.DEFAULT.patch_size**2
        frame = self.frame.astype(np.float32).reshape(-1, 3, 1, side)
        return np.broadcast_to(frame, (len(frame), 3, 2, side)).reshape(len(frame), -1)


@dataclass(frozen=True, slots=True)
class Sound:
    """`mel` [128, frames]."""

    mel: Half
    event: str | None  # None: an outlier


@dataclass(frozen=True, slots=True)
class MediaPool:
    photos: list[Photo]
    sounds: list[Sound]


def load_or_make(folder: Path, seed: int, photos: int, clips: int, workers: int = 2) -> MediaPool:
    """The pool stored in `folder`; makes and stores a new one if there is none."""
    return MediaPool(
        _kept(folder / f"photos-{seed}-{photos}.pickle", photos, partial(_photos, seed), workers),
        _kept(folder / f"sounds-{seed}-{clips}.pickle", clips, partial(_sounds, seed), workers),
    )


def _kept(path: Path, count: int, make: Callable[[int], list[M]], workers: int) -> list[M]:
    if path.exists():
        kept: list[M] = pickle.loads(path.read_bytes())
        return kept
    made = list(_made(make, count, workers, path.name.split("-")[0]))
    fresh = path.with_suffix(".part")
    fresh.write_bytes(pickle.dumps(made))
    fresh.replace(path)
    return made


def _made(make: Callable[[int], list[M]], count: int, workers: int, what: str) -> Iterator[M]:
    chunks = range(-(-count // _CHUNK))
    # spawn: a forked copy of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context) as processes,
        tqdm(total=count, desc=what, unit="", mininterval=2) as bar,
    ):
        for made in processes.map(make, chunks):
            bar.update(len(made))
            yield from made


def _surroundings(rng: Generator) -> tuple[drawing.Camera, float]:
    return data.surroundings(data.SITES[int(rng.integers(3))], data.SHIFTS[int(rng.integers(2))])


def _photos(seed: int, chunk: int) -> list[Photo]:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, 0, chunk))
    # A quarter of the pool, from easy to fully hard, is for the beginning of training.
    eased = chunk % 4 == 0
    return [_photo(rng, float(rng.random()) if eased else 0.0) for _ in range(_CHUNK)]


def _photo(rng: Generator, ease: float = 0.0) -> Photo:
    camera, _ = _surroundings(rng)
    truth = data.state(rng)
    station = Station(truth.lamp, truth.sign, truth.unit)
    outlier = rng.random() < OUTLIER_SHARE
    jpeg = (
        outliers.picture(rng, "train")
        if outlier
        else drawing.photograph(rng, station, camera, "train", ease=ease)
    )
    decoded = decode(Part("image", jpeg), "pool", _LIMITS)
    assert isinstance(decoded, DecodedImage)
    patches, grid = image.patches(decoded, image.DEFAULT)
    side = image.DEFAULT.patch_size**2
    frame = patches.view(len(patches), 3, 2, side)[:, :, 0].reshape(len(patches), -1)
    return Photo(frame.numpy().astype(np.float16), grid, None if outlier else station, ease)


def _sounds(seed: int, chunk: int) -> list[Sound]:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, 1, chunk))
    return [_sound(rng) for _ in range(_CHUNK)]


def _sound(rng: Generator) -> Sound:
    _, noise = _surroundings(rng)
    event = data.state(rng).sound
    outlier = rng.random() < OUTLIER_SHARE
    wav = outliers.sound(rng, "train") if outlier else sounds.record(rng, event, noise)
    decoded = decode(Part("audio", wav), "pool", _LIMITS)
    assert isinstance(decoded, DecodedAudio)
    mel = log_mel.log_mel(decoded, log_mel.DEFAULT)
    return Sound(mel.numpy().astype(np.float16), None if outlier else event)
