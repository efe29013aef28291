"""One line of the log for each refused call, at most a few each second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from server.ops.event_log import Sparingly

logger = logging.getLogger("server.api.refusals")  # its lines have the component api

EACH, PER_S = 10, 1.0


class RefusalLog:
    """Refusals may come as fast as calls: those above the rate are counted in the next line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sparingly = Sparingly(EACH, PER_S, clock)

    def refused(
        self,
        message: str,
        code: str,
        method: str = "",
        peer: str = "",
        request_id: Callable[[], str] = str,
    ) -> None:
        """`request_id` is called only when a line is written."""
        if not logger.isEnabledFor(logging.INFO):
            return
        left_out = self._sparingly.take()
        if left_out is None:
            return
        more = f" ({left_out} refusals before it were not logged)" if left_out else ""
        about = {"method": method, "code": code, "peer": peer, "request_id": request_id()}
        logger.info("refused: %s%s", message, more, extra=about)
