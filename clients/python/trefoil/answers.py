"""Answers as plain data."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from proto import inference_pb2 as pb

STAGES = ("queue", "decode", "preprocess", "forward", "post", "total")


@dataclass(frozen=True, slots=True)
class Prediction:
    """`scores` are calibrated and best first. `server`, `route` and `attempts` say how the answer
    came about: who gave it, what it was routed by, and how often it was asked for."""

    id: str
    label: str
    confidence: float
    scores: Mapping[str, float]
    margin: float
    entropy: float
    closed_set_mass: float
    tokens_used: int
    embedding: tuple[float, ...]
    stamp: str
    timings_ms: Mapping[str, float]
    batch_size: int
    replica: int
    server: str
    route: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Told:
    """What became of feedback: joined | corrected | duplicate | unknown | expired."""

    prediction_id: str
    status: str
    server: str


def prediction_of(result: pb.Result, server: str, route: str, attempts: int) -> Prediction:
    found = result.prediction
    return Prediction(
        id=result.prediction_id,
        label=found.label,
        confidence=found.confidence,
        scores={score.label: score.probability for score in found.scores},
        margin=found.margin,
        entropy=found.entropy,
        closed_set_mass=found.closed_set_mass,
        tokens_used=found.tokens_used,
        embedding=struct.unpack(f"<{found.embedding.dimensions}f", found.embedding.values),
        stamp=result.stamp,
        timings_ms={stage: getattr(result.timing, f"{stage}_ms") for stage in STAGES},
        batch_size=result.batch_size,
        replica=result.replica,
        server=server,
        route=route,
        attempts=attempts,
    )


@dataclass(frozen=True, slots=True)
class Written:
    """A finished text. `attempts` above 1: it was begun, or continued, more than once."""

    id: str
    text: str
    stamp: str
    finish_reason: str  # stop | length
    tokens: int
    first_token_ms: float
    timings_ms: Mapping[str, float]
    server: str
    attempts: int


def written_of(event: pb.GenerateEvent, text: str, server: str, attempts: int) -> Written:
    end = event.end
    return Written(
        id=event.prediction_id,
        text=text,
        stamp=event.stamp.hex,
        finish_reason=end.finish_reason,
        tokens=end.tokens,
        first_token_ms=end.first_token_ms,
        timings_ms={stage: getattr(end.timing, f"{stage}_ms") for stage in STAGES},
        server=server,
        attempts=attempts,
    )
