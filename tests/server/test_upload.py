"""Uploads: bounded in size, number of bytes held and time, checked against what was announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.request.status import Refused
from server.request.uploads import UploadLimits, UploadStore
from tests.support.ruled_engine import served
from tests.support.running import channel_to, idle_engine, listener

LIMITS = UploadLimits(each_bytes=100, peer_bytes=150, total_bytes=250, ttl_s=10.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def put(store: UploadStore, peer: str, data: bytes) -> str:
    receiving = store.reserve(peer, len(data), "")
    receiving.add(data)
    return store.keep(peer, receiving).id


def reason(call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.faults[0].reason


def test_an_upload_is_found_until_it_expires_and_its_room_is_free_again() -> None:
    clock = Clock()
    store = UploadStore(LIMITS, clock)
    kept = put(store, "a", b"x" * 100)
    found = store.find(kept)
    assert found is not None and found.data == b"x" * 100
    clock.now = 10.0
    assert store.find(kept) is None
    assert store.total_bytes == 0


def test_one_peer_cannot_hold_more_than_its_share_nor_all_more_than_the_total() -> None:
    store = UploadStore(LIMITS, Clock())
    put(store, "a", b"x" * 100)
    assert reason(store.reserve, "a", 51, "") == "PEER_UPLOADS_FULL"
    put(store, "b", b"x" * 100)
    assert reason(store.reserve, "c", 51, "") == "UPLOADS_FULL"
    store.reserve("c", 50, "")


def test_room_is_reserved_while_an_upload_arrives_and_freed_when_it_fails() -> None:
    store = UploadStore(LIMITS, Clock())
    store.reserve("a", 100, "")
    assert reason(store.reserve, "a", 100, "") == "PEER_UPLOADS_FULL"
    store.give_up("a", 100)
    store.reserve("a", 100, "")


def test_announced_size_and_hash_are_held_to() -> None:
    store = UploadStore(LIMITS, Clock())
    assert reason(store.reserve, "a", 101, "") == "UPLOAD_TOO_LARGE"
    assert reason(store.reserve, "a", 0, "") == "EMPTY"
    assert reason(store.reserve, "a", 5, "ab") == "SHA256_MALFORMED"
    short = store.reserve("a", 5, "")
    short.add(b"123")
    assert reason(store.keep, "a", short) == "UPLOAD_SHORTER_THAN_ANNOUNCED"
    assert reason(short.add, b"456") == "UPLOAD_LONGER_THAN_ANNOUNCED"
    wrong = store.reserve("a", 3, hashlib.sha256(b"abc").hexdigest())
    wrong.add(b"abd")
    assert reason(store.keep, "a", wrong) == "SHA256_MISMATCH"


SMALL: dict[str, Any] = {
    "upload_bytes": 4000,
    "upload_peer_bytes": 2000,
    "upload_total_bytes": 4000,
}


def chunks(data: bytes, **header: Any) -> Iterable[pb.UploadChunk]:
    fields: dict[str, Any] = {"total_bytes": len(data), "mime_type": "audio/wav"} | header
    yield pb.UploadChunk(header=pb.UploadHeader(**fields))
    for start in range(0, len(data), 1 << 18):
        yield pb.UploadChunk(data=data[start : start + (1 << 18)])


async def test_an_upload_stands_in_for_the_parts_data() -> None:
    data = bytes(range(256)) * 4096
    async with served() as (engine, channel):
        stub = stubs.InferenceStub(channel)
        receipt = await stub.Upload(chunks(data))
        part = pb.Part(upload_id=receipt.upload_id, modality=pb.AUDIO)
        await stub.Predict(pb.PredictRequest(examples=[pb.Example(parts=[part])]))
    (arrived,) = pb.Example.FromString(engine.received[0].example).parts
    assert receipt.sha256 == arrived.sha256 == hashlib.sha256(data).hexdigest()
    assert (arrived.data, arrived.mime_type) == (data, "audio/wav")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (chunks(b"abc", total_bytes=2), grpc.StatusCode.INVALID_ARGUMENT),
        (chunks(b"abc", total_bytes=4), grpc.StatusCode.INVALID_ARGUMENT),
        (chunks(b"abc", sha256="ab" * 32), grpc.StatusCode.INVALID_ARGUMENT),
        (chunks(b"", total_bytes=1 << 40), grpc.StatusCode.INVALID_ARGUMENT),
        (chunks(b"", total_bytes=3000), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ([pb.UploadChunk(data=b"abc")], grpc.StatusCode.INVALID_ARGUMENT),
        ([], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_upload_that_lies_is_refused_and_leaves_nothing_behind(
    sent: Iterable[pb.UploadChunk], code: grpc.StatusCode
) -> None:
    async with listener(idle_engine(), **SMALL) as address, channel_to(address) as channel:
        stub = stubs.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Upload(iter(sent))
        assert caught.value.code() is code
        await stub.Upload(chunks(bytes(2000)))  # all of the peer's share is free again


async def test_an_upload_broken_off_frees_its_room() -> None:
    async def half() -> AsyncIterator[pb.UploadChunk]:
        yield pb.UploadChunk(header=pb.UploadHeader(total_bytes=2000))
        await asyncio.Event().wait()

    async with listener(idle_engine(), **SMALL) as address, channel_to(address) as channel:
        stub = stubs.InferenceStub(channel)
        broken = stub.Upload(half())
        while await probe(stub) is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            if broken.done():  # it came while a probe had the room
                broken = stub.Upload(half())
        broken.cancel()
        await until_probed(stub, grpc.StatusCode.INVALID_ARGUMENT)


async def until_probed(stub: Any, code: grpc.StatusCode) -> None:
    for _ in range(1000):
        if await probe(stub) is code:
            return
    raise AssertionError(f"an upload never ended with {code}")


async def probe(stub: Any) -> grpc.StatusCode:
    """Whether there is room: an upload that lies about its hash, so that nothing is ever kept."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Upload(chunks(b"x", sha256="ab" * 32))
    code: grpc.StatusCode = caught.value.code()
    return code
