"""The HTTP port around a given engine, in the test's own event loop, and curl to call it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.api.listener import Listener, checked
from server.config import ServerConfig
from server.http.limits import HTTP_TIMES, HttpTimes
from server.http.listener import FLAG, HttpListener
from server.security.tls import TlsFiles, server_credentials
from server.telemetry.otel.prometheus import Exposition
from server.telemetry_port import NullTelemetry
from tests.support.patience import patience
from tests.support.running import IDENTITY

CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")
HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class HttpSite:
    url: str  # scheme, host and port
    port: int
    http: HttpListener
    listener: Listener


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def http_site(
    engine: Any,
    files: TlsFiles | None = None,
    interceptors: tuple[Any, ...] = (),
    host: str = "127.0.0.1",
    times: HttpTimes = HTTP_TIMES,
    **settings: Any,
) -> AsyncIterator[HttpSite]:
    """`settings` are fields of ServerConfig."""
    config = replace(ServerConfig(), listen="127.0.0.1:0", http=f"{host}:0", **settings)
    listener = Listener(
        engine,
        config,
        IDENTITY,
        leave=lambda: None,
        interceptors=interceptors,
        credentials=partial(server_credentials, files) if files is not None else None,
        telemetry=NullTelemetry(),
    )
    await listener.start()
    address = checked(config.http, anywhere=False, flag=FLAG)
    http = HttpListener(config, listener, address, files, Exposition(list), times=times)
    port = int((await http.start()).rpartition(":")[2])
    scheme = "http" if files is None else "https"
    try:
        yield HttpSite(f"{scheme}://{host}:{port}", port, http, listener)
    finally:
        await http.stop(0)
        await listener.stop(0)


async def curl(*arguments: str | Path, data: bytes = b"") -> Reply:
    """The last answer that curl was given; `data` is its standard input."""
    assert CURL is not None
    process = await asyncio.create_subprocess_exec(
        *(CURL, "-sS", "-i", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(patience(30)):
        out, error = await process.communicate(data)
    assert process.returncode == 0, error.decode()
    return reply_of(out)


def reply_of(out: bytes) -> Reply:
    """Of the bytes of answers: the first that is not an interim one."""
    head, _, body = _apart(out)
    while head.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
        head, _, body = _apart(body)
    first, *lines = head.decode().splitlines()
    pairs = (line.partition(": ") for line in lines)
    return Reply(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)


async def sent(port: int, data: bytes, end: bool = True) -> bytes:
    """What a connection answers to these bytes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(patience(30)):
            return await reader.read()
    finally:
        writer.close()


def _apart(out: bytes) -> tuple[bytes, bytes, bytes]:
    found = HEAD_END.search(out)
    assert found is not None, out[:200]
    return out[: found.start()], found[0], out[found.end() :]
