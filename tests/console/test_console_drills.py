"""Drills on server processes: within ten seconds the headline names the server, the cause and the
time, and the incident sheet contains it. The replicas have a small model; `python -m
benchmarks.console_drills` runs drills with real bundles, skew, a full disk, a slowed replica, a
canary and a dark camera."""

from __future__ import annotations

import os
import signal
from html import unescape
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.support.console_watch import ConsoleWatch, console_watch, replicas
from tests.support.patience import patience
from tests.support.stub_server import stub_server

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")
WITHIN_S = 10.0  # of a quiet machine


def named(console: ConsoleWatch, *parts: str) -> None:
    took = console.shows(*parts, within_s=patience(WITHIN_S))
    assert took == took, f"{parts} were not in the headline: {console.headline}"


def test_a_stopped_replica_and_a_killed_server_are_named_within_seconds(
    qtbot: QtBot, tmp_path: Path
) -> None:
    with (
        stub_server("gpu-01") as first,
        stub_server("gpu-02") as second,
        console_watch([first.address, second.address], tmp_path) as console,
    ):
        os.kill(replicas(first)[0].pid, signal.SIGSTOP)
        named(console, "gpu-01", "no sign of life", "since")
        first.process.kill()
        named(console, "CRITICAL", "gpu-01: nothing listens since", "(connection refused)")
        assert "gpu-01: nothing listens since" in unescape(console.sheet())
