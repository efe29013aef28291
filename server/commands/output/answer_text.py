"""Answers as `server predict` prints them: one plain object for scripts, a few lines for people."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from proto import inference_pb2 as pb
from server.telemetry.outputs import OUTPUTS, STAGES, outputs_of, times_of
from trefoil.errors import error_of_fault
from trefoil.results import parts_used_of as client_parts_used

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
        "parts_used": parts_used_of(result.parts_used),
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
        "parts_used": parts_used_of(event.end.parts_used),
    }


def parts_used_of(messages: Iterable[pb.PartUsed]) -> list[Plain]:
    """The fields of each part's own modality, and the warning where there is one."""
    found = []
    for part in client_parts_used(messages):
        plain: Plain = {"modality": part.modality, "cut": part.cut}
        for name in _USED_FIELDS.get(part.modality, ()):
            plain[name] = _short(getattr(part, name))
        found.append(plain | ({"warning": part.warning} if part.warning else {}))
    return found


_USED_FIELDS = {
    "text": ("tokens_used", "tokens_sent"),
    "image": ("width_used", "height_used", "width_sent", "height_sent", "frames_sent"),
    "audio": ("seconds_used", "seconds_sent", "channels_sent"),
}


def _used_lines(found: Plain) -> list[str]:
    """Only what is not as sent: a cut part, a warning. The rest is in --json."""
    lines = []
    for number, part in enumerate(found["parts_used"]):
        notes = []
        if part.get("tokens_used", 0) < part.get("tokens_sent", 0):
            notes.append(f"{part['tokens_used']} of {part['tokens_sent']} tokens used")
        if part.get("frames_sent", 0) > 1:
            notes.append(f"first of {part['frames_sent']} pictures used")
        if "warning" in part:
            notes.append(part["warning"])
        if notes:
            lines.append(f"  part {number}   {part['modality']}: {', '.join(notes)}")
    return lines


def timings_of(timing: pb.Timing) -> dict[str, float]:
    return {name.removesuffix("_ms"): round(ms, 3) for name, ms in times_of(timing).items()}


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
    lines[3:3] = [*_doubts(found), *_used_lines(found)]
    if "embedding" in found:
        values = found["embedding"]
        start = ", ".join(f"{value:.4f}" for value in values[:4])
        lines.insert(3, f"  embedding {len(values)} values: {start}, ...")
    return "\n".join(lines)


def _doubts(found: Plain) -> list[str]:
    """What makes an answer doubtful, such as that it fits none of the labels."""
    return [
        f"  doubt    {spec.doubt}: {spec.name} {found[spec.name]:.2g}, usually above {spec.least:g}"
        for spec in OUTPUTS
        if spec.doubt and found[spec.name] < spec.least
    ]


def readable_generation(found: Plain) -> str:
    tokens, first = found["tokens"], found["first_token_ms"]
    return "\n".join(
        (
            f"  tokens   {tokens} ({found['finish_reason']}), the first after {first:.1f} ms",
            *_used_lines(found),
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
