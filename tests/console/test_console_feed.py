"""The feed against real gRPC servers on loopback: killed, revived, restarted, wrong and hostile."""

from __future__ import annotations

import asyncio
import functools
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from console.app.arguments import check_address
from console.cache.writer import CacheWriter
from console.feed.address import unprotected
from console.feed.backoff import Backoff
from console.feed.clock import ClockOffset
from console.feed.hub import MOST_BACKLOG, Hub
from console.state.access import ConnectionAccess
from console.state.domain import (
    Link,
    ServerSnapshot,
)
from proto import observe_pb2, observe_pb2_grpc
from server.telemetry.rows import (
    DriftRow,
    LatencyRow,
    SliceRow,
)
from tests.support.fleet_story import FLEET
from tests.support.kept_rows import Kept, until
from tests.support.observe_stand_in import Fleet, StandIn
from tests.support.patience import patience
from tests.support.secure_listener import secure_listener


def stand_in(number: int = 0, past_s: int = 20, **more: object) -> StandIn:
    return StandIn(replace(FLEET[number], **more), past_s=past_s, hertz=20)  # type: ignore[arg-type]


def latency_keys(found: Sequence[object]) -> set[tuple[int, str]]:
    return {(r.bucket_unix_ms, r.mix) for r in found if isinstance(r, LatencyRow)}


def test_server_that_asks_for_certificates_shows_itself_to_ours_alone(
    sink: Kept, tmp_path: Path
) -> None:
    async def heard(access: ConnectionAccess, address: str) -> Link:
        hub = Hub([address], access, sink, lambda: None)

        def shown() -> list[Link]:
            return [link for link in hub.links().values() if link.state == "live" or link.detail]

        hub.start()
        try:
            await asyncio.to_thread(until, lambda: bool(shown()))
            return shown()[0]
        finally:
            await asyncio.to_thread(hub.close)

    async def play() -> tuple[Link, Link]:
        async with secure_listener(tmp_path, mutual=True) as site:
            ca, mine = site.pem / "ca.pem", site.pem / "client-observe"
            ours = ConnectionAccess(
                True, ca, None, mine.with_suffix(".pem"), mine.with_suffix(".key")
            )
            return await heard(ours, site.address), await heard(
                ConnectionAccess(True, ca), site.address
            )

    known, stranger = asyncio.run(play())
    assert known.state == "live", known.detail
    assert stranger.state != "live"
    assert "certificate" in stranger.detail, "what the other side means by hanging up"


def test_outage_leaves_no_hole_in_the_record(sink: Kept, start: Callable[..., Hub]) -> None:
    one = stand_in()
    with Fleet([one]) as fleet:
        hub = start(fleet.addresses)
        address = fleet.addresses[0]
        until(lambda: hub.links().get(address) is not None)
        until(lambda: hub.links()[address].state == "live")
        fleet.kill(0)
        until(lambda: hub.links()[address].state in ("reconnecting", "lost"))
        one.advance()
        seen = len(one.journal)
        time.sleep(2.2)  # a bucket passes unheard
        fleet.revive(0)
        hub.retry_now()
        until(lambda: hub.links()[address].state == "live")
        until(lambda: len(one.journal) > seen)
        wanted = {
            (e.latency.bucket_unix_ms, e.latency.mix)
            for e in (*one.past, *one.journal)
            if e.HasField("latency")
        }
        until(lambda: wanted <= latency_keys(sink.rows(LatencyRow)))


def test_history_cut_short_is_asked_again(sink: Kept, start: Callable[..., Hub]) -> None:
    """A console that ends before it has the past must not remember a cursor behind the hole."""
    servicer = stand_in()
    release = threading.Event()
    whole = servicer.past
    servicer.past = Slow(whole, release)  # type: ignore[assignment]
    with Fleet([servicer]) as fleet:
        hub = start(fleet.addresses)
        until(lambda: len(sink.rows(LatencyRow)) > 0 and bool(hub.links()))
        assert all(event.cursor == 0 for event in sink.events)
        assert hub.links()[fleet.addresses[0]].state == "catching up"
        release.set()
        wanted = sum(event.HasField("latency") for event in whole)
        until(lambda: len(sink.rows(LatencyRow)) >= wanted)
        until(lambda: any(event.cursor for event in sink.events))
        until(lambda: hub.links()[fleet.addresses[0]].state == "live")


