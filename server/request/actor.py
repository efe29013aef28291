"""Who asked for what is being done: the name in a credential, or what the caller says of itself."""

from __future__ import annotations

from contextvars import ContextVar

# Every call runs in a task of its own, so each has its own; tasks made for a call inherit it.
ACTOR: ContextVar[str] = ContextVar("asker", default="")
ITSELF = "the server"
