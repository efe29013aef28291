"""What telemetry stores about one row that reached the queue."""

from __future__ import annotations

from server.telemetry.outputs import outputs_of, times_of
from server.telemetry.record import Record
from server.types import Outcome, Work

LONGEST_MESSAGE = 500  # characters of the message that its caller received


def record_of(work: Work, outcome: Outcome, at: float, env: str) -> Record:
    answer, fault, timing = outcome.answer, outcome.fault, outcome.timing
    generated = outcome.generated
    return Record(
        prediction_id=work.id,
        at=at,
        stamp=outcome.stamp,
        task=work.task,
        mix=outcome.mix or work.mix,
        label=answer.label if answer else "",
        features=answer.features if answer else b"",
        slices=work.slices,
        client=work.client,
        session=work.session,
        replica=outcome.replica,
        batch_size=outcome.batch_size,
        error=f"{fault.code}/{fault.reason}/{fault.field}" if fault else "",
        error_message=fault.message[:LONGEST_MESSAGE] if fault else "",
        env=env,
        trace_id=_trace_id(work.trace_parent),
        batch_mates=outcome.batch_mates,
        payload=work.example if work.keep_payload else b"",
        generated_tokens=generated.tokens if generated else 0,
        first_token_ms=generated.first_token_ms if generated else 0.0,
        finish_reason=generated.finish_reason if generated else "",
        **times_of(timing),
        **(outputs_of(answer) if answer else {}),
    )


def _trace_id(trace_parent: str) -> str:
    """The trace id of a W3C trace context: version-traceid-spanid-flags."""
    parts = trace_parent.split("-")
    return parts[1] if len(parts) == 4 else ""
