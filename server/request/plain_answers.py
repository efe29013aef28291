"""Answers as plain objects for JSON: `server predict --json` prints them, HTTP sends them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from proto import inference_pb2 as pb
from server.telemetry.outputs import outputs_of, times_of

Plain = dict[str, Any]  # values that json.dumps accepts

# Fields of each modality, besides those that every part has.
USED_FIELDS = {
    "text": ("tokens_used", "tokens_sent"),
    "image": ("width_used", "height_used", "width_sent", "height_sent", "frames_sent"),
    "audio": ("seconds_used", "seconds_sent", "channels_sent"),
}


def plain_prediction(result: pb.Result, stamp_name: str) -> Plain:
    """The plain form of a result that has a prediction."""
    prediction = result.prediction
    found: Plain = {
        "prediction_id": result.prediction_id,
        "label": prediction.label,
        "scores": {score.label: short(score.probability) for score in prediction.scores},
        **{name: short(value) for name, value in outputs_of(prediction).items()},
        "stamp": result.stamp,
        "stamp_name": stamp_name,
        "timings_ms": timings_of(result.timing),
        "batch_size": result.batch_size,
        "replica": result.replica,
        "retried": result.retried,
        "parts_used": parts_used_of(result.parts_used),
    }
    if prediction.embedding.dimensions:
        found["embedding"] = floats_of(prediction.embedding)
    return found


def plain_generation(event: pb.GenerateEvent, text: str) -> Plain:
    """The plain form of a generated text, from the last event of a stream and the `text` before
    it."""
    return {
        "prediction_id": event.prediction_id,
        "text": text,
        "finish_reason": event.end.finish_reason,
        "tokens": event.end.tokens,
        "first_token_ms": round(event.end.first_token_ms, 3),
        "stamp": event.stamp.hex,
        "stamp_name": event.stamp.name,
        "timings_ms": timings_of(event.end.timing),
        "replica": event.end.replica,
        "parts_used": parts_used_of(event.end.parts_used),
    }


def parts_used_of(messages: Iterable[pb.PartUsed]) -> list[Plain]:
    """For each part the fields of its modality, and its warning if there is one."""
    found = []
    for part in messages:
        modality = pb.Modality.Name(part.modality).lower()
        plain: Plain = {"modality": modality, "cut": part.cut}
        for name in USED_FIELDS.get(modality, ()):
            plain[name] = short(getattr(part, name))
        found.append(plain | ({"warning": part.warning} if part.warning else {}))
    return found


def timings_of(timing: pb.Timing) -> dict[str, float]:
    return {name.removesuffix("_ms"): round(ms, 3) for name, ms in times_of(timing).items()}


def floats_of(embedding: pb.Embedding) -> list[float]:
    return list(struct.unpack(f"<{embedding.dimensions}f", embedding.values))


def short(value: float) -> float:
    """Rounds to the 7 digits of float32; the rest is noise of its conversion."""
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}")
