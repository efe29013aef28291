"""HTTP status codes and headers for the results of the methods, and problem details as in RFC
9457."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from proto import inference_pb2 as pb
from server.http.exchange import Header, Response, json_bytes
from server.http.refusals import CallRefusal, HttpRefused
from server.request.status import STAMP_KEY
from server.telemetry.outputs import STAGES

# gRPC status -> HTTP status. A pinned stamp that is not served is a failed precondition.
STATUS = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
PROBLEM = b"application/problem+json"
STAMP_HEADER = STAMP_KEY.encode()
ID_HEADER = b"trefoil-prediction-id"
TIMING_HEADER = b"server-timing"


def status_of(refusal: CallRefusal) -> int:
    return STATUS.get(refusal.code, 500)


def refusal_headers(refusal: CallRefusal, stamp: str) -> list[Header]:
    headers = [(STAMP_HEADER, stamp.encode())] if stamp else []
    if refusal.retry_after_s > 0:
        headers.append((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(refusal.retry_after_s * 1000)))
    if refusal.code == "UNAUTHENTICATED":
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def answer_headers(stamp: str, prediction_ids: list[str], timing: pb.Timing) -> list[Header]:
    """`timing` becomes the Server-Timing header (W3C), which browser tools show."""
    stages = ", ".join(f"{name};dur={getattr(timing, f'{name}_ms'):.3f}" for name in STAGES)
    return [
        (STAMP_HEADER, stamp.encode()),
        (ID_HEADER, ",".join(prediction_ids).encode()),
        (TIMING_HEADER, f"{stages}, total;dur={timing.total_ms:.3f}".encode()),
    ]


def problem(refusal: CallRefusal, stamp: str) -> Response:
    status = status_of(refusal)
    found: dict[str, Any] = {
        "title": _title(status),
        "status": status,
        "detail": refusal.message,
        "code": refusal.code,
        "reason": refusal.reason,
        "field": refusal.field,
        "stamp": stamp,
    }
    if refusal.retry_after_s > 0:
        found["retry_after_s"] = refusal.retry_after_s
    return Response(status, json_bytes(found), PROBLEM, refusal_headers(refusal, stamp))


def http_problem(refused: HttpRefused) -> Response:
    found = {
        "title": _title(refused.status),
        "status": refused.status,
        "detail": refused.message,
        "reason": refused.reason,
        "field": refused.field,
    }
    return Response(refused.status, json_bytes(found), PROBLEM)


def _title(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
