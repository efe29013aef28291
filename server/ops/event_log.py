"""The log of a process: one line for each event, written by a separate thread.

Logging never affects the caller: it never waits and never gets an error. A closed pipe, a full disk
or a stuck reader loses lines, which are counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
WAITING = 10_000  # lines; while this many wait, new lines are dropped and counted
CLOSE_S = 2.0  # longest wait of a stopping process for a stuck reader
OURS = ("server", "pipelines", "proto")
# Attributes of a record that become fields of the line, besides its message.
ABOUT = ("request_id", "prediction_id", "method", "code", "peer")
COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}
PLAIN = "\033[0m"

Write = Callable[[str], None]


class EventLog(logging.Handler):
    """A handler for the root logger. `component` names the process in every line; loggers below
    `server.` add their part of the name."""

    def __init__(
        self, write: Write, form: str = "text", component: str = "server", colours: bool = False
    ) -> None:
        super().__init__()
        self._write = write
        self._component = component
        self._line = _json_line if form == "json" else _text_line
        self._colours = colours and form == "text"
        self._queue: queue.Queue[str | None] = queue.Queue(WAITING)
        self._dropped = 0
        self._idle = threading.Event()  # set while no line waits to be written
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits, never raises."""
        try:
            self._put(self._line(record, self._component_of(record), self._colours))
        except Exception:
            self.handleError(record)  # the record's arguments do not fit its format

    def flush(self) -> None:
        """Wait until everything is written, for a limited time."""
        self._idle.wait(CLOSE_S)

    def close(self) -> None:
        """Write the remaining lines, if that is possible soon."""
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except queue.Full:
            pass
        self._thread.join(CLOSE_S)
        super().close()

    def _put(self, line: str) -> None:
        self._idle.clear()
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._write(line)
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._dropped += 1
            else:
                self._admit_losses()
            if self._queue.empty():
                self._idle.set()

    def _admit_losses(self) -> None:
        if lost := self._dropped:
            self._dropped = 0
            self._note(f"{lost} lines of this log could not be written")

    def _note(self, message: str) -> None:
        record = logging.LogRecord("server.log", logging.WARNING, "", 0, message, None, None)
        self._put(self._line(record, self._component_of(record), self._colours))

    def _component_of(self, record: logging.LogRecord) -> str:
        parts = record.name.split(".")
        if parts[0] == "server" and len(parts) > 2 and parts[1] not in ("commands", "replica"):
            return f"{self._component} {parts[1]}"
        return self._component if parts[0] in OURS else f"{self._component} {parts[0]}"


def install(
    stream: TextIO | None, form: str = "text", level: str = "info", component: str = "server"
) -> EventLog:
    """Send everything that this process logs to `stream`. Other libraries are logged from warnings
    on. Close the returned handler at the end."""
    log = EventLog(writer(stream), form, component, shows_colours(stream, os.environ))
    root = logging.getLogger()
    root.addHandler(log)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(least, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    return log


def uninstall(log: EventLog) -> None:
    logging.captureWarnings(False)
    logging.getLogger().removeHandler(log)
    log.close()


def flush() -> None:
    """Call it before a process ends at once."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def writer(stream: TextIO | None) -> Write:
    """Write a line without Python's buffer, which would be flushed again, and fail, at exit."""
    if stream is None:
        return lambda line: None
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream without a file, as tests have

        def through_stream(line: str) -> None:
            stream.write(line + "\n")
            stream.flush()

        return through_stream

    def to_file(line: str) -> None:
        left = (line + "\n").encode(errors="backslashreplace")
        while left:
            left = left[os.write(number, left) :]

    return to_file


def shows_colours(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether to use colours: only on a terminal, and not if the environment asks for none
    (https://no-color.org)."""
    if stream is None or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


def _text_line(record: logging.LogRecord, component: str, colours: bool) -> str:
    level = f"{record.levelname:7}"
    if colours and record.levelname in COLOURS:
        level = f"{COLOURS[record.levelname]}{level}{PLAIN}"
    about = "".join(f" {name}={value}" for name, value in _about(record).items())
    return f"{_time(record)} {level} {component}: {_one_line(record)}{about}"


def _json_line(record: logging.LogRecord, component: str, colours: bool) -> str:
    found: dict[str, Any] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "component": component,
        "message": record.getMessage().strip(),
        **_about(record),
    }
    if record.exc_info:
        found["exception"] = _trace(record)
    return json.dumps(found, ensure_ascii=False)


def _about(record: logging.LogRecord) -> dict[str, str]:
    found = {name: str(getattr(record, name, "")) for name in ABOUT}
    return {name: " ".join(value.split()) for name, value in found.items() if value}


def _one_line(record: logging.LogRecord) -> str:
    message = " ".join(record.getMessage().split())
    return f"{message} | {' | '.join(_trace(record).splitlines())}" if record.exc_info else message


def _trace(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Sparingly:
    """At most `each` events in `per_s` seconds; the next one reports how many were left out."""

    def __init__(
        self, each: int = 10, per_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each, self._per_s, self._clock = each, per_s, clock
        self._began, self._count, self._left_out = clock(), 0, 0

    def take(self) -> int | None:
        """How many events were left out before this one; None: leave this one out too."""
        now = self._clock()
        if now - self._began >= self._per_s:
            self._began, self._count = now, 0
        if self._count >= self._each:
            self._left_out += 1
            return None
        self._count += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
