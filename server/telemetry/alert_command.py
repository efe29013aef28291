"""Runs a command of the operator's for every page: the alert as JSON on its standard input.

One at a time on a thread of its own, each with a time limit, so that a pager that hangs delays
neither telemetry nor predictions. What waits too long is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import asdict

from server.telemetry.alerts import Transition

logger = logging.getLogger(__name__)

LIMIT_S = 30.0
WAITING = 100


class AlertCommand:
    """`done(alert id, outcome in words)` is called from the thread when a run has ended."""

    def __init__(
        self,
        command: str,
        done: Callable[[str, str], None] = lambda alert, outcome: None,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Raises ValueError when the command line cannot be split into words."""
        self._words = shlex.split(command)
        if not self._words:
            raise ValueError("the alert command is empty")
        self._done = done
        self._limit_s = limit_s
        self._queue: queue.Queue[Transition | None] = queue.Queue(WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="on-alert", daemon=True)
        self._thread.start()

    def page(self, transition: Transition) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(transition)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Finishes what is queued, one time limit long at most."""
        try:
            self._queue.put(None, timeout=self._limit_s)
        except queue.Full:
            return
        self._thread.join(self._limit_s)

    def _run(self) -> None:
        while (transition := self._queue.get()) is not None:
            outcome = self._call(transition)
            if outcome != "exit 0":
                logger.warning("alert command for %s: %s", transition.alert.id, outcome)
            self._done(transition.alert.id, outcome)

    def _call(self, transition: Transition) -> str:
        content = {**asdict(transition.alert), "transition": asdict(transition.step)}
        try:
            # A session of its own: at the limit everything it started ends with it.
            process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as fault:
            return f"cannot start: {fault.strerror}"
        try:
            process.communicate(json.dumps(content).encode(), timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"killed after {self._limit_s:.0f} s"
        return f"exit {process.returncode}"
