"""A text as it is written, continued where it broke off.

Servers keep no half-written texts. But they write greedily, so a text begun again from the same
stamp is the same text: what was delivered is compared and skipped, and iteration goes on with the
next piece. When it comes out otherwise, or the stamp is gone, TextInterrupted says so: never is a
text put together from two that differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from proto import inference_pb2 as pb
from trefoil.answers import Written, written_of
from trefoil.attempts import Attempts
from trefoil.errors import ServerFault, TextInterrupted, TrefoilError, Unavailable, error_of
from trefoil.servers import Server
from trefoil.shipment import Shipment
from trefoil.terms import PRIORITIES, Terms


@dataclass(slots=True)
class Text:
    """Iterate for the pieces, once. `text` is what came so far; `end` is set at the end."""

    request_id: str
    terms: Terms
    shipment: Shipment
    attempts: Attempts
    text: str = ""
    stamp: str = ""  # known from the first piece on
    end: Written | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        while self.end is None:
            server = self.attempts.next_server()
            try:
                with server.at_work():
                    async for piece in self._from(server):
                        yield piece
                self.attempts.servers.note(server, reached=True)
            except (grpc.aio.AioRpcError, TrefoilError) as error:
                await self._after(error, server)

    async def whole(self) -> Written:
        """Wait for all of it."""
        async for _ in self:
            pass
        assert self.end is not None
        return self.end

    async def _from(self, server: Server) -> AsyncIterator[str]:
        """The pieces one server adds to what there is already."""
        deadline = self.attempts.deadline
        (example,) = await self.shipment.to(server, (0,), deadline)
        call = server.stub.Generate(
            self._message(example), timeout=deadline.left_s, metadata=self.shipment.metadata
        )
        written = ""
        try:
            async for event in call:
                self.stamp = self.stamp or event.stamp.hex
                if event.HasField("end"):
                    self._check(written == self.text, "ended earlier")
                    self.end = written_of(event, self.text, server.address, self.attempts.made)
                    return
                written += event.text
                known = min(len(written), len(self.text))
                self._check(written[:known] == self.text[:known], "came out differently")
                if len(written) > known:
                    self.text = written
                    yield written[known:]
        finally:
            call.cancel()  # no longer wanted, or over: then it does nothing
        raise Unavailable("the text stopped without its last message", "UNAVAILABLE")

    async def _after(self, error: Exception, server: Server) -> None:
        found = error_of(error, server.address)
        if isinstance(found, ServerFault) and found.reason == "REPLICA_LOST":
            found = Unavailable(found.message, found.code, found.reason, server=server.address)
        try:
            await self.attempts.after(found, server)
        except TextInterrupted:
            raise
        except TrefoilError as last:
            if not self.text:
                raise
            raise self._interrupted(last) from last

    def _check(self, same: bool, how: str) -> None:
        if not same:
            message = f"begun again, the text {how}; it cannot be continued"
            raise self._interrupted(TrefoilError(message, "ABORTED", "TEXT_DIFFERS"))

    def _interrupted(self, cause: TrefoilError) -> TextInterrupted:
        return TextInterrupted(
            message=cause.message,
            code=cause.code,
            reason=cause.reason,
            serving=cause.serving,
            server=cause.server,
            attempts=self.attempts.made,
            text=self.text,
        )

    def _message(self, example: pb.Example) -> pb.GenerateRequest:
        terms = self.terms
        return pb.GenerateRequest(
            request_id=self.request_id,
            example=example,
            max_new_tokens=terms.max_new_tokens,
            # Half of one version's text and half of another's would be nobody's.
            expected_stamps=[self.stamp] if self.stamp else sorted(terms.pinned),
            priority=PRIORITIES[terms.priority],
            session_id=terms.session,
            no_payload_sample=not terms.keep_payload,
        )
