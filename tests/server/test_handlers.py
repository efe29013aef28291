"""What the handlers of methods leave behind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from proto import inference_pb2 as pb
from server.api.handlers import Handlers
from server.api.retry_penalty import RefusalPace, RetryPenalty
from server.request.status import Refused, bad_input


class Large(bytes):
    """A request that reports its end."""

    ended = 0

    def __del__(self) -> None:
        Large.ended += 1


class Aborted(Exception):
    pass


class Context:
    """As gRPC's: it keeps the error with which a call was aborted."""

    error: Aborted | None = None

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, _metadata: Any) -> None:
        pass

    async def abort(self, *_: Any, **__: Any) -> None:
        self.error = Aborted()
        raise self.error


class Refusing:
    async def Predict(self, request: bytes, _context: Any) -> pb.PredictResponse:
        parsed = (request, "fields")
        raise Refused(bad_input("examples", "TOO_MANY", f"{len(parsed)} rows"))

    async def Generate(self, request: bytes, _context: Any) -> AsyncIterator[pb.GenerateEvent]:
        if request:
            raise Refused(bad_input("example", "EMPTY", "no parts"))
        yield pb.GenerateEvent()


@pytest.fixture
def no_collection() -> Any:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("method", ["Predict", "Generate"])
async def test_a_refused_request_is_not_kept_with_the_error_of_its_call(method: str) -> None:
    """gRPC's error refers to itself; until a garbage collection it keeps what its frames keep."""
    handlers = Handlers(lambda: None, RetryPenalty(), RefusalPace())
    descriptor = pb.DESCRIPTOR.services_by_name["Inference"].methods_by_name[method]
    handler = handlers._handler(descriptor, getattr(Refusing(), method))
    call: Callable[..., Any] = handler.unary_unary or handler.unary_stream
    context = Context()
    before = Large.ended
    with pytest.raises(Aborted) as caught:
        await call(Large(b"examples"), context)
    assert context.error is caught.value and context.error.__traceback__ is not None
    assert Large.ended == before + 1
