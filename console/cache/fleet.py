"""Makes one line of the fleet panel from what is known of a server."""

from __future__ import annotations

from collections.abc import Mapping

from console.cache.timeline import ServerLatency
from console.state import status
from console.state.dashboard import ServerLine, SkewLine
from console.state.domain import STAMP_PARTS, ServerRecord


def slo_ms_of(servers: Mapping[str, ServerRecord], scope: str) -> float:
    """The strictest objective among the servers shown; 0 if none has one."""
    limits = [
        server.snapshot.slo_ms
        for address, server in servers.items()
        if server.snapshot is not None
        and server.snapshot.slo_ms > 0
        and (not scope or scope == address)
    ]
    return min(limits, default=0.0)


def line_of(
    server: ServerRecord,
    now_s: float,
    latencies: Mapping[str, ServerLatency],
    skewed: Mapping[str, SkewLine],
) -> ServerLine:
    severity, state, why = status.server_state(server, now_s)
    latency = latencies.get(server.address, ServerLatency())
    line = skewed.get(server.address)
    cells = zip(STAMP_PARTS, line.cells, strict=True) if line is not None else ()
    return ServerLine(
        link=server.link,
        snapshot=server.snapshot,
        severity=severity,
        state=state,
        why=why,
        age_s=now_s - server.link.heard_s if server.link.heard_s else float("inf"),
        p95_ms=latency.p95_ms,
        slo_ms=server.snapshot.slo_ms if server.snapshot is not None else 0.0,
        spark=latency.spark,
        odd_parts=tuple(part for part, cell in cells if cell.differs),
    )
