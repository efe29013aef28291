"""What the feed accepts from a server: only rows that can be true, within its allowance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from console.cache.writer import CacheWriter
from console.feed.allowance import BYTES_PER_S, LONGEST_WAIT_S, Allowance
from console.feed.decode import RowRefused, event
from console.feed.hub import Hub
from console.state.domain import ReceivedRow
from proto import observe_pb2, observe_pb2_grpc
from server.telemetry.rows import (
    AlertRow,
    LatencyRow,
)
from tests.console.test_console_feed import stand_in
from tests.support.blank_rows import blank
from tests.support.kept_rows import Kept, until
from tests.support.observe_stand_in import Fleet


@pytest.mark.parametrize(
    "row",
    [
        {"latency": observe_pb2.LatencyRow(counts=[1] * 63, bucket_unix_ms=10**12 * 2, width_s=1)},
        {"latency": observe_pb2.LatencyRow(counts=[1] * 64, bucket_unix_ms=5, width_s=1)},
        {"latency": observe_pb2.LatencyRow(counts=[1] * 64, bucket_unix_ms=10**12 * 2, width_s=1,
                                           queue_ms=float("nan"))},
        {"latency": observe_pb2.LatencyRow(counts=[1] * 64, bucket_unix_ms=10**12 * 2)},
        {"alert": observe_pb2.AlertRow(opened_unix_ms=10**12 * 2)},
        {"prediction": observe_pb2.PredictionRow(at_unix_ms=10**12 * 2)},
        {"profile": observe_pb2.ProfileRow(hour_unix_s=-9)},
        {"feature": observe_pb2.FeatureRow(name="x", edges=[float("inf")])},
    ],
)  # fmt: skip
def test_rows_that_cannot_be_true_are_refused(row: dict[str, object]) -> None:
    with pytest.raises(RowRefused):
        event(observe_pb2.WatchEvent(**row), "a:1", 0.0)  # type: ignore[arg-type]


def test_kinds_of_tomorrow_are_left_alone() -> None:
    assert event(observe_pb2.WatchEvent(), "a:1", 0.0) is None


class Flood(observe_pb2_grpc.ObserveServicer):
    """Sends rows as fast as they are taken; counts them."""

    def __init__(self, text: str = "z" * 1500) -> None:
        self.sent = 0
        self.text = text

    def Watch(
        self, request: observe_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[observe_pb2.WatchEvent]:
        yield self._event(
            snapshot=observe_pb2.ServerSnapshot(server="loud", state=observe_pb2.READY)
        )
        while not request.once and context.is_active():
            self.sent += 1
            at_ms = int(time.time() * 1000)
            name = f"{self.sent} {self.text}"
            alert = observe_pb2.AlertRow(id=name[:40], summary=name, opened_unix_ms=at_ms)
            yield self._event(alert=alert)

    def _event(self, **kind: Any) -> observe_pb2.WatchEvent:
        now_ns = int(time.time() * 1e9)
        return observe_pb2.WatchEvent(
            server_unix_ns=now_ns, instance="loud", cursor=self.sent + 1, **kind
        )


def test_a_server_that_floods_is_slowed_down_and_named(
    sink: Kept, start: Callable[..., Hub]
) -> None:
    """What is read stays within the allowance, whatever is sent; the honest server is not held."""
    flood = Flood()
    with grpc_server(flood) as loud, Fleet([stand_in(past_s=4)]) as fleet:
        (honest,) = fleet.addresses
        began = time.monotonic()
        hub = start([loud, honest], allowance=lambda: Allowance(rows_per_s=600.0, burst_s=3.0))
        until(lambda: loud in hub.links() and hub.links()[loud].flood != "")
        until(lambda: len(sink.rows(LatencyRow, honest)) > 3)
        until(lambda: len(sink.rows(AlertRow, loud)) > 4000)
        seconds = time.monotonic() - began
        read = len(sink.rows(AlertRow, loud))
    assert "rows/s" in hub.links()[loud].flood and hub.links()[honest].flood == ""
    # A batch may go over the allowance by its own size, which the wait then pays for.
    assert read <= 600.0 * (seconds + 3.0) + 2 * 1000


@contextmanager
def grpc_server(servicer: observe_pb2_grpc.ObserveServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8))
    observe_pb2_grpc.add_ObserveServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_rows_and_bytes_above_the_allowance_are_waited_for() -> None:
    now = [100.0]
    found = Allowance(lambda: now[0])
    assert found.wait_s(1000, 1 << 20) == 0.0 and found.message() == ""
    assert found.wait_s(200_000, 0) > 0.0  # rows
    assert "5,000 rows/s" in found.message()
    now[0] += 60.0
    assert found.message() == "", "a flood ends"
    assert found.wait_s(1, 0) == 0.0
    assert 0.0 < found.wait_s(1, 100 << 20) <= LONGEST_WAIT_S  # bytes
    began = now[0]
    for _ in range(1000):  # 1 GB: what is read in the end is what was allowed
        now[0] += found.wait_s(100, 1 << 20)
    assert now[0] - began >= (1 << 30) * 0.9 / BYTES_PER_S


def test_a_row_larger_than_any_true_one_is_refused_by_its_size() -> None:
    row = observe_pb2.PredictionRow(prediction_id="p", features=[0.5] * 100_000)
    with pytest.raises(RowRefused, match="prediction: .* bytes; the limit is 262,144"):
        event(observe_pb2.WatchEvent(prediction=row), "a:1", 0.0)


def test_a_backlog_counts_the_size_of_its_rows(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "cache.db", lambda tables: None)
    row = blank(AlertRow, id="a", opened_unix_ms=1)
    writer.put([ReceivedRow("a:1", 0, "", 0.0, row, size=200 << 10)] * 100)
    assert writer.backlog == 100 * 201
