"""The client for asyncio: a call returns its result or raises one of the errors of errors.py."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypedDict, Unpack

from trefoil._proto import inference_pb2 as pb
from trefoil.access import Access
from trefoil.channels import RENDEZVOUS, open_server, open_servers
from trefoil.discovery import changes, tls_name
from trefoil.errors import TrefoilError, Unavailable, check_process, error_of_fault
from trefoil.membership import Membership
from trefoil.options import OptionArguments, Options
from trefoil.parts import checked
from trefoil.request import Answer, Request
from trefoil.results import FeedbackResult, Prediction
from trefoil.retry_loop import RetryLoop
from trefoil.retry_policy import Deadline, RetryPolicy
from trefoil.servers import Server, Servers
from trefoil.text_stream import TextStream
from trefoil.uploads import Metadata, Uploads


class FeedbackArguments(TypedDict, total=False):
    """What turned out to be true of a prediction."""

    label: str
    outcome: str
    value: float
    source: str
    observed_unix_ms: int


class AsyncClient:
    """`servers` is HOST:PORT of one server, or of several that serve the same bundle, or a name
    whose servers change: dns:///HOST:PORT or file:PATH (discovery.py). `defaults` are the options
    (options.py) of every call that does not override them. A client belongs to the process that
    made it: in a forked child its methods raise. Methods raise TrefoilError."""

    def __init__(
        self,
        servers: str | Sequence[str],
        access: Access | None = None,
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008  frozen
        balance: str = RENDEZVOUS,
        **defaults: Unpack[OptionArguments],
    ) -> None:
        self._options = Options(**defaults)
        self._policy = retry_policy
        self._process = os.getpid()
        targets = (servers,) if isinstance(servers, str) else tuple(servers)
        self._membership: Membership | None = None
        if not changes(targets):
            self._servers = Servers(open_servers(targets, access, balance))
            return
        if balance != RENDEZVOUS:
            raise ValueError(f"balance: {balance} takes a fixed list of addresses")
        if access is not None and not access.name:
            access = replace(access, name=tls_name(targets))
        self._servers = Servers([])
        self._membership = Membership(targets, self._servers, partial(open_server, access=access))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._membership is not None:
            await self._membership.close()
        await asyncio.gather(*(server.channel.close() for server in self._servers.members))

    async def predict(self, *parts: pb.Part, **options: Unpack[OptionArguments]) -> Prediction:
        """The prediction for one example: its parts in this order."""
        (answer,) = await self.predict_many([checked(parts)], **options)
        if isinstance(answer, TrefoilError):
            raise answer
        return answer

    async def predict_many(
        self, examples: Sequence[Sequence[pb.Part]], **options: Unpack[OptionArguments]
    ) -> list[Answer]:
        """One request with several examples: the prediction or the error of each, in the order
        given. A failed row does not raise."""
        if not examples:
            return []
        chosen, number = self._options.override(**options), secrets.token_hex(16)
        if isinstance(examples, (str, bytes)):
            raise TypeError("examples: give a list of lists of parts, such as [[text('...')]]")
        rows = [
            pb.Example(parts=checked(parts, f"examples[{row}]"), slices=chosen.slices)
            for row, parts in enumerate(examples)
        ]
        uploads = Uploads(rows, chosen.metadata(chosen.session or number))
        await self._found()
        return await Request(number, len(rows), chosen, uploads, self._retries(chosen)).answer()

    def generate(self, *parts: pb.Part, **options: Unpack[OptionArguments]) -> TextStream:
        """Generate a text about the parts. The request is sent when iteration begins."""
        chosen, number = self._options.override(**options), secrets.token_hex(16)
        example = pb.Example(parts=checked(parts), slices=chosen.slices)
        uploads = Uploads([example], chosen.metadata(chosen.session or number))
        return TextStream(number, chosen, uploads, self._retries(chosen), self._found)

    async def feedback(
        self, prediction: Prediction | str, **truth: Unpack[FeedbackArguments]
    ) -> FeedbackResult:
        """Report what turned out to be true; a report that is sent twice counts once.

        Only the server that gave a prediction knows it: for a bare id all are asked in turn.
        """
        await self._found()
        if isinstance(prediction, str):
            identifier, route, home = prediction, "", None
        else:
            identifier, route = prediction.id, prediction.route
            home = next((s for s in self._servers.members if s.address == prediction.server), None)
        item = pb.FeedbackItem(
            prediction_id=identifier, idempotency_key=secrets.token_hex(16), **truth
        )
        result = FeedbackResult(identifier, "unknown", "")
        for server in self._servers.members if home is None else (home,):
            result = await self._send_feedback(server, item, self._options.metadata(route))
            if result.status != "unknown":
                break
        return result

    async def served(self) -> dict[str, str | TrefoilError]:
        """Address -> the stamp that the server there serves, or its error. Differing stamps are
        skew."""
        await self._found()
        members = self._servers.members
        stamps = await asyncio.gather(*(self._stamp_of(server) for server in members))
        return dict(zip((server.address for server in members), stamps, strict=True))

    async def _stamp_of(self, server: Server) -> str | TrefoilError:
        retries = self._retries(self._options, only=server)

        async def describe(server: Server) -> str:
            response = await server.stub.Describe(
                pb.DescribeRequest(),
                timeout=retries.deadline.left_s,
                metadata=self._options.metadata(server.address),
            )
            return str(response.stamp.hex)

        try:
            return await retries.run(describe)
        except TrefoilError as error:
            return error

    async def _send_feedback(
        self, server: Server, item: pb.FeedbackItem, metadata: Metadata
    ) -> FeedbackResult:
        retries = self._retries(self._options, only=server)

        async def send(server: Server) -> FeedbackResult:
            request = pb.FeedbackRequest(items=[item])
            left_s = retries.deadline.left_s
            response = await server.stub.Feedback(request, timeout=left_s, metadata=metadata)
            (result,) = response.results
            if result.HasField("fault"):
                raise error_of_fault(result.fault, "", server.address)
            return FeedbackResult(result.prediction_id, result.status, server.address)

        return await retries.run(send)

    async def _found(self) -> None:
        """Raises TrefoilError when no server can be found, or in a forked process."""
        check_process(self._process)
        if self._membership is not None:
            try:
                await self._membership.ready()
            except (OSError, ValueError) as error:
                raise Unavailable(f"servers: {error}", "UNAVAILABLE", "NO_SERVERS") from None

    def _retries(self, options: Options, only: Server | None = None) -> RetryLoop:
        deadline = Deadline.after(options.timeout_s)
        look_again = self._membership.look_again if self._membership is not None else None
        return RetryLoop(self._servers, self._policy, options.session, deadline, only, look_again)
