"""The progress of a deployment: its steps, their reports, and the switch at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Switch:
    """`took_s` is the time during which neither stamp could be chosen."""

    stamp: str
    stamp_name: str
    from_stamp: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of a load; `switch` is set once the bundle serves."""

    name: str
    fraction: float
    detail: str
    stamp: str = ""
    stamp_name: str = ""
    switch: Switch | None = None


Report = Callable[[Step], None]
T = TypeVar("T")
Work = Callable[[Callable[[T], None]], Coroutine[Any, Any, object]]


async def streamed(work: Work[T]) -> AsyncGenerator[T, None]:
    """The reports of `work`, as they come. Closing the generator ends the work; an error of the
    work is raised."""
    reported: asyncio.Queue[T | None] = asyncio.Queue()
    task = asyncio.create_task(work(reported.put_nowait))
    task.add_done_callback(lambda _: reported.put_nowait(None))
    try:
        while (item := await reported.get()) is not None:
            yield item
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def detached(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Wait for `work`, which runs to its end even if the waiting task is cancelled.

    `tasks` holds a reference while it runs.
    """
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(_ended(tasks))
    await asyncio.shield(task)


def _ended(tasks: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # raised in the waiting task, if there still is one

    return ended


def activated(switch: Switch) -> Step:
    detail = f"in {switch.took_s * 1e6:.1f} us, from {switch.from_stamp}"
    return Step("activated", 1.0, detail, switch.stamp, switch.stamp_name, switch)
