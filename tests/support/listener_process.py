"""The server's listener around an engine without replicas, as a process that can be killed:
`python -m tests.support.listener_process --stamp HEX --words WORDS --pause-ms MS`. It is up in a
second."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from server.errors import stamp_differs
from server.types import Fault, GenerationEnd, Outcome, Token, Work
from tests.support.patience import patience
from tests.support.running import END_WITHIN_S, READY_WITHIN_S, ROOT, Program, listener
from tests.support.standin_engine import STAMP, TIMING, StandInEngine, answer_to, with_stamp

WORDS = "smoke near the drive of station nine since the last shift"


class PacedEngine(StandInEngine):
    """Takes `pause_s` for an answer, and for each word of a text."""

    def __init__(self, stamp: str, words: str, pause_s: float) -> None:
        super().__init__()
        self.facts = with_stamp(stamp)
        self._stamp = stamp
        self._words = words.split()
        self._pause_s = pause_s

    async def predict(self, work: Work) -> Outcome:
        await asyncio.sleep(self._pause_s)
        return replace(await super().predict(work), stamp=self._stamp)

    async def generate(self, work: Work) -> AsyncIterator[Token | GenerationEnd]:
        fault = await self._look_at(work)
        for word in () if fault else self._words:
            await asyncio.sleep(self._pause_s)
            yield Token(f"{word} ")
        answer = None if fault else answer_to(work)
        outcome = Outcome(work.id, answer, fault, TIMING, 1, self._stamp, 0)
        yield GenerationEnd(outcome, "" if fault else "stop", len(self._words), 1.5)

    async def _look_at(self, work: Work) -> Fault | None:
        if work.expected_stamps and self._stamp not in work.expected_stamps:
            return stamp_differs(self._stamp)
        return await super()._look_at(replace(work, expected_stamps=frozenset()))


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
    command = [sys.executable, "-m", "tests.support.listener_process", *flags]
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


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stamp", default=STAMP)
    parser.add_argument("--words", default=WORDS)
    parser.add_argument("--pause-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    engine = PacedEngine(arguments.stamp, arguments.words, arguments.pause_ms / 1000)
    async with listener(engine) as address:
        print(f"ready on {address} ", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
