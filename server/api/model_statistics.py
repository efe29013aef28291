"""Counts of answers and refusals, and the time spent in each stage, since start: what the Open
Inference Protocol calls model statistics. The engine counts its own rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.telemetry.outputs import Timing
from server.types import Outcome


@dataclass(slots=True)
class Total:
    count: int = 0
    ms: float = 0.0

    def add(self, ms: float) -> None:
        self.count += 1
        self.ms += ms


@dataclass(slots=True)
class ModelStatistics:
    """Sums over rows. `executions` counts forwards: a row in a batch of n is 1/n of one."""

    wall: Callable[[], float] = time.time
    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    executions: float = 0.0
    last_unix_ms: int = 0
    invalid_rows: int = 0  # refused by their bytes alone, before the engine

    def add(self, outcome: Outcome) -> None:
        timing: Timing = outcome.timing
        if outcome.answer is None:
            self.fail.add(timing.total_ms)
            return
        self.success.add(timing.total_ms)
        self.queue.add(timing.queue_ms)
        self.compute_input.add(timing.decode_ms + timing.preprocess_ms)
        self.compute_infer.add(timing.forward_ms)
        self.compute_output.add(timing.post_ms)
        self.executions += 1 / max(outcome.batch_size, 1)
        self.last_unix_ms = int(self.wall() * 1000)
