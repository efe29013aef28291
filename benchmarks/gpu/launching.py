"""How much the threads that prepare rows delay the launching thread.

A burst of small operators represents the launches of a forward. It runs alone; beside threads that
prepare rows as a replica does, with decoders in separate processes; beside threads that also
decode; and beside other processes that do the same work, which use the same processors but not this
interpreter's lock. These take turns, so that other work on the machine affects all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import torch

from benchmarks.gpu.measure import arguments, head, left, p50, p99, row, show
from benchmarks.support.bound import sample
from benchmarks.support.payloads import pool
from pipelines.pipeline import Pipeline
from server.replica.decoding.nursery import Nursery
from server.replica.decoding.parts import PartDecoders

OPERATORS = 500  # launches of a decode step at 36 layers
BURSTS = 20  # in one turn


def burst(small: torch.Tensor) -> float:
    """Milliseconds of one burst."""
    began = time.perf_counter()
    for _ in range(OPERATORS):
        small.add_(1)
    return (time.perf_counter() - began) * 1e3


@contextmanager
def beside(works: list[Callable[[], object]]) -> Iterator[None]:
    """Repeat each of these in a thread."""
    ended = threading.Event()

    def again(work: Callable[[], object]) -> None:
        while not ended.is_set():
            work()

    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def elsewhere(bundle: str, ready: Event, running: Event) -> None:
    """A process that prepares rows while `running` is set, until its parent ends."""
    pipeline = Pipeline.load(bundle, device="cpu", threads=1, allow_dirty=True)
    one = sample(0, pool(1)[0])
    ready.set()
    parent = os.getppid()
    while os.getppid() == parent:
        if running.wait(0.2):
            pipeline.prepare(one)


def main() -> None:
    given = arguments(threads=4)
    threads, turns = (2, 3) if given.small else (given.threads, 20)
    pipeline = Pipeline.load(given.bundle, device="cpu", threads=1, allow_dirty=True)
    one = sample(0, pool(1)[0])
    small = torch.ones(8, device=given.device)
    spawning = multiprocessing.get_context("spawn")
    ready, running = [spawning.Event() for _ in range(threads)], spawning.Event()
    others = [
        spawning.Process(target=elsewhere, args=(given.bundle, event, running), daemon=True)
        for event in ready
    ]
    decoders = PartDecoders(threads, pipeline.limits, Nursery())
    decoders.pool.start()

    def served() -> object:
        with decoders.row(one.parts) as decode_part:
            return pipeline.prepare(one, decode_part)

    @contextmanager
    def switching(seconds: float) -> Iterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(seconds)
        try:
            with beside([served] * threads):
                yield
        finally:
            sys.setswitchinterval(before)

    @contextmanager
    def processes() -> Iterator[None]:
        running.set()
        try:
            yield
        finally:
            running.clear()

    modes: dict[str, Callable[[], Any]] = {
        "nothing": ExitStack,
        "threads that prepare, decoders in processes": lambda: beside([served] * threads),
        "the same, switching after 0.5 ms": lambda: switching(0.0005),
        "threads that decode too": lambda: beside([lambda: pipeline.prepare(one)] * threads),
        "processes that decode and prepare": processes,
    }
    times: dict[str, list[float]] = {name: [] for name in modes}
    for process in others:
        process.start()
    try:
        if not all(event.wait(left(given.budget)) for event in ready):
            show("no time left")
            return
        for _ in range(turns):
            for name, mode in modes.items():
                with mode():
                    time.sleep(0.05)
                    times[name] += [burst(small) for _ in range(BURSTS)]
    finally:
        for process in others:
            process.kill()
    show(f"### {OPERATORS} operators on {given.device}, beside {threads} others, {turns} turns")
    head("beside", "p50 ms", "p99 ms", "of alone")
    for name, found in times.items():
        alone = p50(times["nothing"])
        row(name, f"{p50(found):.2f}", f"{p99(found):.2f}", f"{p50(found) / alone:.2f}")
    os._exit(0)  # the decoders end with this process


if __name__ == "__main__":
    main()
