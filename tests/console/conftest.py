"""The feed of a console without its window: a sink, and hubs that end with their test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

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
