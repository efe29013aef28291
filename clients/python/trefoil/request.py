"""One Predict: each row has its own answer, and only rows without an answer are sent again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from trefoil._proto import inference_pb2 as pb
from trefoil.errors import (
    Overloaded,
    StampMismatch,
    TrefoilError,
    Unavailable,
    error_of,
    error_of_fault,
)
from trefoil.options import Options
from trefoil.results import Prediction, prediction_of
from trefoil.retry_loop import RetryLoop
from trefoil.servers import Server
from trefoil.uploads import Uploads

Answer = Prediction | TrefoilError


@dataclass(slots=True)
class Request:
    id: str
    rows: int
    options: Options
    uploads: Uploads
    retries: RetryLoop
    _answers: dict[int, Answer] = field(default_factory=dict)

    async def answer(self) -> list[Answer]:
        """One answer for each row, in order."""
        try:
            await self.retries.run(self._attempt)
        except TrefoilError as error:
            for row in self._open_rows():
                self._answers[row] = error
        return [self._answers[row] for row in range(self.rows)]

    async def _attempt(self, server: Server) -> None:
        try:
            error = await self._send(server)
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure, server.address)
        if self.uploads.forget(error):
            error = await self._send(server)  # send once more, with a new upload
        if error is not None:
            raise error

    async def _send(self, server: Server) -> TrefoilError | None:
        """The error why some rows must be sent again; None when every row has its answer."""
        rows = self._open_rows()
        deadline = self.retries.deadline
        examples = await self.uploads.examples_for(server, rows, deadline)
        response = await server.stub.Predict(
            self._message(examples), timeout=deadline.left_s, metadata=self.uploads.metadata
        )
        retry = None
        for row, result in zip(rows, response.results, strict=True):
            answer = self._answer_of(result, server)
            if isinstance(answer, TrefoilError) and _worth_retrying(answer):
                retry = answer
            else:
                self._answers[row] = answer
        return retry

    def _open_rows(self) -> list[int]:
        return [row for row in range(self.rows) if row not in self._answers]

    def _message(self, examples: Sequence[pb.Example]) -> pb.PredictRequest:
        options = self.options
        return pb.PredictRequest(
            request_id=self.id,
            examples=examples,
            labels=options.labels,
            top_k=options.top_k,
            want_embedding=options.embedding,
            expected_stamps=sorted(options.pinned),
            **options.sent(),
        )

    def _answer_of(self, result: pb.Result, server: Server) -> Answer:
        attempts = self.retries.attempts
        if result.HasField("fault"):
            error = error_of_fault(result.fault, result.stamp, server.address)
            error.attempts = attempts
            return error
        pinned = self.options.pinned
        if pinned and result.stamp not in pinned:
            # Servers check the pinned stamps before they work; this check is for a proxy that drops
            # the pins.
            return StampMismatch(
                message=f"answered by stamp {result.stamp}, which is not pinned",
                code="FAILED_PRECONDITION",
                reason="STAMP_MISMATCH",
                serving=result.stamp,
                server=server.address,
                attempts=attempts,
            )
        route = self.options.session or self.id
        return prediction_of(result, server.address, route, attempts)


def _worth_retrying(error: TrefoilError) -> bool:
    """Whether a retry may succeed for this row: the error is temporary, or an upload can be sent
    again."""
    return isinstance(error, (Unavailable, Overloaded)) or error.reason == "UNKNOWN_UPLOAD"
