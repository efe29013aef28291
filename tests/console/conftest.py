"""Parts of a console without its window: a sink, feed hubs, and an empty cache."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from console.cache.schema import open_for_writing
from console.feed.hub import Hub
from console.state.access import ConnectionAccess
from tests.support.kept_rows import Kept


@pytest.fixture
def sink() -> Kept:
    return Kept()


@pytest.fixture
def start(sink: Kept) -> Iterator[Callable[..., Hub]]:
    hubs: list[Hub] = []

    def begin(addresses: Sequence[str], **more: object) -> Hub:
        hub = Hub(addresses, ConnectionAccess(), sink, lambda: None, **more)  # type: ignore[arg-type]
        hub.start()
        hubs.append(hub)
        return hub

    yield begin
    for hub in hubs:
        hub.close()
    assert not [t for t in threading.enumerate() if t.name == "console feed"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_for_writing(path)
    yield connection
    connection.close()
