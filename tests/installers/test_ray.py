"""The engine inside another shell answers as behind its own port; `make ray` tests Ray itself."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from installers.ray.host import EngineHost, host_of_flags
from proto import inference_pb2 as pb
from server.api.listen_address import CannotListen
from server.errors import PoolRefused
from server.http.calls import HttpCall
from server.http.refusals import CallRefused
from tests.support.stub_bundles import stub_bundle, stub_of
from tests.support.stub_replica import stub_config

PREDICT, GENERATE = "/trefoil.v1.Inference/Predict", "/trefoil.v1.Inference/Generate"
PEER = "ipv4:127.0.0.1:4711"


def request(text: str, **fields: object) -> bytes:
    message = pb.PredictRequest(request_id="one", **fields)  # type: ignore[arg-type]
    message.examples.add().parts.add(text=text)
    return bytes(message.SerializeToString())


def answer(data: bytes) -> bytes:
    """Without what belongs to the moment. The stub counts rows in its confidence."""
    found = pb.PredictResponse.FromString(data)
    for result in found.results:
        for name in ("prediction_id", "timing"):
            result.ClearField(name)
        result.prediction.ClearField("confidence")
    return bytes(found.SerializeToString(deterministic=True))


async def test_bytes_through_the_host_are_those_of_the_port(tmp_path: Path) -> None:
    bundle = stub_bundle(tmp_path, "a")
    config = replace(
        stub_config(telemetry=False),
        bundle=bundle,
        data=tmp_path / "data",
        listen=f"unix:{tmp_path / 'engine.sock'}",
    )
    host = EngineHost(config, stub_of)
    await host.start()
    try:
        assert host.trouble == "" and host.queue_seconds >= 0
        async with grpc.aio.insecure_channel(config.listen) as channel:
            predict = channel.unary_unary(PREDICT)
            for text in ("hum", "hum again"):
                ours = await host.call(PREDICT, request(text), HttpCall(PEER, ()))
                assert answer(ours) == answer(await predict(request(text), timeout=60))
            for wrong in (request("bad"), request("hum", expected_stamps=["c" * 64]), b"\xff\xff"):
                call = HttpCall(PEER, ())
                with pytest.raises(CallRefused) as refused:
                    await host.call(PREDICT, wrong, call)
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await predict(wrong, timeout=60)
                trailing = {key: value for key, value in error.value.trailing_metadata() or ()}
                assert refused.value.refusal.code == error.value.code().name
                assert refused.value.refusal.message == error.value.details()
                assert call.trailing == trailing
        message = pb.GenerateRequest(request_id="two", max_new_tokens=4)
        message.example.parts.add(text="one two three")
        pieces = [
            piece async for piece in host.stream(GENERATE, message.SerializeToString(), PEER, ())
        ]
        assert len(pieces) > 1
        with pytest.raises(CallRefused):
            async for _ in host.stream(GENERATE, b"", PEER, ()):
                pass
    finally:
        await host.stop()


async def test_an_engine_that_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    config = replace(
        stub_config(telemetry=True),
        bundle=stub_bundle(tmp_path, "a", "refused"),
        data=tmp_path / "data",
        listen=f"unix:{tmp_path / 'engine.sock'}",
    )
    threads = {*threading.enumerate()}
    host = EngineHost(config, stub_of)
    with pytest.raises(PoolRefused, match="the digest of weights differs"):
        await host.start()
    assert not [
        one for one in threading.enumerate() if one.name == "telemetry" and one not in threads
    ]
    async with grpc.aio.insecure_channel(config.listen) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(PREDICT)(request("hum"), timeout=60)
    assert host.trouble and host.queue_seconds == 0.0
    await host.stop()  # as Ray does with what it could not start


def test_flags_that_secure_or_open_a_port_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="--tokens, --prometheus would have no effect"):
        host_of_flags(["--tokens", str(tmp_path / "tokens"), "--prometheus", "127.0.0.1:0"])
    host = host_of_flags(["--bundle", str(tmp_path), "--data", str(tmp_path)])
    assert host.config.listen == f"unix:{tmp_path}/engine.sock"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic
def test_a_deployment_scales_on_queue_seconds_and_takes_bytes() -> None:
    pytest.importorskip("ray", reason="Ray is in an environment of its own: make ray")
    from installers.ray import application

    class Context:
        current_num_replicas = 2
        aggregated_metrics = {"queue_seconds": {"a": 3.0, "b": 1.0}}

    assert application.by_queue_seconds(Context)[0] == 8
    Context.aggregated_metrics = {"queue_seconds": {"a": 0.0}}
    assert application.by_queue_seconds(Context)[0] == 1
    Context.aggregated_metrics = {}
    assert application.by_queue_seconds(Context)[0] == 2
    assert application.Message(b"ab").SerializeToString() == b"ab"
