"""A replica checks at an interval, and on request, whether it is still what it loaded.

It runs on its own thread, beside the stages: it reads the file system and memory, and computes
nothing that could wait for a forward.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from proto import replica_pb2
from server.replica.fault_guard import Failed, fault_guard
from server.request.by_name import filled

Send = Callable[[replica_pb2.FromReplica], None]


class ChangedItem(Protocol):
    """One difference from what was loaded; fields as in proto/replica.proto."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def affects_answers_now(self) -> bool: ...


class IntegrityWatch(Protocol):
    """Both pipelines.bundle.skew.SkewWatch and the watches of tests match it."""

    def look(self) -> Sequence[ChangedItem]:
        """Compare file metadata; takes milliseconds."""

    def verify(self, disk: bool) -> Sequence[ChangedItem]:
        """Compare every byte in memory and, with `disk`, of every file."""


class IntegrityCheck:
    def __init__(self, watch: IntegrityWatch, send: Send, interval_s: float) -> None:
        self._watch = watch
        self._send = send
        self._interval_s = interval_s
        self._asked: queue.SimpleQueue[replica_pb2.Verify] = queue.SimpleQueue()

    def ask(self, verify: replica_pb2.Verify) -> None:
        """Request a comparison, from any thread; requests are answered in order."""
        self._asked.put(verify)

    def run(self) -> None:
        """Returns only when the front is gone."""
        asked: replica_pb2.Verify | None = None
        while True:
            try:
                self._send(replica_pb2.FromReplica(looked=self._looked(asked)))
            except ConnectionError:
                return
            try:
                asked = self._asked.get(timeout=self._interval_s)
            except queue.Empty:
                asked = None

    def _looked(self, asked: replica_pb2.Verify | None) -> replica_pb2.Looked:
        began = time.perf_counter()
        looked = replica_pb2.Looked(verify_id=asked.id if asked is not None else 0)
        try:
            with fault_guard("LOOK_FAILED"):
                found = self._watch.look() if asked is None else self._watch.verify(asked.disk)
                looked.changed.extend(filled(replica_pb2.Changed, item) for item in found)
        except Failed as error:  # a check that fails silently would pass as a good one
            looked.error = error.fault.message
        looked.took_ms = (time.perf_counter() - began) * 1e3
        return looked
