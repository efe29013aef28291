"""The request's walk: admit or refuse, queue, run on a replica, answer, then record.

Knows no gRPC and no protobuf. One event loop; nothing here blocks it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from server.config import ServerConfig
from server.telemetry.record import FeatureSpec, Record
from server.types import EngineSnapshot, Facts, Fault, GenerationEnd, Outcome, Token, Work


class Recorder(Protocol):
    """Where predictions go when their caller has been answered. Never blocks, never raises."""

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None: ...


class Engine:
    """One per server. `clock` is monotonic seconds (deadlines); `wall` is unix seconds."""

    def __init__(
        self,
        config: ServerConfig,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None: ...

    @property
    def facts(self) -> Facts | None:
        """Stamp, labels, feature schema, card, limits, env; None until a replica has loaded."""

    async def start(self) -> None:
        """Start the pool; return when the first replica has loaded and is being warmed.

        Raises PoolRefused when the pool does not fit in memory or no replica could load the
        bundle (`check` says which step refused it).
        """

    def admit(self, work: Work) -> Fault | None:
        """Refuse cheaply, before any byte is decoded: draining, warming, queue full, stamp pinned
        to another, deadline that cannot be met, quarantined content. Counts nothing."""

    async def predict(self, work: Work) -> Outcome:
        """Answer one row. Admits it itself; a refusal is an Outcome with that fault too.

        Never raises for a row's fault. Cancelling the awaiting task drops the work: out of the
        queue, or in the replica before its next stage.
        """
        raise NotImplementedError

    def generate(self, work: Work) -> AsyncIterator[Token | GenerationEnd]:
        """Yield pieces of text, then one GenerationEnd. Closing the iterator cancels the work."""
        raise NotImplementedError

    def snapshot(self) -> EngineSnapshot:
        raise NotImplementedError

    async def changed(self, seen: str) -> str:
        """Return the state as soon as it differs from `seen`; for health and status watchers."""
        raise NotImplementedError

    async def drain(self, grace_s: float) -> None:
        """Refuse new work and return when what was accepted is done, or after `grace_s`; then
        what is left ends with UNAVAILABLE."""

    async def stop(self) -> None:
        """End the replicas. Everything still waiting ends with UNAVAILABLE."""
