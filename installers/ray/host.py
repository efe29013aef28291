"""Runs the server's engine inside another serving shell: its replicas, its services, bytes in and
out.

The engine, its checks and its answers are those of `server`; only the port belongs to the other
shell. A socket in the data directory answers too, so that `server status --server
unix:DATA/engine.sock` and the console see each engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from server import host
from server.api.listen_address import CannotListen
from server.api.listener import Listener
from server.commands.flags import config_of, flags
from server.commands.serve import identity_of, pool_of
from server.config import ServerConfig
from server.deploy.boot_choice import choices
from server.deploy.bundle_store import FOLDER, BundleStore
from server.deploy.deployment import Deployment
from server.deploy.expected_stamp import ExpectedStamp
from server.deploy.journal import DeployJournal, analysis_of
from server.engine import Engine
from server.http.calls import Calls, HttpCall, Metadata
from server.main import parser as server_parser
from server.pool.pool import Pool
from server.pool.spawn import fork_server
from server.telemetry_port import telemetry_of

SOCKET = "engine.sock"  # in the data directory
SERVING = ("READY", "DEGRADED")
# Settings of a port, which the other shell owns. If they were ignored silently, an operator would
# rely on them.
OF_THE_PORT = ("http", "prometheus", "tls_cert", "tls_key", "tls_client_ca", "tokens")


def host_of_flags(argv: Sequence[str]) -> EngineHost:
    """From the flags of `server`, except --listen. Ends the process for a wrong flag.

    Raises CannotListen for flags that secure or open a port.
    """
    config = config_of(server_parser().parse_args(list(argv)))
    given = [flag for flag, field, *_ in flags() if field in OF_THE_PORT and getattr(config, field)]
    if given:
        raise CannotListen(f"{', '.join(given)} would have no effect: the port is another's")
    return EngineHost(replace(config, listen=f"unix:{config.data.absolute() / SOCKET}"))


@dataclass(slots=True)
class EngineHost:
    """`build` makes the pool of a configuration; None: the server's own, with forked replicas."""

    config: ServerConfig
    build: Callable[[ServerConfig], Pool] | None = None
    _engine: Engine | None = field(default=None, init=False)
    _calls: Calls | None = field(default=None, init=False)
    _open: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)

    async def start(self) -> None:
        """Returns once a replica is proved and takes rows; on an error it closes what it opened.
        Raises PoolRefused, CannotListen."""
        host.keep_freed_memory()
        async with AsyncExitStack() as stack:
            engine, calls = await self._started(stack)
            while trouble_of(engine):
                await engine.changed(engine.snapshot().state)
            self._engine, self._calls = engine, calls
            self._open = stack.pop_all()

    async def _started(self, stack: AsyncExitStack) -> tuple[Engine, Calls]:
        config = self.config
        config.data.mkdir(parents=True, exist_ok=True)
        telemetry = await asyncio.to_thread(telemetry_of, config, time.time)
        stack.callback(telemetry.close)
        journal = DeployJournal(telemetry, time.time)
        build = self.build or self._own_build(journal, stack)
        store = BundleStore(config.data / FOLDER)
        expected = ExpectedStamp(config.expect_stamp, config.expect_from)
        first = choices(config.bundle, store, config.data, expected.stored(store))[0]
        pool = build(replace(config, bundle=first.path))
        engine = Engine(config, pool, telemetry, build=build, withheld=expected.withheld)
        engine.pool_set.check = journal.adopt
        deployment = Deployment(
            engine.pool_set, store, journal.switched, analysis_of, config.keep_bundles
        )
        identity = identity_of(config)
        listener = Listener(
            engine, config, identity, lambda: None, deployment=deployment, telemetry=telemetry
        )
        await listener.start()
        stack.push_async_callback(listener.stop, 0)
        stack.push_async_callback(engine.stop)
        await engine.start()
        stack.push_async_callback(deployment.stop)
        assert engine.facts is not None  # otherwise it would have been refused
        await journal.start(engine.facts)
        obeying = asyncio.create_task(expected.obey(deployment))
        stack.callback(obeying.cancel)
        return engine, Calls(listener.services, listener.chain)

    def _own_build(
        self, journal: DeployJournal, stack: AsyncExitStack
    ) -> Callable[[ServerConfig], Pool]:
        forks = fork_server(self.config)
        if forks is not None:
            stack.push_async_callback(forks.close)
        return partial(pool_of, exited=journal.replica_exited, forks=forks)

    async def stop(self) -> None:
        """Answers the accepted rows first. It has no effect unless the engine has started."""
        engine, self._engine = self._engine, None
        async with self._open:
            if engine is not None:
                await engine.drain(self.config.drain_s)

    async def call(self, method: str, data: bytes, call: HttpCall) -> bytes:
        """The answer to one call. Raises CallRefused."""
        assert self._calls is not None  # it has started
        answer = await self._calls.ask(method, data, call)
        return bytes(answer.SerializeToString())

    async def stream(
        self, method: str, data: bytes, peer: str, metadata: Metadata
    ) -> AsyncIterator[bytes]:
        """The answers of a method that streams. Raises CallRefused."""
        assert self._calls is not None  # it has started
        calls = self._calls
        answers: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)

        async def write(message: object) -> None:
            await answers.put(message.SerializeToString())  # type: ignore[attr-defined]

        async def run() -> None:
            try:
                await calls.ask(method, data, HttpCall(peer, metadata, writer=write))
            finally:
                await answers.put(None)

        running = asyncio.create_task(run())
        try:
            while (piece := await answers.get()) is not None:
                yield piece
            await running
        finally:
            running.cancel()

    @property
    def trouble(self) -> str:
        """Why the engine takes no rows now, "" if it does: the same evidence as for `server
        probe`."""
        return trouble_of(self._engine) if self._engine is not None else "not started, or stopped"

    @property
    def queue_seconds(self) -> float:
        """How long a row that arrives now will wait, in seconds."""
        return self._engine.snapshot().queue_seconds if self._engine is not None else 0.0


def trouble_of(engine: Engine) -> str:
    snapshot = engine.snapshot()
    return "" if snapshot.state in SERVING else f"{snapshot.state}: {snapshot.reason}"
