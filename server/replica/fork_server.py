"""The process that imports the libraries once and forks every replica of a server.

    python -P server/child_process.py server.replica.fork_server --fd N

It has one thread and never initialises CUDA, otherwise it refuses to fork: threads do not survive a
fork, and CUDA does not work in a process forked after its initialisation. All replicas share the
memory of its imports until one of them writes to it.

Over its socket (SOCK_SEQPACKET) it receives `Fork` requests, each with the replica's end of a
socket. It sends one `ready`, then for each request `forked` with a pidfd, or `refused`, and
`exited` with the exit code of each replica. It ends when the front is gone; then each replica ends
because its own socket closes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from server.child_process import ROOT
from server.replica import main as replica
from server.replica.fork_request import MESSAGE_BYTES, MODULE, Fork

# The files that a replica runs: a change of one makes this process stale.
PACKAGES = ("pipelines", "server", "proto")

Fingerprint = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Forkable:
    """The conditions under which a replica may be forked."""

    threads: int
    cuda_initialised: bool
    pidfds: bool  # the kernel has pidfds (Linux 5.3)
    import_s: float

    def why_not(self) -> str:
        """Why a replica must not be forked; "" if it may."""
        if self.cuda_initialised:
            return "CUDA is initialised in the fork server"
        if self.threads != 1:
            return f"the fork server has {self.threads} threads"
        return "" if self.pidfds else "this kernel has no pidfd_open"

    def __str__(self) -> str:
        return (
            f"forked from process {os.getpid()}, which imported the libraries once in "
            f"{self.import_s:.1f} s; it has 1 thread and has not initialised CUDA"
        )


@dataclass(eq=False)
class ForkServer:
    """`begin` becomes the replica in the forked process; its arguments are (arguments, why it was
    forked)."""

    control: socket.socket
    begin: Callable[[Sequence[str], str], None]
    state: Callable[[], Forkable]
    stale: Callable[[], str] = lambda: ""

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.control, selectors.EVENT_READ)
        self._replicas: dict[int, int] = {}  # pidfd -> pid

    def serve(self) -> None:
        """Returns when the front is gone."""
        state = self.state()
        self._send({"kind": "ready", "number": 0, "why_not": state.why_not()})
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self.control:
                    self._reap(key.fd)
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 1)
        if not data:
            return False
        with socket.socket(fileno=descriptors[0]) as end:
            self._fork(Fork.of(data), end)
        return True

    def _fork(self, request: Fork, end: socket.socket) -> None:
        state, stale = self.state(), self.stale()
        answer = {"number": request.number}
        if stale or state.why_not():
            why = stale or state.why_not()
            self._send(answer | {"kind": "refused", "stale": bool(stale), "why": why})
            return
        sys.stdout.flush()
        sys.stderr.flush()
        why = str(state)  # here, because the process id is still that of the fork server
        begun, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become(request, end, ready, why)
        os.close(ready)
        os.read(begun, 1)  # the child has left this session, or has ended
        os.close(begun)
        pidfd = os.pidfd_open(pid)
        self._replicas[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._send(answer | {"kind": "forked", "pid": pid}, pidfd)

    def _become(self, request: Fork, end: socket.socket, ready: int, why: str) -> Never:
        """Runs in the forked process: release everything that belongs to the fork server."""
        try:
            os.setsid()  # as a separate replica does: signals of a terminal reach only the front
            self._selector.close()
            self.control.close()
            for pidfd in self._replicas:
                os.close(pidfd)
            os.environ.clear()
            os.environ.update(request.environment)
            os.sched_setaffinity(0, request.affinity)
            module = request.command.index(replica.MODULE)
            set_title(request.command)
            sys.argv = ["", *request.command[module + 1 :]]
            os.write(ready, b"1")
            os.close(ready)
            self.begin([*request.command[module + 1 :], "--fd", str(end.detach())], why)
        except BaseException:  # the interpreter must not return to the fork server's loop
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    def _reap(self, pidfd: int) -> None:
        pid = self._replicas.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._send({"kind": "exited", "pid": pid, "code": code})

    def _send(self, message: Mapping[str, Any], *descriptors: int) -> None:
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], descriptors)
        except ConnectionError:
            os._exit(0)  # the front is gone


def fingerprint(root: Path = ROOT) -> Fingerprint:
    """What the file system reports about every source that a replica may run."""
    files = (path for name in PACKAGES for path in (root / name).rglob("*.py"))
    states = ((str(path), path.stat()) for path in files)
    return {path: (found.st_ino, found.st_size, found.st_mtime_ns) for path, found in states}


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def has_pidfds() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def set_title(command: Sequence[str]) -> None:
    """Show this command line in process lists. If the kernel does not report where the line is,
    that of the fork server stays."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end of proc_pid_stat(5)
    line = "\0".join(command).encode()
    if 0 < start < end and len(line) < end - start:
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--room", default="", help="makes the command line long enough for titles")
    fd = parser.parse_args(argv).fd
    # As in a replica: signals of a terminal or a service manager are for the front to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_title([*sys.orig_argv[: sys.orig_argv.index(MODULE) + 1], "--fd", str(fd)])
    control = socket.socket(fileno=fd)
    before = fingerprint()
    began = time.monotonic()
    gc.disable()  # collections over three thousand modules took a tenth of the time
    imported = replica.preload()
    gc.enable()
    import_s = time.monotonic() - began
    gc.collect()
    # A collection would write to the header of every object, and so copy the shared pages.
    gc.freeze()

    def state() -> Forkable:
        return Forkable(threads(), imported.cuda_initialised(), has_pidfds(), import_s)

    def stale() -> str:
        if fingerprint() != before:
            return "sources have changed on disk since they were imported"
        return imported.changed()

    ForkServer(control, replica.main, state, stale).serve()


if __name__ == "__main__":
    main()
