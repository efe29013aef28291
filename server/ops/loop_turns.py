"""A small share of the event loop, for work that may wait: those who want it go on one by one, in
order.

A hundred streams that each write a row lengthen every turn of the loop a hundredfold, and with it
every await of every call. Here they wait for each other, and pause together: gRPC hands over a call
only after a thread of its own has run, which another busy core may delay. Whoever waits for the
network holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque

TURNS, PAUSE_S = 8, 0.004  # of 0.1 ms each; 1,600 rows a second


class LoopTurns:
    """# Invariant: `_taken` exactly while `_pass_on` is scheduled."""

    def __init__(self) -> None:
        self._left = TURNS  # turns until the next pause
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def next(self) -> None:
        """Return at once if nobody went on in this turn of the loop and nobody waits."""
        if not self._taken:
            self._take()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _take(self) -> None:
        self._taken = True
        self._left -= 1
        loop = asyncio.get_running_loop()
        if self._left:
            loop.call_soon(self._pass_on)
        else:
            self._left = TURNS
            loop.call_later(PAUSE_S, self._pass_on)

    def _pass_on(self) -> None:
        self._taken = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its stream was closed meanwhile
                turn.set_result(None)
                self._take()
                return
