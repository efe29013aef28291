"""Independent requests over one bidirectional stream, answered as they finish or in the order of
the requests, a bounded number at a time. The next message is read only when there is room. So the
caller's flow-control window fills up and HTTP/2 slows it down, and no queue of the server grows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message

from server.request.status import Refused

IN_FLIGHT = 64


def name_of_call() -> str | None:
    """The method of a call, as a name for its tasks, so that a slow turn of the loop can be
    attributed to it."""
    task = asyncio.current_task()
    return task.get_name() if task is not None else None


async def answer_stream(
    context: Any,
    answer: Callable[[bytes], Awaitable[message.Message]],
    in_flight: int = IN_FLIGHT,
    in_order: bool = False,
) -> None:
    """Read requests until the caller half-closes. Write each answer as soon as it is ready, or with
    `in_order` as soon as those before it are written.

    `answer` must turn a request's own errors into a message: an exception ends the stream.
    """
    room = asyncio.Semaphore(in_flight)
    writing = asyncio.Lock()

    async def one(request: bytes, before: asyncio.Task[None] | None) -> None:
        try:
            response = await answer(request)
            if before is not None:
                await before
            async with writing:
                await context.write(response)
        finally:
            room.release()

    last: asyncio.Task[None] | None = None
    refused: Refused | None = None
    async with asyncio.TaskGroup() as tasks:
        while True:
            await room.acquire()
            try:
                request = await context.read()
            except Refused as refusal:  # the requests read before are still answered
                refused = refusal
                break
            if request is grpc.aio.EOF:
                break
            task = tasks.create_task(one(request, last), name=name_of_call())
            last = task if in_order else None
            # Otherwise they would hold the message during the wait for the next one.
            del request, task
    if refused is not None:
        raise refused
