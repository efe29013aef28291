"""The client behind `server predict`, `status`, `probe` and `drain`: thin, asynchronous, and where
these turn gRPC's errors into something to act on. It tries nothing twice: whoever types a command
wants to see its first answer.

What clients/python/trefoil has of the same is its own: callers install it without the server, and
the image of the server is made without examples/.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from proto import admin_pb2, admin_pb2_grpc, inference_pb2_grpc, observe_pb2, observe_pb2_grpc
from proto import inference_pb2 as pb
from server.request.status import DETAILS_KEY, STAMP_KEY

# Measured with the server of this project: below 4 MiB one message is quickest, above it chunks.
INLINE_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
CLIENT = "trefoil-cli"


@dataclass(eq=False)  # not frozen: whoever raises it again sets its traceback
class Failure(Exception):
    """A call that ended badly. `reason` is empty when the server did not say: then it was not
    reached, or gRPC itself refused."""

    code: grpc.StatusCode
    message: str
    reason: str
    field: str
    stamp: str
    retry_after_s: float

    @property
    def unreachable(self) -> bool:
        return self.code is grpc.StatusCode.UNAVAILABLE and not self.reason


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    trailing = dict(error.trailing_metadata() or ())
    info, retry_after_s = error_details_pb2.ErrorInfo(), 0.0
    packed = trailing.get(DETAILS_KEY)
    if packed is not None:
        for detail in status_pb2.Status.FromString(packed).details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1e3
            detail.Unpack(info)
    return Failure(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        field=info.metadata.get("field", ""),
        stamp=str(trailing.get(STAMP_KEY, "")),
        retry_after_s=retry_after_s,
    )


class Client:
    """An open channel to one server; every method raises Failure."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.primary_user_agent", CLIENT),
        ]
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._inference = inference_pb2_grpc.InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._observe = observe_pb2_grpc.ObserveStub(self._channel)  # type: ignore[no-untyped-call]
        self._admin = admin_pb2_grpc.AdminStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def predict(
        self, request: pb.PredictRequest, timeout_s: float | None
    ) -> pb.PredictResponse:
        try:
            response: pb.PredictResponse = await self._inference.Predict(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        return response

    def stream(self) -> PredictStream:
        return PredictStream(self._inference.PredictStream())

    async def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> AsyncIterator[pb.GenerateEvent]:
        async for event in _read(self._inference.Generate(request, timeout=timeout_s)):
            yield event

    async def upload(self, data: bytes, mime: str, timeout_s: float | None) -> str:
        """The id that stands in for `data` in a Part."""
        try:
            receipt = await self._inference.Upload(_chunks(data, mime), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        return str(receipt.upload_id)

    async def feedback(
        self, request: pb.FeedbackRequest, timeout_s: float | None
    ) -> pb.FeedbackResponse:
        try:
            response: pb.FeedbackResponse = await self._inference.Feedback(
                request, timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        return response

    async def samples(
        self, request: observe_pb2.SamplesRequest, timeout_s: float | None
    ) -> observe_pb2.SamplesResponse:
        try:
            response: observe_pb2.SamplesResponse = await self._observe.Samples(
                request, timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        return response

    async def slices(
        self, request: observe_pb2.SlicesRequest, timeout_s: float | None
    ) -> observe_pb2.SlicesResponse:
        return await _one(self._observe.Slices(request, timeout=timeout_s))  # type: ignore[no-any-return]

    async def history(
        self, request: observe_pb2.HistoryRequest, timeout_s: float | None
    ) -> AsyncIterator[observe_pb2.WatchEvent]:
        async for event in _read(self._observe.History(request, timeout=timeout_s)):
            yield event

    async def state(self, timeout_s: float) -> observe_pb2.WatchEvent:
        """A snapshot and the server's own time, to tell ages by."""
        request = observe_pb2.WatchRequest(once=True)
        async for event in _read(self._observe.Watch(request, timeout=timeout_s)):
            return event  # type: ignore[no-any-return]
        raise Failure(grpc.StatusCode.UNKNOWN, "the server sent no snapshot", "", "", "", 0.0)

    async def verified(self) -> observe_pb2.WatchEvent:
        """A snapshot taken when every replica has compared each byte with what it loaded."""
        return await _one(self._observe.Verify(observe_pb2.VerifyRequest()))  # type: ignore[no-any-return]

    async def load(self, request: admin_pb2.LoadRequest) -> AsyncIterator[admin_pb2.Progress]:
        async for progress in _read(self._admin.Load(request)):
            yield progress

    async def activate(self, request: admin_pb2.ActivateRequest) -> admin_pb2.Progress:
        return await _one(self._admin.Activate(request))  # type: ignore[no-any-return]

    async def bundles(self) -> admin_pb2.BundlesResponse:
        return await _one(self._admin.Bundles(admin_pb2.BundlesRequest()))  # type: ignore[no-any-return]

    async def rehearse(
        self, request: admin_pb2.RehearseRequest
    ) -> AsyncIterator[admin_pb2.RehearseEvent]:
        async for event in _read(self._admin.Rehearse(request)):
            yield event

    async def roll_back(self, reason: str) -> admin_pb2.Progress:
        return await _one(self._admin.Rollback(admin_pb2.RollbackRequest(reason=reason)))  # type: ignore[no-any-return]

    async def drain(self, grace_s: float, leave: bool) -> AsyncIterator[admin_pb2.Progress]:
        request = admin_pb2.DrainRequest(grace_s=grace_s, exit=leave)
        async for progress in _read(self._admin.Drain(request)):
            yield progress


class PredictStream:
    """Requests over one stream, each awaited on its own. Half the cost of a call each."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._waiting: dict[str, asyncio.Future[pb.PredictResponse]] = {}
        self._writing = asyncio.Lock()
        closed = grpc.StatusCode.UNAVAILABLE, "the stream was closed"
        self._failure = Failure(*closed, "", "", "", 0.0)  # until it ends otherwise
        self._reader = asyncio.create_task(self._read())

    async def predict(self, request: pb.PredictRequest) -> pb.PredictResponse:
        """`request.request_id` must be unique among those on their way."""
        answer: asyncio.Future[pb.PredictResponse] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        try:
            async with self._writing:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._reader
            raise self._failure from None
        return await answer

    async def close(self) -> None:
        if not self._reader.done():
            await self._call.done_writing()
        await self._reader

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._waiting.pop(response.request_id).set_result(response)
        except grpc.aio.AioRpcError as error:
            self._failure = failure_of(error)
        for answer in self._waiting.values():
            answer.set_exception(self._failure)
        self._waiting.clear()


async def _read(call: Any) -> AsyncIterator[Any]:
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise failure_of(error) from None


def _chunks(data: bytes, mime: str) -> Iterator[pb.UploadChunk]:
    digest = hashlib.sha256(data).hexdigest()
    header = pb.UploadHeader(mime_type=mime, total_bytes=len(data), sha256=digest)
    yield pb.UploadChunk(header=header)
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.UploadChunk(data=bytes(view[start : start + CHUNK_BYTES]))


async def _one(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise failure_of(error) from None
