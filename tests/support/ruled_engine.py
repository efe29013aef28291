"""The real engine over one or more replicas that answer by rules (tests/support/ruled_replica.py),
and what a test wants to know of it."""

from __future__ import annotations

import asyncio
import fcntl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc

from server.config import ServerConfig
from server.engine import Engine
from server.pool.pool import Pool
from server.pool.service_time import ENOUGH_ROWS
from server.telemetry_port import NullTelemetry
from server.types import Counters, Fault, Outcome, Work
from tests.support import ruled_replica
from tests.support.running import channel_to, listener, until
from tests.support.stub_replica import stub_config, work
from tests.support.warm_replicas import warm_spawner

Rows = list[asyncio.Task[Outcome]]

ONE_PLACE: dict[str, Any] = {"queue_rows": 1}  # settings, for `fill`
ROOMY = 4096  # rows: a test holds some in the replica and others still have a place
PATIENT_S = 600.0  # held rows make no progress, and their replica is not to be replaced for that


class Gate:
    """Closed until `open`; replicas pass it by the name of its file."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="trefoil-gate-")
        self.path = self._file.name
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()


class RuledEngine(Engine):
    """Notes which rows came and why they were refused at the door. `gate` holds the rows that wait.
    `why_withheld`: why its stamp may take no traffic, "" while it may."""

    def __init__(self, config: ServerConfig, pool: Pool, gate: Gate) -> None:
        self.why_withheld: Callable[[], str] = lambda: ""
        super().__init__(config, pool, NullTelemetry(), withheld=lambda _: self.why_withheld())
        self.gate = gate
        self.received: list[Work] = []
        self.came: list[float] = []  # when each of them came, by the monotonic clock
        self.refused: list[Fault] = []

    def _route(self, work: Work) -> tuple[Pool, Fault | None]:
        self.received.append(work)
        self.came.append(time.monotonic())
        pool, fault = super()._route(work)
        self.refused += [fault] if fault is not None else []
        return pool, fault

    @property
    def counters(self) -> Counters:
        return self.snapshot().counters

    @property
    def at_work(self) -> int:
        """Rows that were let in and have not been answered."""
        snapshot = self.snapshot()
        return snapshot.queued + snapshot.in_flight

    def came_no_sooner_than_asked(self) -> bool:
        """Whether all that came after a refusal came after the time that it named."""
        waits_s = [after - before for before, after in pairwise(self.came)]
        return all(
            wait_s >= fault.retry_after_s > 0
            for wait_s, fault in zip(waits_s, self.refused, strict=True)
        )


@asynccontextmanager
async def ruled(
    settings: dict[str, Any] | None = None,
    kind: type[RuledEngine] = RuledEngine,
    hold_load: bool = False,
    **options: object,
) -> AsyncIterator[RuledEngine]:
    """An engine that is ready, or with `hold_load` one whose replica loads when the gate opens.
    `settings` are fields of ServerConfig, `options` flags of the replicas."""
    gate = Gate()
    options = {"rows": ROOMY, "gate": gate.path} | options
    if hold_load:
        options["hold_load"] = True
    usual: dict[str, Any] = {"queue_rows": ROOMY, "stall_s": PATIENT_S}
    config = stub_config(**(usual | (settings or {})))
    pool = Pool(config, warm_spawner(ruled_replica.MODULE, **options))
    engine = kind(config, pool, gate)
    starting = asyncio.create_task(engine.start())
    try:
        if not hold_load:
            await starting
            await until(lambda: engine.snapshot().state == "READY")
        yield engine
    finally:
        gate.open()
        await starting
        await engine.stop()
        gate.close()


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[RuledEngine, grpc.aio.Channel]]:
    """An engine that is ready, and a channel to a listener around it with these settings."""
    async with (
        ruled() as engine,
        listener(engine, **settings) as address,
        channel_to(address) as channel,
    ):
        yield engine, channel


async def fill(engine: RuledEngine) -> Rows:
    """Rows that wait, one in the replica and one in the queue, which is full: of an engine with
    ONE_PLACE whose replica takes one row."""
    rows = hold(engine, 1)
    await until(lambda: engine.snapshot().in_flight == 1)
    rows += hold(engine, 1)
    await until(lambda: engine.snapshot().queued == 1)
    return rows


@asynccontextmanager
async def full() -> AsyncIterator[RuledEngine]:
    """An engine whose queue is full until its gate opens."""
    async with ruled(ONE_PLACE, rows=1) as engine:
        await fill(engine)
        engine.received.clear()
        engine.came.clear()
        yield engine


async def teach(engine: RuledEngine, row_s: float) -> None:
    """Let the engine learn that a row takes so long."""
    rows = [work(f"slow-{n}", f"sleep {row_s}") for n in range(ENOUGH_ROWS)]
    await asyncio.gather(*(engine.predict(row) for row in rows))
    engine.received.clear()
    engine.came.clear()


def hold(engine: RuledEngine, count: int) -> Rows:
    """So many rows that wait for the gate."""
    start = len(engine.received)
    rows = [work(f"held-{start + n}", "wait") for n in range(count)]
    return [asyncio.create_task(engine.predict(row)) for row in rows]
