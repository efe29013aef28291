"""A process that is stopped by a signal."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.support.patience import patience


def stop(pid: int) -> None:
    """SIGSTOP, and wait until no thread of it runs: the signal alone is not yet obeyed, and a busy
    thread may still answer what comes in that moment. Raises TimeoutError."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + patience(10)
    while any(_state(task) not in "TtZX" for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > end:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # this thread has ended meanwhile
        return "X"
