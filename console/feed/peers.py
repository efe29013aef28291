"""The servers that an operator's action calls, and their refusals as sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from console.feed import faults
from console.state import action_kinds
from console.state.sanitize import sanitized
from proto import (  # fmt: skip
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2_grpc,
    observe_pb2,
    observe_pb2_grpc,
)

CALL_S = 30.0
LONG_S = 600.0  # loading a bundle again, draining, hashing a bundle
LONGEST_S = 3600.0  # a rehearsal of 500 payloads
UNSURE = "no answer in time; it may have happened: look at the events of the server"


class ActionRefused(Exception):
    """Nothing happened, or everything was undone. The message is for the person who asked."""


@dataclass
class Peer:
    """One server of an action. `roles` maps each stamp to its roles on that server."""

    address: str
    channel: aio.Channel
    metadata: tuple[tuple[str, str], ...]
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stamp: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        self.admin = admin_pb2_grpc.AdminStub(self.channel)  # type: ignore[no-untyped-call]
        self.observe = observe_pb2_grpc.ObserveStub(self.channel)  # type: ignore[no-untyped-call]
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)  # type: ignore[no-untyped-call]

    async def call(self, method: Any, request: Any, timeout_s: float = CALL_S) -> Any:
        return await method(request, timeout=timeout_s, metadata=self.metadata)

    async def last(self, method: Any, request: Any, timeout_s: float = LONG_S) -> Any:
        """The last message of a progress stream."""
        found = None
        async for message in method(request, timeout=timeout_s, metadata=self.metadata):
            found = message
        return found

    async def look(self) -> None:
        listed = await self.call(self.admin.Bundles, admin_pb2.BundlesRequest())
        self.roles = {one.stamp: tuple(one.roles) for one in listed.bundles}
        self.stamp = self.having("serves")
        if self.stamp and self.name:
            return
        stream = self.observe.Watch(
            observe_pb2.WatchRequest(once=True), timeout=CALL_S, metadata=self.metadata
        )
        async for message in stream:
            self.stamp = self.stamp or message.snapshot.stamp
            self.name = sanitized(message.snapshot.server, 100)

    def having(self, role: str) -> str:
        for stamp, roles in self.roles.items():
            if any(one.startswith(role) for one in roles):
                return stamp
        return ""

    @property
    def label(self) -> str:
        return self.name or self.address


def refused(error: aio.AioRpcError, kind: action_kinds.ActionKind) -> str:
    """The reason as a sentence; never gRPC's own text."""
    if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return action_kinds.refusal(kind, sanitized(str(error.details()), 200))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UNSURE
    return faults.phrase(error)
