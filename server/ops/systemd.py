"""Notifies the service manager that started this server (systemd's sd_notify protocol).

Each message is one datagram to the socket in NOTIFY_SOCKET. Without that variable, nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from server.api.health import TAKES_TRAFFIC
from server.engine import Engine

logger = logging.getLogger(__name__)

SEND_WITHIN_S = 1.0  # the manager may read slowly; the event loop waits no longer than this
RETRY_S = 1.0
# Keep-alives are sent this many times as often as required, so that a late one does no harm.
OFTENER = 3


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """`address` is a path, or @name of an abstract socket; "" means that there is no service
    manager. `watchdog_s` is the manager's limit between two keep-alives; 0: it requires none."""

    address: str = ""
    watchdog_s: float = 0.0

    def status(self, line: str) -> bool:
        # One line for systemd; a line break would begin another assignment.
        return self._send("STATUS=" + " ".join(line.split()))

    def ready(self) -> bool:
        return self._send("READY=1")

    def alive(self) -> bool:
        return self._send("WATCHDOG=1")

    def stopping(self, within_s: float) -> bool:
        """Notify that the server is stopping. It also requests `within_s`, as the manager does not
        know the server's grace period."""
        return self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    async def attend(self, engine: Engine) -> None:
        """Send READY once a replica is right and fast enough, and WATCHDOG while the event loop
        runs."""
        if not self.address:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_ready(engine))
            if self.watchdog_s:
                group.create_task(self._show_life())

    async def _send_ready(self, engine: Engine) -> None:
        state = ""
        while state not in TAKES_TRAFFIC:
            state = await engine.changed(state)
        while True:
            # Repeated until sent: otherwise the manager would wait for it for ever.
            if self.ready():
                return
            await asyncio.sleep(RETRY_S)

    async def _show_life(self) -> None:
        while True:
            self.alive()
            await asyncio.sleep(self.watchdog_s / OFTENER)

    def _send(self, assignment: str) -> bool:
        if not self.address:
            return False
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(SEND_WITHIN_S)
                out.connect(name)
                out.send(assignment.encode())
        except OSError as error:
            logger.warning("the service manager at %s was not notified: %s", self.address, error)
            return False
        return True


def service_manager(environment: MutableMapping[str, str]) -> ServiceManager:
    """The service manager from the environment. Its variables are removed, as replicas and alert
    commands must not notify it."""
    address = environment.pop("NOTIFY_SOCKET", "")
    asked_us = environment.pop("WATCHDOG_USEC", "")
    asked_of = environment.pop("WATCHDOG_PID", "")
    if address and address[0] not in "/@":
        logger.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name", address)
        return ServiceManager()
    ours = asked_of in ("", str(os.getpid()))
    watchdog_s = int(asked_us) / 1e6 if asked_us.isdigit() and ours else 0.0
    return ServiceManager(address, watchdog_s)
