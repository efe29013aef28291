"""Rehearsals on the wire: the request and the events of its answer."""

from __future__ import annotations

import math

from proto import admin_pb2 as pb
from proto import inference_pb2
from server.rehearsal.comparison import numbers
from server.rehearsal.rehearsal import Wanted
from server.rehearsal.report import RehearsalReport
from server.request.responses import result_message
from server.request.status import Refused, bad_input
from server.routing.progress import Step
from server.telemetry.outputs import outputs_of, times_of
from server.telemetry.rows import PredictionRow
from server.types import Facts, Outcome

USUAL_PAYLOADS = 500
MOST_PAYLOADS = 1000  # the most that telemetry returns in one call
MOST_S = 3600.0
USUAL_S = 60.0


def wanted_of(request: pb.RehearseRequest) -> Wanted:
    """The wanted rehearsal. Raises Refused."""
    if bool(request.stamp) == bool(request.path):
        raise Refused(bad_input("stamp", "WHAT", "give exactly one of stamp and path"))
    if request.payloads > MOST_PAYLOADS:
        message = f"{request.payloads} payloads; at most {MOST_PAYLOADS} are replayed"
        raise Refused(bad_input("payloads", "TOO_MANY", message))
    if not 0 <= request.shadow_share <= 1:
        message = f"{request.shadow_share:g} is not a share of live traffic: give 0 to 1"
        raise Refused(bad_input("shadow_share", "NO_SHARE", message))
    if not 0 <= request.seconds <= MOST_S:
        message = f"{request.seconds:g} s; live traffic is shadowed for {MOST_S:g} s at most"
        raise Refused(bad_input("seconds", "TOO_LONG", message))
    return Wanted(
        request.payloads or USUAL_PAYLOADS,
        request.shadow_share,
        request.seconds or USUAL_S,
        request.reason,
    )


def event_of(event: Step | RehearsalReport) -> pb.RehearseEvent:
    if isinstance(event, RehearsalReport):
        return _judged(event)
    progress = pb.Progress(step=event.name, fraction=event.fraction, detail=event.detail)
    if event.stamp:
        progress.stamp.hex, progress.stamp.name = event.stamp, event.stamp_name
    return pb.RehearseEvent(progress=progress)


def replayed(kept: PredictionRow, outcome: Outcome, tolerance: float) -> pb.ReplayResponse:
    """A stored answer beside the current answer for its payload."""
    record = kept.record
    before = inference_pb2.Result(
        prediction_id=record.prediction_id,
        timing=inference_pb2.Timing(**times_of(record)),
        batch_size=record.batch_size,
        stamp=record.stamp,
    )
    if record.error:
        code, _, rest = record.error.partition("/")
        before.fault.code, before.fault.reason = code, rest.partition("/")[0]
    else:
        before.prediction.CopyFrom(
            inference_pb2.Prediction(label=record.label, **outputs_of(record))
        )
    stamp = inference_pb2.Stamp(hex=outcome.stamp)
    now = result_message(outcome)
    return pb.ReplayResponse(before=before, now=now, stamp=stamp, tolerance=tolerance)


def _judged(report: RehearsalReport) -> pb.RehearseEvent:
    event = pb.RehearseEvent(
        progress=pb.Progress(step="rehearsed", fraction=1.0, done=True),
        verdict=report.verdict.word,
        reason=report.verdict.reason,
        messages=report.messages,
        active=_stamp(report.active),
        value_unit=report.unit,
    )
    event.progress.stamp.CopyFrom(_stamp(report.candidate))
    event.figures.update(numbers(report.whole))
    event.figures.update({"live": report.live, "live_dropped": report.live_dropped})
    latency = report.latency
    event.figures["latency_pairs"] = latency.pairs
    times = {
        "work_ms_before": latency.before_ms,
        "work_ms_now": latency.now_ms,
        "work_ratio": latency.ratio.value,
        "work_ratio_low": latency.ratio.low,
        "work_ratio_high": latency.ratio.high,
    }
    event.figures.update({name: value for name, value in times.items() if math.isfinite(value)})
    for part in report.slices:
        event.slices.add(slice=part.slice).figures.update(numbers(part))
    return event


def _stamp(facts: Facts) -> inference_pb2.Stamp:
    return inference_pb2.Stamp(hex=facts.stamp, name=facts.stamp_name)
