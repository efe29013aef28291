"""Settings that every test needs before any other import."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import pipelines  # noqa: F401  first of all: makes `import torchaudio` safe for transformers
from console.app import garbage
from tests.support import patience

if TYPE_CHECKING:
    from tests.support.otlp_collector import Collector
    from tests.support.telemetry_writer import WriterBench

pytest_plugins = ("pytester",)  # of tests/test_affected.py
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
# An example that takes long on a busy machine is not a wrong one.
settings.register_profile("trefoil", deadline=None)
settings.load_profile("trefoil")


def pytest_configure() -> None:
    patience.slowness()  # measured once, before the first test
    gc.disable()  # see pytest_runtest_logfinish


def pytest_runtest_logfinish() -> None:
    """Between two tests, in the thread that Qt's objects belong to.

    Threads of a later test would destroy the widgets of an earlier one (console/app/garbage.py).
    """
    garbage.collect_due()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(
        f"patience: limits were stretched {patience.factor():.1f} times at the end (this machine "
        f"is {patience.slowness():.1f} times slower, {patience.crowding():.1f} processes a core)"
    )


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle with random weights, built once a session. Copy it before changing it."""
    from tests.support.tinybundle import make_bundle  # late: a run without it needs no torch

    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bench(tmp_path: Path) -> "Iterator[WriterBench]":
    """A telemetry writer without its thread, on a file of its own."""
    from tests.support.telemetry_writer import (  # late: it makes a reference profile
        BUNDLE,
        WriterBench,
    )

    found = WriterBench(tmp_path)
    found.writer.adopt(BUNDLE)
    yield found
    found.writer.close()


@pytest.fixture(scope="session")
def tiny_server(tiny_bundle: Path) -> Iterator[str]:
    """The address of the whole program serving the tiny bundle with one replica."""
    from tests.support.running import program

    flags = ("--warm-pool", "1", "--name", "tiny", "--sample-share", "1")
    with program("--bundle", str(tiny_bundle), *flags) as server:
        yield server.address
        assert server.stop() == 0, "SIGTERM drains and ends well"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Collector]":
    """A collector, named as operators name it. Metrics are sent when the server ends."""
    from tests.support.otlp_collector import collector

    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
        yield found
