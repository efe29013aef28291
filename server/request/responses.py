"""Turns outcomes into messages: the only module that knows both forms of an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from proto import inference_pb2 as pb
from server.request.by_name import filled
from server.telemetry.outputs import outputs_of, times_of
from server.types import PART_USED_FIELDS, Answer, Facts, Fault, Outcome

# Errors of the server or of the moment, not of the row. If such an error affects every row, the
# request itself fails, so that ordinary gRPC retry policies apply.
NOT_THE_ROWS = frozenset(
    (
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION",
        "INTERNAL",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
    )
)


def result_message(outcome: Outcome, top_k: int = 0) -> pb.Result:
    result = pb.Result(
        prediction_id=outcome.prediction_id,
        timing=pb.Timing(**times_of(outcome.timing)),
        batch_size=outcome.batch_size,
        stamp=outcome.stamp,
        replica=max(outcome.replica, 0),
        retried=outcome.retried,
        parts_used=parts_used_messages(outcome),
    )
    if outcome.answer is not None:
        result.prediction.CopyFrom(prediction_message(outcome.answer, top_k))
    elif outcome.fault is not None:
        result.fault.CopyFrom(filled(pb.Fault, outcome.fault))
    return result


def parts_used_messages(outcome: Outcome) -> list[pb.PartUsed]:
    """Empty for a row without an answer."""
    if outcome.answer is None:
        return []
    return [
        pb.PartUsed(**{name: getattr(part, name) for name in PART_USED_FIELDS})
        for part in outcome.parts_used
    ]


def parts_used_json(outcome: Outcome) -> str:
    """A JSON list with one object for each part: the nonzero fields of PartUsed, `modality` by its
    name, and always `cut`."""
    found = []
    for part in outcome.parts_used:
        values = {name: getattr(part, name) for name in PART_USED_FIELDS}
        named = {name: value for name, value in values.items() if value or name == "cut"}
        found.append(named | {"modality": pb.Modality.Name(part.modality).lower()})
    return json.dumps(found)


def prediction_message(answer: Answer, top_k: int) -> pb.Prediction:
    prediction = pb.Prediction(label=answer.label, **outputs_of(answer))
    # Written out, which is twice as fast for many labels.
    for score in answer.scores[: top_k or None]:
        prediction.scores.add(
            label=score.label, probability=score.probability, log_prob=score.log_prob
        )
    if answer.embedding:
        prediction.embedding.values = answer.embedding
        prediction.embedding.dimensions = len(answer.embedding) // 4
    return prediction


def stamp_message(facts: Facts | None, bound: str = "") -> pb.Stamp:
    """The stamp to which a batch was bound; with an empty `bound`, the stamp that serves now.

    A name is only added to its own stamp: after a swap, the bound stamp may be the previous one.
    """
    if facts is None:
        return pb.Stamp(hex=bound)
    if bound and bound != facts.stamp:
        return pb.Stamp(hex=bound)
    return pb.Stamp(hex=facts.stamp, name=facts.stamp_name, dirty=facts.dirty)


def placed(outcome: Outcome, field: str) -> Outcome:
    """The same outcome, with the field of its fault as a path from the caller's message."""
    fault = outcome.fault
    if fault is None or fault.code in NOT_THE_ROWS:
        return outcome
    path = f"{field}.{fault.field}" if fault.field else field
    return replace(outcome, fault=replace(fault, field=path))


def common_fault(outcomes: Sequence[Outcome]) -> Fault | None:
    """The fault with which the whole request fails: that of its only row, or one that concerns the
    whole request."""
    faults = [outcome.fault for outcome in outcomes if outcome.fault is not None]
    if len(faults) < len(outcomes):
        return None
    if len(faults) == 1 or len({fault.code for fault in faults} - NOT_THE_ROWS) == 0:
        return faults[0]
    return None
