"""A real server with one setting, for as long as the setting is in the search."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from proto import observe_pb2
from proto.inference_pb2 import Example
from proto.observe_pb2_grpc import ObserveStub
from server.child_process import module_command
from server.tuning.grid import Setting
from server.tuning.load import HERE, Loader
from server.tuning.objective import LoadResult, Trial, TuningObjective

LOOK_S = 0.1
STOP_S = 10.0
# An idle replica is probed again only after this time, so that no probe falls into a load.
QUIET = ("--probe-interval", "86400", "--grace", "1", "--log-level", "warning")


class NotStarted(Exception):
    """The server ended instead of serving; the message has its last lines."""


class TunedServer:
    def __init__(self, process: asyncio.subprocess.Process, loader: Loader, log: Path) -> None:
        self._process = process
        self._loader = loader
        self._log = log

    @staticmethod
    async def start(
        setting: Setting,
        fixed: Sequence[str],
        folder: Path,
        examples: Sequence[Example],
        objective: TuningObjective,
        limit_s: float,
    ) -> TunedServer | None:
        """Start a server; returns once every replica is ready, or None after `limit_s`. `fixed` are
        flags of every server; `folder` is this server's own and empty. Raises NotStarted."""
        target = f"unix:{folder}/s"
        chosen = [text for flag, value in setting.by_flag().items() for text in (flag, str(value))]
        log = folder / "log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *module_command("server.main"),
                *("--listen", target, "--data", str(folder), *QUIET, *fixed, *chosen),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches only the search, which ends its servers
            )
        server = TunedServer(process, Loader(target, examples, objective), log)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(server.stop)
            if not await server._ready(target, limit_s):
                return None
            undo.pop_all()
        return server

    async def trial(self, seconds: float) -> Trial:
        return await self._loader.trial(seconds)

    async def open(self, per_second: float, seconds: float) -> LoadResult:
        return await self._loader.open(per_second, seconds)

    async def stop(self) -> None:
        await self._loader.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _ready(self, target: str, limit_s: float) -> bool:
        until = time.monotonic() + limit_s
        async with grpc.aio.insecure_channel(target, HERE) as channel:
            watch: Any = ObserveStub(channel).Watch  # type: ignore[no-untyped-call]
            while time.monotonic() < until:
                if self._process.returncode is not None:
                    lines = self._log.read_text(errors="replace").splitlines()
                    raise NotStarted("\n".join(lines[-3:]))
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for event in watch(observe_pb2.WatchRequest(once=True), timeout=5):
                        now = event.snapshot
                        if now.warm_replicas == now.wanted_replicas > 0:
                            return True
                        break
                await asyncio.sleep(LOOK_S)
        return False
