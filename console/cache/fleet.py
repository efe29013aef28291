"""One line of the fleet from what is known of a server."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from console import status
from console.board import Floats, ServerLine
from console.domain import STAMP_PARTS, Server


def slo_ms_of(servers: Mapping[str, Server], scope: str) -> float:
    """The strictest objective of the servers shown; 0: none."""
    limits = [
        server.snapshot.slo_ms
        for address, server in servers.items()
        if server.snapshot is not None
        and server.snapshot.slo_ms > 0
        and (not scope or scope == address)
    ]
    return min(limits, default=0.0)


def line_of(
    server: Server,
    now_s: float,
    fleet: Mapping[str, tuple[float, Floats]],
    odd: Mapping[str, object],
    offsets: Mapping[str, float],
) -> ServerLine:
    severity, word, why = status.server_state(server, now_s)
    p95, spark = fleet.get(server.address, (float("nan"), np.zeros(0)))
    line = odd.get(server.address)
    cells = getattr(line, "cells", ())
    parts = tuple(p for p, cell in zip(STAMP_PARTS, cells, strict=False) if cell.differs)
    return ServerLine(
        link=server.link,
        snapshot=server.snapshot,
        severity=severity,
        word=word,
        why=why,
        age_s=now_s - server.link.heard_s if server.link.heard_s else float("inf"),
        p95_ms=p95,
        slo_ms=server.snapshot.slo_ms if server.snapshot is not None else 0.0,
        spark=spark,
        odd_parts=parts,
    )
