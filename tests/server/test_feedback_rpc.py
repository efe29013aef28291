"""Feedback over real gRPC, joined by real telemetry."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from server.commands.feedback import BadLine, items_of
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from server.telemetry_port import NullTelemetry
from tests.support.running import channel_to, idle_engine, listener
from tests.support.telemetry_bench import NOW, SCHEMA, Clock, bundle, record

BUNDLE = bundle(rows=600)
NOW_MS = int(NOW * 1000)
KNOWN = record(0).prediction_id
DAY_MS = 86_400_000


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    held = Telemetry(TelemetrySettings(tmp_path), Clock(), Clock(0.0))
    held.adopt(BUNDLE)
    for number in range(3):
        held.put(record(number), SCHEMA)
    yield held
    held.close()


@asynccontextmanager
async def served(telemetry: Any) -> AsyncIterator[InferenceStub]:
    async with (
        listener(idle_engine(), telemetry, Clock()) as address,
        channel_to(address) as channel,
    ):
        yield InferenceStub(channel)


def item(**fields: Any) -> pb.FeedbackItem:
    return pb.FeedbackItem(**({"prediction_id": KNOWN} | fields))


async def report(telemetry: Any, *items: pb.FeedbackItem) -> list[pb.FeedbackResult]:
    async with served(telemetry) as stub:
        return list((await stub.Feedback(pb.FeedbackRequest(items=items))).results)


async def test_feedback_is_joined_corrected_or_known_already(telemetry: Telemetry) -> None:
    found = await report(
        telemetry,
        item(label="stop", observed_unix_ms=NOW_MS - 2000),
        item(label="stop", observed_unix_ms=NOW_MS - 2000),
        item(label="ok", observed_unix_ms=NOW_MS - 1000, idempotency_key="k"),
        item(label="inspect", idempotency_key="k"),
        item(prediction_id=record(1).prediction_id, value=12.5, source="inspection"),
        item(prediction_id="0" * 32, label="ok"),
    )
    statuses = [result.status for result in found]
    assert statuses == ["joined", "duplicate", "corrected", "duplicate", "joined", "unknown"]
    assert [result.prediction_id for result in found[:2]] == [KNOWN, KNOWN]
    assert telemetry.by_id([KNOWN])[0].true_label == "ok"


async def test_feedback_for_what_is_no_longer_kept_is_expired(telemetry: Telemetry) -> None:
    made_ms = NOW_MS - 40 * DAY_MS
    old = f"{made_ms:012x}7{0:019x}"
    (found,) = await report(telemetry, item(prediction_id=old, label="ok"))
    assert found.status == "expired"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"label": "weather"}, "label"),
        ({"value": math.nan}, "value"),
        ({"value": math.inf}, "value"),
        ({}, "label"),
        ({"prediction_id": "", "label": "ok"}, "prediction_id"),
        ({"label": "ok", "observed_unix_ms": NOW_MS + 2 * DAY_MS}, "observed_unix_ms"),
        ({"label": "ok", "observed_unix_ms": NOW_MS // 1000}, "observed_unix_ms"),
        ({"label": "ok", "observed_unix_ms": -5}, "observed_unix_ms"),
        ({"label": "ok", "source": "x" * 1001}, "source"),
    ],
)
async def test_a_bad_item_is_refused_by_its_field_and_the_others_are_taken(
    telemetry: Telemetry, fields: dict[str, Any], field: str
) -> None:
    good = item(prediction_id=record(1).prediction_id, label="ok")
    first, bad, last = await report(telemetry, good, item(**fields), good)
    assert (first.status, last.status) == ("joined", "duplicate")
    assert bad.status == "refused"
    assert (bad.fault.code, bad.fault.field) == ("INVALID_ARGUMENT", f"items[1].{field}")
    assert bad.fault.reason and bad.fault.message


async def test_an_item_that_cannot_be_read_spoils_no_other(telemetry: Telemetry) -> None:
    good = item(label="ok").SerializeToString()
    bad = b"\x0a\x02\xff\xfe"  # a prediction id that is not UTF-8
    request = b"".join(b"\x0a" + bytes([len(raw)]) + raw for raw in (bad, good))
    async with listener(idle_engine(), telemetry, Clock()) as address:
        async with channel_to(address) as channel:
            call = channel.unary_unary("/trefoil.v1.Inference/Feedback")
            found = pb.FeedbackResponse.FromString(await call(request)).results
    assert [result.status for result in found] == ["refused", "joined"]
    assert (found[0].fault.field, found[0].fault.reason) == ("items[0]", "MALFORMED")


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_call_has_one_to_a_thousand_items(telemetry: Telemetry, count: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await report(telemetry, *(item(label="ok") for _ in range(count)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("items")


async def test_a_thousand_items_are_answered_in_order(telemetry: Telemetry) -> None:
    items = [item(prediction_id=f"{number:032x}", label="ok") for number in range(1000)]
    found = await report(telemetry, *items)
    assert [result.prediction_id for result in found] == [one.prediction_id for one in items]


async def test_feedback_that_nobody_keeps_is_not_taken_silently() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await report(NullTelemetry("degraded: the disk is full"), item(label="ok"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the disk is full" in (caught.value.details() or "")


def test_a_file_is_read_line_by_line() -> None:
    lines = [json.dumps({"prediction_id": "a", "value": 2}), "\n", '{"prediction_id": "b"}']
    assert [(one.prediction_id, one.HasField("value")) for one in items_of(lines)] == [
        ("a", True),
        ("b", False),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [("{", "line 2"), ('{"id": "a"}', "'id'"), ("[]", "object"), ('{"value": "dear"}', "line 2")],
)
def test_a_line_that_is_no_item_is_named(line: str, why: str) -> None:
    with pytest.raises(BadLine, match=why):
        list(items_of(["\n", line]))
