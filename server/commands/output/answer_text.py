"""Answers as `server predict` prints them: one plain object for scripts, a few lines for people."""

from __future__ import annotations

import struct
from typing import Any

from proto import inference_pb2 as pb
from server.telemetry.outputs import outputs_of
from trefoil.errors import error_of_fault

STAGES = ("queue", "decode", "preprocess", "forward", "post")
Plain = dict[str, Any]  # what json.dumps takes


def prediction_of(response: pb.PredictResponse) -> Plain:
    """The one result of a one-example request; raises TrefoilError when it is a fault."""
    (result,) = response.results
    if result.HasField("fault"):
        raise error_of_fault(result.fault, result.stamp, "")
    prediction = result.prediction
    found: Plain = {
        "prediction_id": result.prediction_id,
        "label": prediction.label,
        "scores": {score.label: _short(score.probability) for score in prediction.scores},
        **{name: _short(value) for name, value in outputs_of(prediction).items()},
        "stamp": result.stamp,
        "stamp_name": response.stamp.name,
        "timings_ms": timings_of(result.timing),
        "batch_size": result.batch_size,
        "replica": result.replica,
        "retried": result.retried,
    }
    if prediction.embedding.dimensions:
        count = prediction.embedding.dimensions
        found["embedding"] = list(struct.unpack(f"<{count}f", prediction.embedding.values))
    return found


def generation_of(event: pb.GenerateEvent, text: str) -> Plain:
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
    }


def timings_of(timing: pb.Timing) -> dict[str, float]:
    stages = (*STAGES, "total")
    return {stage: round(getattr(timing, f"{stage}_ms"), 3) for stage in stages}


def readable(found: Plain) -> str:
    scores = "  ".join(f"{label} {score:.3f}" for label, score in found["scores"].items())
    lines = [
        f"{found['label']}  (confidence {found['confidence']:.3f})",
        "",
        f"  scores   {scores}",
        f"  time     {_time(found['timings_ms'])}; batch of {found['batch_size']}",
        f"  stamp    {found['stamp_name'] or found['stamp']}",
        f"  id       {found['prediction_id']}",
    ]
    if "embedding" in found:
        values = found["embedding"]
        start = ", ".join(f"{value:.4f}" for value in values[:4])
        lines.insert(3, f"  embedding {len(values)} values: {start}, ...")
    return "\n".join(lines)


def readable_generation(found: Plain) -> str:
    tokens, first = found["tokens"], found["first_token_ms"]
    return "\n".join(
        (
            f"  tokens   {tokens} ({found['finish_reason']}), the first after {first:.1f} ms",
            f"  time     {_time(found['timings_ms'])}",
            f"  stamp    {found['stamp_name'] or found['stamp']}",
            f"  id       {found['prediction_id']}",
        )
    )


def _time(timings: dict[str, float]) -> str:
    stages = ", ".join(f"{stage} {timings[stage]:.1f}" for stage in STAGES)
    return f"{timings['total']:.1f} ms: {stages}"


def _short(value: float) -> float:
    """float32 has about 7 digits; the rest is noise of its conversion."""
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}")
