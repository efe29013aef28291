"""The actor of the current call: the name in its credential, else the name the client sent."""

from __future__ import annotations

from contextvars import ContextVar

# Every call runs in a task of its own, so each has its own; tasks made for a call inherit it.
ACTOR: ContextVar[str] = ContextVar("asker", default="")
ITSELF = "the server"
