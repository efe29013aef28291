"""The queue between answering and telemetry."""

from __future__ import annotations

import logging
import threading

import pytest

from server.telemetry.errors import StoreBusy
from server.telemetry.recorder import Queued, Recorder
from tests.support.patience import patience
from tests.support.telemetry_bench import SCHEMA, record


class Sink:
    """Takes batches, and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.idle_calls = 0
        self.fail = False

    def write(self, batch: list[Queued]) -> None:
        self.gate.wait(patience(20))
        if self.fail:
            raise RuntimeError("planted")
        self.ids += [r.prediction_id for r, _ in batch]

    def idle(self) -> None:
        self.idle_calls += 1


def test_rows_arrive_in_order_and_close_writes_what_is_queued() -> None:
    sink = Sink()
    recorder = Recorder(sink.write, sink.idle)
    rows = [record(i) for i in range(3000)]
    for row in rows:
        recorder.put(row, SCHEMA)
    recorder.start()
    assert recorder.close()
    assert sink.ids == [row.prediction_id for row in rows]
    assert recorder.recorded == 3000 and recorder.dropped == 0 and sink.idle_calls > 0


def test_a_full_queue_drops_and_counts_instead_of_waiting() -> None:
    sink = Sink()
    recorder = Recorder(sink.write, sink.idle, limit_rows=100)
    for i in range(150):
        recorder.put(record(i))
    assert (recorder.queued, recorder.dropped) == (100, 50)
    recorder.start()
    assert recorder.close()
    assert len(sink.ids) == 100


def test_payloads_that_wait_are_bounded_in_bytes() -> None:
    recorder = Recorder(lambda batch: None, lambda: None, limit_payload_bytes=250)
    for i in range(5):
        recorder.put(record(i, payload=b"x" * 100))
    assert (recorder.queued, recorder.payloads_dropped) == (5, 3)
    recorder.start()
    recorder.call(lambda: None)
    recorder.put(record(9, payload=b"x" * 100))
    assert recorder.payloads_dropped == 3
    assert recorder.close()


def test_a_call_runs_after_the_rows_put_before_it() -> None:
    sink = Sink()
    recorder = Recorder(sink.write, sink.idle)
    recorder.start()
    for i in range(500):
        recorder.put(record(i))
    assert recorder.call(lambda: len(sink.ids)) == 500
    assert recorder.close()


def test_a_call_raises_what_its_work_raises() -> None:
    recorder = Recorder(lambda batch: None, lambda: None)
    recorder.start()
    with pytest.raises(ZeroDivisionError):
        recorder.call(lambda: 1 / 0)
    assert recorder.call(lambda: "alive") == "alive"
    assert recorder.close()


def test_a_call_gives_up_when_the_store_is_busy() -> None:
    sink = Sink()
    sink.gate.clear()
    recorder = Recorder(sink.write, sink.idle)
    recorder.start()
    recorder.put(record(0))
    done: list[int] = []
    with pytest.raises(StoreBusy):
        recorder.call(lambda: done.append(1), timeout_s=0.05)
    sink.gate.set()
    assert recorder.close()
    assert done == []  # given up means not done later either


def test_a_fault_costs_its_rows_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    recorder = Recorder(sink.write, sink.idle)
    sink.fail = True
    recorder.start()
    recorder.put(record(0))
    with caplog.at_level(logging.CRITICAL):
        recorder.call(lambda: None)
    sink.fail = False
    recorder.put(record(1))
    assert recorder.close()
    assert recorder.lost == 1 and sink.ids == [record(1).prediction_id]


def test_posted_work_is_done_without_waiting() -> None:
    recorder = Recorder(lambda batch: None, lambda: None)
    done: list[str] = []
    recorder.post(lambda: done.append("before the start"))
    recorder.start()
    assert recorder.close()
    assert done == ["before the start"]
