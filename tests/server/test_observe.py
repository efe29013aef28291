"""Watching, searching and answering telemetry over real gRPC, with real telemetry behind it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import inference_pb2, inference_pb2_grpc
from proto import observe_pb2 as pb
from proto.observe_pb2_grpc import ObserveStub
from server.api.observe import DEFAULT_INTERVAL_S
from server.telemetry.change_feed import LIMITS
from server.telemetry.findings import Finding
from server.telemetry.rows import DeployRow
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from server.telemetry_port import NullTelemetry
from tests.support.ruled_engine import ruled
from tests.support.running import IDENTITY, channel_to, listener
from tests.support.telemetry_bench import NOW, SCHEMA, Clock, bundle, record

BUNDLE = bundle(rows=600)
NOW_MS = int(NOW * 1000)
SLOW = Finding("latency/pool", "latency", "high", "p99 812 ms over 250 ms", features=("total",))
QUICK = 0.1  # seconds between turns of a watcher


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    settings = TelemetrySettings(tmp_path, sample_share=1.0)
    held = Telemetry(settings, Clock(), Clock(0.0))
    held.adopt(BUNDLE)
    yield held
    held.close()


@asynccontextmanager
async def observed(telemetry: Any) -> AsyncIterator[ObserveStub]:
    async with (
        ruled() as engine,
        listener(engine, telemetry, Clock()) as address,
        channel_to(address) as channel,
    ):
        yield ObserveStub(channel)


def put(telemetry: Telemetry, count: int, **more: Any) -> None:
    """Records, written when this returns."""
    for number in range(count):
        telemetry.put(replace(record(number), **more), SCHEMA)
    telemetry.alerts()  # answered after everything put before


async def read(call: Any, enough: Callable[[list[pb.WatchEvent]], bool]) -> list[pb.WatchEvent]:
    """Events of a watch until there are enough."""
    events: list[pb.WatchEvent] = []
    while not enough(events):
        events.append(await call.read())
    return events


def kinds(events: list[pb.WatchEvent]) -> Counter[str]:
    return Counter(event.WhichOneof("event") for event in events)


def ends_at(at_unix_ms: int) -> Callable[[list[pb.WatchEvent]], bool]:
    return lambda events: bool(events) and events[-1].deploy.at_unix_ms == at_unix_ms


async def refused(call: Any) -> tuple[str, str]:
    """Code and message."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


# ---- watching ------------------------------------------------------------------------------------


async def test_watch_gives_a_snapshot_then_what_is_true_then_what_changes(
    telemetry: Telemetry,
) -> None:
    telemetry.report([SLOW])
    async with observed(telemetry) as stub:
        call = stub.Watch(pb.WatchRequest(interval_s=QUICK))
        first = await read(call, lambda e: kinds(e)["alert"] >= 1)
        telemetry.deployed(DeployRow(NOW_MS, "start", "ab" * 32, "tiny", "", "", ""))
        put(telemetry, 3)
        then = await read(call, lambda e: kinds(e)["prediction"] == 3 and kinds(e)["deploy"] == 1)
        call.cancel()
    assert first[0].WhichOneof("event") == "snapshot" and first[0].cursor == 0
    assert [e.feature.name for e in first if e.HasField("feature")] == [f.name for f in SCHEMA]
    assert next(e.alert.summary for e in first if e.HasField("alert")) == SLOW.summary
    cursors = [e.cursor for e in (*first, *then)]
    assert cursors == sorted(cursors)
    assert {e.instance for e in first} == {IDENTITY.instance}
    assert {e.server_unix_ns for e in first} == {int(NOW * 1e9)}


async def test_a_watch_resumes_where_it_ended(telemetry: Telemetry) -> None:
    async with observed(telemetry) as stub:
        call = stub.Watch(pb.WatchRequest(interval_s=QUICK))
        seen = await read(call, lambda e: kinds(e)["feature"] == len(SCHEMA))
        call.cancel()
        put(telemetry, 2)
        request = pb.WatchRequest(
            interval_s=QUICK, after_cursor=seen[-1].cursor, instance=IDENTITY.instance
        )
        call = stub.Watch(request)
        again = await read(call, lambda e: kinds(e)["prediction"] == 2)
        call.cancel()
    assert again[0].snapshot.server == IDENTITY.name and again[0].cursor == seen[-1].cursor
    assert kinds(again)["feature"] == 0


