"""A caller that leaves while its call is refused: nothing is logged, and other errors of gRPC are
not hidden. That sending fails is a race in gRPC's core, so its own error is raised here."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc._cython import cygrpc

from server.request.status import UNSENT, abort, bad_input
from tests.support.ruled_engine import served


class Context:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def abort(self, *_: object, **__: object) -> None:
        raise self.error


async def test_a_caller_that_has_left_is_no_error() -> None:
    faults = (bad_input("examples", "EMPTY", "a request needs at least one example"),)
    left = cygrpc.ExecuteBatchError(f"{UNSENT}: (SendStatusFromServerOperation,)")
    with pytest.raises(asyncio.CancelledError):
        await abort(Context(left), faults, "")
    wrong = cygrpc.ExecuteBatchError("Failed grpc_call_start_batch: 9 with grpc_call_error value")
    with pytest.raises(grpc.aio.InternalError):
        await abort(Context(wrong), faults, "")


async def test_nothing_is_logged_for_callers_that_leave(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (_, channel):
        call = channel.unary_unary("/trefoil.v1.Inference/Predict")
        for _ in range(300):
            one = call(b"", timeout=20)
            await asyncio.sleep(0)
            one.cancel()
            await asyncio.gather(one, return_exceptions=True)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"", timeout=20)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
