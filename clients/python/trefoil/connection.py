"""One server, and each call made once: the server's command line is built on this."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, Self, TypeVar

import grpc

from trefoil._proto import inference_pb2 as pb
from trefoil._proto import inference_pb2_grpc
from trefoil.access import Access
from trefoil.channels import USER_AGENT, open_channel
from trefoil.errors import error_of
from trefoil.retry_policy import Deadline
from trefoil.servers import Server
from trefoil.uploads import Uploads

Response = TypeVar("Response")


class Connection:
    """Calls the methods of any stub made on `channel`, those of Observe and Admin included, and
    turns their failures into TrefoilError. Retries nothing: the first answer is the answer."""

    def __init__(
        self, server: str, access: Access | None = None, user_agent: str = USER_AGENT
    ) -> None:
        """`server` is HOST:PORT. Raises OSError when a file of `access` cannot be read."""
        self.address = server
        self.channel = open_channel(server, access, user_agent)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def unary(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Any,
        timeout_s: float | None = None,
    ) -> Response:
        """The response of a method with one response."""
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from None

    async def stream(
        self,
        method: Callable[..., AsyncIterable[Response]],
        request: Any,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Response]:
        """The responses of a method that streams them."""
        try:
            async for response in method(request, timeout=timeout_s):
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from None

    async def upload(self, example: pb.Example, timeout_s: float) -> pb.Example:
        """The example, after its parts that are too large for one message have been uploaded."""
        stub = inference_pb2_grpc.InferenceStub(self.channel)  # type: ignore[no-untyped-call]
        server = Server(self.address, self.channel, stub)
        try:
            uploads = Uploads([example])
            (sent,) = await uploads.examples_for(server, (0,), Deadline.after(timeout_s))
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from None
        return sent
