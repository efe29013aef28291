"""The actor of the current call: the name in its credential, else the name the client sent."""

from __future__ import annotations

from contextvars import ContextVar

# Every call runs in a task of its own, so each has its own; tasks made for a call inherit it.
ACTOR: ContextVar[str] = ContextVar("actor", default="")
# Whether the role of this call may read payloads; where no credential is asked for, everyone may.
MAY_READ_PAYLOADS: ContextVar[bool] = ContextVar("may read payloads", default=True)
ROLE_MAY_NOT = "your role may not read payloads: observe-payloads may"
ITSELF = "the server"
