"""A generated text as it arrives, continued where it broke off.

Servers keep no half-written texts. But they decode greedily, so the same request to the same stamp
gives the same text: the stream starts the text again, compares and skips the pieces already
delivered, and continues with the next one. When the text differs, or the stamp is gone, it raises
TextInterrupted. It never joins two texts that differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields

import grpc

from trefoil._proto import inference_pb2 as pb
from trefoil.errors import ServerFault, TextInterrupted, TrefoilError, Unavailable, error_of
from trefoil.options import Options
from trefoil.results import GeneratedText, generated_text_of
from trefoil.retry_loop import RetryLoop
from trefoil.servers import Server
from trefoil.uploads import Uploads


@dataclass(slots=True)
class TextStream:
    """Iterate once for the pieces. `text` is what has arrived; `result` is set at the end."""

    request_id: str
    options: Options
    uploads: Uploads
    retries: RetryLoop
    found: Callable[[], Awaitable[None]]  # returns once the servers are known
    text: str = ""
    stamp: str = ""  # known from the first piece on
    result: GeneratedText | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        await self.found()
        while self.result is None:
            server = self.retries.next_server()
            try:
                with server.in_flight():
                    async for piece in self._pieces_from(server):
                        yield piece
                self.retries.servers.mark(server, reached=True)
            except (grpc.aio.AioRpcError, TrefoilError) as error:
                await self._wait_or_raise(error, server)

    async def read_all(self) -> GeneratedText:
        """Waits for the end of the text and returns it."""
        async for _ in self:
            pass
        assert self.result is not None
        return self.result

    async def _pieces_from(self, server: Server) -> AsyncIterator[str]:
        """The pieces that one server adds to `text`."""
        deadline = self.retries.deadline
        (example,) = await self.uploads.examples_for(server, (0,), deadline)
        call = server.stub.Generate(
            self._message(example), timeout=deadline.left_s, metadata=self.uploads.metadata
        )
        received = ""
        try:
            async for event in call:
                self.stamp = self.stamp or event.stamp.hex
                if event.HasField("end"):
                    self._check(received == self.text, "ended earlier")
                    self.result = generated_text_of(
                        event, self.text, server.address, self.retries.attempts
                    )
                    return
                received += event.text
                known = min(len(received), len(self.text))
                self._check(received[:known] == self.text[:known], "differs")
                if len(received) > known:
                    self.text = received
                    yield received[known:]
        finally:
            # The caller has stopped iterating, or the call has ended: then this has no effect.
            call.cancel()
        raise Unavailable("the text stopped without its last message", "UNAVAILABLE")

    async def _wait_or_raise(self, error: Exception, server: Server) -> None:
        failure = error_of(error, server.address)
        if isinstance(failure, ServerFault) and failure.reason == "REPLICA_LOST":
            failure = Unavailable(
                failure.message, failure.code, failure.reason, server=server.address
            )
        try:
            await self.retries.wait_or_raise(failure, server)
        except TextInterrupted:
            raise
        except TrefoilError as last:
            if not self.text:
                raise
            raise self._interrupted(last) from last

    def _check(self, same: bool, how: str) -> None:
        if not same:
            message = f"generated again, the text {how}; it cannot be continued"
            raise self._interrupted(TrefoilError(message, "ABORTED", "TEXT_DIFFERS"))

    def _interrupted(self, cause: TrefoilError) -> TextInterrupted:
        known = {each.name: getattr(cause, each.name) for each in fields(TrefoilError)}
        return TextInterrupted(**known | {"attempts": self.retries.attempts, "text": self.text})

    def _message(self, example: pb.Example) -> pb.GenerateRequest:
        options = self.options
        return pb.GenerateRequest(
            request_id=self.request_id,
            example=example,
            max_new_tokens=options.max_new_tokens,
            # A text must not begin with one version and end with another.
            expected_stamps=[self.stamp] if self.stamp else sorted(options.pinned),
            **options.sent(),
        )
