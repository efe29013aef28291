"""The server's listener over TLS with the guard before it, around an idle engine."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from server.api.listener import Listener
from server.config import ServerConfig
from server.security import authority, tls, tokens
from server.security.audit import AuditLog
from server.security.guard import Guard
from server.security.roles import ROLES
from server.telemetry_port import NullTelemetry, TelemetryPort
from tests.support.running import IDENTITY, idle_engine


@dataclass(frozen=True, slots=True)
class SecureSite:
    address: str
    pem: Path  # folder of the authority's files
    bearers: dict[str, str]  # role -> token


@asynccontextmanager
async def secure_listener(
    folder: Path,
    mutual: bool = False,
    telemetry: TelemetryPort | None = None,
    engine: Any = None,
) -> AsyncIterator[SecureSite]:
    """`mutual`: every client needs a certificate. Otherwise a token will do. `engine`: one that
    answers; else it only starts."""
    pem = folder / "tls"
    authority.make(pem, ["localhost"], dt.datetime.now(dt.UTC))
    bearers: dict[str, str] = {role: tokens.add(folder / "tokens", role, role, 0) for role in ROLES}
    audit = AuditLog(folder / "audit.jsonl")
    client_ca = pem / "ca.pem" if mutual else None
    files = tls.TlsFiles(pem / "server.pem", pem / "server.key", client_ca)
    running = Listener(
        engine or idle_engine(),
        ServerConfig(listen="127.0.0.1:0"),
        IDENTITY,
        leave=lambda: None,
        interceptors=(Guard(tokens.TokenFile(folder / "tokens"), audit),),
        credentials=partial(tls.server_credentials, files),
        telemetry=telemetry or NullTelemetry(),
    )
    # One address: a port that is free on one of the two `localhost` has may be taken on the other.
    port = (await running.start()).rpartition(":")[2]
    try:
        yield SecureSite(f"localhost:{port}", pem, bearers)
    finally:
        await running.stop(0)
        audit.close()