@pytest.mark.parametrize(
    ("cursor", "instance"), [(3, "another life"), (10**9, IDENTITY.instance), (3, "")]
)
async def test_a_cursor_that_means_nothing_here_starts_from_all_that_is_true(
    telemetry: Telemetry, cursor: int, instance: str
) -> None:
    async with observed(telemetry) as stub:
        call = stub.Watch(pb.WatchRequest(after_cursor=cursor, instance=instance))
        found = await read(call, lambda e: kinds(e)["feature"] == len(SCHEMA))
        call.cancel()
    assert found[0].HasField("snapshot") and found[0].cursor == 0


async def test_a_cursor_older_than_what_is_kept_starts_from_all_that_is_true(
    telemetry: Telemetry,
) -> None:
    old = telemetry.changes().cursor
    for number in range(LIMITS[DeployRow] + 20):
        telemetry.deployed(DeployRow(NOW_MS + number, "refuse", "", "", "", "", ""))
    telemetry.alerts()
    async with observed(telemetry) as stub:
        request = pb.WatchRequest(after_cursor=old, instance=IDENTITY.instance)
        call = stub.Watch(request)
        found = await read(call, lambda e: kinds(e)["deploy"] == LIMITS[DeployRow])
        call.cancel()
    assert kinds(found)["feature"] == len(SCHEMA)


async def test_a_watcher_that_does_not_read_slows_nobody_and_misses_what_is_over(
    telemetry: Telemetry,
) -> None:
    rounds, large = 20, "x" * 10_000
    made = 0
    async with (
        ruled() as engine,
        listener(engine, telemetry, Clock()) as address,
        channel_to(address) as channel,
    ):
        stub = ObserveStub(channel)
        async with channel_to(address) as other:
            slow = ObserveStub(other).Watch(pb.WatchRequest(interval_s=QUICK))
            await slow.read()
            quick = stub.Watch(pb.WatchRequest(interval_s=QUICK))
            for _ in range(rounds):
                for _ in range(LIMITS[DeployRow]):
                    made += 1
                    telemetry.deployed(DeployRow(NOW_MS + made, "refuse", "", "", "", "", large))
                await read(quick, ends_at(NOW_MS + made))
            quick.cancel()
            example = inference_pb2.Example(parts=[inference_pb2.Part(text="hum")])
            request = inference_pb2.PredictRequest(examples=[example])
            answer = await inference_pb2_grpc.InferenceStub(channel).Predict(request)
            late = await read(slow, ends_at(NOW_MS + made))
            slow.cancel()
    assert answer.results[0].prediction.label == "ok"
    assert kinds(late)["deploy"] < made
    ats = [e.deploy.at_unix_ms for e in late if e.HasField("deploy")]
    assert ats == sorted(set(ats)), "each row once, in the order of change"


@pytest.mark.parametrize("interval_s", [math.nan, -1.0])
async def test_an_interval_that_is_none_is_the_servers_own(interval_s: float) -> None:
    async with observed(NullTelemetry()) as stub:
        call = stub.Watch(pb.WatchRequest(interval_s=interval_s))
        events = [await call.read()]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5 * DEFAULT_INTERVAL_S):
                events.append(await call.read())
    assert len(events) == 1, "nothing changed, so the snapshot was not sent again"


async def test_once_is_one_snapshot_that_moves_no_cursor(telemetry: Telemetry) -> None:
    put(telemetry, 2)
    async with observed(telemetry) as stub:
        (event,) = [event async for event in stub.Watch(pb.WatchRequest(once=True))]
    assert event.cursor == 0
    assert (event.snapshot.telemetry_state, event.snapshot.telemetry_dropped) == ("ok", 0)
    assert event.snapshot.state == pb.READY


async def test_lost_telemetry_degrades_a_server_that_goes_on_serving() -> None:
    async with observed(NullTelemetry("degraded: the disk is full")) as stub:
        (event,) = [event async for event in stub.Watch(pb.WatchRequest(once=True))]
    assert event.snapshot.state == pb.DEGRADED
    assert event.snapshot.reason == "telemetry degraded: the disk is full"


# ---- the past ------------------------------------------------------------------------------------


