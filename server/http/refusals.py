"""The ways in which an HTTP request ends without an answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallRefusal:
    """A refused call, with its gRPC status. `message` has field, text and reason in one line."""

    code: str  # gRPC status name
    message: str
    field: str = ""
    reason: str = ""
    retry_after_s: float = 0.0


class CallRefused(Exception):
    def __init__(self, refusal: CallRefusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class HttpRefused(Exception):
    """A refusal by HTTP itself. `closing`: the rest of the request is not read."""

    def __init__(
        self, status: int, reason: str, message: str, field: str = "", closing: bool = False
    ) -> None:
        super().__init__(f"{field}: {message} [{reason}]" if field else f"{message} [{reason}]")
        self.status = status
        self.reason = reason
        self.message = message
        self.field = field
        self.closing = closing


class CallerGone(Exception):
    """The connection ended before the body did."""
