"""Trefoil as a Ray Serve deployment: each of its replicas is one engine with its own processes.

    serve start --grpc-port 9000 --grpc-servicer-functions installers.ray.application.add_inference
    serve run installers.ray.application:build flags='--bundle /bundles/triage --warm-pool 2'

Ray places, restarts and scales the engines, and its proxy owns the port. Messages stay bytes from
the proxy to the engine. The proxy listens on every address of its host, without TLS and roles: run
it in a separate network, see docs/fleet.md.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig, gRPCOptions
from ray.serve.grpc_util import RayServegRPCContext

from installers.ray.host import host_of_flags
from proto import inference_pb2
from server.http.calls import HttpCall
from server.http.refusals import CallRefusal, CallRefused

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
UNARY, STREAMING = ("Predict", "Describe", "Feedback"), ("Generate",)
SERVICERS = ["installers.ray.application.add_inference"]
ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
SICK_S = 60.0  # an engine replaces its own replicas; after this time Ray replaces the engine
TARGET_S = 0.5  # mean wait of a new row that autoscaling aims for


class Message(bytes):
    """Serialized bytes. Ray serializes what a method returns, and this already is serialized."""

    def SerializeToString(self) -> bytes:
        return bytes(self)


def add_inference(servicer: Any, server: Any) -> None:
    """Called by Ray's proxy: adds the methods of trefoil.v1.Inference, without parsing their
    messages."""
    offered = {
        **{name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in UNARY},
        **{
            name: grpc.unary_stream_rpc_method_handler(getattr(servicer, name))
            for name in STREAMING
        },
    }
    handler = grpc.method_handlers_generic_handler(SERVICE.full_name, offered)
    server.add_generic_rpc_handlers((handler,))


class Trefoil:
    """Takes the flags of `server`, except --listen, --data and those of a port."""

    async def __init__(self, flags: str = "") -> None:  # type: ignore[misc]
        """Ray awaits it, and sends this engine no call before its replicas are proved."""
        data = os.environ.get("TREFOIL_RAY_DATA", tempfile.gettempdir())
        folder = tempfile.mkdtemp(prefix="trefoil-", dir=data)
        arguments = ["--name", os.path.basename(folder), *shlex.split(flags), "--data", folder]
        self._host = host_of_flags(arguments)
        await self._host.start()
        self._well_at = time.monotonic()

    async def check_health(self) -> None:
        """Raises the reason why the engine is not ready, once this has lasted for SICK_S."""
        trouble = self._host.trouble
        if not trouble:
            self._well_at = time.monotonic()
        elif time.monotonic() - self._well_at > SICK_S:
            raise RuntimeError(trouble)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {"queue_seconds": self._host.queue_seconds}

    async def Predict(self, data: bytes, grpc_context: RayServegRPCContext) -> Message:
        return await self._unary("Predict", data, grpc_context)

    async def Describe(self, data: bytes, grpc_context: RayServegRPCContext) -> Message:
        return await self._unary("Describe", data, grpc_context)

    async def Feedback(self, data: bytes, grpc_context: RayServegRPCContext) -> Message:
        return await self._unary("Feedback", data, grpc_context)

    async def Generate(
        self, data: bytes, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Message]:
        metadata = tuple(grpc_context.invocation_metadata())
        try:
            async for piece in self._host.stream(
                _path("Generate"), data, grpc_context.peer(), metadata
            ):
                yield Message(piece)
        except CallRefused as refused:
            _refuse(grpc_context, refused.refusal, {})
            yield Message()

    async def _unary(self, name: str, data: bytes, context: RayServegRPCContext) -> Message:
        call = HttpCall(context.peer(), tuple(context.invocation_metadata()))
        try:
            answer = await self._host.call(_path(name), data, call)
        except CallRefused as refused:
            _refuse(context, refused.refusal, call.trailing)
            return Message()
        context.set_trailing_metadata([*call.trailing.items()])
        return Message(answer)

    async def __del__(self) -> None:
        if hasattr(self, "_host"):  # Ray also deletes an engine whose flags were refused
            await self._host.stop()


def _path(name: str) -> str:
    return f"/{SERVICE.full_name}/{name}"


def _refuse(context: RayServegRPCContext, refusal: CallRefusal, trailing: dict[str, Any]) -> None:
    """Refuses through the context and not by an exception, for which Ray would lose the details."""
    context.set_code(grpc.StatusCode[refusal.code])
    context.set_details(refusal.message)
    context.set_trailing_metadata([*trailing.items()])


def by_queue_seconds(context: Any) -> tuple[int, dict[str, Any]]:
    """The number of engines that brings the mean wait of a new row to TARGET_S, at most one fewer
    than now; Ray keeps it within the limits."""
    waits = [*context.aggregated_metrics.get("queue_seconds", {}).values()]
    now = context.current_num_replicas
    if not waits:
        return now, {}
    wanted = math.ceil(now * (sum(waits) / len(waits)) / TARGET_S)
    return max(wanted, now - 1, 1), {}


def build(arguments: dict[str, str]) -> Any:
    """`flags` as on the command line; `engines` is N, or LEAST..MOST to scale by queue seconds."""
    least, _, most = arguments.get("engines", "1").partition("..")
    options: dict[str, Any] = {
        "max_ongoing_requests": 256,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 60,
        "request_router_config": RequestRouterConfig(request_router_class=ROUTER),
        "ray_actor_options": {"num_cpus": float(arguments.get("cpus", "1"))},
    }
    if most:
        policy = AutoscalingPolicy(policy_function=by_queue_seconds)
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=int(least), max_replicas=int(most), policy=policy
        )
    else:
        options["num_replicas"] = int(least)
    deployment = serve.deployment(name="trefoil", **options)(Trefoil)
    return deployment.bind(arguments.get("flags", ""))


def grpc_options(port: int) -> gRPCOptions:
    """The options for `serve.start`; in a file of `serve deploy`, the field grpc_options."""
    return gRPCOptions(port=port, grpc_servicer_functions=SERVICERS, enable_reflection=False)
