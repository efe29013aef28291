"""The audit log: what admins did or tried to do, and who acknowledged, silenced or annotated; one
JSON line for each call.

The log never blocks what it records: when it cannot be written, lines wait in memory and `trouble`
has the reason. Denials are summed, so that they cannot fill the disk, and files rotate.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.request.caller import host_of
from server.security.tokens import CallerIdentity

logger = logging.getLogger(__name__)

MOST_BYTES = 16 << 20  # size of one file
KEPT_FILES = 4  # rotated files; audit.jsonl.1 is the newest of them
WAITING_LINES = 2000  # lines kept in memory while nothing can be written; about 500 KiB
SUM_S = 60.0  # denials of one kind within this time make one more line
MOST_SUMS = 256  # kinds of denials summed at the same time; further kinds share a line
OTHERS = ("", "", "")

Line = dict[str, object]


@dataclass(eq=False)
class AuditLog:
    """A line is one write, so two servers may share the file. It is opened when there is something
    to write, and again after it was removed, replaced, or full."""

    path: Path
    wall: Callable[[], float] = time.time
    most_bytes: int = MOST_BYTES
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.trouble = ""
        self._file: int | None = None
        self._torn = False  # the last line in the file is incomplete
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._sums: OrderedDict[tuple[str, str, str], tuple[float, Line]] = OrderedDict()
        self._flush()

    def write(self, method: str, identity: CallerIdentity | None, peer: str, denied: bool) -> None:
        """Never raises, and waits at most for a disk write."""
        line: Line = {
            "at": round(self.wall(), 3),
            "method": method,
            "who": identity.name if identity else "",
            "role": identity.role if identity else "",
            "how": identity.how if identity else "",
            "peer": peer,
            "denied": denied,
        }
        if denied and self._summed(line, (method, str(line["who"]), host_of(peer))):
            return
        self._append(line)
        self._flush()

    def settle(self) -> None:
        """Write the sums that are due and the waiting lines; call it regularly."""
        self._end_sums(self.clock() - SUM_S)
        self._flush()

    def close(self) -> None:
        self._end_sums(float("inf"))
        self._flush()
        self._close_file()

    def _summed(self, line: Line, key: tuple[str, str, str]) -> bool:
        """False for the first denial of its kind, which is written at once."""
        self._end_sums(self.clock() - SUM_S)
        if key not in self._sums and len(self._sums) >= MOST_SUMS:
            key = OTHERS
            line = {**line, "method": "", "who": "", "role": "", "how": "", "peer": ""}
        first = key not in self._sums and key != OTHERS
        began, summed = self._sums.setdefault(key, (self.clock(), {**line, "times": 0}))
        if not first:
            times = summed["times"]
            assert isinstance(times, int)
            self._sums[key] = (began, {**summed, "until": line["at"], "times": times + 1})
        return not first

    def _end_sums(self, begun_before: float) -> None:
        while self._sums:
            began, line = next(iter(self._sums.values()))
            if began > begun_before:
                return
            self._sums.popitem(last=False)
            if line["times"]:
                self._append(line)

    def _append(self, line: Line) -> None:
        if len(self._waiting) >= WAITING_LINES:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(json.dumps(line).encode() + b"\n")

    def _flush(self) -> None:
        try:
            file = self._open()
            if self._lost and self._waiting:
                lost = {"at": round(self.wall(), 3), "lost_lines": self._lost}
                self._put(file, json.dumps(lost).encode() + b"\n")
                self._lost = 0
            while self._waiting:
                self._put(file, self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._cannot(error)
            return
        if self.trouble:
            logger.warning("the audit log is written again: %s", self.path)
            self.trouble = ""

    def _put(self, file: int, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        written = os.write(file, whole)
        self._torn = written < len(whole)
        if self._torn:
            # The disk was full after a part of the line.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        """The file at the path, which may have been moved or removed."""
        if self._file is not None and not self._is_there(self._file):
            self._close_file()
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file, self._torn = os.open(self.path, flags, 0o600), False
        if os.fstat(self._file).st_size >= self.most_bytes:
            self._rotate()
            return self._open()
        return self._file

    def _is_there(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        names = [self.path.with_name(f"{self.path.name}.{n}") for n in range(1, KEPT_FILES + 1)]
        for older, newer in zip(reversed(names), [*reversed(names[:-1]), self.path], strict=True):
            if newer.exists():
                newer.replace(older)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _cannot(self, error: OSError) -> None:
        text = f"the audit log {self.path} cannot be written, the newest {WAITING_LINES} lines "
        text += f"are kept in memory: {error.strerror or error}"
        if text != self.trouble:
            logger.error("%s", text)
        self.trouble = text
