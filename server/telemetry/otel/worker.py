"""The queue to which the request path appends, and the one thread that empties it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.telemetry.otel.event import ERRORS_OF_OURS, OtelEvent, deploy_event, error_event
from server.telemetry.otel.items import Alone, ObservedCall, RowItem
from server.telemetry.otel.metric_store import SpanMark
from server.telemetry.otel.resources import ServedStamp, StampResources

if TYPE_CHECKING:
    from server.telemetry.otel.logs import Logs
    from server.telemetry.otel.traces import Traces

BACKLOG = 8192  # items; the queue is emptied ten times a second
TICK_S = 0.1
# After this many items comes a pause: with a backlog, the event loop must not wait for the
# interpreter.
CHUNK = 8
BREATH_S = 1e-4

Item = ObservedCall | Alone | OtelEvent


@dataclass(eq=False)
class ExportWorker:
    resources: StampResources
    traces: Traces | None
    logs: Logs | None
    served: Callable[[], ServedStamp]

    def __post_init__(self) -> None:
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otel-drain", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        """Never waits: if there is no room the item is dropped and counted."""
        if len(self._items) >= BACKLOG:
            self.dropped += 1
        else:
            self._items.append(item)

    def end(self) -> None:
        """Process the waiting items, then end."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            self.work_off()
        self.work_off()

    def work_off(self) -> None:
        """Process all waiting items; only one thread at a time."""
        self._look_at_served()
        while self._items:
            with self.resources.still:
                for _ in range(min(CHUNK, len(self._items))):
                    self._take(self._items.popleft())
            time.sleep(BREATH_S)

    def _look_at_served(self) -> None:
        served, before = self.served(), self.resources.served
        if served.stamp != before.stamp:
            self.resources.served = served
            self.put(deploy_event(served.stamp, served.name, before.stamp, time.time_ns()))

    def _take(self, item: Item) -> None:
        if isinstance(item, ObservedCall):
            self._take_call(item)
        elif isinstance(item, Alone):
            self._take_alone(item)
        elif self.logs is not None:
            self.logs.write(self.resources.place(item.stamp).logger, item)

    def _take_call(self, call: ObservedCall) -> None:
        place = self.resources.place(call.rows[0].stamp if call.rows else "")
        marks: Sequence[SpanMark | None] = [None] * (len(call.rows) + 1)
        # A call without rows gets a trace only if its caller asked for one.
        wanted = call.trace is not None and (call.rows or call.caller is not None)
        if self.traces is not None and wanted and call.trace and call.trace.sampled:
            marks = self.traces.write_call(place.tracer, call, place.model)
        place.store.add_call(call, marks[0])
        for row, mark in zip(call.rows, marks[1:], strict=True):
            self._take_row(row, mark)

    def _take_alone(self, alone: Alone) -> None:
        mark = None
        if self.traces is not None and alone.trace is not None and alone.trace.sampled:
            place = self.resources.place(alone.row.stamp)
            mark = self.traces.write_alone(place.tracer, alone, place.model)
        self._take_row(alone.row, mark)

    def _take_row(self, row: RowItem, mark: SpanMark | None) -> None:
        place = self.resources.place(row.stamp)
        place.store.add_row(row, mark)
        if self.logs is not None and row.error_code in ERRORS_OF_OURS:
            self.logs.write(place.logger, error_event(row, mark))
