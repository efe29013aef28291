"""How a server disconnects its clients: how long it serves after it reports that it stops, and the
maximum age of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping

from server.engine import Engine
from server.ops.startup_log import Report

KUBERNETES = "KUBERNETES_SERVICE_HOST"  # set in every container of a pod
# How long preStop hooks of Kubernetes wait until endpoints no longer list a pod.
LAME_DUCK_S = 5.0
# Long compared with a handshake (milliseconds), short compared with a roll-out.
CONNECTION_AGE_S = 300.0


def lame_duck_s(
    asked: float | None, managed: bool, environment: Mapping[str, str]
) -> tuple[float, str]:
    """(seconds, reason): how long calls are served after health reports NOT_SERVING."""
    if asked is not None:
        return asked, "as configured"
    if managed:
        return LAME_DUCK_S, "a service manager started this server"
    if KUBERNETES in environment:
        return LAME_DUCK_S, "this server runs in Kubernetes"
    return 0.0, "no service manager started this server"


def connection_age_s(asked: float | None, local: bool) -> tuple[float, str]:
    """(seconds, reason): the age at which a connection is closed gracefully; 0: never."""
    if asked is not None:
        return asked, "as configured"
    if local:
        return 0.0, "only this machine can connect"
    return CONNECTION_AGE_S, "new servers get their share of the connections"


class Stop:
    """The first request to stop makes the server report NOT_SERVING and then drain. A further
    request ends the current step: the time in which it still serves, then the process."""

    def __init__(self, report: Report, leaving: Callable[[], object], lame_duck_s: float) -> None:
        self._report = report
        self._leaving = leaving
        self._lame_duck_s = lame_duck_s
        self._requested = asyncio.Event()
        self._hurried = asyncio.Event()
        self._draining = False

    def install(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number, engine)

    def request(self) -> None:
        if not self._requested.is_set():
            self._leaving()
        self._requested.set()

    async def wait(self, engine: Engine) -> None:
        """Returns when the server is to drain."""
        await self._requested.wait()
        if self._lame_duck_s and engine.leave():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), self._lame_duck_s)
        self._draining = True

    def _signal(self, number: signal.Signals, engine: Engine) -> None:
        again = "send the signal again to"
        if not self._requested.is_set():
            self.request()  # first, as reports must not delay it
            if self._lame_duck_s:
                line = f"leaving, still serving for {self._lame_duck_s:g} s; {again} drain now"
            else:
                line = f"draining; {again} exit immediately"
            self._report(f"{number.name}: {line}")
            return
        if self._lame_duck_s and not (self._draining or self._hurried.is_set()):
            self._hurried.set()
            self._report(f"{number.name}: draining; {again} exit immediately")
            return
        for replica in engine.snapshot().replicas:
            if replica.pid:
                os.kill(replica.pid, signal.SIGKILL)
        os._exit(128 + number)