async def history(stub: ObserveStub, **asked: Any) -> list[pb.WatchEvent]:
    return [event async for event in stub.History(pb.HistoryRequest(**asked))]


async def test_history_gives_the_kinds_and_the_span_that_were_asked_for(
    telemetry: Telemetry,
) -> None:
    for number in range(5):
        telemetry.deployed(DeployRow(NOW_MS + 1000 * number, "load", "", "", "", "", str(number)))
    put(telemetry, 40)
    async with observed(telemetry) as stub:
        deploys = await history(stub, kinds=["deploy"])
        two = await history(
            stub, kinds=["deploy"], from_unix_ms=NOW_MS + 1000, to_unix_ms=NOW_MS + 3000
        )
        every = await history(stub, to_unix_ms=NOW_MS + 10_000)
        rows = await history(stub, kinds=["prediction"], to_unix_ms=NOW_MS + 10_000)
    assert [e.deploy.detail for e in deploys] == ["0"], "an open end is now"
    assert [e.deploy.detail for e in two] == ["1", "2"]
    assert set(kinds(every)) == {"feature", "deploy", "quality"}
    assert kinds(rows) == {"prediction": 40}
    assert {e.cursor for e in every} == {0}


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"kinds": ["alert", "weather"]}, "kinds[1]"),
        ({"from_unix_ms": 2000, "to_unix_ms": 1000}, "to_unix_ms"),
        ({"from_unix_ms": -1}, "from_unix_ms"),
    ],
)
async def test_a_history_that_cannot_be_is_refused_by_its_field(
    telemetry: Telemetry, asked: dict[str, Any], field: str
) -> None:
    async with observed(telemetry) as stub:
        call = stub.History(pb.HistoryRequest(**asked))
        code, message = await refused(call.read())
    assert code == "INVALID_ARGUMENT" and message.startswith(field)


async def test_samples_come_by_id_in_order_and_by_filter_newest_first(
    telemetry: Telemetry,
) -> None:
    for number in range(20):
        telemetry.put(record(number, NOW + number), SCHEMA)
    telemetry.alerts()
    ids = [record(number, NOW + number).prediction_id for number in (7, 3)]
    async with observed(telemetry) as stub:
        by_id = await stub.Samples(pb.SamplesRequest(prediction_ids=[*ids, "unknown"]))
        request = pb.SamplesRequest(filter="site=b", limit=4, to_unix_ms=NOW_MS + 60_000)
        filtered = await stub.Samples(request)
    assert [sample.row.prediction_id for sample in by_id.samples] == ids
    assert all(sample.example == b"" for sample in by_id.samples)
    ats = [sample.row.at_unix_ms for sample in filtered.samples]
    assert ats == [NOW_MS + 1000 * number for number in (19, 17, 15, 13)]
    assert {sample.row.slices["site"] for sample in filtered.samples} == {"b"}
    assert len(filtered.samples[0].row.features) == len(SCHEMA)


async def test_payloads_come_only_when_asked_for_and_never_overfill_a_message(
    telemetry: Telemetry,
) -> None:
    put(telemetry, 3, payload=b"p" * (2 << 20))
    ids = [record(number).prediction_id for number in range(3)]
    async with observed(telemetry) as stub:
        request = pb.SamplesRequest(prediction_ids=ids, with_payload=True)
        answer = await stub.Samples(request)
        alone = await stub.Samples(pb.SamplesRequest(prediction_ids=ids[2:], with_payload=True))
    assert [len(sample.example) for sample in answer.samples] == [2 << 20, 0, 0]
    assert all(sample.row.payload_kept for sample in answer.samples)
    assert len(alone.samples[0].example) == 2 << 20


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"filter": "conf<low"}, "filter"),
        ({"filter": "conf<0.5", "prediction_ids": ["a"]}, "filter"),
        ({"prediction_ids": [str(number) for number in range(1001)]}, "prediction_ids"),
        ({"from_unix_ms": 5, "to_unix_ms": 5}, "to_unix_ms"),
    ],
)
async def test_samples_that_cannot_be_are_refused_by_their_field(
    telemetry: Telemetry, asked: dict[str, Any], field: str
) -> None:
    async with observed(telemetry) as stub:
        code, message = await refused(stub.Samples(pb.SamplesRequest(**asked)))
    assert code == "INVALID_ARGUMENT" and message.startswith(field)


