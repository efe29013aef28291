"""The first lesson: the vision and audio towers alone, read by linear layers that are discarded.

When trained through the language model from the start, the towers learn lamp colours at once, but
signs and numbers were still at chance after 1,150 steps. Read directly, signs take 200 steps.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from numpy.random import Generator
from torch.nn.functional import cross_entropy

from pipelines.collate import collate
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.models.qwen.log_mel import audio_tokens
from recipes.triage import drawing, sounds
from recipes.triage.media_pool import MediaPool, Photo, Sound
from recipes.triage.training_rows import RowSampler

_ANSWERS = (10, len(drawing.COLOURS), len(drawing.SHAPES))


class Readers(torch.nn.Module):
    """Linear layers from the mean embedding of an image or sound to what it shows."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.photo = torch.nn.Linear(width, sum(_ANSWERS))
            self.sound = torch.nn.Linear(width, len(sounds.CLASSES))


class Lesson:
    """Samples photos and sounds and computes the loss of reading them."""

    def __init__(
        self, pool: MediaPool, rows: RowSampler, backbone: QwenOmniBackbone, seed: int
    ) -> None:
        self.readers = Readers(128, seed)
        self._rows = rows
        self._backbone = backbone
        self._photos = sorted((p for p in pool.photos if p.station), key=lambda p: -p.ease)
        self._hardness = [-photo.ease for photo in self._photos]
        self._sounds = [sound for sound in pool.sounds if sound.event]

    def losses(
        self, rng: Generator, progress: float, photos: int, clips: int
    ) -> dict[str, torch.Tensor]:
        """Mean cross-entropy of each reading; `progress` runs from 0 to 1 over the lesson."""
        seen = self._losses_seen([self._photo(rng, progress) for _ in range(photos)], rng)
        heard = [self._sounds[int(rng.integers(len(self._sounds)))] for _ in range(clips)]
        return seen | {"sound": self._loss_heard(heard, rng)}

    def _photo(self, rng: Generator, progress: float) -> Photo:
        """Easy photos first, around an ease that reaches 0 half way; then any photo."""
        ease = 1 - 2 * progress
        if ease <= 0 or rng.random() < 0.15:
            return self._photos[int(rng.integers(len(self._photos)))]
        first = bisect_left(self._hardness, -min(1.0, ease + 0.15))
        last = max(first + 1, bisect_left(self._hardness, -max(0.0, ease - 0.15)))
        return self._photos[min(int(rng.integers(first, last)), len(self._photos) - 1)]

    def _losses_seen(self, photos: list[Photo], rng: Generator) -> dict[str, torch.Tensor]:
        rows = [self._rows.prepared(rng, None, photo, None) for photo in photos]
        images = collate(rows, lambda _: (), self._backbone.geometry).images
        assert images is not None
        # The towers alone; serving has no public call for that.
        embeddings = self._backbone._see(images)
        counts = [photo.grid[1] * photo.grid[2] // 4 for photo in photos]
        scores = self.readers.photo(_means(embeddings, counts)).split(_ANSWERS, dim=1)
        right = torch.tensor([_seen(photo) for photo in photos])
        return {
            name: cross_entropy(scores[place], right[:, place])
            for place, name in enumerate(("number", "lamp", "sign"))
        }

    def _loss_heard(self, clips: list[Sound], rng: Generator) -> torch.Tensor:
        rows = [self._rows.prepared(rng, None, None, clip) for clip in clips]
        batch = collate(rows, lambda _: (), self._backbone.geometry).sounds
        assert batch is not None
        embeddings = self._backbone._hear(batch)
        means = _means(embeddings, [audio_tokens(clip.mel.shape[1]) for clip in clips])
        right = torch.tensor([sounds.CLASSES.index(clip.event) for clip in clips if clip.event])
        return cross_entropy(self.readers.sound(means), right)


def _seen(photo: Photo) -> tuple[int, int, int]:
    station = photo.station
    assert station is not None
    return (
        station.unit,
        drawing.COLOURS.index(station.lamp),
        drawing.SHAPES.index(station.sign),
    )


def _means(embeddings: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """[items, H] of [sum of counts, H]."""
    of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    sums = embeddings.new_zeros(len(counts), embeddings.shape[1]).index_add(0, of, embeddings)
    return sums / torch.tensor(counts)[:, None]
