"""The client for asyncio: one request in, an answer or one of the errors of errors.py."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import TypedDict, Unpack

from proto import inference_pb2 as pb
from trefoil.access import Access
from trefoil.answers import Prediction, Told
from trefoil.attempts import Attempts
from trefoil.channels import RENDEZVOUS, open_servers
from trefoil.errors import TrefoilError, error_of_fault
from trefoil.request import Answer, Request
from trefoil.retries import Deadline, Retries
from trefoil.servers import Server, Servers
from trefoil.shipment import Shipment
from trefoil.terms import Asked, Terms
from trefoil.texts import Text


class Said(TypedDict, total=False):
    """What turned out to be true of a prediction."""

    label: str
    outcome: str
    value: float
    source: str
    observed_unix_ms: int


class AsyncClient:
    """`servers` is HOST:PORT of one server or of several that serve the same. `defaults` are the
    terms (terms.py) of every call that names no others. Every method raises TrefoilError."""

    def __init__(
        self,
        servers: str | Sequence[str],
        access: Access | None = None,
        retries: Retries = Retries(),  # noqa: B008  frozen
        balance: str = RENDEZVOUS,
        **defaults: Unpack[Asked],
    ) -> None:
        self._terms = Terms(**defaults)
        self._retries = retries
        addresses = (servers,) if isinstance(servers, str) else tuple(servers)
        self._servers = Servers(open_servers(addresses, access, balance))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(server.channel.close() for server in self._servers.members))

    async def predict(self, *parts: pb.Part, **asked: Unpack[Asked]) -> Prediction:
        """The answer to one example: its parts in this order."""
        (answer,) = await self.predict_many([parts], **asked)
        if isinstance(answer, TrefoilError):
            raise answer
        return answer

    async def predict_many(
        self, examples: Sequence[Sequence[pb.Part]], **asked: Unpack[Asked]
    ) -> list[Answer]:
        """One request of several examples. Raises for none of them: the answer to a row is its
        prediction or its error, in the order given."""
        if not examples:
            return []
        terms, number = self._terms.but(**asked), secrets.token_hex(16)
        rows = [pb.Example(parts=parts, slices=terms.slices) for parts in examples]
        shipment = Shipment(rows, terms.metadata(terms.session or number))
        return await Request(number, len(rows), terms, shipment, self._attempts(terms)).answer()

    def generate(self, *parts: pb.Part, **asked: Unpack[Asked]) -> Text:
        """A text about the parts. Nothing is sent before it is iterated."""
        terms, number = self._terms.but(**asked), secrets.token_hex(16)
        example = pb.Example(parts=parts, slices=terms.slices)
        shipment = Shipment([example], terms.metadata(terms.session or number))
        return Text(number, terms, shipment, self._attempts(terms))

    async def feedback(self, prediction: Prediction | str, **said: Unpack[Said]) -> Told:
        """Tell what turned out to be true; told twice, as after a lost answer, it counts once.

        Only the server that gave a prediction knows it: for a bare id all are asked in turn.
        """
        if isinstance(prediction, str):
            identifier, route, home = prediction, "", None
        else:
            identifier, route = prediction.id, prediction.route
            home = next((s for s in self._servers.members if s.address == prediction.server), None)
        item = pb.FeedbackItem(
            prediction_id=identifier, idempotency_key=secrets.token_hex(16), **said
        )
        told = Told(identifier, "unknown", "")
        for server in self._servers.members if home is None else (home,):
            told = await self._tell(server, item, self._terms.metadata(route))
            if told.status != "unknown":
                break
        return told

    async def served(self) -> dict[str, str | TrefoilError]:
        """The stamp each server serves, or why it does not say: differing ones are skew."""
        members = self._servers.members
        return dict(
            zip(
                (server.address for server in members),
                await asyncio.gather(*(self._stamp_of(server) for server in members)),
                strict=True,
            )
        )

    async def _stamp_of(self, server: Server) -> str | TrefoilError:
        attempts = self._attempts(self._terms, only=server)

        async def ask(server: Server) -> str:
            left_s = attempts.deadline.left_s
            described = await server.stub.Describe(
                pb.DescribeRequest(),
                timeout=left_s,
                metadata=self._terms.metadata(server.address),
            )
            return str(described.stamp.hex)

        try:
            return await attempts.until_answered(ask)
        except TrefoilError as error:
            return error

    async def _tell(
        self, server: Server, item: pb.FeedbackItem, metadata: tuple[tuple[str, str], ...]
    ) -> Told:
        attempts = self._attempts(self._terms, only=server)

        async def ask(server: Server) -> Told:
            request = pb.FeedbackRequest(items=[item])
            left_s = attempts.deadline.left_s
            response = await server.stub.Feedback(request, timeout=left_s, metadata=metadata)
            (result,) = response.results
            if result.HasField("fault"):
                raise error_of_fault(result.fault, "", server.address)
            return Told(result.prediction_id, result.status, server.address)

        return await attempts.until_answered(ask)

    def _attempts(self, terms: Terms, only: Server | None = None) -> Attempts:
        deadline = Deadline.after(terms.timeout_s)
        return Attempts(self._servers, self._retries, terms.session, deadline, only)
