"""A pytest plugin that reports how near the tests came to each bound.

    python -m pytest -p tests.support.worst_apart tests/pipelines/test_backbone.py

`benchmarks.portable` reads its lines. It listens to the audit events of `Bound.check`: a replaced
function would be refused as changed code.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

WORST: dict[str, tuple[float, str]] = {}


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "trefoil.apart":
        return
    name, units = arguments
    if name not in WORST or units > WORST[name][0]:
        test = os.environ.get("PYTEST_CURRENT_TEST", "?").split(" ")[0]
        WORST[name] = units, test


def pytest_configure() -> None:
    sys.addaudithook(_note)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, (units, test) in sorted(WORST.items()):
        terminalreporter.write_line(f"apart: {name}: {units:.1f} in {test}")
