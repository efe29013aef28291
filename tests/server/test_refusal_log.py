"""A refused request leaves one line in the log, with the caller's own id, at a bounded rate."""

from __future__ import annotations

import logging

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.ops.refusal_log import EACH, RefusalLog
from tests.support.ruled_engine import served
from tests.support.running import channel_to, idle_engine, listener


def dark(request_id: str) -> pb.PredictRequest:
    part = pb.Part(modality=pb.TEXT, text="INVALID_ARGUMENT DARK")
    return pb.PredictRequest(request_id=request_id, examples=[pb.Example(parts=[part])])


async def test_a_refused_call_and_a_refused_request_of_a_stream_leave_a_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "server")
    async with served() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.InferenceStub(channel).Predict(dark("r-1"))
        stream = stubs.InferenceStub(channel).PredictStream(iter([dark("r-2")]))
        assert [answer.request_id async for answer in stream] == ["r-2"]
    first, second = (one for one in caplog.records if one.msg.startswith("refused"))
    assert first.levelno == logging.INFO and "DARK" in first.getMessage()
    assert (first.request_id, first.code) == ("r-1", "INVALID_ARGUMENT")  # type: ignore[attr-defined]
    assert first.method == "trefoil.v1.Inference.Predict"  # type: ignore[attr-defined]
    assert second.request_id == "r-2"  # type: ignore[attr-defined]
    assert second.method == "trefoil.v1.Inference.PredictStream"  # type: ignore[attr-defined]


async def test_a_call_that_is_not_a_message_leaves_a_line_without_an_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "server")
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/trefoil.v1.Inference/Predict")(b"\xff\xff")
    (line,) = (one for one in caplog.records if one.msg.startswith("refused"))
    assert line.request_id == ""  # type: ignore[attr-defined]


def test_a_flood_of_refusals_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server")
    now = 0.0
    log = RefusalLog(lambda: now)
    for _ in range(1000):
        log.refused("full", "RESOURCE_EXHAUSTED")
    now = 1.0
    log.refused("full", "RESOURCE_EXHAUSTED")
    assert len(caplog.records) == EACH + 1
    assert (
        caplog.messages[-1] == f"refused: full ({1000 - EACH} refusals before it were not logged)"
    )
