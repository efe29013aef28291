"""The program's name as it was started, and its version."""

from __future__ import annotations

import sys
from importlib import metadata


def name() -> str:
    """In a package its name is longer than in a Python environment: `console` is a common word."""
    return "trefoil-console" if getattr(sys, "frozen", False) else "console"


def version() -> str:
    try:
        return metadata.version("trefoil-serve")
    except metadata.PackageNotFoundError:
        return "not installed"
