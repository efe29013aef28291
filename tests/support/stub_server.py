"""The real front and pool over replicas with a small model of their own, as a process that signals
can hit: `python -m tests.support.stub_server NAME`. It is up in a second, and needs no torch."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from server.engine import Engine
from server.pool.pool import Pool
from server.pool.spawn import spawner
from server.telemetry_port import NullTelemetry
from tests.support import stub_replica
from tests.support.running import (
    IDENTITY,
    READY_WITHIN_S,
    ROOT,
    Program,
    listener,
    reading,
    until,
)
from tests.support.stub_replica import stub_config


async def main(name: str) -> None:
    config = stub_config(warm_pool=2)
    command = (sys.executable, "-m", stub_replica.MODULE)  # found by it: processes of their own
    pool = Pool(config, spawner(lambda index: (*command, f"--index={index}")))
    engine = Engine(config, pool, NullTelemetry())
    await engine.start()
    await until(lambda: engine.snapshot().state == "READY", READY_WITHIN_S)
    async with listener(engine, identity=replace(IDENTITY, name=name)) as address:
        print(f"ready on {address} ", flush=True)  # noqa: T201
        await asyncio.Event().wait()


@contextmanager
def stub_server(name: str) -> Iterator[Program]:
    """Ready, with two replicas; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stub_server", name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with reading(Program(process)) as running:
        yield running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
