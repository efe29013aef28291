"""grpc.health.v1 for orchestrators. A check never runs inference: it reads the latest result of the
replicas' probes.

`trefoil.live`: the event loop runs. `trefoil.startup`: the start is complete. `trefoil.ready` and
"": answers are right and fast enough for traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from server.engine import Engine
from server.request.lazy_parse import message_of
from server.request.status import Refused
from server.types import Fault

SERVICES = ("", "trefoil.live", "trefoil.ready", "trefoil.startup")
LONGEST_WATCH_S = 3600.0  # then the watch ends, and the client starts another
TAKES_TRAFFIC = ("READY", "DEGRADED")


@dataclass(frozen=True, slots=True)
class HealthService:
    engine: Engine
    longest_watch_s: float = LONGEST_WATCH_S

    async def Check(self, data: bytes, _context: Any) -> Any:
        service = message_of(pb.HealthCheckRequest, data).service
        if service not in SERVICES:
            message = f"unknown service {service!r}; the services are {', '.join(SERVICES[1:])}"
            raise Refused(Fault("NOT_FOUND", "service", "UNKNOWN_SERVICE", message))
        return pb.HealthCheckResponse(status=_status(service, self.engine.snapshot().state))

    async def List(self, data: bytes, _context: Any) -> Any:
        message_of(pb.HealthListRequest, data)
        state = self.engine.snapshot().state
        found = {name: pb.HealthCheckResponse(status=_status(name, state)) for name in SERVICES}
        return pb.HealthListResponse(statuses=found)

    async def Watch(self, data: bytes, _context: Any) -> AsyncIterator[Any]:
        """The status at once, then each change of it, for up to an hour."""
        service = message_of(pb.HealthCheckRequest, data).service
        if service not in SERVICES:
            yield pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        sent, state = None, ""
        end = time.monotonic() + self.longest_watch_s
        while True:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    state = await self.engine.changed(state)
            except TimeoutError:
                return
            status = _status(service, state)
            if status != sent:
                yield pb.HealthCheckResponse(status=status)
                sent = status


def _status(service: str, state: str) -> int:
    if service == "trefoil.live":
        good = True
    elif service == "trefoil.startup":
        good = state != "STARTING"
    else:
        good = state in TAKES_TRAFFIC
    response = pb.HealthCheckResponse
    return response.SERVING if good else response.NOT_SERVING  # type: ignore[no-any-return]
