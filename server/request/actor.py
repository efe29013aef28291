"""The actor of the current call: the name in its credential, or else the name that the client
sent."""

from __future__ import annotations

from contextvars import ContextVar

# Every call runs in its own task, so each has its own actor; tasks made for a call inherit it.
ACTOR: ContextVar[str] = ContextVar("actor", default="")
# Whether the role of this call may read payloads. Without access control every caller may.
MAY_READ_PAYLOADS: ContextVar[bool] = ContextVar("may read payloads", default=True)
ROLE_MAY_NOT = "your role may not read payloads: observe-payloads may"
ITSELF = "the server"