async def test_the_worst_slice_is_found_and_described(telemetry: Telemetry) -> None:
    for number in range(1500):
        made = record(number)
        if number % 2:
            made = replace(made, confidence=0.4)
        telemetry.put(made, SCHEMA)
    telemetry.alerts()
    async with observed(telemetry) as stub:
        found = await stub.Slices(pb.SlicesRequest(measure="confidence"))
        code, message = await refused(stub.Slices(pb.SlicesRequest(measure="beauty")))
    assert found.rows_searched == 1500 and found.seconds > 0
    assert found.slices[0].expression == "site=b"
    assert "site" in found.slices[0].message and found.slices[0].error > 0.5
    assert code == "INVALID_ARGUMENT" and message.startswith("measure")


# ---- what people do ------------------------------------------------------------------------------


async def test_an_alert_is_acknowledged_and_taken_back(telemetry: Telemetry) -> None:
    telemetry.report([SLOW])
    (alert,) = telemetry.alerts()
    async with observed(telemetry) as stub:
        request = pb.AcknowledgeRequest(alert_id=alert.id, actor="night shift", note="on it")
        taken = (await stub.Acknowledge(request)).alert
        request = pb.AcknowledgeRequest(alert_id=alert.id, undo=True)
        undone = (await stub.Acknowledge(request)).alert
        unknown = await refused(stub.Acknowledge(pb.AcknowledgeRequest(alert_id="none")))
        nothing = await refused(stub.Acknowledge(pb.AcknowledgeRequest()))
    assert (taken.acknowledged_by, taken.acknowledged_note) == ("night shift", "on it")
    assert undone.acknowledged_by == ""
    assert undone.history[-1].actor.startswith("127.0.0.1"), (
        "without a name the address is the actor"
    )
    assert unknown[0] == "NOT_FOUND" and nothing[1].startswith("alert_id")


async def test_a_silence_covers_what_it_says_until_it_is_ended(telemetry: Telemetry) -> None:
    telemetry.report([SLOW])
    until = NOW_MS + 3_600_000
    async with observed(telemetry) as stub:
        request = pb.SilenceRequest(matcher="kind=latency", until_unix_ms=until, actor="ops")
        silence = (await stub.Silence(request)).silence
        silenced = telemetry.alerts()[0].silenced
        ended = (await stub.Silence(pb.SilenceRequest(end_id=silence.id))).silence
        unknown = await refused(stub.Silence(pb.SilenceRequest(end_id=silence.id)))
    assert silenced and not telemetry.alerts()[0].silenced
    assert (silence.until_unix_ms, ended.until_unix_ms) == (until, NOW_MS)
    assert unknown[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("matcher", "until", "field"),
    [
        ("kind=latency", 0, "until_unix_ms"),
        ("kind=latency", NOW_MS // 1000, "until_unix_ms"),
        ("kind=latency", NOW_MS - 1, "until_unix_ms"),
        ("kind=latency", NOW_MS + 400 * 86_400_000, "until_unix_ms"),
        ("", NOW_MS + 1000, "matcher"),
        ("weather=bad", NOW_MS + 1000, "matcher"),
        ("x" * 1001, NOW_MS + 1000, "matcher"),
    ],
)
async def test_a_silence_that_does_not_end_or_says_nothing_is_refused(
    telemetry: Telemetry, matcher: str, until: int, field: str
) -> None:
    async with observed(telemetry) as stub:
        request = pb.SilenceRequest(matcher=matcher, until_unix_ms=until)
        code, message = await refused(stub.Silence(request))
    assert code == "INVALID_ARGUMENT" and message.startswith(field)


async def test_a_server_without_telemetry_shows_nothing_and_takes_nothing() -> None:
    async with observed(NullTelemetry()) as stub:
        (event,) = [event async for event in stub.Watch(pb.WatchRequest(once=True))]
        assert await history(stub) == []
        assert not (await stub.Samples(pb.SamplesRequest())).samples
        code, message = await refused(stub.Acknowledge(pb.AcknowledgeRequest(alert_id="a")))
    assert event.snapshot.state == pb.READY and event.snapshot.telemetry_state == "off"
    assert code == "FAILED_PRECONDITION" and "TELEMETRY_OFF" in message
