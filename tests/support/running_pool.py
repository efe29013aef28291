"""A pool of stub replicas that runs, and rows submitted to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from server.pool.pool import Pool
from server.types import Outcome, Work
from tests.support.running import until
from tests.support.stub_replica import stub_config, stub_pool, work


@asynccontextmanager
async def running(
    replicas: int = 1, settings: dict[str, Any] | None = None, **stub: object
) -> AsyncIterator[Pool]:
    pool = stub_pool(stub_config(warm_pool=replicas, **(settings or {})), **stub)
    await pool.start()
    try:
        await until(lambda: pool.serving == replicas)
        yield pool
    finally:
        await pool.stop()


class Ask:
    """One row submitted to a pool; await `answer`."""

    def __init__(self, pool: Pool, row: Work) -> None:
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.tokens: list[str] = []
        self.entry = pool.submit(row, self.answer.set_result, self.tokens.append)


async def ask(pool: Pool, entry_id: str, text: str, **changes: Any) -> Outcome:
    return await Ask(pool, work(entry_id, text, **changes)).answer


def pid(pool: Pool, index: int = 0) -> int:
    return pool.statuses()[index].pid
