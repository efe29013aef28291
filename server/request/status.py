"""Refusals over gRPC: one table from fault codes to status codes, and the machine-readable details
(google.rpc.Status in `grpc-status-details-bin`) that every refusal carries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from server.types import Fault

STAMP_KEY = "trefoil-stamp"
DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "trefoil"

# Most clients refuse metadata beyond 8 KiB. The message and the details are both metadata: the
# former is percent-encoded (up to three times the bytes), the latter is base64.
MOST_VIOLATIONS = 8
LONGEST_MESSAGE = 500  # bytes of UTF-8, as for the next two
LONGEST_FIELD = 200
MOST_DETAILS = 2000  # for all violations together

STATUS: dict[str, grpc.StatusCode] = {
    code.name: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK
}

# How gRPC's error begins when sending has begun and failed, and not for a status it cannot send.
UNSENT = 'Failed "execute_batch"'

Metadata = tuple[tuple[str, str | bytes], ...]


async def abort(context: Any, faults: Sequence[Fault], stamp: str) -> NoReturn:
    """End a call with this refusal. Raises what gRPC raises then."""
    await end(context, status_of(faults[0]), spoken(faults[0]), trailers(faults, stamp))


async def end(context: Any, code: grpc.StatusCode, text: str, metadata: Metadata = ()) -> NoReturn:
    """End a call with this status. A caller that has left meanwhile is no error: gRPC would log a
    traceback for each."""
    try:
        await context.abort(code, text, trailing_metadata=metadata)
    except grpc.aio.InternalError as error:
        if str(error).startswith(UNSENT):
            raise asyncio.CancelledError from None
        raise
    raise AssertionError("abort always raises")


class Refused(Exception):
    """The whole call is refused; the first fault decides the status code."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults[0].message)
        self.faults = faults


def bad_input(field: str, reason: str, message: str) -> Fault:
    return Fault("INVALID_ARGUMENT", field, reason, message)


def status_of(fault: Fault) -> grpc.StatusCode:
    """The gRPC status code. A code missing in the table is a bug of the server, so INTERNAL."""
    return STATUS.get(fault.code, grpc.StatusCode.INTERNAL)


def spoken(fault: Fault) -> str:
    """The status message: field, message, reason."""
    where = f"{fault.field}: " if fault.field else ""
    return trimmed(f"{where}{fault.message} [{fault.reason}]", LONGEST_MESSAGE)


def trimmed(text: str, longest: int) -> str:
    """The text cut to `longest` bytes of UTF-8, in whole characters; callers choose much of these
    texts."""
    data = text[:longest].encode(errors="replace")
    return data[:longest].decode(errors="ignore")


def trailers(faults: Sequence[Fault], stamp: str) -> Metadata:
    """Trailing metadata of a refusal: the serving stamp and a packed google.rpc.Status."""
    first = faults[0]
    status = status_pb2.Status(code=status_of(first).value[0], message=spoken(first))
    status.details.extend(_pack(detail) for detail in _details(faults, stamp))
    return ((STAMP_KEY, stamp), (DETAILS_KEY, status.SerializeToString()))


def _details(faults: Sequence[Fault], stamp: str) -> list[message.Message]:
    first = faults[0]
    metadata = {"stamp": stamp, "field": trimmed(first.field, LONGEST_FIELD)}
    info = error_details_pb2.ErrorInfo(reason=first.reason, domain=DOMAIN, metadata=metadata)
    details: list[message.Message] = [info]
    if first.code == "INVALID_ARGUMENT":
        details.append(_violations(faults))
    if first.retry_after_s > 0:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(first.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _violations(faults: Sequence[Fault]) -> error_details_pb2.BadRequest:
    """The first violations, as many as fit into the metadata."""
    found = error_details_pb2.BadRequest()
    for fault in faults[:MOST_VIOLATIONS]:
        field = trimmed(fault.field, LONGEST_FIELD)
        text = trimmed(fault.message, LONGEST_MESSAGE)
        found.field_violations.add(field=field, description=text, reason=fault.reason)
        if found.ByteSize() > MOST_DETAILS:
            del found.field_violations[-1]
            break
    return found


def _pack(detail: message.Message) -> any_pb2.Any:
    """Packed with sorted maps: every process gives the same bytes for the same refusal."""
    packed = any_pb2.Any()
    packed.Pack(detail, deterministic=True)
    return packed
