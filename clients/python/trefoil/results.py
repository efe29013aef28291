"""What calls return, as plain data."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from trefoil._proto import inference_pb2 as pb

STAGES = ("queue", "decode", "preprocess", "forward", "post", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartUsed:
    """How much of one part the model received; numbers of other modalities are 0. `modality` is
    text, image or audio. `cut`: some of the part was not used, or may be missing. Sizes are pixels;
    of `frames_sent` pictures the first was used, and `channels_sent` channels were mixed to one.
    `warning` is a code such as NO_END, or empty."""

    modality: str
    cut: bool
    tokens_used: int
    tokens_sent: int
    seconds_used: float
    seconds_sent: float
    channels_sent: int
    width_used: int
    height_used: int
    width_sent: int
    height_sent: int
    frames_sent: int
    warning: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """`scores` are calibrated, best first. `server` is the server that answered, `route` the key
    that chose it, and `attempts` the number of requests made."""

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
    parts_used: tuple[PartUsed, ...] = ()  # one for each part, in the order given


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    """`status`: joined | corrected | duplicate | unknown | expired."""

    prediction_id: str
    status: str
    server: str


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A finished text. `attempts` above 1 means that its generation was restarted or continued."""

    id: str
    text: str
    stamp: str
    finish_reason: str  # stop | length
    tokens: int
    first_token_ms: float
    timings_ms: Mapping[str, float]
    server: str
    attempts: int
    parts_used: tuple[PartUsed, ...] = ()


def prediction_of(result: pb.Result, server: str, route: str, attempts: int) -> Prediction:
    prediction = result.prediction
    embedding = prediction.embedding
    return Prediction(
        id=result.prediction_id,
        label=prediction.label,
        confidence=prediction.confidence,
        scores={score.label: score.probability for score in prediction.scores},
        margin=prediction.margin,
        entropy=prediction.entropy,
        closed_set_mass=prediction.closed_set_mass,
        tokens_used=prediction.tokens_used,
        embedding=struct.unpack(f"<{embedding.dimensions}f", embedding.values),
        stamp=result.stamp,
        timings_ms=_timings(result.timing),
        batch_size=result.batch_size,
        replica=result.replica,
        server=server,
        route=route,
        attempts=attempts,
        parts_used=parts_used_of(result.parts_used),
    )


def parts_used_of(messages: Iterable[pb.PartUsed]) -> tuple[PartUsed, ...]:
    names = [each.name for each in fields(PartUsed) if each.name != "modality"]
    return tuple(
        PartUsed(
            modality=pb.Modality.Name(message.modality).lower(),
            **{name: getattr(message, name) for name in names},
        )
        for message in messages
    )


def generated_text_of(
    event: pb.GenerateEvent, text: str, server: str, attempts: int
) -> GeneratedText:
    """The text from the last event of a stream and the `text` received before it."""
    end = event.end
    return GeneratedText(
        id=event.prediction_id,
        text=text,
        stamp=event.stamp.hex,
        finish_reason=end.finish_reason,
        tokens=end.tokens,
        first_token_ms=end.first_token_ms,
        timings_ms=_timings(end.timing),
        server=server,
        attempts=attempts,
        parts_used=parts_used_of(end.parts_used),
    )


def _timings(timing: pb.Timing) -> dict[str, float]:
    return {stage: getattr(timing, f"{stage}_ms") for stage in STAGES}
