"""The server's listener around an engine over one replica that answers by rules, as a process that
can be killed: `python -m tests.support.listener_process`, with flags of
tests/support/ruled_replica.py. It is up in a second."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.support import warm_replicas
from tests.support.patience import patience
from tests.support.ruled_engine import ruled
from tests.support.running import END_WITHIN_S, READY_WITHIN_S, ROOT, Program, listener

WORDS = "smoke near the drive of station nine since the last shift"
USUAL = ("--words", WORDS, "--pause-ms", "20")


@contextmanager
def listener_processes(*flags: Sequence[str]) -> Iterator[list[Program]]:
    """One for each set of flags, started side by side; killed at the end if they still run."""
    with ExitStack() as stack:
        started = [stack.enter_context(_started(each)) for each in flags]
        for running in started:
            running.ready.wait(patience(READY_WITHIN_S))
            assert running.address, "\n".join(running.lines)
        yield started


@contextmanager
def _started(flags: Sequence[str]) -> Iterator[Program]:
    command = [sys.executable, "-m", "tests.support.listener_process", *USUAL, *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Program(process)
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        yield running
    finally:
        process.kill()
        process.wait(patience(END_WITHIN_S))
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


async def main(flags: Sequence[str]) -> None:
    names = (flag.removeprefix("--") for flag in flags[::2])
    options: dict[str, Any] = dict(zip(names, flags[1::2], strict=True))
    async with ruled(**options) as engine, listener(engine) as address:
        print(f"ready on {address} ", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    warm_replicas.fork_from_here()
    asyncio.run(main(sys.argv[1:]))
