"""The client for code that blocks: AsyncClient on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeVar, Unpack

from trefoil._proto import inference_pb2 as pb
from trefoil.access import Access
from trefoil.channels import RENDEZVOUS
from trefoil.client import AsyncClient, FeedbackArguments
from trefoil.errors import TrefoilError, check_process
from trefoil.options import OptionArguments
from trefoil.request import Answer
from trefoil.results import FeedbackResult, GeneratedText, Prediction
from trefoil.retry_policy import RetryPolicy
from trefoil.text_stream import TextStream

Result = TypeVar("Result")


class BlockingTextStream:
    """TextStream for code that blocks: iterate for the pieces; `result` is set at the end."""

    def __init__(self, text: TextStream, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._text = text
        self._run = run

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def result(self) -> GeneratedText | None:
        return self._text.result

    def read_all(self) -> GeneratedText:
        result: GeneratedText = self._run(self._text.read_all())
        return result

    def __iter__(self) -> Iterator[str]:
        pieces = aiter(self._text)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
        finally:
            with suppress(TrefoilError):  # calls fail when the client was closed
                self._run(_close(pieces))


class Client:
    """AsyncClient for code that blocks, from any thread. Close it, or use it in a `with` block."""

    def __init__(
        self,
        servers: str | Sequence[str],
        access: Access | None = None,
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008  frozen
        balance: str = RENDEZVOUS,
        **defaults: Unpack[OptionArguments],
    ) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trefoil", daemon=True)
        self._thread.start()

        async def opened() -> AsyncClient:  # channels belong to the event loop that opens them
            return AsyncClient(servers, access, retry_policy, balance, **defaults)

        with ExitStack() as undo:
            undo.callback(self._end)
            self._client = self._run(opened())
            undo.pop_all()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._loop.is_closed() and self._process == os.getpid():
            self._run(self._client.close())
            self._end()

    def predict(self, *parts: pb.Part, **options: Unpack[OptionArguments]) -> Prediction:
        return self._run(self._client.predict(*parts, **options))

    def predict_many(
        self, examples: Sequence[Sequence[pb.Part]], **options: Unpack[OptionArguments]
    ) -> list[Answer]:
        return self._run(self._client.predict_many(examples, **options))

    def generate(self, *parts: pb.Part, **options: Unpack[OptionArguments]) -> BlockingTextStream:
        return BlockingTextStream(self._client.generate(*parts, **options), self._run)

    def feedback(
        self, prediction: Prediction | str, **truth: Unpack[FeedbackArguments]
    ) -> FeedbackResult:
        return self._run(self._client.feedback(prediction, **truth))

    def served(self) -> dict[str, str | TrefoilError]:
        return self._run(self._client.served())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise TrefoilError("this client is closed", "CANCELLED", "CLIENT_CLOSED")
        try:
            check_process(self._process)  # the thread does not exist in a forked process
        except TrefoilError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            # If the caller is interrupted, cancel its call; a finished call is not affected.
            future.cancel()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


async def _close(pieces: Any) -> None:
    await pieces.aclose()
