"""What can go wrong for a caller, as things to act on.

TrefoilError
├── InputRefused      change the request: `field` and `reason` say what
├── StampMismatch     another version is served; `serving` is its stamp
├── NotAllowed        no credential, a wrong one, or a role that may not
├── DeadlineExceeded  the time given ran out, here or on the server
├── Unavailable       nobody answered: not reached, warming up, shutting down
├── Overloaded        the server is full; `retry_after_s` is when to come back
├── TextInterrupted   a text broke off and could not be continued; `text` is what came
└── ServerFault       the server's own trouble, a quarantined request included

Only Unavailable and Overloaded are ever tried again (retries.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from proto import inference_pb2 as pb

STAMP_KEY = "trefoil-stamp"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(eq=False)  # not frozen: whoever raises it sets its traceback
class TrefoilError(Exception):
    """`reason` is the server's own word, empty when the network or gRPC itself refused."""

    message: str
    code: str = "UNKNOWN"  # name of the gRPC status
    reason: str = ""
    field: str = ""  # e.g. examples[0].parts[2].data
    serving: str = ""  # stamp of the server that refused, when it said so
    retry_after_s: float = 0.0
    server: str = ""
    attempts: int = 0

    def __str__(self) -> str:
        where = f" ({self.server})" if self.server else ""
        tried = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.code}{where}{tried}: {self.message}"


class InputRefused(TrefoilError):
    pass


class StampMismatch(TrefoilError):
    pass


class NotAllowed(TrefoilError):
    pass


class DeadlineExceeded(TrefoilError):
    pass


class Unavailable(TrefoilError):
    pass


class Overloaded(TrefoilError):
    pass


@dataclass(eq=False)
class TextInterrupted(TrefoilError):
    text: str = ""


class ServerFault(TrefoilError):
    pass


KINDS: dict[str, type[TrefoilError]] = {
    "INVALID_ARGUMENT": InputRefused,
    "FAILED_PRECONDITION": StampMismatch,
    "UNAUTHENTICATED": NotAllowed,
    "PERMISSION_DENIED": NotAllowed,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "RESOURCE_EXHAUSTED": Overloaded,
}


def error_of(error: Exception, server: str) -> TrefoilError:
    """From a failed call, with what its trailing metadata tells; an error of ours is itself."""
    if isinstance(error, TrefoilError):
        return error
    assert isinstance(error, grpc.aio.AioRpcError)
    trailing = dict(error.trailing_metadata() or ())
    info, retry_after_s = error_details_pb2.ErrorInfo(), 0.0
    packed = trailing.get(DETAILS_KEY)
    if packed is not None:
        for detail in status_pb2.Status.FromString(packed).details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1e3
            detail.Unpack(info)
    fault = pb.Fault(
        code=error.code().name,
        field=info.metadata.get("field", ""),
        reason=info.reason,
        message=error.details() or "",
        retry_after_s=retry_after_s,
    )
    return error_of_fault(fault, str(trailing.get(STAMP_KEY, "")), server)


def error_of_fault(fault: pb.Fault, serving: str, server: str) -> TrefoilError:
    """From what a row of an answer says instead of a prediction."""
    kind = KINDS.get(fault.code, ServerFault)
    if kind is Overloaded and not fault.reason:
        # gRPC's own refusal: the message is larger than the server takes. Waiting helps nobody.
        kind = InputRefused
    if kind is StampMismatch and fault.reason not in ("", "STAMP_MISMATCH"):
        kind = ServerFault
    return kind(
        message=fault.message,
        code=fault.code,
        reason=fault.reason,
        field=fault.field,
        serving=serving,
        retry_after_s=fault.retry_after_s,
        server=server,
    )
