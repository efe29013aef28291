"""Runs the operator's command for every page, with the alert as JSON on its standard input.

Commands run one at a time on a separate thread, each with a time limit, so that a pager that hangs
delays neither telemetry nor predictions. Pages that wait too long are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from server.telemetry.alerts.book import Transition

logger = logging.getLogger(__name__)

LIMIT_S = 30.0
WAITING = 100
CLOSE_S = 10.0  # longest wait of a stopping server for its pager
NOTHING: Mapping[str, str] = {}


class AlertCommand:
    """`about` is added to every alert, because a pager serves many servers; so is the page of
    `runbooks` about its kind. The thread calls `done(alert id, outcome)` when a run has ended."""

    def __init__(
        self,
        command: str,
        done: Callable[[str, str], None] = lambda alert, outcome: None,
        limit_s: float = LIMIT_S,
        about: Mapping[str, str] = NOTHING,
        runbooks: str = "docs/runbooks",
    ) -> None:
        """Raises ValueError when the command line cannot be split into arguments, or names no
        executable."""
        self._arguments = shlex.split(command)
        if not self._arguments:
            raise ValueError("the alert command is empty")
        if shutil.which(self._arguments[0]) is None:
            raise ValueError(f"{self._arguments[0]} is not an executable on this host")
        self._done = done
        self._limit_s = limit_s
        self._about = dict(about)
        self._runbooks = runbooks.rstrip("/")
        self._until = math.inf  # end of the wait by `time.monotonic`, once it is closing
        self._last = ""  # the error of the last run, "" if it ended well
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

    @property
    def trouble(self) -> str:
        """Why a page may not have arrived, or ""."""
        dropped = f"{self.dropped} pages dropped: the queue was full" if self.dropped else ""
        return "; ".join(part for part in (self._last, dropped) if part)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Finish the queued pages if time allows; a command that runs longer is killed."""
        self._until = time.monotonic() + timeout_s
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(self._until - time.monotonic(), 0.0) + 1.0)
        if (left := self._queue.qsize()) and self._thread.is_alive():
            logger.error("alert command: %d pages were not sent before the server stopped", left)

    def _run(self) -> None:
        while (transition := self._queue.get()) is not None:
            outcome = self._call(transition)
            self._last = ""
            if outcome != "exit 0":
                self._last = f"{outcome}, for {transition.alert.id}"
                logger.warning("alert command for %s: %s", transition.alert.id, outcome)
            self._done(transition.alert.id, outcome)

    def _call(self, transition: Transition) -> str:
        limit_s = min(self._limit_s, self._until - time.monotonic())
        if limit_s <= 0:
            return "not run: the server is stopping"
        content = {
            **self._about,
            **asdict(transition.alert),
            "runbook": f"{self._runbooks}/{transition.alert.kind}.md",
            "transition": asdict(transition.step),
        }
        try:
            # A new session: at the limit, everything that the command started is ended with it.
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as fault:
            return f"cannot start: {fault.strerror}"
        try:
            process.communicate(json.dumps(content).encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            return self._killed(process, f"killed after {limit_s:.0f} s")
        return f"exit {process.returncode}"

    def _killed(self, process: subprocess.Popen[bytes], outcome: str) -> str:
        """A command that switched to another user cannot be killed. It is left running, because
        waiting for it would block all later pages."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(1.0)
        except (OSError, subprocess.TimeoutExpired) as fault:
            return f"{outcome}, but it could not be killed: {fault}"
        return outcome
