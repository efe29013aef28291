"""A plugin of pytest that reports how near the tests came to each bound.

    python -m pytest -p tests.support.worst_apart tests/pipelines/test_backbone.py

`benchmarks.portable` reads its lines.
"""

from __future__ import annotations

import os

import pytest
from numpy.typing import ArrayLike

from pipelines.tolerance import Bound, apart

WORST: dict[str, tuple[float, str]] = {}
_check = Bound.check


def _noting(bound: Bound, ours: ArrayLike, theirs: ArrayLike) -> None:
    units = apart(ours, theirs, bound.bits)
    if bound.name not in WORST or units > WORST[bound.name][0]:
        test = os.environ.get("PYTEST_CURRENT_TEST", "?").split(" ")[0]
        WORST[bound.name] = units, test
    _check(bound, ours, theirs)


def pytest_configure() -> None:
    Bound.check = _noting  # type: ignore[method-assign,assignment]


def pytest_unconfigure() -> None:
    Bound.check = _check  # type: ignore[method-assign,assignment]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, (units, test) in sorted(WORST.items()):
        terminalreporter.write_line(f"apart: {name}: {units:.1f} in {test}")
