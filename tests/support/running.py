"""Servers for tests: a listener around a given engine, or the whole program as a process."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.api.listener import Listener
from server.api.snapshot_messages import ServerIdentity
from server.config import ServerConfig
from server.engine import Engine
from server.main import main
from server.telemetry_port import NullTelemetry, TelemetryPort
from tests.support.patience import patience
from tests.support.stub_replica import stub_config, stub_pool

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 180.0  # of a quiet machine, like the next: see tests/support/patience.py
END_WITHIN_S = 60.0
READY = re.compile(r"\bready on (\S+) ")
IDENTITY = ServerIdentity(
    "press-7",
    "0.1.0",
    "instance-1",
    {"warm-pool": "1"},
    (("max_parts", 64, "parts"),),
    False,
    0.0,
)


def idle_engine() -> Engine:
    """The real engine before its start: what needs no replica is answered already."""
    config = stub_config()
    return Engine(config, stub_pool(config), NullTelemetry())


@asynccontextmanager
async def listener(
    engine: Any,
    telemetry: TelemetryPort | None = None,
    wall: Callable[[], float] = time.time,
    identity: ServerIdentity = IDENTITY,
    **settings: Any,
) -> AsyncIterator[str]:
    """The address of a listener around `engine`; `settings` are ServerConfig fields."""
    config = replace(ServerConfig(), listen="127.0.0.1:0", **settings)
    telemetry = telemetry or NullTelemetry()
    running = Listener(engine, config, identity, leave=lambda: None, telemetry=telemetry, wall=wall)
    address = await running.start()
    try:
        yield address
    finally:
        await running.stop(0)


@asynccontextmanager
async def channel_to(address: str, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    pairs = [(f"grpc.{name}", value) for name, value in options.items()]
    async with grpc.aio.insecure_channel(address, options=pairs) as channel:
        yield channel


async def until(happened: Callable[[], object], within_s: float = 20.0) -> None:
    """Return once `happened()` is true; it is asked again and again."""
    limit_s = patience(within_s)
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, f"did not happen within {limit_s:.0f} s"
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class Program:
    """`python -m server.main` as a process; `lines` is its output."""

    process: subprocess.Popen[str]
    address: str = ""
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            found = READY.search(line)
            if found:
                self.address = found[1]
                self.ready.set()
        self.ready.set()  # it has ended

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience(END_WITHIN_S))


@contextmanager
def program(
    *flags: str,
    root: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    ready_within_s: float = READY_WITHIN_S,
) -> Iterator[Program]:
    """The whole server on a free port, ready; killed at the end if it still runs. Its telemetry
    goes to a folder of its own unless `flags` name one. `root` holds the packages it runs."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--listen", "127.0.0.1:0", "--data", folder, *flags)
        with _program(arguments, root, environment, ready_within_s) as running:
            yield running


@contextmanager
def _program(
    arguments: Sequence[str],
    root: Path,
    environment: Mapping[str, str] | None,
    ready_within_s: float,
) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-m", "server.main", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with reading(Program(process), ready_within_s) as running:
        yield running


@contextmanager
def reading(running: Program, ready_within_s: float = READY_WITHIN_S) -> Iterator[Program]:
    """Once it is ready; killed at the end if it still runs."""
    process = running.process
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        running.ready.wait(patience(ready_within_s))
        assert running.address, "\n".join(running.lines)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of `server WORDS`, run in this process."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
