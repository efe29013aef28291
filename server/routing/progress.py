"""What a deployment tells while it goes on, and when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switch:
    """`took_s` is the time in which neither stamp could have been chosen."""

    stamp: str
    stamp_name: str
    from_stamp: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """How far a load has come; `switch` is set once it serves."""

    name: str
    fraction: float
    detail: str
    stamp: str = ""
    stamp_name: str = ""
    switch: Switch | None = None


Steps = AsyncGenerator[Step, None]


async def detached(steps: Steps, tasks: set[asyncio.Task[None]]) -> Steps:
    """The same steps, but taken to their end even when nobody listens any more.

    `tasks` holds the work while it runs.
    """
    queue: asyncio.Queue[Step | None] = asyncio.Queue()

    async def take() -> None:
        try:
            async with aclosing(steps) as taken:
                async for step in taken:
                    queue.put_nowait(step)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(take())
    tasks.add(task)
    task.add_done_callback(_ended(tasks))
    while (step := await queue.get()) is not None:
        yield step
    await task


def _ended(tasks: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever listened, else to nobody

    return ended


def activated(switch: Switch) -> Step:
    detail = f"in {switch.took_s * 1e6:.1f} us, from {switch.from_stamp}"
    return Step("activated", 1.0, detail, switch.stamp, switch.stamp_name, switch)
