"""The latest integrity check of one replica, and the callers that wait for a full comparison."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from server.replica import link
from server.types import SelfCheck


class Integrity:
    """Belongs to one process of one replica."""

    def __init__(self) -> None:
        self.check = SelfCheck()
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def ask(self) -> tuple[int, asyncio.Future[None]]:
        """The number of a new request for a comparison, and a future that is set when it is
        done."""
        self._asked += 1
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[self._asked] = answered
        return self._asked, answered

    def heard(self, looked: Any, wall: float) -> None:
        """Take over `looked`, a message of the replica."""
        number, verified = looked.verify_id, bool(looked.verify_id) and not looked.error
        self.check = SelfCheck(
            changed=link.changed(looked),
            at=wall,
            took_ms=looked.took_ms,
            verified_at=wall if verified else self.check.verified_at,
            error=looked.error,
        )
        self._settle(number)

    def over(self) -> None:
        """The replica is gone: release all waiting callers."""
        for number in list(self._waiting):
            self._settle(number)

    def _settle(self, number: int) -> None:
        answered = self._waiting.pop(number, None)
        if answered is not None:
            with contextlib.suppress(asyncio.InvalidStateError):  # the caller has left
                answered.set_result(None)
