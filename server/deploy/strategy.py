"""How a bundle takes the place of another: two whole pools, or replica by replica."""

from __future__ import annotations

from server.errors import DeployRefused

BLUE_GREEN = "blue-green"
ROLLING = "rolling"
SWAPS = (BLUE_GREEN, ROLLING)


def choose(asked: str, activate: bool, misfit: str) -> tuple[str, str]:
    """(swap, reason). `misfit` explains why two whole pools do not fit, "" when they do.

    Rolling serves the new bundle as it goes, so it is never chosen for a load without --activate.
    Raises DeployRefused.
    """
    if asked == ROLLING:
        return ROLLING, "asked for"
    if not misfit:
        return BLUE_GREEN, "asked for" if asked else "two pools fit into memory"
    if asked == BLUE_GREEN or not activate:
        remedy = "--swap rolling replaces replica by replica, and serves as it goes"
        raise DeployRefused("memory", f"{misfit}; {remedy}")
    return ROLLING, f"two pools do not fit: {misfit}"
