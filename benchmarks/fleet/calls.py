"""Callers, and the outcomes of their calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from trefoil import AsyncClient, RetryPolicy, TrefoilError, text

ONCE = RetryPolicy(max_attempts=1)
PAUSE_S = 0.05  # of a caller between two calls: two quiet cores suffice for all of this


@dataclass(slots=True)
class Load:
    """The outcomes of the calls of `load`, by server, stamp and error."""

    by_server: Counter[str] = field(default_factory=Counter)
    stamps: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return sum(self.by_server.values())

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@asynccontextmanager
async def load(
    callers: int,
    target: str | Sequence[str],
    retry: RetryPolicy,
    pause_s: float = PAUSE_S,
    **options: Any,
) -> AsyncIterator[Load]:
    counted, stop = Load(), asyncio.Event()

    async def caller(client: AsyncClient, number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                found = await client.predict(text(f"row {number} {turn}"), **options)
                counted.by_server[found.server] += 1
                counted.stamps[found.stamp] += 1
            except TrefoilError as error:
                counted.errors[f"{error.code} {error.reason or error}"[:90]] += 1
            await asyncio.sleep(pause_s)

    async with AsyncClient(target, retry_policy=retry, timeout_s=30.0) as client:
        tasks = [asyncio.create_task(caller(client, number)) for number in range(callers)]
        await asyncio.sleep(1.0)
        try:
            yield counted
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def failures(counted: Load) -> str:
    why = ", ".join(f"{count} x {name}" for name, count in counted.errors.items())
    return f"{counted.failed} of {counted.answered + counted.failed} calls failed" + (
        f" ({why})" if why else ""
    )
