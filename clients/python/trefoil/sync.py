"""The client for code that blocks: AsyncClient on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, TypeVar, Unpack

from proto import inference_pb2 as pb
from trefoil.access import Access
from trefoil.answers import Prediction, Told, Written
from trefoil.channels import RENDEZVOUS
from trefoil.client import AsyncClient, Said
from trefoil.errors import TrefoilError
from trefoil.request import Answer
from trefoil.retries import Retries
from trefoil.terms import Asked
from trefoil.texts import Text

Result = TypeVar("Result")


class TextReader:
    """A text for code that blocks: iterate for the pieces; `end` is set at the end."""

    def __init__(self, text: Text, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._text = text
        self._run = run

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def end(self) -> Written | None:
        return self._text.end

    def whole(self) -> Written:
        found: Written = self._run(self._text.whole())
        return found

    def __iter__(self) -> Iterator[str]:
        pieces = aiter(self._text)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
        finally:
            with suppress(TrefoilError):  # a closed client has ended its calls
                self._run(_close(pieces))


class Client:
    """As AsyncClient, from any thread. Close it, or use it in a `with` block."""

    def __init__(
        self,
        servers: str | Sequence[str],
        access: Access | None = None,
        retries: Retries = Retries(),  # noqa: B008  frozen
        balance: str = RENDEZVOUS,
        **defaults: Unpack[Asked],
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trefoil", daemon=True)
        self._thread.start()

        async def opened() -> AsyncClient:  # channels belong to the loop they are opened on
            return AsyncClient(servers, access, retries, balance, **defaults)

        with ExitStack() as undo:
            undo.callback(self._end)
            self._client = self._run(opened())
            undo.pop_all()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._end()

    def predict(self, *parts: pb.Part, **asked: Unpack[Asked]) -> Prediction:
        return self._run(self._client.predict(*parts, **asked))

    def predict_many(
        self, examples: Sequence[Sequence[pb.Part]], **asked: Unpack[Asked]
    ) -> list[Answer]:
        return self._run(self._client.predict_many(examples, **asked))

    def generate(self, *parts: pb.Part, **asked: Unpack[Asked]) -> TextReader:
        return TextReader(self._client.generate(*parts, **asked), self._run)

    def feedback(self, prediction: Prediction | str, **said: Unpack[Said]) -> Told:
        return self._run(self._client.feedback(prediction, **said))

    def served(self) -> dict[str, str | TrefoilError]:
        return self._run(self._client.served())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise TrefoilError("this client is closed", "CANCELLED", "CLIENT_CLOSED")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            # An interrupted caller must not leave its call running; nothing to a finished one.
            future.cancel()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


async def _close(pieces: Any) -> None:
    await pieces.aclose()
