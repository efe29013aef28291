"""Replicas of tests, forked from one process that has imported what they run: a start costs 30 ms
instead of 300. `python -m tests.support.warm_replicas --fd N` is that process; it ends with the one
that started it."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from server.pool.spawn import Spawn, environment_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("tests.support.stub_replica", "tests.support.ruled_replica")
MESSAGE_BYTES = 1 << 16
_controls: list[socket.socket] = []  # one, of the process that forks


class WarmProcess:
    """One forked replica. `status` is the pipe that its parent writes its exit code into."""

    def __init__(self, pid: int, pidfd: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd, self._status = pidfd, status
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(status, self._exited)

    def kill(self) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    def _exited(self) -> None:
        code = os.read(self._status, 16)
        self.returncode = int(code) if code else None
        asyncio.get_running_loop().remove_reader(self._status)
        os.close(self._status)
        os.close(self._pidfd)
        self._ended.set()


class Server:
    """Forks a replica for each request: its program and arguments, its end of a socket, the pipe
    for its exit code. The answer is its number with a pidfd."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._replicas: dict[int, tuple[int, int]] = {}  # pidfd -> process, pipe
        self._programs = {name: importlib.import_module(name) for name in PROGRAMS}

    def serve(self) -> None:
        """Returns when the other end is closed."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._control:
                    self._reap(key.fd)
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 2)
        if not data:
            return False
        end, status = descriptors
        pid = os.fork()
        if pid == 0:
            self._become(json.loads(data), end, status)
        os.close(end)
        pidfd = os.pidfd_open(pid)
        self._replicas[pidfd] = (pid, status)
        self._selector.register(pidfd, selectors.EVENT_READ)
        socket.send_fds(self._control, [str(pid).encode()], [pidfd])
        return True

    def _become(self, command: Sequence[str], end: int, status: int) -> Never:
        try:
            self._selector.close()
            self._control.close()
            for descriptor in (status, *self._replicas, *(s for _, s in self._replicas.values())):
                os.close(descriptor)
            self._programs[command[0]].main([*command[1:], "--fd", str(end)])
        except BaseException:  # the interpreter must not go back into the loop of the server
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)

    def _reap(self, pidfd: int) -> None:
        pid, status = self._replicas.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(status, str(code).encode())
        os.close(status)


def warm_spawner(program: str, **options: object) -> Spawn:
    """Replicas that run this one of PROGRAMS; each option is one of its flags."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items()]

    async def spawn(index: int, end: socket.socket) -> WarmProcess:
        control = _control()
        request = json.dumps([program, *flags, f"--index={index}"]).encode()
        with end, contextlib.ExitStack() as undo:
            reading, writing = os.pipe()
            undo.callback(os.close, reading)
            with os.fdopen(writing, "wb"):
                # Waits, once for the imports and then 5 ms: not worth a task that can be cancelled.
                socket.send_fds(control, [request], [end.fileno(), writing])
                answer, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
            if not descriptors:
                raise OSError("no replica was forked, or its descriptor had no place")
            undo.pop_all()
        return WarmProcess(int(answer), descriptors[0], reading)

    return spawn


def fork_from_here() -> None:
    """Let replicas be forked from a child of this process, which has no threads yet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        os.setsid()  # signals of a terminal are for the process it came from
        ours.close()
        Server(theirs).serve()
        os._exit(0)
    theirs.close()
    _controls.append(ours)


def _control() -> socket.socket:
    """The socket of the process that forks, which is started with the first replica."""
    if not _controls:
        _controls.append(_started())
    return _controls[0]


def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_replicas", "--fd", str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=environment_of(1),
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    Server(socket.socket(fileno=parser.parse_args().fd)).serve()


if __name__ == "__main__":
    main()
