"""Errors in a replica's work: a bug becomes an answer, unless later results cannot be trusted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from server.replica.fault_guard import EXIT_BROKEN, Failed, fault_guard
from server.replica.model import Rejected
from tests.support.patience import patience


def test_a_bug_becomes_the_fault_of_whatever_was_done() -> None:
    with pytest.raises(Failed) as caught, fault_guard("FORWARD_FAILED"):
        raise KeyError("x")
    fault = caught.value.fault
    assert (fault.code, fault.reason, fault.message) == (
        "INTERNAL",
        "FORWARD_FAILED",
        "KeyError: 'x'",
    )


def test_what_is_the_rows_own_fault_stays_that() -> None:
    with pytest.raises(Rejected) as caught, fault_guard("PREPARE_FAILED", lambda error: True):
        raise Rejected("parts[0]", "EMPTY", "there is nothing in it")
    assert caught.value.fault.reason == "EMPTY"


def test_an_error_that_spoils_all_others_is_not_answered() -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), fault_guard("X", lambda error: True):
        raise RuntimeError("CUDA error: an illegal memory access")


@pytest.mark.parametrize(("error", "code"), [("ConnectionError", 0), ("KeyError", EXIT_BROKEN)])
def test_an_error_at_the_edge_ends_the_process(error: str, code: int) -> None:
    script = (
        "from server.replica.fault_guard import run_thread\n"
        f"def loop(): raise {error}\nrun_thread(loop)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=patience(60)
    )
    assert ended.returncode == code


class OutOfMemoryError(RuntimeError):
    """As torch calls it on an accelerator."""


def decoder_error() -> Exception:
    """A decoder's own error, made of one of memory."""
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("the image does not fit in memory") from None
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: not enough memory"),
        decoder_error(),
    ],
)
def test_a_shortage_of_memory_is_not_the_rows_fault(error: Exception) -> None:
    with pytest.raises(Failed) as caught, fault_guard("PREPARE_FAILED"):
        raise error
    fault = caught.value.fault
    assert (fault.code, fault.reason) == ("RESOURCE_EXHAUSTED", "REPLICA_MEMORY")
