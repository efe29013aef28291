"""The processes that hold the weights of one pool: one for each device, started when a replica
asks.

A replica connects to a socket of the front and names its device; the front passes the connection to
the holder of that device and takes no further part. When a holder dies, its replicas end too, start
again and ask for a new holder. `close` ends the holders, which frees the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from server import host
from server.config import ServerConfig
from server.pool.memory import choose_sharing
from server.replica.weights.messages import ASK_BYTES

logger = logging.getLogger(__name__)
AGAIN_S = 1.0  # wait after a connection that could not be accepted, for lack of descriptors

Command = Callable[[str], Sequence[str]]


class WeightHolders:
    """`--fd N`, the holder's end of its socket, is appended to `command(device)`."""

    def __init__(
        self, command: Command, environment: Mapping[str, str], again_s: float = AGAIN_S
    ) -> None:
        self._command = command
        self._again_s = again_s
        self._environment = dict(environment)
        self._place = -1  # the socket's file, as a descriptor: see _listening_socket
        self._listening: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self._holders: dict[str, _Holder] = {}
        self._turn = asyncio.Lock()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the running holders, by device."""
        return {name: one.process.pid for name, one in self._holders.items() if one.running}

    def path(self) -> Path | None:
        """The socket to pass to a replica; it listens from the first call on. None if it cannot be
        created: then no weights are shared."""
        if self._listening is None:
            try:
                listener, self._place = _listening_socket()
            except OSError as error:
                logger.warning("weights are not shared: %s", error)
                return None
            self._listening = asyncio.create_task(self._listen(listener))
        return Path(f"/proc/{os.getpid()}/fd/{self._place}")

    async def close(self) -> None:
        """End the holders; call it after the replicas have ended."""
        tasks = [*self._asked, *([self._listening] if self._listening else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for holder in self._holders.values():
            await holder.end()
        self._holders.clear()
        if self._listening is not None:
            os.close(self._place)
            self._listening = None

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    logger.warning("a replica waits for its weights: %s", error)
                    await asyncio.sleep(self._again_s)
                    continue
                connection.setblocking(False)
                task = asyncio.create_task(self._pass_on(connection))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)

    async def _pass_on(self, connection: socket.socket) -> None:
        """Pass a connection on. If this fails, the replica sees the end of its connection and loads
        the weights itself."""
        asked = b""
        with connection:
            try:
                while len(asked) < ASK_BYTES:
                    more = await asyncio.get_running_loop().sock_recv(connection, ASK_BYTES)
                    if not more:
                        return
                    asked += more
                await self._give(asked.decode().strip(), connection)
            except (OSError, UnicodeDecodeError) as error:
                logger.warning("weights are not shared: %s", error)

    async def _give(self, device: str, connection: socket.socket) -> None:
        """Give the connection to the device's holder. Raises OSError."""
        async with self._turn:
            found = self._holders.get(device)
            if found is not None and found.running:
                with contextlib.suppress(OSError):  # it has ended, and this was not noticed yet
                    return found.give(connection)
            if found is not None:
                logger.warning("the holder of the weights on %s had ended", device)
                await found.end()
            started = await _Holder.start(self._command(device), self._environment)
            self._holders[device] = started
            started.give(connection)


def _listening_socket() -> tuple[socket.socket, int]:
    """(the socket, a descriptor of its file). The file's name is already removed, so a front that
    is killed leaves nothing behind; a process of the same user connects through /proc (proc(5),
    /proc/PID/fd). Raises OSError."""
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        with tempfile.TemporaryDirectory(prefix="trefoil-weights-") as folder:  # with mode 0700
            listener.bind(f"{folder}/socket")
            place = os.open(f"{folder}/socket", os.O_PATH)
        listener.listen(64)
        listener.setblocking(False)
        undo.pop_all()
    return listener, place


class _Holder:
    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.process = process
        self.control = control

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @staticmethod
    async def start(command: Sequence[str], environment: Mapping[str, str]) -> _Holder:
        """Start a holder. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *command,
                *("--fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                start_new_session=True,
            )
            undo.pop_all()
        return _Holder(process, ours)

    def give(self, connection: socket.socket) -> None:
        """Send the connection to the holder. Raises OSError."""
        socket.send_fds(self.control, [b"replica"], [connection.fileno()])

    async def end(self) -> None:
        self.control.close()
        # Without its socket it ends by itself, unless it is still loading.
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def weight_holders(
    config: ServerConfig,
    command: Callable[[ServerConfig, str], Sequence[str]],
    environment: Mapping[str, str],
) -> WeightHolders | None:
    """The holders; None if no weights are to be shared."""
    sharing, why = choose_sharing(config, host.has_gpu())
    logger.info("weights %s: %s", "shared" if sharing else "not shared", why)
    if not sharing:
        return None
    return WeightHolders(lambda device: command(config, device), environment)
