"""The front's side of the fork server: starts it, requests replicas, replaces it when it is gone.

When a fork server dies, its replicas continue to serve, and the next replica needed starts a new
one. Only their exit codes are lost, because the kernel reports those to the parent alone. A fork
server whose sources or libraries have changed on disk is replaced before the next fork, so a
replica always runs what a separate process would import.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol

from server.child_process import module_command
from server.replica.fork_request import MESSAGE_BYTES, MODULE, TITLE_BYTES, Fork

logger = logging.getLogger(__name__)
ENDS_S = 5.0  # a process that closed its control socket has ended after this time, or is killed


class ReplicaProcess(Protocol):
    """Both asyncio.subprocess.Process and ForkedProcess match it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int | None:
        """The exit code, negative for a signal; None: ended, and the code is lost."""


class NotForkable(Exception):
    """The fork server cannot fork here; replicas must be separate processes."""


class ForkedProcess:
    """One replica, a child of the fork server. A pidfd identifies it, as its pid may be reused."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()

    def kill(self) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    def exited(self, code: int | None) -> None:
        if not self._ended.is_set():
            self.returncode = code
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._ended.set()

    def orphaned(self) -> None:
        """The fork server is gone: the end of this replica is still noticed, but not its exit code,
        unless this process has inherited the replica (as the first process of a container does)."""
        if not self._ended.is_set():
            asyncio.get_running_loop().add_reader(self._pidfd, self._ended_orphan)

    def _ended_orphan(self) -> None:
        code = None
        with contextlib.suppress(ChildProcessError):
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            if found is not None:
                killed = found.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                code = -found.si_status if killed else found.si_status
        self.exited(code)


class ForkServerClient:
    """One for each server: its pools share what it has imported. `environment` is that of the
    process; each replica gets its own. `start_s` limits the time of the imports. The descriptor of
    its socket is appended to `command`."""

    def __init__(
        self,
        environment: Mapping[str, str],
        start_s: float,
        command: Sequence[str] = module_command(MODULE),
    ) -> None:
        self._start = partial(_Running.start, command, dict(environment), start_s)
        self._turn = asyncio.Lock()
        self._running: _Running | None = None
        # Replaced ones, which still report how their replicas end.
        self._retired: list[_Running] = []

    @property
    def pid(self) -> int:
        """The process id; 0 if none is running."""
        return self._running.pid if self._running is not None and self._running.open else 0

    async def fork(
        self, command: Sequence[str], environment: Mapping[str, str], end: socket.socket
    ) -> ForkedProcess:
        """A replica with this command line that inherits `end`.

        Raises NotForkable; OSError when the fork server cannot be started.
        """
        affinity = tuple(sorted(os.sched_getaffinity(0)))
        request = partial(Fork, command=tuple(command), environment=environment, affinity=affinity)
        async with self._turn:
            for running in (await self._usable(), None):
                found = await (running or await self._replaced()).fork(request, end)
                if isinstance(found, ForkedProcess):
                    return found
                logger.info("the fork server is replaced: %s", found)
            raise OSError(f"no fork server stays as it is: {found}")

    async def close(self) -> None:
        """End the fork server; running replicas end when their sockets close."""
        async with self._turn:
            for running in (*self._retired, *([self._running] if self._running else [])):
                await running.end()
            self._retired, self._running = [], None

    async def _usable(self) -> _Running:
        if self._running is None or not self._running.open:
            self._running = await self._start()
        return self._running

    async def _replaced(self) -> _Running:
        self._retired = [running for running in self._retired if running.open]
        if self._running is not None:
            self._running.retire()
            self._retired.append(self._running)
            self._running = None
        return await self._usable()


class _Running:
    """One process of a fork server."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.pid = process.pid
        self.open = True
        self._process = process
        self._control = control
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._replicas: dict[int, ForkedProcess] = {}
        self._is_retired = False
        asyncio.get_running_loop().add_reader(control, self._readable)

    @staticmethod
    async def start(
        command: Sequence[str], environment: Mapping[str, str], limit_s: float
    ) -> _Running:
        """Raises NotForkable; OSError when it ends or takes longer than `limit_s`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        async with AsyncExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    *("--fd", str(theirs.fileno()), "--room", "." * TITLE_BYTES),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,
                )
            running = _Running(process, ours)
            undo.push_async_callback(running.end)
            logger.info("the fork server imports the libraries, once for every replica")
            try:
                ready, _ = await asyncio.wait_for(running._answer(0), limit_s)
            except TimeoutError:
                raise OSError(f"the fork server did not start within {limit_s:g} s") from None
            except OSError:
                # It closed its end of the socket, so it is ending. kill() polls first, and would
                # take the exit code from the event loop's thread that waits for it: 255 was
                # reported then.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), ENDS_S)
                await running.end()
                code = process.returncode
                raise OSError(f"the fork server ended with exit code {code} at its start") from None
            if ready["why_not"]:
                raise NotForkable(ready["why_not"])
            undo.pop_all()
        return running

    async def fork(self, request: Callable[[int], Fork], end: socket.socket) -> ForkedProcess | str:
        """The replica, or the reason why this process must be replaced. Raises NotForkable,
        OSError."""
        number = next(self._numbers)
        answered = self._answer(number)
        socket.send_fds(self._control, [request(number).to_bytes()], [end.fileno()])
        try:
            answer, descriptors = await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled() and answered.exception() is None:
                _discard(answered.result()[1])
            raise
        finally:
            self._answers.pop(number, None)
        if answer["kind"] == "refused":
            if answer["stale"]:
                return str(answer["why"])
            raise NotForkable(answer["why"])
        found = self._replicas[answer["pid"]] = ForkedProcess(answer["pid"], descriptors[0])
        return found

    def retire(self) -> None:
        """End once the last replica has ended."""
        self._is_retired = True
        if not self._replicas:
            self._lost()

    async def end(self) -> None:
        self._lost()
        # Without its socket it ends by itself, unless it is importing.
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def _answer(self, number: int) -> asyncio.Future[tuple[dict[str, Any], list[int]]]:
        return self._answers.setdefault(number, asyncio.get_running_loop().create_future())

    def _lost(self) -> None:
        if not self.open:
            return
        self.open = False
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        for replica in self._replicas.values():
            replica.orphaned()
        self._replicas.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OSError("the fork server ended before it had answered"))

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            if self._replicas and not self._is_retired:
                logger.warning("the fork server has ended; its replicas serve on")
            self._lost()
            return
        message = json.loads(data)
        if message["kind"] == "exited":
            self._exited(message["pid"], message["code"])
            return
        answer = self._answers.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result((message, descriptors))
            return
        _discard(descriptors)

    def _exited(self, pid: int, code: int) -> None:
        replica = self._replicas.pop(pid, None)
        if replica is not None:
            replica.exited(code)
        if self._is_retired and not self._replicas:
            self._lost()


def _discard(pidfds: Sequence[int]) -> None:
    """End a replica whose caller has left."""
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
