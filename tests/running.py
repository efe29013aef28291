"""Servers for tests: the edge alone around a given engine, or the whole program as a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc

from server.config import ServerConfig
from server.edge import Edge
from server.snapshot import Identity

IDENTITY = Identity(
    "press-7", "0.1.0", "instance-1", {"warm-pool": "1"}, (("max_parts", 64, "parts"),), False, 0.0
)


@asynccontextmanager
async def edge(engine: Any, **settings: Any) -> AsyncIterator[str]:
    """The address of an edge around `engine`; `settings` are ServerConfig fields."""
    config = replace(ServerConfig(), listen="127.0.0.1:0", **settings)
    running = Edge(engine, config, IDENTITY, leave=lambda: None)
    address = await running.start()
    try:
        yield address
    finally:
        await running.stop(0)


@asynccontextmanager
async def channel_to(address: str, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    pairs = [(f"grpc.{name}", value) for name, value in options.items()]
    async with grpc.aio.insecure_channel(address, options=pairs) as channel:
        yield channel


async def until(happened: Callable[[], object], within_s: float = 20.0) -> None:
    """Return once `happened()` is true; it is asked again and again."""
    for _ in range(int(within_s / 0.01)):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"did not happen within {within_s} s")
