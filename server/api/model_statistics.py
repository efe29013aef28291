"""Counts of answers and refusals, and the time spent in each stage, since start: the model
statistics of the Open Inference Protocol. The engine counts its own rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """Sums over requests. The rows of a request run side by side, so the slowest row gives the time
    of a stage. `rows` counts each row. `executions` counts forwards: a row in a batch of n counts
    as 1/n of one."""

    wall: Callable[[], float] = time.time
    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    rows: int = 0
    executions: float = 0.0
    last_unix_ms: int = 0
    invalid_rows: int = 0  # refused by their bytes alone, before they reached the engine

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add the rows of one request that reached the engine. The request fails if none is
        answered."""
        answered = [one for one in outcomes if one.answer is not None]
        if not answered:
            self.fail.add(max((one.timing.total_ms for one in outcomes), default=0.0))
            return
        times = [one.timing for one in answered]
        self.success.add(max(one.total_ms for one in times))
        self.queue.add(max(one.queue_ms for one in times))
        self.compute_input.add(max(one.decode_ms + one.preprocess_ms for one in times))
        self.compute_infer.add(max(one.forward_ms for one in times))
        self.compute_output.add(max(one.post_ms for one in times))
        self.rows += len(answered)
        self.executions += sum(1 / max(one.batch_size, 1) for one in answered)
        self.last_unix_ms = int(self.wall() * 1000)
