"""The connection of the commands: the Python client's Connection with the stubs of all three
services."""

from __future__ import annotations

from proto import admin_pb2_grpc, inference_pb2_grpc, observe_pb2, observe_pb2_grpc
from trefoil import Access, Connection, TrefoilError

USER_AGENT = "trefoil-cli"


class CommandConnection(Connection):
    """`unary` and `stream`, with a method of `inference`, `observe` or `admin`, raise TrefoilError.
    They call once: a command shows the first answer."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        """Raises OSError when a file of `access` cannot be read."""
        super().__init__(address, access, USER_AGENT)
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)  # type: ignore[no-untyped-call]
        self.observe = observe_pb2_grpc.ObserveStub(self.channel)  # type: ignore[no-untyped-call]
        self.admin = admin_pb2_grpc.AdminStub(self.channel)  # type: ignore[no-untyped-call]

    async def state(self, timeout_s: float) -> observe_pb2.WatchEvent:
        """A snapshot, with the server's own time for the ages in it."""
        request = observe_pb2.WatchRequest(once=True)
        async for event in self.stream(self.observe.Watch, request, timeout_s):
            return event  # type: ignore[no-any-return]
        raise TrefoilError("the server sent no snapshot", server=self.address)
