"""What this program is called where it runs, and which version it is."""

from __future__ import annotations

import sys
from importlib import metadata


def name() -> str:
    """Packed, it has a longer name than in an environment: `console` is a common word."""
    return "trefoil-console" if getattr(sys, "frozen", False) else "console"


def version() -> str:
    try:
        return metadata.version("trefoil-serve")
    except metadata.PackageNotFoundError:
        return "not installed"
