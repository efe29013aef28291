"""The replica's side of the process that decoders are forked from (main.py beside this file)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from server import host
from server.child_process import module_command

# A fork takes milliseconds, a start half a second; this is for a machine that is far behind.
ANSWER_S = 20.0
MESSAGE_BYTES = 1 << 16
# One thread only: a fork copies only the thread that calls it.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(host.KEPT_BLOCK_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(host.KEPT_TOP_BYTES),
    "MALLOC_ARENA_MAX": "1",
}


class NurseryLost(Exception):
    """No decoder can be started."""


@dataclass(frozen=True, slots=True)
class Child:
    """A decoder inside its sandbox; `sandbox` describes the sandbox."""

    pid: int
    handle: int  # a pidfd
    link: socket.socket
    sandbox: str

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended

    def close(self) -> None:
        self.link.close()
        os.close(self.handle)


class Nursery:
    """Started once, and again whenever it has died. Thread-safe."""

    def __init__(self, command: Sequence[str] = module_command("server.replica.decoding.main")):
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Returns at once; the first `fork` waits. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, "--fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **ENVIRONMENT},
            )
        ours.settimeout(ANSWER_S)
        self._control = ours
        self._is_ready = False

    def fork(self, settings: dict[str, Any], arena: int) -> Child:
        """A new decoder; `arena` is a descriptor, `settings` the values that main.py reads. Raises
        NurseryLost."""
        with self._lock:
            if self._control is None:
                self._again()
            try:
                return self._fork(settings, arena)
            except (OSError, EOFError, ValueError):
                self._again()
            try:
                return self._fork(settings, arena)
            except (OSError, EOFError, ValueError) as error:
                raise NurseryLost(f"no decoder can be started: {error!r}") from error

    def reap(self, pid: int) -> int:
        """How a decoder ended, in the form of os.waitpid; 0 if that is unknown. It must have ended,
        or have been killed."""
        with self._lock:
            try:
                self._send({"wait": pid})
                return int(self._receive()[0]["status"])
            except (OSError, EOFError, ValueError, KeyError):
                return 0

    def close(self) -> None:
        with self._lock:
            self._end()

    def _again(self) -> None:
        self._end()
        try:
            self.start()
        except OSError as error:
            raise NurseryLost(f"no decoder can be started: {error}") from error

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _fork(self, settings: dict[str, Any], arena: int) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_S)
        with ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                self._wait_ready()
                self._send(settings, theirs.fileno(), arena)
                answer, handles = self._receive()
            for handle in handles:
                undo.callback(os.close, handle)
            greeting = json.loads(_some(ours.recv(MESSAGE_BYTES)))
            child = Child(int(answer["pid"]), handles[0], ours, str(greeting["sandbox"])[:200])
            undo.pop_all()
        return child

    def _wait_ready(self) -> None:
        if not self._is_ready:
            assert self._control is not None
            _some(self._control.recv(MESSAGE_BYTES))
            self._is_ready = True

    def _send(self, message: dict[str, Any], *descriptors: int) -> None:
        if self._control is None:
            raise EOFError
        socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        assert self._control is not None
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        return json.loads(_some(message)), descriptors


def _some(message: bytes) -> bytes:
    """The message. Raises EOFError if the other end is closed."""
    if not message:
        raise EOFError
    return message
