"""Turns the results of a forward into answers: one Prediction for each row, with its output
features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.features import (
    NAMES,
    Certainty,
    Projection,
    embedding_features,
    output_features,
)
from pipelines.models.device import Download
from pipelines.models.generation import Generation
from pipelines.models.heads import Scored, confidence
from pipelines.types import Prediction, Prepared, RowScore

Floats = NDArray[np.float32]
_ABSENT = dict.fromkeys(NAMES, math.nan)


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """The results of one forward on their way to the host: f32 [B, H + K], or [B, H + 2 K + 3] when
    a row has labels. In order: embeddings, log_probs, probabilities; margin, entropy, closed-set
    mass."""

    rows: tuple[Prepared, ...]
    labels: int  # K
    block: Download

    @staticmethod
    def of(rows: tuple[Prepared, ...], scored: Scored, temperature: float) -> ForwardResult:
        """Packs everything into one block and begins to copy it, without waiting for the device."""
        pieces, labels = [scored.embeddings, scored.log_probs], scored.log_probs.shape[1]
        if labels:
            sure = confidence(scored.log_probs, temperature)
            columns = (sure.margin, sure.entropy, sure.closed_set_mass)
            pieces += [sure.probabilities, torch.stack(columns, dim=1)]
        return ForwardResult(rows, labels, Download(torch.cat(pieces, dim=1)))

    def wait(self) -> None:
        """Returns when the block is in host memory; it does not wait for batches queued later."""
        self.block.wait()

    def fetch(self) -> HostResult:
        """Waits for the block and returns its parts as views."""
        block, labels = self.block.array(), self.labels
        width = block.shape[1] - (2 * labels + 3 if labels else 0)
        ends = (width, width + labels, width + 2 * labels)
        embeddings, log_probs, *rest = np.split(block, ends[: 3 if labels else 1], axis=1)
        return HostResult(embeddings, log_probs, *rest)


@dataclass(frozen=True, slots=True)
class HostResult:
    """The same results on the host: embeddings [B, H], log_probs and probabilities [B, K];
    `confidence` [B, 3] is margin, entropy, closed-set mass."""

    embeddings: Floats
    log_probs: Floats
    probabilities: Floats | None = None
    confidence: Floats | None = None


class Answerer:
    """Builds the predictions of one loaded bundle."""

    def __init__(self, stamp: str, labels: Sequence[str], projection: Projection | None) -> None:
        self._stamp = stamp
        self._labels = tuple(labels)
        self._projection = projection

    def predictions(self, found: ForwardResult) -> list[Prediction]:
        fetched = found.fetch()
        return [
            self._classified(row, number, fetched)
            if row.task == "classify"
            else self._answer(row, None, fetched.embeddings[number])
            for number, row in enumerate(found.rows)
        ]

    def written(self, row: Prepared, generation: Generation) -> Prediction:
        features = {"output.confidence": generation.confidence}
        return Prediction(
            id=row.id,
            stamp=self._stamp,
            label="",
            confidence=generation.confidence,
            margin=math.nan,
            entropy=math.nan,
            closed_set_mass=math.nan,
            tokens_used=row.tokens,
            scores=(),
            embedding=None,
            text=generation.text,
            features=_complete(row.features, features),
            parts_used=row.parts_used,
        )

    def _classified(self, row: Prepared, number: int, fetched: HostResult) -> Prediction:
        if fetched.probabilities is None or fetched.confidence is None:
            raise ValueError("a row to classify was scored against no labels")
        names = row.labels or self._labels
        probabilities = fetched.probabilities[number, : len(names)]
        log_probs = fetched.log_probs[number, : len(names)].tolist()
        order = np.argsort(-probabilities, kind="stable").tolist()
        chances = probabilities.tolist()
        scores = tuple(RowScore(names[k], chances[k], log_probs[k]) for k in order)
        return self._answer(row, (scores, fetched.confidence[number]), fetched.embeddings[number])

    def _answer(
        self,
        row: Prepared,
        scored: tuple[tuple[RowScore, ...], Floats] | None,
        embedding: Floats,
    ) -> Prediction:
        """`embedding` [H] is not normalised yet; without `scored`, the row asked only for the
        embedding."""
        features = embedding_features(embedding, self._projection)
        scores: tuple[RowScore, ...] = ()
        label, sure, mass = "", Certainty(math.nan, math.nan, math.nan), math.nan
        if scored is not None:
            scores, (margin, entropy, mass) = scored[0], map(float, scored[1])
            label, sure = scores[0].label, Certainty(scores[0].probability, margin, entropy)
            features |= output_features(label, self._labels, sure, mass)
        return Prediction(
            id=row.id,
            stamp=self._stamp,
            label=label,
            confidence=sure.confidence,
            margin=sure.margin,
            entropy=sure.entropy,
            closed_set_mass=mass,
            tokens_used=row.tokens,
            scores=scores,
            embedding=_unit(embedding) if row.want_embedding else None,
            text=None,
            features=_complete(row.features, features),
            parts_used=row.parts_used,
        )


def _unit(embedding: Floats) -> Floats:
    length = np.float32(np.linalg.norm(embedding))
    return embedding / max(length, np.float32(1e-12))


def _complete(inputs: Mapping[str, float], outputs: Mapping[str, float]) -> dict[str, float]:
    return {**_ABSENT, **inputs, **outputs}
