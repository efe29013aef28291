"""Turns feedback messages into telemetry's items, and its results back into messages.

A bad item never fails the others: its answer is `refused`, with its field and the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from proto import inference_pb2 as pb
from server.request.lazy_parse import parse_feedback
from server.request.status import Refused, bad_input
from server.telemetry.stamps.feedback import REFUSED, FeedbackItem, FeedbackResult

MOST_ITEMS = 1000
EARLIEST_MS = 946_684_800_000  # the year 2000: an earlier time is a mistake


def items_of(data: bytes) -> list[FeedbackItem | FeedbackResult]:
    """The items in the order of the request; an item that cannot be read is replaced by its
    refusal.

    Raises Refused when the request as a whole cannot be read, is empty or has too many items.
    """
    raw = parse_feedback(data).items
    if not raw:
        raise Refused(bad_input("items", "EMPTY", "a call needs at least one item"))
    if len(raw) > MOST_ITEMS:
        text = f"{len(raw)} items; the limit is {MOST_ITEMS}"
        raise Refused(bad_input("items", "TOO_MANY_ITEMS", text))
    return [_item(item) for item in raw]


def _item(raw: bytes) -> FeedbackItem | FeedbackResult:
    try:
        item = pb.FeedbackItem.FromString(raw)
    except DecodeError:
        text = "the item cannot be read: damaged, or a text that is not UTF-8"
        return FeedbackResult("", REFUSED, "", "MALFORMED", text)
    found = FeedbackItem(
        prediction_id=item.prediction_id,
        label=item.label,
        outcome=item.outcome,
        value=item.value if item.HasField("value") else None,
        source=item.source,
        observed_at=item.observed_unix_ms / 1000,
        idempotency_key=item.idempotency_key,
    )
    return _mistimed(found, item.observed_unix_ms) or found


def _mistimed(item: FeedbackItem, observed_ms: int) -> FeedbackResult | None:
    """Refuse a time before the year 2000: a caller may send seconds instead of milliseconds, which
    would give a date decades ago. (Telemetry checks everything else.)"""
    if observed_ms == 0 or observed_ms >= EARLIEST_MS:
        return None
    text = f"{observed_ms} is before the year 2000: give unix milliseconds, or 0 for now"
    return FeedbackResult(item.prediction_id, REFUSED, "observed_unix_ms", "NOT_A_TIME", text)


def in_order(
    items: Sequence[FeedbackItem | FeedbackResult], results: Sequence[FeedbackResult]
) -> list[FeedbackResult]:
    """One result for each item: its own refusal, or the next of telemetry's `results`."""
    answers = iter(results)
    return [item if isinstance(item, FeedbackResult) else next(answers) for item in items]


def response_of(results: Sequence[FeedbackResult]) -> pb.FeedbackResponse:
    response = pb.FeedbackResponse()
    for index, result in enumerate(results):
        message = response.results.add(prediction_id=result.prediction_id, status=result.status)
        if result.status == REFUSED:
            field = f"items[{index}].{result.field}" if result.field else f"items[{index}]"
            message.fault.code = "INVALID_ARGUMENT"
            message.fault.field = field
            message.fault.reason = result.reason
            message.fault.message = result.message
    return response
