"""One Predict: its rows are answered one by one, and only those that were not are asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from proto import inference_pb2 as pb
from trefoil.answers import Prediction, prediction_of
from trefoil.attempts import Attempts
from trefoil.errors import (
    Overloaded,
    StampMismatch,
    TrefoilError,
    Unavailable,
    error_of,
    error_of_fault,
)
from trefoil.servers import Server
from trefoil.shipment import Shipment
from trefoil.terms import PRIORITIES, Terms

Answer = Prediction | TrefoilError


@dataclass(slots=True)
class Request:
    id: str
    rows: int
    terms: Terms
    shipment: Shipment
    attempts: Attempts
    _answers: dict[int, Answer] = field(default_factory=dict)

    async def answer(self) -> list[Answer]:
        """One answer a row, in order."""
        try:
            await self.attempts.until_answered(self._ask)
        except TrefoilError as error:
            for row in self._open():
                self._answers[row] = error
        return [self._answers[row] for row in range(self.rows)]

    async def _ask(self, server: Server) -> None:
        try:
            passing = await self._send(server)
        except grpc.aio.AioRpcError as error:
            passing = error_of(error, server.address)
        if self.shipment.forget(passing):
            passing = await self._send(server)  # once more, with the upload made anew
        if passing is not None:
            raise passing

    async def _send(self, server: Server) -> TrefoilError | None:
        """Why some rows must be asked again; None when all have their answer."""
        rows = self._open()
        deadline = self.attempts.deadline
        examples = await self.shipment.to(server, rows, deadline)
        response = await server.stub.Predict(
            self._message(examples), timeout=deadline.left_s, metadata=self.shipment.metadata
        )
        passing = None
        for row, result in zip(rows, response.results, strict=True):
            found = self._answer_of(result, server)
            if isinstance(found, TrefoilError) and _passing(found):
                passing = found
            else:
                self._answers[row] = found
        return passing

    def _open(self) -> list[int]:
        return [row for row in range(self.rows) if row not in self._answers]

    def _message(self, examples: Sequence[pb.Example]) -> pb.PredictRequest:
        terms = self.terms
        return pb.PredictRequest(
            request_id=self.id,
            examples=examples,
            labels=terms.labels,
            top_k=terms.top_k,
            want_embedding=terms.embedding,
            expected_stamps=sorted(terms.pinned),
            priority=PRIORITIES[terms.priority],
            session_id=terms.session,
            no_payload_sample=not terms.keep_payload,
        )

    def _answer_of(self, result: pb.Result, server: Server) -> Answer:
        if result.HasField("fault"):
            error = error_of_fault(result.fault, result.stamp, server.address)
            error.attempts = self.attempts.made
            return error
        pinned = self.terms.pinned
        if pinned and result.stamp not in pinned:
            # Servers refuse before they work; this is for what stands between and does not know.
            return StampMismatch(
                message=f"answered by stamp {result.stamp}, which is not pinned",
                code="FAILED_PRECONDITION",
                reason="STAMP_MISMATCH",
                serving=result.stamp,
                server=server.address,
                attempts=self.attempts.made,
            )
        route = self.terms.session or self.id
        return prediction_of(result, server.address, route, self.attempts.made)


def _passing(error: TrefoilError) -> bool:
    """Is this row's trouble one of the moment, or an upload that can be made anew?"""
    return isinstance(error, (Unavailable, Overloaded)) or error.reason == "UNKNOWN_UPLOAD"
