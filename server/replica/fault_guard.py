"""Unexpected errors of a replica: both of its broad excepts are here.

An error that a model raises over a row fails the rows in work, not the process, which holds other
rows. Every other error is a fault of the server and ends the process.
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
    """`fault` is the answer to whatever was being done."""

    def __init__(self, fault: inference_pb2.Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def run_thread(loop: Callable[[], None]) -> None:
    """A thread. An error that reaches this is ours: the process ends, the front starts another."""
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
    """Makes any error inside a Failed, but for one that, by `broken_by`, spoils all that would be
    computed from now on: that reaches `run_thread`, and the front retries the rows elsewhere,
    each alone.

    A shortage of memory is not the row's fault: RESOURCE_EXHAUSTED, and another replica is asked.

    Broad, because decoders and a model's libraries raise anything over a stranger's bytes, and a
    row without an answer is worse than a bug with one.
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
