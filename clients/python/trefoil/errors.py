"""What can go wrong for a caller, by what the caller can do about it.

TrefoilError
├── InputRefused      change the request: `field` and `reason` name the fault
├── StampMismatch     another version is served; `serving` is its stamp
├── NotAllowed        no credential, a wrong one, or a role without this right
├── DeadlineExceeded  the time ran out, here or on the server
├── Unavailable       no answer: not reached, warming up, shutting down
├── Overloaded        the server is full; `retry_after_s` is when to come back
├── TextInterrupted   a text broke off and could not be continued; `text` is its beginning
└── ServerFault       an error of the server, a quarantined request included

Only Unavailable and Overloaded are ever retried (retry_policy.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from trefoil._proto import inference_pb2 as pb

STAMP_KEY = "trefoil-stamp"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(eq=False)  # not frozen: raising an exception sets its traceback
class TrefoilError(Exception):
    """`message` names the field and the reason too. `reason` is the server's code for the error,
    empty when the network or gRPC itself refused."""

    message: str
    code: str = "UNKNOWN"  # name of the gRPC status
    reason: str = ""
    field: str = ""  # such as examples[0].parts[2].data
    serving: str = ""  # stamp of the server that refused, when it sent one
    retry_after_s: float = 0.0
    server: str = ""
    attempts: int = 0

    @property
    def unreachable(self) -> bool:
        """Whether no server answered: the connection could not be made, or broke."""
        return self.code == "UNAVAILABLE" and not self.reason

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
    # When its own caller cancels, a call raises CancelledError. This code means that a server, or a
    # proxy before it, ended a call that it had no room or no time for.
    "CANCELLED": Unavailable,
}


def check_process(made_in: int) -> None:
    """Raises TrefoilError in a forked process: gRPC's threads and connections do not survive a
    fork, and a call would wait for ever."""
    if os.getpid() != made_in:
        message = "this client was made before fork(): make one in each process"
        raise TrefoilError(message, "FAILED_PRECONDITION", "FORKED")


def error_of(error: Exception, server: str) -> TrefoilError:
    """The error for a failed call and its trailing metadata; a TrefoilError is returned
    unchanged."""
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
    return _kind(error.code().name, info.reason)(
        message=error.details() or "",
        code=error.code().name,
        reason=info.reason,
        field=info.metadata.get("field", ""),
        serving=str(trailing.get(STAMP_KEY, "")),
        retry_after_s=retry_after_s,
        server=server,
    )


def error_of_fault(fault: pb.Fault, serving: str, server: str) -> TrefoilError:
    """The error for a row's fault, which takes the place of its prediction; the message is as for a
    whole call."""
    where = f"{fault.field}: " if fault.field else ""
    return _kind(fault.code, fault.reason)(
        message=f"{where}{fault.message} [{fault.reason}]",
        code=fault.code,
        reason=fault.reason,
        field=fault.field,
        serving=serving,
        retry_after_s=fault.retry_after_s,
        server=server,
    )


def _kind(code: str, reason: str) -> type[TrefoilError]:
    kind = KINDS.get(code, ServerFault)
    if kind is Overloaded and not reason:
        # gRPC's own refusal: the message is larger than the server accepts. A retry does not help.
        return InputRefused
    if kind is StampMismatch and reason not in ("", "STAMP_MISMATCH"):
        return ServerFault
    return kind
