"""Handles unexpected errors of a replica's threads.

An error that a model raises over a row fails the rows being processed, not the process, which holds
other rows. Every other error is a fault of the server and ends the process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proto import inference_pb2
from server.ops import event_log
from server.replica.shortage import short_of_memory

logger = logging.getLogger(__name__)

EXIT_BROKEN = 70


class Failed(Exception):
    """`fault` is the answer to the work that failed."""

    def __init__(self, fault: inference_pb2.Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def run_thread(loop: Callable[[], None]) -> None:
    """The body of a thread. An error that reaches this point is a fault of the server: the process
    ends, and the front starts another one."""
    try:
        while True:
            loop()
    except ConnectionError:
        os._exit(0)  # the front is gone
    except Exception:
        logger.exception("a stage of this replica failed")
        event_log.flush()
        os._exit(EXIT_BROKEN)


@contextmanager
def fault_guard(
    reason: str, broken_by: Callable[[Exception], bool] = lambda error: False
) -> Iterator[None]:
    """Turns any error inside into a Failed, except one after which, by `broken_by`, later results
    of this process cannot be trusted. That one reaches `run_thread`, and the front retries the rows
    elsewhere, each alone.

    A shortage of memory is not the row's fault: the code is RESOURCE_EXHAUSTED, and another replica
    is tried.

    The except clause is broad, because decoders and a model's libraries may raise anything over a
    stranger's bytes, and every row must get an answer.
    """
    try:
        yield
    except Failed:
        raise
    except Exception as error:
        logger.exception("%s", reason)
        if broken_by(error):
            raise
        if short_of_memory(error):
            text = "this replica has no memory left for the row"
            short = inference_pb2.Fault(
                code="RESOURCE_EXHAUSTED", reason="REPLICA_MEMORY", message=text
            )
            raise Failed(short) from error
        message = f"{type(error).__name__}: {error}"
        fault = inference_pb2.Fault(code="INTERNAL", reason=reason, message=message)
        raise Failed(fault) from error