class Slow:
    """Rows of the past that stop half way until they are released."""

    def __init__(self, rows: Sequence[object], release: threading.Event) -> None:
        self._rows = rows
        self._release = release

    def __iter__(self) -> Iterator[object]:
        yield from self._rows[: len(self._rows) // 2]
        self._release.wait(patience(20))
        yield from self._rows[len(self._rows) // 2 :]


def test_restarted_server_is_asked_for_its_history(sink: Kept, start: Callable[..., Hub]) -> None:
    with Fleet([stand_in()]) as fleet:
        hub = start(fleet.addresses)
        address = fleet.addresses[0]
        until(lambda: address in hub.links() and hub.links()[address].state == "live")
        fleet.kill(0)
        again = stand_in(past_s=50)
        fleet.revive(0, again)
        until(lambda: hub.links()[address].instance == again.instance)
        wanted = {(e.latency.bucket_unix_ms, e.latency.mix) for e in again.past
                  if e.HasField("latency")}  # fmt: skip
        until(lambda: wanted <= latency_keys(sink.rows(LatencyRow)))


def test_clock_offset_is_known_within_the_round_trip(sink: Kept, start: Callable[..., Hub]) -> None:
    with Fleet([stand_in(clock_ms=412.0)]) as fleet:
        hub = start(fleet.addresses)
        address = fleet.addresses[0]
        until(lambda: address in hub.links() and hub.links()[address].rtt_ms >= 0)
        link = hub.links()[address]
        assert abs(link.offset_ms - 412) <= link.rtt_ms / 2 + 5
        until(lambda: address in sink.offsets)


def test_clock_offset_is_kept_for_when_the_server_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    writer = CacheWriter(path, lambda tables: None)
    writer.start()
    with Fleet([stand_in(clock_ms=412.0)]) as fleet:
        hub = Hub(fleet.addresses, ConnectionAccess(), writer, lambda: None)
        hub.start()
        until(lambda: any(link.heard_s for link in hub.links().values()))
        hub.close()
    writer.close()
    with closing(sqlite3.connect(path)) as db:
        (kept,) = db.execute("SELECT offset_ms FROM server").fetchall()
    (link,) = hub.links().values()
    assert kept == (link.offset_ms,)


def test_bad_servers_never_disturb_the_rest(sink: Kept, start: Callable[..., Hub]) -> None:
    """Nobody there, a peer that sends nothing, garbage rows, another protocol: and a good one."""
    deaf = socket.create_server(("127.0.0.1", 0))
    with Fleet([stand_in(), stand_in(1, hostile=True)]) as fleet, deaf:
        silent = f"127.0.0.1:{deaf.getsockname()[1]}"
        good, hostile = fleet.addresses
        hub = start([silent, "127.0.0.1:9", hostile, good])
        until(lambda: len(hub.links()) == 4)
        until(lambda: hub.links()[good].state == "live")
        until(lambda: hub.links()[hostile].refused_rows > 0)
        assert "2 buckets, 64 expected" in hub.links()[hostile].refused_why
        assert hub.links()["127.0.0.1:9"].state in ("connecting", "reconnecting", "lost")
        assert hub.links()[silent].state != "live"
        for kind in (LatencyRow, DriftRow, SliceRow):
            until(functools.partial(lambda kind: bool(sink.rows(kind, good)), kind))
        named = [r for r in sink.rows(ServerSnapshot, hostile) if isinstance(r, ServerSnapshot)]
        assert "\u202e" not in named[0].server
        assert len(named[0].reason) < 2100


class OldObserve(observe_pb2_grpc.ObserveServicer):
    """A server from before History, Slices and clocks: snapshots with few fields, nothing else."""

    def Watch(
        self, request: observe_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[observe_pb2.WatchEvent]:
        while context.is_active():
            yield observe_pb2.WatchEvent(snapshot=observe_pb2.ServerSnapshot(server="old"))
            yield observe_pb2.WatchEvent.FromString(b"\xfa\x3f\x03abc")  # a field of tomorrow
            if request.once:
                return
            time.sleep(0.05)


def test_old_and_foreign_servers_are_reported_as_such(
    sink: Kept, start: Callable[..., Hub]
) -> None:
    """An old protocol, a gRPC server without Observe, and something that speaks HTTP/1."""
    old = grpc.server(ThreadPoolExecutor(8))
    observe_pb2_grpc.add_ObserveServicer_to_server(OldObserve(), old)
    foreign = grpc.server(ThreadPoolExecutor(2))
    addresses = [f"127.0.0.1:{s.add_insecure_port('127.0.0.1:0')}" for s in (old, foreign)]
    web = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    addresses.append(f"127.0.0.1:{web.server_address[1]}")
    threading.Thread(target=web.serve_forever, daemon=True).start()
    for server in (old, foreign):
        server.start()
    with Fleet([stand_in()]) as fleet:
        try:
            hub = start([*addresses, *fleet.addresses])
            until(lambda: len(hub.links()) == 4)
            until(lambda: hub.links()[fleet.addresses[0]].state == "live")
            until(lambda: any(isinstance(e.row, ServerSnapshot) and e.row.server == "old"
                              for e in tuple(sink.events)))  # fmt: skip
            links = hub.links
            until(lambda: "too old" in links()[addresses[1]].detail)
            until(lambda: bool(links()[addresses[2]].detail))
            assert links()[addresses[0]].heard_s > 0
            for lost in addresses[1:]:
                assert links()[lost].state in ("connecting", "reconnecting", "lost")
                assert links()[lost].heard_s == 0
        finally:
            web.shutdown()
            web.server_close()
            for server in (old, foreign):
                server.stop(None)


def test_server_killed_and_restarted_leaves_no_hole_in_the_cache(tmp_path: Path) -> None:
    """All the way to the file: every bucket that the server still has, once."""
    path = tmp_path / "cache.db"
    one = stand_in()
    writer = CacheWriter(path, lambda tables: None)
    writer.start()
    with Fleet([one]) as fleet:
        hub = Hub(fleet.addresses, ConnectionAccess(), writer, lambda: None)
        hub.start()
        address = fleet.addresses[0]
        until(lambda: bool(hub.links()) and hub.links()[address].state == "live")
        fleet.kill(0)
        until(lambda: hub.links()[address].state in ("reconnecting", "lost"))
        time.sleep(2.2)  # a bucket passes unheard
        again = stand_in(past_s=40)  # the process is another one, its past is kept
        fleet.revive(0, again)
        hub.retry_now()
        until(lambda: hub.links()[address].instance == again.instance)
        wanted = {(e.latency.bucket_unix_ms, e.latency.mix) for e in again.past
                  if e.HasField("latency")}  # fmt: skip

        def kept() -> list[tuple[int, str]]:
            with closing(sqlite3.connect(path)) as db:
                return db.execute(
                    "SELECT bucket_ms, name.text FROM latency JOIN name ON name.id = mix"
                    " WHERE level = 0"
                ).fetchall()

        until(lambda: wanted <= set(kept()))
        found = kept()
        assert len(found) == len(set(found))
        hub.close()
    writer.close()


@pytest.mark.parametrize(
    ("address", "tls", "open_"),
    [("127.0.0.1:1", False, False), ("localhost:1", False, False), ("[::1]:1", False, False),
     ("10.1.2.3:1", False, True), ("gpu-01.lon:1", False, True), ("10.1.2.3:1", True, False)],
)  # fmt: skip
def test_plaintext_over_a_network_is_known(address: str, tls: bool, open_: bool) -> None:
    assert unprotected(address, ConnectionAccess(tls=tls)) is open_


def test_a_hundred_servers_share_one_thread(sink: Kept, start: Callable[..., Hub]) -> None:
    with Fleet([stand_in(past_s=4)]) as fleet:
        port = fleet.addresses[0].rpartition(":")[2]
        addresses = [f"127.0.0.{n + 1}:{port}" for n in range(1)]
        addresses += [f"localhost:{port}", *(f"127.0.0.1:{n}" for n in range(1, 99))]
        hub = start(addresses)
        until(lambda: len(hub.links()) == 100)
        until(lambda: hub.links()[addresses[0]].state == "live")
        assert sum(t.name == "console feed" for t in threading.enumerate()) == 1


def test_full_disk_queue_stops_the_reading(sink: Kept, start: Callable[..., Hub]) -> None:
    sink.backlog = MOST_BACKLOG + 1
    with Fleet([stand_in(past_s=4)]) as fleet:
        hub = start(fleet.addresses)
        until(lambda: bool(hub.links()) and hub.links()[fleet.addresses[0]].rtt_ms >= 0)
        time.sleep(0.3)
        assert sink.events == []
        sink.backlog = 0
        until(lambda: len(sink.rows(LatencyRow)) > 0)


def test_waits_double_with_jitter_and_health_forgets_them() -> None:
    highest = Backoff(lambda low, high: high)
    assert [highest.wait_s() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    highest.lived(5)
    assert highest.wait_s() == 30
    highest.lived(31)
    assert highest.wait_s() == 0.5
    lowest = Backoff(lambda low, high: low)
    assert all(lowest.wait_s() > 0.04 for _ in range(20))


def test_offset_is_that_of_the_quickest_trip() -> None:
    clock = ClockOffset(keep=3)
    assert clock.offset_ms != clock.offset_ms
    clock.add(1000, 1500, 1400)  # 400 ms there and back
    clock.add(2000, 2422, 2020)
    clock.add(3000, 3000, 2000)  # time ran backwards: not a trip
    assert (clock.rtt_ms, clock.offset_ms) == (20, 412)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:99999", ":80", "host:x"])
def test_bad_address_is_named(text: str) -> None:
    with pytest.raises(ValueError):
        check_address(text)


# ---- a server that floods ------------------------------------------------------------------------
