"""Answers as `server predict` prints them: one plain object for scripts, or a few lines of text."""

from __future__ import annotations

from proto import inference_pb2 as pb
from server.request.plain_answers import (
    Plain,
    plain_generation,
    plain_prediction,
)
from server.telemetry.outputs import OUTPUTS, STAGES
from trefoil.errors import error_of_fault


def prediction_of(response: pb.PredictResponse) -> Plain:
    """The one result of a one-example request; raises TrefoilError when it is a fault."""
    (result,) = response.results
    if result.HasField("fault"):
        raise error_of_fault(result.fault, result.stamp, "")
    return plain_prediction(result, response.stamp.name)


def generation_of(event: pb.GenerateEvent, text: str) -> Plain:
    return plain_generation(event, text)


def _used_lines(found: Plain) -> list[str]:
    """Only differences from what was sent: a cut part, a warning. --json has the rest."""
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
    """What makes an answer doubtful, for example that it fits none of the labels."""
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
