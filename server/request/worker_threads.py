"""Runs blocking work of telemetry on a few threads beside the event loop, with a bounded queue.

Telemetry's errors become faults only here; the caller names the field.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.request.status import Refused, bad_input
from server.telemetry.errors import BadFilter, StoreBusy, TooMany, UnknownAlert
from server.telemetry_port import TelemetryOff
from server.types import Fault

T = TypeVar("T")
RETRY_S = 1.0
TOO_MANY_S = 60.0  # until a person has ended one, or one has expired


class WorkerThreads:
    """`threads` run at a time and `waiting` more may queue; further work is refused with RetryInfo.

    Work whose caller has left is not started.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._most = threads + waiting
        self._asked = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T], field: str = "") -> T:
        """The result of `work`. Raises Refused; `field` is the field named for a bad value."""
        if self._asked >= self._most:
            text = f"{self._asked} such requests are already being answered"
            raise Refused(Fault("RESOURCE_EXHAUSTED", "", "TELEMETRY_FULL", text, RETRY_S))
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except BadFilter as error:
            raise Refused(bad_input(field, "BAD_FILTER", str(error))) from None
        except UnknownAlert as error:
            raise Refused(Fault("NOT_FOUND", field, "UNKNOWN", str(error))) from None
        except TooMany as error:
            fault = Fault("RESOURCE_EXHAUSTED", field, "TOO_MANY", str(error), TOO_MANY_S)
            raise Refused(fault) from None
        except TelemetryOff as error:
            raise Refused(Fault("FAILED_PRECONDITION", "", "TELEMETRY_OFF", str(error))) from None
        except StoreBusy as error:
            raise Refused(Fault("UNAVAILABLE", "", "TELEMETRY_BUSY", str(error), RETRY_S)) from None
        except (OSError, sqlite3.Error) as error:
            text = f"telemetry cannot be read or written now: {error}"
            raise Refused(Fault("UNAVAILABLE", "", "TELEMETRY_DOWN", text, RETRY_S)) from None
        finally:
            self._asked -= 1

    def close(self) -> None:
        """Returns at once; running work ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
