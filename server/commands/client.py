"""The client of the commands: trefoil's Connection with the methods of all three services."""

from __future__ import annotations

from collections.abc import AsyncIterator

from proto import admin_pb2, admin_pb2_grpc, inference_pb2_grpc, observe_pb2, observe_pb2_grpc
from proto import inference_pb2 as pb
from trefoil import Access, Connection, TrefoilError

USER_AGENT = "trefoil-cli"


class Client(Connection):
    """Every method raises TrefoilError and is tried once: a command shows the first answer."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        """Raises OSError when a file of `access` cannot be read."""
        super().__init__(address, access, USER_AGENT)
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)  # type: ignore[no-untyped-call]
        self._observe = observe_pb2_grpc.ObserveStub(self.channel)  # type: ignore[no-untyped-call]
        self._admin = admin_pb2_grpc.AdminStub(self.channel)  # type: ignore[no-untyped-call]

    async def predict(
        self, request: pb.PredictRequest, timeout_s: float | None
    ) -> pb.PredictResponse:
        return await self.unary(self.inference.Predict, request, timeout_s)

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> AsyncIterator[pb.GenerateEvent]:
        return self.stream(self.inference.Generate, request, timeout_s)

    async def feedback(
        self, request: pb.FeedbackRequest, timeout_s: float | None
    ) -> pb.FeedbackResponse:
        return await self.unary(self.inference.Feedback, request, timeout_s)

    async def samples(
        self, request: observe_pb2.SamplesRequest, timeout_s: float | None
    ) -> observe_pb2.SamplesResponse:
        return await self.unary(self._observe.Samples, request, timeout_s)

    async def slices(
        self, request: observe_pb2.SlicesRequest, timeout_s: float | None
    ) -> observe_pb2.SlicesResponse:
        return await self.unary(self._observe.Slices, request, timeout_s)

    def history(
        self, request: observe_pb2.HistoryRequest, timeout_s: float | None
    ) -> AsyncIterator[observe_pb2.WatchEvent]:
        return self.stream(self._observe.History, request, timeout_s)

    async def state(self, timeout_s: float) -> observe_pb2.WatchEvent:
        """A snapshot, with the server's own time for the ages in it."""
        request = observe_pb2.WatchRequest(once=True)
        async for event in self.stream(self._observe.Watch, request, timeout_s):
            return event  # type: ignore[no-any-return]
        raise TrefoilError("the server sent no snapshot", server=self.address)

    async def verified(self) -> observe_pb2.WatchEvent:
        """A snapshot taken when every replica has compared each byte with what it loaded."""
        return await self.unary(self._observe.Verify, observe_pb2.VerifyRequest())

    def load(self, request: admin_pb2.LoadRequest) -> AsyncIterator[admin_pb2.Progress]:
        return self.stream(self._admin.Load, request)

    async def activate(self, request: admin_pb2.ActivateRequest) -> admin_pb2.Progress:
        return await self.unary(self._admin.Activate, request)

    async def bundles(self) -> admin_pb2.BundlesResponse:
        return await self.unary(self._admin.Bundles, admin_pb2.BundlesRequest())

    def rehearse(
        self, request: admin_pb2.RehearseRequest
    ) -> AsyncIterator[admin_pb2.RehearseEvent]:
        return self.stream(self._admin.Rehearse, request)

    async def roll_back(self, reason: str) -> admin_pb2.Progress:
        return await self.unary(self._admin.Rollback, admin_pb2.RollbackRequest(reason=reason))

    def drain(self, grace_s: float, leave: bool) -> AsyncIterator[admin_pb2.Progress]:
        request = admin_pb2.DrainRequest(grace_s=grace_s, exit=leave)
        return self.stream(self._admin.Drain, request)
